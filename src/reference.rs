//! The tables of `docs/` say what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::compiled::{CompiledCatalog, Settings};
use crate::event::attribute;
use crate::policy::EffectivePolicy;
use crate::wire::dead_letter::{self, DeadLetter, DeadLetters};
use crate::wire::{HeaderStyle, Headers};
use crate::{
    Catalog, Config, DeliveryPolicy, EmitRequest, Error, ErrorKind, EventClass, EventDefinition, Naming,
    PolicyOverrides,
};

/// The rows of the reference's table that begins with this header row, its cells without backquotes.
fn table(head: &str) -> Vec<Vec<String>> {
    table_of(include_str!("../docs/reference.md"), head)
}

fn table_of(text: &str, head: &str) -> Vec<Vec<String>> {
    let after = text.split_once(head).unwrap_or_else(|| panic!("no table {head}")).1;
    let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.map(cells).collect()
}

fn definition() -> EventDefinition {
    EventDefinition::new("k", "order", "created")
}

/// The headers of the records of a definition.
fn headers(definition: EventDefinition, style: HeaderStyle, request: EmitRequest) -> Headers {
    let settings = Settings {
        source: &"//shop".parse().unwrap(),
        naming: &Naming::default(),
        style,
        overrides: &PolicyOverrides::default(),
        has_outbox: false,
        max_record_bytes: usize::MAX,
    };
    let catalog = CompiledCatalog::compile(Catalog::new([definition]).unwrap(), &settings).unwrap();
    catalog.resolve(request).unwrap().record.headers
}

#[test]
fn headers_are_written_when_the_table_says_so() {
    let rows = table("| attribute | `binding` | `dash` | when | value | type |");
    let bare = || EmitRequest::new("k").payload("{}");
    let full = || {
        bare()
            .tenant("t")
            .subject("s")
            .trace_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .trace_state("s")
    };
    for (style, column) in [(HeaderStyle::Binding, 1), (HeaderStyle::Dash, 2)] {
        for (definition, request, absent) in [
            (definition().with_data_schema("a:b"), full(), vec!["system events"]),
            (
                definition().with_data_schema("a:b").with_system(true),
                full(),
                vec!["if the request has one, and it is no system event"],
            ),
            (definition(), bare(), vec!["system events", "if "]),
        ] {
            let expected = rows.iter().filter(|row| !absent.iter().any(|when| row[3].starts_with(when)));
            let expected: BTreeSet<_> = expected.map(|row| row[column].as_str()).collect();
            let headers = headers(definition, style, request);
            assert_eq!(headers.iter().map(|(name, _)| name).collect::<BTreeSet<_>>(), expected);
        }
    }
}

#[test]
fn topics_are_named_as_the_table_says() {
    let rows = table("| naming | topic | from major version 2 on | of a command | dead letters | `ce_type` |");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let config =
            Config::from_vars([("STREAMING_TOPIC_NAMING", row[0].as_str()), ("STREAMING_TOPIC_PREFIX", "shop")]);
        let names = |definition: EventDefinition| {
            config.as_ref().unwrap().naming.names(&definition, &"orders".parse().unwrap()).unwrap()
        };
        let fill = |pattern: &str| {
            let values =
                [("{topic}", row[1].as_str()), ("{prefix}", "shop"), ("{types}", "shop"), ("{source}", "orders")];
            let filled = values.into_iter().fold(pattern.to_owned(), |text, (name, value)| text.replace(name, value));
            filled.replace("{resource}", "order").replace("{event}", "created").replace("{major}", "2")
        };
        let fact = names(definition());
        let second = names(definition().with_schema_version("2.1.0"));
        let command = names(definition().with_class(EventClass::Command));
        assert_eq!(fact.topic, fill(&row[1]), "{row:?}");
        assert_eq!(second.topic, fill(&row[2]), "{row:?}");
        assert_eq!(command.topic, fill(&row[3]), "{row:?}");
        assert_eq!(fact.dlq_topic, fill(&row[4]), "{row:?}");
        assert_eq!(fact.ce_type, fill(&row[5]), "{row:?}");
    }
}

