//! What the errors of sqlx and of the databases mean to a caller.

use sqlx::Error as Sqlx;

use crate::error::{Error, ErrorKind};

/// The error of a statement of its own, while `doing` something: it may have been carried out all the same.
pub(crate) fn failed(doing: &'static str) -> impl FnOnce(Sqlx) -> Error {
    move |source| {
        let (kind, ambiguous) = meaning(&source);
        let message = match kind {
            _ if is_login(&source) => "the outbox's database does not let this user in: check user and password",
            ErrorKind::InvalidConfig => "the settings of the outbox's database are not usable",
            ErrorKind::StorageConflict => "the outbox's database gave the transaction up: run it again from its start",
            ErrorKind::StorageRejected => "the outbox's database refused the statement",
            ErrorKind::Schema => "the outbox's tables are missing or not those of this version: migrate them",
            _ => "the outbox's database failed",
        };
        Error::new(kind, format!("{message} (while {doing})")).or_ambiguous(ambiguous).with_source(source)
    }
}

/// The same of a statement that was tried again, after this error: it may have been carried out the first time.
#[cfg(feature = "postgres")]
pub(super) fn failed_again(doing: &'static str, first: Sqlx) -> impl FnOnce(Sqlx) -> Error {
    move |source| failed(doing)(source).or_ambiguous(meaning(&first).1)
}

/// The error of a statement on the caller's connection. A transaction that is open decides what becomes of it, and so it is not
/// ambiguous.
pub(crate) fn failed_in(is_open: bool, doing: &'static str) -> impl FnOnce(Sqlx) -> Error {
    move |source| {
        let error = failed(doing)(source);
        if is_open { error.decided() } else { error }
    }
}

/// Its kind, and whether the statement may have been carried out all the same.
fn meaning(error: &Sqlx) -> (ErrorKind, bool) {
    match error {
        Sqlx::Configuration(_) => (ErrorKind::InvalidConfig, false),
        Sqlx::Database(error) => {
            let code = error.code().unwrap_or_default();
            match code.parse() {
                // PostgreSQL's codes have five characters, SQLite's are numbers below 10,000.
                Ok(code) if code < 10_000 && error.code().is_some_and(|text| text.len() < 5) => {
                    sqlite(code, error.message())
                }
                _ => sqlstate(&code),
            }
        }
        Sqlx::Io(_) | Sqlx::Protocol(_) | Sqlx::WorkerCrashed => (ErrorKind::Storage, true),
        Sqlx::InvalidArgument(_) | Sqlx::Encode(_) => (ErrorKind::StorageRejected, false),
        // The statement was carried out; its answer is not what these tables would give.
        Sqlx::RowNotFound
        | Sqlx::TypeNotFound { .. }
        | Sqlx::ColumnIndexOutOfBounds { .. }
        | Sqlx::ColumnNotFound(_)
        | Sqlx::ColumnDecode { .. }
        | Sqlx::Decode(_) => (ErrorKind::Schema, true),
        // Tls, PoolTimedOut, PoolClosed, BeginFailed and what later versions add: no statement was begun.
        _ => (ErrorKind::Storage, false),
    }
}

/// Whether the database does not know the user, or not by this password.
fn is_login(error: &Sqlx) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    // SQLite's codes are shorter.
    code.is_some_and(|code| code.len() == 5 && code.starts_with("28"))
}

/// SQLSTATEs, or their first letters, with what they mean; the first that fits counts
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
const SQLSTATES: &[(&str, ErrorKind, bool, &str)] = &[
    ("08", ErrorKind::Storage, true, "connection exception"),
    ("25006", ErrorKind::Storage, false, "read-only transaction, as on a standby"),
    ("25P02", ErrorKind::StorageConflict, false, "the transaction failed before"),
    ("25P03", ErrorKind::StorageConflict, false, "idle-in-transaction timeout"),
    ("25P04", ErrorKind::StorageConflict, false, "transaction timeout"),
    ("26", ErrorKind::Storage, false, "unknown prepared statement, as behind a pooler"),
    ("28", ErrorKind::StorageRejected, false, "authentication: user or password"),
    ("3F000", ErrorKind::Schema, false, "unknown schema"),
    ("40003", ErrorKind::Storage, true, "statement completion unknown"),
    ("40", ErrorKind::StorageConflict, false, "serialization failure, deadlock"),
    ("42P01", ErrorKind::Schema, false, "unknown table"),
    ("42703", ErrorKind::Schema, false, "unknown column"),
    ("42883", ErrorKind::Schema, false, "unknown function"),
    ("53", ErrorKind::Storage, false, "insufficient resources: connections, memory, disk"),
    ("55", ErrorKind::Storage, false, "object in use, lock not available"),
    ("57014", ErrorKind::Storage, false, "query cancelled, statement timeout"),
    ("57", ErrorKind::Storage, true, "shutdown, crash, start-up"),
    ("58", ErrorKind::Storage, true, "system error: I/O, files"),
    ("TD001", ErrorKind::StorageConflict, false, "of ours: the number of lanes was changed meanwhile"),
    ("XX", ErrorKind::Storage, true, "internal error"),
    ("", ErrorKind::StorageRejected, false, "any other: privileges, constraints, limits, syntax"),
];

