//! Tables of `docs/errors.md` that say what the code says.

/// Fails unless these lines are the table of that name. `UPDATE_DOCS=1 cargo test` writes them there.
pub(crate) fn check(table: &str, lines: impl IntoIterator<Item = String>) {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md");
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

    let expected = format!("\n{}\n", lines.into_iter().collect::<Vec<_>>().join("\n"));
    let _turn = ONE_AT_A_TIME.lock();
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(&format!("<!-- {table} -->\n")).expect("the table has a beginning");
    let (found, after) = rest.split_once("\n<!-- end -->").expect("the table has an end");
    #[expect(clippy::disallowed_methods, reason = "a test is told to write rather than to check")]
    if std::env::var("UPDATE_DOCS").is_ok() {
        let page = format!("{before}<!-- {table} -->\n{expected}\n<!-- end -->{after}");
        return std::fs::write(PAGE, page).unwrap();
    }
    assert_eq!(found, expected, "docs/errors.md: `UPDATE_DOCS=1 cargo test documented` writes it anew");
}