#[test]
fn dead_letters_have_the_headers_of_the_table() {
    let rows = table("| header | when | value |");
    let record = crate::transport::Record {
        topic: "t".into(),
        key: "k".into(),
        headers: Headers::default(),
        payload: Some("{}".into()),
    };
    let error = Error::new(ErrorKind::RecordRejected, "refused");
    let how = DeadLetters { prefix: "x-".into(), style: HeaderStyle::Binding, max_bytes: usize::MAX };
    let letter = || DeadLetter::new(&record, &error, 0, chrono::DateTime::UNIX_EPOCH, "p".into(), how.style);
    let topic: Arc<str> = "t.dlq".into();
    for (dead, all) in [
        (letter().record(&record, &topic, &how), false),
        (letter().record_without_payload(&record, &topic, &how), true),
    ] {
        let expected: Vec<_> =
            rows.iter().filter(|row| all || row[1] == "always").map(|row| format!("x-{}", row[0])).collect();
        assert_eq!(dead.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn errors_have_a_dead_letter_as_the_table_says() {
    let rows = table("| an emit fails with | goes to its dead-letter topic | class with the style `dash` |");
    for kind in [
        ErrorKind::TooLarge,
        ErrorKind::RecordRejected,
        ErrorKind::Unauthorized,
        ErrorKind::UnknownTopic,
        ErrorKind::BrokerUnavailable,
        ErrorKind::Timeout,
        ErrorKind::Overloaded,
        ErrorKind::ClientFailed,
        ErrorKind::CircuitOpen,
        ErrorKind::LaneSpilled,
        ErrorKind::Storage,
    ] {
        let row = rows.iter().find(|row| row[0].split(',').next() == Some(kind.as_str())).unwrap_or(&rows[4]);
        assert_eq!(row[1] == "yes", kind.is_dead_letter(), "{kind}");
        if kind.is_dead_letter() {
            assert_eq!(row[2], dead_letter::error_class(kind, HeaderStyle::Dash));
        }
    }
}

#[test]
fn policies_have_the_values_and_defaults_of_the_table() {
    let default = DeliveryPolicy::default().to_string();
    let rows = table("| attribute | values | default |");
    let written: Vec<_> = rows.iter().map(|row| format!("{}:{}", row[0], row[2])).collect();
    assert_eq!(written.join(","), default);
    for row in rows {
        for value in row[1].split(", ") {
            assert!(format!("e.{}={value}", row[0]).parse::<PolicyOverrides>().is_ok(), "{row:?}");
        }
    }
}

#[test]
fn combinations_are_refused_as_the_table_says() {
    let rows = table("| `direct` | `outbox` | with an outbox | without one |");
    assert_eq!(rows.len(), 8);
    for row in rows {
        let operator: PolicyOverrides = format!("e.direct={},e.outbox={}", row[0], row[1]).parse().unwrap();
        for (has_outbox, cell) in [(true, &row[2]), (false, &row[3])] {
            let compiled = EffectivePolicy::compile("e", DeliveryPolicy::default(), &operator.get("e"), has_outbox);
            assert_eq!(compiled.is_err(), cell == "refused", "{row:?}");
        }
    }
}

#[test]
fn limits_are_those_of_the_table() {
    let config = Config::from_vars::<&str, &str>([]).unwrap();
    let limits = BTreeMap::from([
        ("definition key", attribute::MAX_KEY_BYTES),
        ("resource", attribute::MAX_RESOURCE_BYTES),
        ("event", attribute::MAX_EVENT_BYTES),
        ("schema version", attribute::MAX_SCHEMA_VERSION_BYTES),
        ("content type", attribute::MAX_CONTENT_TYPE_BYTES),
        ("data schema", attribute::MAX_DATA_SCHEMA_BYTES),
        ("description", attribute::MAX_DESCRIPTION_BYTES),
        ("source", attribute::MAX_SOURCE_BYTES),
        ("event id", attribute::MAX_ID_BYTES),
        ("tenant", attribute::MAX_TENANT_BYTES),
        ("subject", attribute::MAX_SUBJECT_BYTES),
        ("name of an extension attribute", attribute::MAX_EXTENSION_NAME_BYTES),
        ("value of an extension attribute", attribute::MAX_EXTENSION_BYTES),
        ("record key", attribute::MAX_SOURCE_BYTES),
        ("topic, that of dead letters too", crate::naming::MAX_TOPIC_BYTES),
        ("record with key, headers and overhead (STREAMING_MAX_RECORD_BYTES)", config.max_record_bytes),
    ]);
    let rows = table("| what | at most |");
    let written: BTreeMap<_, usize> = rows.iter().map(|row| (row[0].as_str(), row[1].parse().unwrap())).collect();
    assert_eq!(written, limits);
}

/// Whatever has no default or no rule for its value is described in words, which no test can check.
#[test]
fn variables_have_the_defaults_and_values_of_the_table_and_there_are_no_others() {
    let reference = include_str!("../.env.reference").lines().filter_map(|line| line.split_once('='));
    // The tests of the settings hold these against the code.
    let defaults: BTreeMap<_, _> = reference.filter(|(name, _)| name.starts_with("STREAMING_")).collect();
    let rows = table("| variable | default | values | what |");
    assert_eq!(rows.iter().map(|row| &*row[0]).collect::<BTreeSet<_>>(), defaults.keys().copied().collect());
    assert_eq!(rows.len(), defaults.len());
    for row in rows {
        let (name, default, values) = (&*row[0], &*row[1], &*row[2]);
        if !["none", "the topic prefix"].contains(&default) && name != "STREAMING_ENABLED" {
            assert_eq!(defaults[name], default, "{name}");
        }
        // No variable takes this, unless it takes any text.
        let Err(error) = Config::from_vars([(name, "\u{7f}")]) else {
            assert_eq!(values, "any text", "{name}");
            continue;
        };
        if let Some((_, expected)) = error.to_string().split_once(": expected ") {
            assert!(!values.is_empty() && expected.replace('`', "").starts_with(values), "{name}: {expected}");
        }
    }
}

/// The features that a table names.
fn features_of(text: &str, head: &str) -> BTreeSet<String> {
    let rows = table_of(text, head);
    rows.iter().flat_map(|row| row[0].split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_feature_is_documented_with_whether_it_is_a_default() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    let all: BTreeSet<_> = features.keys().filter(|name| *name != "default").cloned().collect();
    let defaults: Vec<_> = features["default"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    let crate_docs = include_str!("lib.rs").replace("//! ", "");
    for text in [include_str!("../README.md"), &crate_docs] {
        const HEAD: &str = "| feature | default | |";
        assert_eq!(features_of(text, HEAD), all);
        for row in table_of(text, HEAD) {
            assert_eq!(row[1] == "yes", defaults.contains(&&*row[0]), "{row:?}");
        }
    }
}

/// By which features a dependency comes in; none, if it always does.
fn features_with(manifest: &toml::Table, dependency: &str) -> Vec<String> {
    let features = manifest["features"].as_table().unwrap().iter();
    let brings = |values: &toml::Value| {
        values.as_array().unwrap().iter().any(|value| value.as_str() == Some(&format!("dep:{dependency}")))
    };
    features.filter(|(_, values)| brings(values)).map(|(name, _)| name.clone()).collect()
}

#[test]
fn every_dependency_is_there_for_a_reason_that_is_written_down() {
    let manifest: toml::Table = include_str!("../Cargo.toml").parse().unwrap();
    let expected = manifest["dependencies"].as_table().unwrap().keys().map(|name| {
        let features = features_with(&manifest, name);
        let when = if features.is_empty() { "always".to_owned() } else { features.join(", ") };
        (name.clone(), when)
    });
    let rows = table_of(include_str!("../DESIGN.md"), "| crate | when | why |");
    assert!(rows.iter().all(|row| !row[2].is_empty()));
    let written: BTreeMap<_, _> = rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(written, expected.collect());
}

#[test]
fn the_default_build_has_as_many_packages_as_is_written_down() {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--target", "x86_64-unknown-linux-gnu"])
        .args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let packages: BTreeSet<_> = text.lines().map(|line| line.trim_end_matches(" (proc-macro)")).collect();
    let sentence = format!("The default build has {} packages besides this one", packages.len() - 1);
    assert!(include_str!("../DESIGN.md").contains(&sentence), "{sentence}");
}

/// What `.env.reference` says: the default of each variable, or an example where there is none.
#[test]
fn who_comes_from_lib_streaming_finds_every_variable_and_its_default() {
    let lines = include_str!("../.env.reference").lines().filter(|line| !line.starts_with('#'));
    let mut defaults: BTreeMap<_, _> = lines.filter_map(|line| line.split_once('=')).collect();
    let rows = table_of(include_str!("../docs/from-lib-streaming.md"), "| variable | lib-streaming | tidings | |");
    for row in rows {
        let (name, theirs, ours, remark) = (&*row[0], &row[1], &row[2], &row[3]);
        let default = defaults.remove(name);
        if remark.starts_with("no effect") {
            assert_eq!(default, Some(""), "{name}");
            continue;
        }
        let has_example = ["ENABLED", "BROKERS", "CLOUDEVENTS_SOURCE", "EVENT_POLICIES"];
        if !has_example.contains(&name.trim_start_matches("STREAMING_")) {
            assert_eq!(default.map(|text| if text.is_empty() { "none" } else { text }), Some(&**ours), "{name}");
        }
        assert!(default.is_some(), "{name}");
        let is_same = theirs == ours || theirs.ends_with("v3 none");
        assert_eq!(is_same, remark.starts_with("same"), "{name}");
        assert_eq!(theirs.is_empty(), remark.starts_with("new"), "{name}");
    }
    assert!(defaults.is_empty(), "missing: {defaults:?}");
}