fn sqlstate(code: &str) -> (ErrorKind, bool) {
    let found = SQLSTATES.iter().find(|(prefix, ..)| code.starts_with(prefix));
    found.map_or((ErrorKind::StorageRejected, false), |(_, kind, ambiguous, _)| (*kind, *ambiguous))
}

/// SQLite's result codes, extended ones first; the first that fits counts (<https://www.sqlite.org/rescode.html>).
const SQLITE_CODES: &[(u16, ErrorKind, bool, &str)] = &[
    (517, ErrorKind::StorageConflict, false, "SQLITE_BUSY_SNAPSHOT: another transaction has written meanwhile"),
    (4, ErrorKind::StorageConflict, false, "SQLITE_ABORT"),
    (5, ErrorKind::Storage, false, "SQLITE_BUSY"),
    (6, ErrorKind::Storage, false, "SQLITE_LOCKED"),
    (7, ErrorKind::Storage, false, "SQLITE_NOMEM"),
    (9, ErrorKind::Storage, false, "SQLITE_INTERRUPT"),
    (10, ErrorKind::Storage, true, "SQLITE_IOERR"),
    (13, ErrorKind::Storage, false, "SQLITE_FULL"),
    (14, ErrorKind::Storage, false, "SQLITE_CANTOPEN"),
    (15, ErrorKind::Storage, false, "SQLITE_PROTOCOL"),
    (17, ErrorKind::Storage, false, "SQLITE_SCHEMA: the tables changed meanwhile"),
];

