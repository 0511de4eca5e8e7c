//! The rules that texts must keep to end up in a header: presence, length in bytes, no control characters.

use crate::error::{Error, ErrorKind, Result};

pub(crate) const MAX_KEY_BYTES: usize = 256;
pub(crate) const MAX_ID_BYTES: usize = 256;
pub(crate) const MAX_TENANT_BYTES: usize = 256;
pub(crate) const MAX_SUBJECT_BYTES: usize = 1024;
pub(crate) const MAX_RESOURCE_BYTES: usize = 128;
pub(crate) const MAX_EVENT_BYTES: usize = 128;
pub(crate) const MAX_SCHEMA_VERSION_BYTES: usize = 64;
pub(crate) const MAX_CONTENT_TYPE_BYTES: usize = 256;
pub(crate) const MAX_DATA_SCHEMA_BYTES: usize = 2048;
pub(crate) const MAX_SOURCE_BYTES: usize = 2048;
/// What the specification asks producers to keep to.
pub(crate) const MAX_EXTENSION_NAME_BYTES: usize = 20;
pub(crate) const MAX_EXTENSION_BYTES: usize = 2048;
pub(crate) const MAX_DESCRIPTION_BYTES: usize = 2048;

/// Checks that `text` is not empty, at most `max_bytes` long, and free of control characters.
pub(crate) fn check(field: &str, text: &str, max_bytes: usize, kind: ErrorKind) -> Result<()> {
    let fault = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > max_bytes {
        format!("is {} bytes long; at most {max_bytes} are allowed", text.len())
    } else if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        "has a control character; remove it".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(kind, format!("`{field}` {fault}")))
}

/// Whether a media type means JSON: `application/json`, or any `+json`, parameters aside.
pub(crate) fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type == "text/json" || media_type.ends_with("+json")
}

/// Whether a URI begins with a scheme (RFC 3986, section 3.1).
pub(crate) fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    })
}

/// Whether all characters are ones that a URI reference may have (RFC 3986, appendix A). What others become is each reader's own
/// choice: the Go SDK escapes some and refuses the event for others.
pub(crate) fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)),
        _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(byte),
    })
}

/// The `ce_source` of everything a service emits: a URI reference such as `//shop/orders`, of 1 to 2,048 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source(Box<str>);

impl Source {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        check("source", text, MAX_SOURCE_BYTES, ErrorKind::InvalidConfig)?;
        if !is_uri_reference(text) {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "`source` must be a URI reference such as `//shop/orders`: escape what is no ASCII letter, digit or sign of URIs",
            ));
        }
        Ok(Self(text.into()))
    }
}

/// A schema version: semantic, with an optional leading `v`; `1` and `1.2` are accepted too. Yields the major number.
pub(crate) fn major_version(text: &str) -> Option<u64> {
    let core = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next()?;
    let mut numbers = core.split('.');
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u64>().ok()).flatten();
    let major = number(numbers.next()?)?;
    let rest: Vec<_> = numbers.collect();
    (rest.len() <= 2 && rest.into_iter().all(|part| number(part).is_some())).then_some(major)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_version_is_semantic_and_yields_its_major_number() {
        for (text, major) in [("1.0.0", 1), ("v2.3.4", 2), ("1", 1), ("v3", 3), ("2.0.0-rc.1", 2), ("4.1+build.5", 4)] {
            assert_eq!(major_version(text), Some(major), "{text}");
        }
        for text in ["", "v", "one", "1.0.0.0", "1..0", "-1", "1.x", "99999999999999999999"] {
            assert_eq!(major_version(text), None, "{text}");
        }
    }

    #[test]
    fn json_is_known_by_its_media_type_whatever_case_and_parameters() {
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.acme+json"] {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["text/plain", "application/octet-stream", "application/jsonl", ""] {
            assert!(!is_json(no), "{no}");
        }
    }

    #[test]
    fn a_source_is_a_uri_reference() {
        for good in ["//shop/orders", "tx-service", "https://a.example:80/b?c=d&e#f", "urn:uuid:1", "a%20b", "[::1]"] {
            assert!(good.parse::<Source>().is_ok(), "{good}");
        }
        for bad in ["//bücher", "a b", "a%zz", "a%2", "%", "a\"b", "<a>", "a\\b", "{a}"] {
            assert_eq!(bad.parse::<Source>().unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad}");
        }
    }

    #[test]
    fn a_limit_counts_bytes() {
        assert!(check("f", &"é".repeat(2), 4, ErrorKind::InvalidEvent).is_ok());
        assert!(check("f", &"é".repeat(2), 3, ErrorKind::InvalidEvent).is_err());
    }
}
