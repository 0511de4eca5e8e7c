//! Prints what is public in a crate, from what rustdoc has written of it as JSON: `tidings-api BARE.json FEATURE=MORE.json...`.
//!
//! Each section has what none before it has, so what a feature adds stands under its name. A feature that takes something away is
//! an error. The first section is of the types and traits of other crates.

use std::collections::{BTreeSet, HashSet};
use std::error::Error;
use std::io::Write;

/// What is public, a module and a type after the other.
type Items = Vec<String>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut sections = Vec::new();
    for argument in std::env::args().skip(1) {
        let (feature, file) = argument.split_once('=').unwrap_or(("", &argument));
        sections.push((feature.to_owned(), items(file)?));
    }
    let [(_, bare), more @ ..] = sections.as_slice() else {
        return Err("which files?".into());
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "What is public in tidings. Written by `scripts/api --update`.")?;
    write_section(&mut out, "of other crates", foreign(sections.iter().flat_map(|(_, items)| items)))?;
    write_section(&mut out, "without a feature", bare)?;
    let mut listed: HashSet<&String> = bare.iter().collect();
    for (feature, items) in more {
        if let Some(gone) = bare.iter().find(|item| !items.contains(item)) {
            return Err(format!("`{gone}` is not there with {feature}, and is without").into());
        }
        write_section(&mut out, &format!("with {feature}"), items.iter().filter(|item| !listed.contains(item)))?;
        listed.extend(items);
    }
    Ok(())
}

fn items(file: &str) -> Result<Items, Box<dyn Error>> {
    let api = public_api::Builder::from_rustdoc_json(file)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .map_err(|error| format!("{file}: {error}"))?;
    Ok(api.items().map(ToString::to_string).collect())
}

/// The types and traits of other crates than this one and the standard library.
fn foreign<'a>(items: impl Iterator<Item = &'a String>) -> BTreeSet<&'a str> {
    items
        .flat_map(|item| item.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')))
        .filter(|path| {
            let (Some((first, _)), Some((_, last))) = (path.split_once("::"), path.rsplit_once("::")) else {
                return false;
            };
            let is_of_a_crate = first.starts_with(|c: char| c.is_ascii_lowercase());
            let is_foreign = is_of_a_crate && !["tidings", "core", "alloc", "std"].contains(&first);
            is_foreign && last.starts_with(|c: char| c.is_ascii_uppercase())
        })
        .collect()
}

fn write_section(
    out: &mut impl Write,
    title: &str,
    items: impl IntoIterator<Item: std::fmt::Display>,
) -> std::io::Result<()> {
    writeln!(out, "\n# {title}\n")?;
    items.into_iter().try_for_each(|item| writeln!(out, "{item}"))
}