fn sqlite(code: u16, message: &str) -> (ErrorKind, bool) {
    // SQLITE_ERROR is for all faults of a statement; this one alone has a meaning of its own.
    let is_missing =
        ["no such table", "no such column", "has no column named"].iter().any(|text| message.contains(text));
    if code == 1 && is_missing {
        return (ErrorKind::Schema, false);
    }
    let found = SQLITE_CODES.iter().find(|(known, ..)| *known == code || *known == code & 0xff);
    found.map_or((ErrorKind::StorageRejected, false), |(_, kind, ambiguous, _)| (*kind, *ambiguous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sqlstate_means_what_its_class_does_unless_it_has_a_meaning_of_its_own() {
        for (code, expected) in [
            ("40001", (ErrorKind::StorageConflict, false)),
            ("40P01", (ErrorKind::StorageConflict, false)),
            ("40003", (ErrorKind::Storage, true)),
            ("42P01", (ErrorKind::Schema, false)),
            ("42501", (ErrorKind::StorageRejected, false)),
            ("23505", (ErrorKind::StorageRejected, false)),
            ("28P01", (ErrorKind::StorageRejected, false)),
            ("53300", (ErrorKind::Storage, false)),
            ("57P01", (ErrorKind::Storage, true)),
            ("57014", (ErrorKind::Storage, false)),
        ] {
            assert_eq!(sqlstate(code), expected, "{code}");
        }
    }

    #[test]
    fn an_extended_code_of_sqlite_means_what_its_primary_one_does() {
        assert_eq!(sqlite(5, "database is locked"), (ErrorKind::Storage, false));
        assert_eq!(sqlite(261, "database is locked"), (ErrorKind::Storage, false));
        assert_eq!(sqlite(517, "database is locked"), (ErrorKind::StorageConflict, false));
        assert_eq!(sqlite(266, "disk I/O error"), (ErrorKind::Storage, true));
        assert_eq!(sqlite(2067, "UNIQUE constraint failed"), (ErrorKind::StorageRejected, false));
        assert_eq!(sqlite(1, "no such table: tidings_lane"), (ErrorKind::Schema, false));
        assert_eq!(sqlite(1, "table tidings_outbox has no column named topic"), (ErrorKind::Schema, false));
    }

    #[test]
    fn only_an_answer_that_is_missing_leaves_room_for_doubt() {
        assert_eq!(meaning(&Sqlx::PoolTimedOut), (ErrorKind::Storage, false));
        assert_eq!(meaning(&Sqlx::Io(std::io::ErrorKind::UnexpectedEof.into())), (ErrorKind::Storage, true));
        let lost = || Sqlx::Io(std::io::ErrorKind::UnexpectedEof.into());
        assert!(failed("appending")(lost()).is_ambiguous());
        assert!(failed_in(false, "appending")(lost()).is_ambiguous());
        assert!(!failed_in(true, "appending")(lost()).is_ambiguous());
        #[cfg(feature = "postgres")]
        assert!(failed_again("appending", lost())(Sqlx::PoolTimedOut).is_ambiguous());
    }

    /// One of each, as of sqlx 0.8 without features that this crate does not enable; but for those of a database, which has codes.
    fn one_of_each() -> Vec<Sqlx> {
        let cause = || "".into();
        vec![
            Sqlx::Configuration(cause()),
            Sqlx::InvalidArgument(String::new()),
            Sqlx::Io(std::io::ErrorKind::UnexpectedEof.into()),
            Sqlx::Tls(cause()),
            Sqlx::Protocol(String::new()),
            Sqlx::RowNotFound,
            Sqlx::TypeNotFound { type_name: String::new() },
            Sqlx::ColumnIndexOutOfBounds { index: 0, len: 0 },
            Sqlx::ColumnNotFound(String::new()),
            Sqlx::ColumnDecode { index: String::new(), source: cause() },
            Sqlx::Encode(cause()),
            Sqlx::Decode(cause()),
            Sqlx::AnyDriverError(cause()),
            Sqlx::PoolTimedOut,
            Sqlx::PoolClosed,
            Sqlx::WorkerCrashed,
            Sqlx::InvalidSavePointStatement,
            Sqlx::BeginFailed,
        ]
    }

    #[test]
    fn the_documented_errors_of_the_driver_are_these() {
        let name = |error: &Sqlx| {
            let shown = format!("{error:?}");
            shown.split(['(', ' ']).next().unwrap_or_default().to_owned()
        };
        let mut lines = vec!["| kind | ambiguous | errors |".to_owned(), "| --- | --- | --- |".into()];
        let mut rows: Vec<((ErrorKind, bool), Vec<String>)> = Vec::new();
        for error in one_of_each() {
            let meaning = meaning(&error);
            match rows.iter_mut().find(|(of, _)| *of == meaning) {
                Some((_, names)) => names.push(name(&error)),
                None => rows.push((meaning, vec![name(&error)])),
            }
        }
        let line = |((kind, ambiguous), names): ((ErrorKind, bool), Vec<String>)| {
            format!("| `{kind}` | {} | {} |", if ambiguous { "yes" } else { "" }, names.join(", "))
        };
        lines.extend(rows.into_iter().map(line));
        crate::documented::check("sqlx", lines);
    }

    #[test]
    fn the_documented_codes_are_these() {
        let line = |code: &str, kind: ErrorKind, ambiguous: bool, what: &str| {
            format!("| {code} | {what} | `{kind}` | {} |", if ambiguous { "yes" } else { "" })
        };
        let head = ["| code | | kind | ambiguous |".to_owned(), "| --- | --- | --- | --- |".into()];
        let states = SQLSTATES.iter().map(|(code, kind, ambiguous, what)| {
            line(if code.is_empty() { "…" } else { code }, *kind, *ambiguous, what)
        });
        crate::documented::check("sqlstates", head.clone().into_iter().chain(states));
        let codes =
            SQLITE_CODES.iter().map(|(code, kind, ambiguous, what)| line(&code.to_string(), *kind, *ambiguous, what));
        let others = [
            line("1", ErrorKind::Schema, false, "SQLITE_ERROR: a table or a column is missing"),
            line("…", ErrorKind::StorageRejected, false, "any other"),
        ];
        crate::documented::check("sqlite", head.into_iter().chain(codes).chain(others));
    }
}
