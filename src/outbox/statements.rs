//! No statement is built from input: each is written down in the source, and values are bound.

use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

/// All files of the crate, without their unit tests, which stand last in a file or in one of their own.
fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if !path.ends_with("tests.rs") && !path.ends_with("statements.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            found.push((path, code));
        }
    }
}

/// Where a statement stands that is given to the database, and whether that is a text of the source.
#[test]
fn every_statement_is_a_text_of_the_source() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    // What the source says as it is, a migration, or either with the schema's name put in, which is of `a-z`, `0-9` and `_`:
    // `Schema::sql` takes nothing but a `&'static str`.
    let text = r#"("|[A-Z][A-Z_]*\b|step\.sql\b|self\.begin\b|&?\*?&?self\.(schema\.)?sql\()"#;
    let is_text = Regex::new(&format!("^{text}")).unwrap();
    let call = Regex::new(r"\b(?:query|query_scalar|query_as|raw_sql|begin_with)(?:::<[^(]*>)?\(\s*([^\n]*)").unwrap();
    let execute = Regex::new(r"\.(?:execute|fetch_all|fetch_one|fetch_optional)\(\s*([^\n]*)").unwrap();
    let name = Regex::new(r"^[&*]*([a-z_]+)\s*[,)]").unwrap();
    let mut calls = 0;
    for (path, code) in &files {
        let statements = call.captures_iter(code).map(|c| c[1].to_owned());
        // A statement, or the connection to send the one before to.
        let executed = execute.captures_iter(code).map(|c| c[1].to_owned());
        let executed = executed.filter(|argument| argument.starts_with('"') || argument.contains("sql"));
        // One that is made in place is among those before.
        let executed = executed.filter(|argument| !argument.starts_with("sqlx::raw_sql("));
        for argument in statements.chain(executed) {
            calls += 1;
            let is_declaration = argument.starts_with("sql: &str)");
            if is_declaration || is_text.is_match(&argument) {
                continue;
            }
            // A name: of a parameter or a constant that a loop goes over, or of what the schema's name was put into.
            let named = name.captures(&argument).map(|c| c[1].to_owned());
            let Some(named) = named else { panic!("{}: `{argument}` is not a text", path.display()) };
            let bound = Regex::new(&format!(r"\blet {named} = ([^\n]*\s*[^\n]*)")).unwrap();
            for binding in bound.captures_iter(code) {
                let is_query = ["sqlx::query", "query(", "statement."].iter().any(|call| binding[1].starts_with(call));
                assert!(is_text.is_match(&binding[1]) || is_query, "{}: {named} = {}", path.display(), &binding[1]);
            }
        }
    }
    assert!(calls > 80, "only {calls} statements were looked at");
}

#[test]
fn no_text_with_a_statement_in_it_is_put_together() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let built = Regex::new(
        r#"(?:format!|write!|writeln!|push_str)\(\s*(?:&?mut \w+,\s*)?"\s*(?:select|insert|update|delete|with|create|alter|drop|grant|truncate|set|lock|begin|savepoint)\s"#,
    )
    .unwrap();
    for (path, code) in &files {
        let found = built.find(code).map(|found| found.as_str());
        assert_eq!(found, None, "{}", path.display());
    }
}
