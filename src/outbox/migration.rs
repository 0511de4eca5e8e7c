//! The migrations that are shipped with the library.
//!
//! A runner of our own: sqlx's has one ledger for all owners of a database, so a service that uses it too would collide.

/// One step of the schema.
pub(crate) struct Migration {
    pub(crate) version: i32,
    pub(crate) sql: &'static str,
}

#[cfg(feature = "postgres")]
pub(crate) const POSTGRES: [Migration; 1] =
    [Migration { version: 1, sql: include_str!("../../migrations/postgres/0001_outbox.sql") }];

#[cfg(feature = "sqlite")]
pub(crate) const SQLITE: [Migration; 1] =
    [Migration { version: 1, sql: include_str!("../../migrations/sqlite/0001_outbox.sql") }];

/// Those of `all` that are not applied yet.
pub(crate) fn pending(all: &'static [Migration], applied: &[i32]) -> impl Iterator<Item = &'static Migration> {
    all.iter().filter(|migration| !applied.contains(&migration.version))
}

/// Checks that what is applied is what this library was built for.
pub(crate) fn check_applied(all: &'static [Migration], applied: &[i32]) -> crate::Result<()> {
    let known: Vec<_> = all.iter().map(|migration| migration.version).collect();
    let fault = if known.iter().any(|version| !applied.contains(version)) {
        "the outbox's tables are missing or out of date: run `migrate`"
    } else if applied.iter().any(|version| !known.contains(version)) {
        "the outbox's tables are of a newer version of this library: update the library"
    } else {
        return Ok(());
    };
    Err(crate::Error::new(crate::ErrorKind::Schema, fault))
}
