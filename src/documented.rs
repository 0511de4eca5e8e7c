//! Tables of `docs/` that say what the code says.

/// Fails unless these lines are the table of that name in `docs/errors.md`. `UPDATE_DOCS=1 cargo test` writes them there.
pub(crate) fn check(table: &str, lines: impl IntoIterator<Item = String>) {
    check_in("errors", table, lines);
}

/// The same, of another page of `docs`.
pub(crate) fn check_in(page: &str, table: &str, lines: impl IntoIterator<Item = String>) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    let expected = format!("\n{}\n", lines.into_iter().collect::<Vec<_>>().join("\n"));
    let _turn = ONE_AT_A_TIME.lock();
    let file = format!("docs/{page}.md");
    let page = std::fs::read_to_string(path(&file)).unwrap();
    let (before, rest) = page.split_once(&format!("<!-- {table} -->\n")).expect("the table has a beginning");
    let (found, after) = rest.split_once("\n<!-- end -->").expect("the table has an end");
    if is_to_be_written() {
        let page = format!("{before}<!-- {table} -->\n{expected}\n<!-- end -->{after}");
        return std::fs::write(path(&file), page).unwrap();
    }
    assert_eq!(found, expected, "{file}: {HOW_TO_WRITE_IT}");
}

/// The same, of a whole file.
pub(crate) fn check_file(file: &str, expected: &str) {
    if is_to_be_written() {
        return std::fs::write(path(file), expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path(file)).unwrap_or_default(), expected, "{file}: {HOW_TO_WRITE_IT}");
}

const HOW_TO_WRITE_IT: &str = "`UPDATE_DOCS=1 cargo test documented` writes it anew";

#[expect(clippy::disallowed_methods, reason = "a test is told to write rather than to check")]
fn is_to_be_written() -> bool {
    std::env::var("UPDATE_DOCS").is_ok()
}

fn path(file: &str) -> String {
    format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_tutorial_shows_the_example_as_it_is() {
        for file in ["events.rs", "database.rs", "http.rs", "main.rs", "tests.rs"] {
            let code = std::fs::read_to_string(super::path(&format!("examples/service/src/{file}"))).unwrap();
            let lines = ["```rust,ignore"].into_iter().chain(code.lines()).chain(["```"]);
            super::check_in("tutorial", file, lines.map(str::to_owned));
        }
    }
}
