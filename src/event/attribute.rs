//! The rules that texts must keep to end up in a header: presence, length in bytes, no characters that are none.

use chrono::{DateTime, Datelike, Utc};

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
/// The longest that a prefix, an application, a resource and an event make. No caller sets a type.
#[cfg(all(feature = "admin", any(feature = "postgres", feature = "sqlite")))]
pub(crate) const MAX_TYPE_BYTES: usize = MAX_SOURCE_BYTES + 249 + MAX_RESOURCE_BYTES + MAX_EVENT_BYTES + 3;
/// What the specification asks producers to keep to.
pub(crate) const MAX_EXTENSION_NAME_BYTES: usize = 20;
pub(crate) const MAX_EXTENSION_BYTES: usize = 2048;
pub(crate) const MAX_DESCRIPTION_BYTES: usize = 2048;

/// Whether a text of the specification may not have this character: a control, or none of Unicode's
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md#type-system>).
pub(crate) fn is_refused(c: char) -> bool {
    let is_noncharacter = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    c.is_control() || is_noncharacter
}

/// Whether a text has printable characters of ASCII alone, as nearly all have: so much is seen at a glance.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// Checks that `text` is not empty, at most `max_bytes` long, and free of characters that no attribute may have.
pub(crate) fn check(field: &str, text: &str, max_bytes: usize, kind: ErrorKind) -> Result<()> {
    let fault = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > max_bytes {
        format!("is {} bytes long; at most {max_bytes} are allowed", text.len())
    } else if !is_plain(text) && text.chars().any(is_refused) {
        "has a control character or a noncharacter of Unicode; remove it".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(kind, format!("`{field}` {fault}")))
}

/// Checks that RFC 3339 has a text for `time`: its years have four digits.
pub(crate) fn check_time(field: &str, time: &DateTime<Utc>, kind: ErrorKind) -> Result<()> {
    if (0..=9999).contains(&time.year()) {
        return Ok(());
    }
    Err(Error::new(kind, format!("`{field}` is in the year {}; 0 to 9999 are allowed", time.year())))
}

/// Whether a text is a media type, such as `application/json`, with or without parameters (RFC 9110, section 8.3.1).
pub(crate) fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let media_type = text.split(';').next().unwrap_or_default().trim_end();
    media_type.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

/// Whether a media type means JSON: `application/json`, or any `+json`, parameters aside.
pub(crate) fn is_json(content_type: &str) -> bool {
    const SUFFIX: &[u8] = b"+json";
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let is_suffix = |end: &[u8]| end.eq_ignore_ascii_case(SUFFIX);
    ["application/json", "text/json"].iter().any(|json| media_type.eq_ignore_ascii_case(json))
        || media_type.len().checked_sub(SUFFIX.len()).is_some_and(|at| is_suffix(&media_type.as_bytes()[at..]))
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

/// A schema version, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SchemaVersion<'a> {
    pub(crate) major: u64,
    minor: u64,
    patch: u64,
    pre_release: &'a str,
    build: &'a str,
}

/// Reads a schema version: semantic (<https://semver.org>), with an optional leading `v`; `1` and `1.2` stand for `1.0.0`
/// and `1.2.0`.
pub(crate) fn schema_version(text: &str) -> Option<SchemaVersion<'_>> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre_release) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if ![pre_release, build].into_iter().flatten().flat_map(|words| words.split('.')).all(is_word) {
        return None;
    }
    let is_number = |part: &str| part == "0" || !part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| is_number(part).then(|| part.parse().ok()).flatten();
    let mut numbers = core.splitn(3, '.').map(number);
    Some(SchemaVersion {
        major: numbers.next()??,
        minor: numbers.next().unwrap_or(Some(0))?,
        patch: numbers.next().unwrap_or(Some(0))?,
        pre_release: pre_release.unwrap_or_default(),
        build: build.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_version_is_semantic_and_yields_its_major_number() {
        for (text, major) in [
            ("1.0.0", 1),
            ("v2.3.4", 2),
            ("1", 1),
            ("v3", 3),
            ("0.9", 0),
            ("2.0.0-rc.1", 2),
            ("4.1+build.5", 4),
            ("10.20.30", 10),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(schema_version(text).map(|version| version.major), Some(major), "{text}");
        }
        for text in [
            "",
            "v",
            "V1",
            "vv1",
            "one",
            "1.0.0.0",
            "1..0",
            "1.",
            ".1",
            "-1",
            "+1",
            "1.x",
            "01",
            "1.0.00",
            " 1",
            "1 ",
            "1.0.0-",
            "1.0.0-a..b",
            "1.0.0-é",
            "1.0.0+",
            "1.0.0+a b",
            "99999999999999999999",
        ] {
            assert_eq!(schema_version(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_left_out_of_a_schema_version_is_zero() {
        for (one, other, are_equal) in [
            ("1", "v1.0.0", true),
            ("1.0", "1.0.0", true),
            ("v1.2", "1.2.0", true),
            ("1.0.0", "1.0.1", false),
            ("1.0.0", "1.0.0-rc.1", false),
            ("1.0.0+a", "1.0.0+b", false),
        ] {
            assert_eq!(schema_version(one) == schema_version(other), are_equal, "{one} {other}");
        }
    }

    #[test]
    fn a_media_type_is_two_tokens_and_what_comes_behind_a_semicolon() {
        for yes in ["application/json", "a/b", "text/plain; charset=utf-8", "application/vnd.acme.v1+json ;x=y"] {
            assert!(is_media_type(yes), "{yes}");
        }
        for no in ["", "json", "/", "a/", "/b", "a/b/c", "a b/c", "a/b c", "é/x", ";a/b"] {
            assert!(!is_media_type(no), "{no}");
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
        for (text, max, is_ok) in [("éé", 4, true), ("éé", 3, false), ("abcd", 4, true), ("abcde", 4, false)] {
            assert_eq!(check("f", text, max, ErrorKind::InvalidEvent).is_ok(), is_ok, "{text} {max}");
        }
    }

    #[test]
    fn controls_and_noncharacters_are_refused_as_the_specification_says() {
        let controls = (0x00..=0x1f).chain(0x7f..=0x9f).chain(0xfdd0..=0xfdef);
        let last_of_planes = (0..=0x10).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
        for number in controls.chain(last_of_planes) {
            let text = format!("a{}b", char::from_u32(number).unwrap());
            assert!(check("f", &text, 9, ErrorKind::InvalidEvent).is_err(), "{text:?}");
        }
        for text in [" ", "~", "\u{a0}", "\u{fdcf}", "\u{fdf0}", "\u{fffd}", "\u{10000}", "é", "日本", "🦀"] {
            assert!(check("f", text, 9, ErrorKind::InvalidEvent).is_ok(), "{text:?}");
        }
    }
}
