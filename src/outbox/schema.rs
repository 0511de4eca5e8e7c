//! The schema that the outbox is in.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The name of a schema. All statements are written for `tidings`.
#[derive(Debug, Clone)]
pub(crate) struct Schema(Option<Arc<str>>);

/// With `_writer` behind it, it is still a name that PostgreSQL does not cut (63 bytes).
const MAX_BYTES: usize = 40;

impl Schema {
    /// The schema `tidings`.
    pub(crate) const DEFAULT: Self = Self(None);

    /// The schema of this name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let is_name = name.len() <= MAX_BYTES
            && name.bytes().next().is_some_and(is_letter)
            && name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit());
        let is_taken = name.starts_with("pg_") || matches!(name, "public" | "information_schema");
        if !is_name || is_taken {
            let message = format!(
                "`{name}` can't be the outbox's schema: it takes up to {MAX_BYTES} of a-z, 0-9 and _, without a digit first, \
                 and a schema of its own"
            );
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        Ok(Self((name != "tidings").then(|| name.into())))
    }

    /// Its name: that of the channel for wake-ups too.
    pub(crate) fn name(&self) -> &str {
        self.0.as_deref().unwrap_or("tidings")
    }

    /// A statement for this schema: it may be a word of SQL, so it is quoted. Roles begin with its name.
    pub(crate) fn sql(&self, statement: &'static str) -> Cow<'static, str> {
        let Some(name) = &self.0 else { return Cow::Borrowed(statement) };
        let statement = statement.replace("tidings.", &format!("\"{name}\"."));
        let statement = statement.replace("schema tidings", &format!("schema \"{name}\""));
        let statement = statement.replace("schema if not exists tidings", &format!("schema if not exists \"{name}\""));
        Cow::Owned(statement.replace("tidings_", &format!("{name}_")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_needs_no_quotes_but_as_a_word_of_sql_is_taken() {
        for name in ["shop_events", "_1", "order", "tidings", "a".repeat(MAX_BYTES).as_str()] {
            assert!(Schema::named(name).is_ok(), "{name}");
        }
        let long = "a".repeat(MAX_BYTES + 1);
        for name in ["", "1a", "Shop", "a-b", "a.b", "a\"b", "ü", "pg_shop", "public", "information_schema", &long] {
            assert_eq!(Schema::named(name).unwrap_err().kind(), ErrorKind::InvalidConfig, "{name}");
        }
    }

    #[test]
    fn a_statement_names_its_schema_alone() {
        let statement = "grant select on tidings.lane to tidings_relay; create schema tidings; select 'tidings.lane_'";
        assert_eq!(Schema::DEFAULT.sql(statement), statement);
        assert_eq!(Schema::named("tidings").unwrap().sql(statement), statement);
        assert_eq!(
            Schema::named("order").unwrap().sql(statement),
            "grant select on \"order\".lane to order_relay; create schema \"order\"; select '\"order\".lane_'"
        );
        assert_eq!(
            Schema::named("order").unwrap().sql("create schema if not exists tidings;"),
            "create schema if not exists \"order\";"
        );
    }
}
