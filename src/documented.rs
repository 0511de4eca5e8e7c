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
    let file = format!("{}/docs/{page}.md", env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(&format!("<!-- {table} -->\n")).expect("the table has a beginning");
    let (found, after) = rest.split_once("\n<!-- end -->").expect("the table has an end");
    #[expect(clippy::disallowed_methods, reason = "a test is told to write rather than to check")]
    if std::env::var("UPDATE_DOCS").is_ok() {
        let page = format!("{before}<!-- {table} -->\n{expected}\n<!-- end -->{after}");
        return std::fs::write(file, page).unwrap();
    }
    assert_eq!(found, expected, "{file}: `UPDATE_DOCS=1 cargo test documented` writes it anew");
}
