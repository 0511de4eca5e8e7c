//! The figures of a bench: several runs of each, a table for people and a file for programs.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::machine;

/// The figures, in the order in which they came.
pub(crate) struct Report {
    bench: &'static str,
    /// What is aimed at, by figure.
    goals: &'static [(&'static str, &'static str)],
    figures: Vec<(String, Vec<f64>)>,
    load_before: String,
}

impl Report {
    pub(crate) fn new(bench: &'static str, goals: &'static [(&'static str, &'static str)]) -> Self {
        Self { bench, goals, figures: Vec::new(), load_before: machine::load() }
    }

    /// Adds what a run has shown.
    pub(crate) fn add(&mut self, figure: &str, value: f64) {
        match self.figures.iter_mut().find(|(name, _)| name == figure) {
            Some((_, runs)) => runs.push(value),
            None => self.figures.push((figure.to_owned(), vec![value])),
        }
    }

    /// Prints the figures that begin with this.
    pub(crate) fn print(&self, prefix: &str) {
        for (name, runs) in self.figures.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let [low, high] = range(runs);
            let goal = self.goals.iter().find(|(goal, _)| goal == name).map_or("", |(_, goal)| goal);
            let (median, low, high) = (short(median(runs)), short(low), short(high));
            println!("{name:<36} {median:>10} {low:>10} {high:>10} {:>5}  {goal}", runs.len());
        }
    }

    pub(crate) fn print_heading(&self) {
        println!("{:<36} {:>10} {:>10} {:>10} {:>5}  goal", self.bench, "median", "lowest", "highest", "runs");
    }

    /// Writes all figures, beside what they were measured on, to a file of this name in `target/bench`. The medians are at the top, each by its
    /// name; `runs` has what they are the medians of.
    pub(crate) fn write(&self, name: &str, settings: Value, postgres: Option<String>) -> PathBuf {
        let mut root = Map::new();
        root.insert("bench".into(), self.bench.into());
        root.insert("time".into(), chrono::Utc::now().to_rfc3339().into());
        root.insert("hardware".into(), machine::hardware());
        root.insert("load".into(), json!({ "before": self.load_before, "after": machine::load() }));
        let mut versions = machine::versions();
        if let Some(postgres) = postgres {
            versions["postgresql"] = postgres.into();
        }
        root.insert("versions".into(), versions);
        root.insert("settings".into(), settings);
        root.extend(self.figures.iter().map(|(name, runs)| (name.clone(), rounded(median(runs)).into())));
        let runs = |(name, runs): &(String, Vec<f64>)| {
            let [low, high] = range(runs).map(rounded);
            let runs: Vec<_> = runs.iter().copied().map(rounded).collect();
            (name.clone(), json!({ "min": low, "max": high, "runs": runs }))
        };
        root.insert("runs".into(), self.figures.iter().map(runs).collect::<Map<_, _>>().into());
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&folder).expect("a folder can be made in target");
        let path = folder.join(name).with_extension("json");
        let text = serde_json::to_string_pretty(&root).expect("it is all plain JSON");
        std::fs::write(&path, text + "\n").expect("a file can be written in target");
        path
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

fn range(values: &[f64]) -> [f64; 2] {
    [values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max)]
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn short(value: f64) -> String {
    match value.abs() {
        1_000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
