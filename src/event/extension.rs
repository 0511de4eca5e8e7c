//! Extension attributes: names and typed values.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};

use super::attribute;
use crate::error::{Error, ErrorKind, Result};

/// The value of a CloudEvents attribute, of one of the types of the specification.
///
/// # Examples
///
/// ```
/// use tidings::{AttributeValue, EmitRequest};
///
/// let request = EmitRequest::new("order.created")
///     .extension("region", "eu")
///     .extension("retries", 3)
///     .extension("fraudcheck", true)
///     .extension("digest", AttributeValue::Binary(vec![0xca, 0xfe].into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeValue {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number of 32 bits.
    Integer(i32),
    /// Text without control characters.
    String(Cow<'static, str>),
    /// Bytes; on the wire in base64.
    Binary(Bytes),
    /// An absolute URI.
    Uri(Cow<'static, str>),
    /// A URI reference.
    UriReference(Cow<'static, str>),
    /// A point in time.
    Timestamp(DateTime<Utc>),
}

impl AttributeValue {
    /// The canonical text of the specification, which is what a header carries.
    #[must_use]
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Boolean(true) => "true".into(),
            Self::Boolean(false) => "false".into(),
            Self::Integer(number) => number.to_string().into(),
            Self::String(text) | Self::Uri(text) | Self::UriReference(text) => Cow::Borrowed(text),
            Self::Binary(bytes) => base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes).into(),
            Self::Timestamp(time) => time_text(time).into(),
        }
    }

    /// The value in the JSON event format.
    pub(crate) fn to_json(&self) -> String {
        match self {
            Self::Boolean(_) | Self::Integer(_) => self.to_text().into_owned(),
            _ => serde_json::Value::from(self.to_text()).to_string(),
        }
    }

    fn check(&self, name: &str, kind: ErrorKind) -> Result<()> {
        let rule = match name {
            "traceparent" if !matches!(self, Self::String(text) if is_trace_parent(text)) => {
                "a W3C traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            }
            "severitynumber" if !matches!(self, Self::Integer(0..)) => "a whole number that is not negative",
            _ => return self.check_type(name, kind),
        };
        Err(Error::new(kind, format!("`{name}` must be {rule}")))
    }

    fn check_type(&self, name: &str, kind: ErrorKind) -> Result<()> {
        match self {
            Self::String(text) => attribute::check(name, text, attribute::MAX_EXTENSION_BYTES, kind),
            Self::Uri(text) | Self::UriReference(text) => {
                attribute::check(name, text, attribute::MAX_EXTENSION_BYTES, kind)?;
                let absolute = !matches!(self, Self::Uri(_)) || attribute::has_scheme(text);
                if absolute && attribute::is_uri_reference(text) {
                    return Ok(());
                }
                Err(Error::new(
                    kind,
                    format!("`{name}` is not a URI{}", if absolute { " reference" } else { " with a scheme" }),
                ))
            }
            Self::Binary(bytes) if bytes.len() > attribute::MAX_EXTENSION_BYTES => {
                let max = attribute::MAX_EXTENSION_BYTES;
                Err(Error::new(kind, format!("`{name}` is {} bytes long; at most {max} are allowed", bytes.len())))
            }
            Self::Timestamp(time) => attribute::check_time(name, time, kind),
            Self::Boolean(_) | Self::Integer(_) | Self::Binary(_) => Ok(()),
        }
    }
}

/// Version, trace, parent and flags in lower-case hexadecimal digits, of which the version is not ff, and trace and parent are not all zero
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>).
fn is_trace_parent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &str| part.bytes().all(|b| b == b'0');
    let parts: Vec<_> = text.split('-').collect();
    let lengths = parts.iter().map(|part| part.len());
    let is_formed = lengths.eq([2, 32, 16, 2]) && parts.iter().all(|part| is_hex(part));
    is_formed && parts[0] != "ff" && !is_zero(parts[1]) && !is_zero(parts[2])
}

/// RFC 3339 in UTC, with as many digits of the second as there are.
pub(crate) fn time_text(time: &DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Calls `f` with the [`time_text`], without allocating: every event has one.
pub(crate) fn with_time_text<R>(time: &DateTime<Utc>, f: impl FnOnce(&str) -> R) -> R {
    const SECOND: u32 = 1_000_000_000;
    let (date, clock) = (time.naive_utc().date(), time.naive_utc().time());
    let year = match u32::try_from(date.year()) {
        Ok(year) if year <= 9_999 => year,
        _ => return f(&time_text(time)),
    };
    // chrono keeps a leap second in the nanoseconds of the one before.
    let (leap, nanos) = (clock.nanosecond() / SECOND, clock.nanosecond() % SECOND);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let numbers = [
        (0, 4, year),
        (5, 2, date.month()),
        (8, 2, date.day()),
        (11, 2, clock.hour()),
        (14, 2, clock.minute()),
        (17, 2, clock.second() + leap),
        (20, 9, nanos),
    ];
    for (at, digits, mut number) in numbers {
        for digit in text[at..at + digits].iter_mut().rev() {
            *digit += u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    }
    let end = match nanos {
        0 => 19,
        _ if nanos % 1_000_000 == 0 => 23,
        _ if nanos % 1_000 == 0 => 26,
        _ => 29,
    };
    text[end] = b'Z';
    f(std::str::from_utf8(&text[..=end]).unwrap_or_default())
}

macro_rules! from {
    ($($type:ty => $variant:ident,)+) => { $(
        impl From<$type> for AttributeValue {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )+ };
}

from! {
    bool => Boolean,
    i32 => Integer,
    &'static str => String,
    String => String,
    DateTime<Utc> => Timestamp,
}

/// Extension attributes in the order in which they were set.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Extensions(Vec<(Cow<'static, str>, AttributeValue)>);

impl Extensions {
    /// Sets an attribute, in place of an earlier one of that name.
    pub(crate) fn set(&mut self, name: Cow<'static, str>, value: AttributeValue) {
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&AttributeValue> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// Checks every name and value.
    pub(crate) fn check(&self, kind: ErrorKind) -> Result<()> {
        for (name, value) in self.iter() {
            check_name(name, kind)?;
            value.check(name, kind)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The names that mean something else: the attributes of the specification, and those that the library sets itself.
const RESERVED: [&str; 14] = [
    "specversion",
    "id",
    "source",
    "type",
    "datacontenttype",
    "dataschema",
    "subject",
    "time",
    "data",
    "tenantid",
    "resourcetype",
    "eventtype",
    "schemaversion",
    "systemevent",
];

fn check_name(name: &str, kind: ErrorKind) -> Result<()> {
    let fault = if name.is_empty() || name.len() > attribute::MAX_EXTENSION_NAME_BYTES {
        format!("has {} characters; 1 to {} are allowed", name.len(), attribute::MAX_EXTENSION_NAME_BYTES)
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        "has a character other than lower-case letters and digits".to_owned()
    } else if RESERVED.contains(&name) {
        "is the name of an attribute that is set in another way".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(kind, format!("the extension attribute `{name}` {fault}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(name: &'static str, value: impl Into<AttributeValue>) -> Result<()> {
        let mut extensions = Extensions::default();
        extensions.set(name.into(), value.into());
        extensions.check(ErrorKind::InvalidEvent)
    }

    #[test]
    fn values_have_the_canonical_texts_of_the_specification() {
        let time = DateTime::from_timestamp(1_700_000_000, 500_000_000).unwrap();
        for (value, text) in [
            (AttributeValue::from(true), "true"),
            (false.into(), "false"),
            ((-17).into(), "-17"),
            ("ünïcode".into(), "ünïcode"),
            (AttributeValue::Binary(vec![0xff, 0x00, 0x10].into()), "/wAQ"),
            (AttributeValue::Uri("https://example.com/a".into()), "https://example.com/a"),
            (time.into(), "2023-11-14T22:13:20.500Z"),
        ] {
            assert_eq!(value.to_text(), text);
        }
    }

    #[test]
    fn a_name_is_one_to_twenty_lower_case_letters_and_digits_and_not_reserved() {
        for good in ["a", "comexampleextension1", "0"] {
            assert!(check(good, 1).is_ok(), "{good}");
        }
        for bad in ["", "UPPER", "with_underscore", "with-dash", "é", "comexampleextension12", "subject", "tenantid"] {
            assert_eq!(check(bad, 1).unwrap_err().kind(), ErrorKind::InvalidEvent, "{bad}");
        }
    }

    #[test]
    fn a_value_that_its_type_does_not_allow_is_refused() {
        for bad in [
            AttributeValue::from("a\nb"),
            "".into(),
            "x".repeat(2049).into(),
            AttributeValue::Uri("no/scheme".into()),
            AttributeValue::UriReference("has space".into()),
            AttributeValue::Uri("https://bücher.example".into()),
            AttributeValue::UriReference("a%zz".into()),
            AttributeValue::Binary(vec![0; 2049].into()),
            DateTime::<Utc>::MAX_UTC.into(),
        ] {
            assert!(check("name", bad.clone()).is_err(), "{bad:?}");
        }
        assert!(check("name", AttributeValue::UriReference("a/b?c".into())).is_ok());
    }

    #[test]
    fn a_trace_parent_is_what_w3c_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(check("traceparent", good).is_ok());
        let zero_trace = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in [
            "00-1-2-01",
            "",
            &good[..54],
            &good.to_uppercase(),
            &good.replace('b', "g"),
            &format!("{good}-1"),
            &good.replacen("00", "ff", 1),
            &zero_trace,
        ] {
            assert_eq!(check("traceparent", bad.to_owned()).unwrap_err().kind(), ErrorKind::InvalidEvent, "{bad}");
        }
        assert!(check("traceparent", AttributeValue::Integer(1)).is_err());
    }

    #[test]
    fn a_severity_number_is_a_number_that_is_not_negative() {
        assert!(check("severitynumber", 0).is_ok() && check("severitynumber", 24).is_ok());
        assert!(check("severitynumber", -1).is_err() && check("severitynumber", "9").is_err());
    }

    proptest! {
        #[test]
        fn a_time_is_written_as_chrono_does(second in -70_000_000_000_i64..260_000_000_000, nanos in 0_u32..1_000_000_000, scale in 0_u32..10) {
            let digits = 10_u32.pow(scale);
            let time = DateTime::from_timestamp(second, nanos / digits * digits % 1_000_000_000).unwrap();
            with_time_text(&time, |text| assert_eq!(text, time_text(&time)));
        }
    }

    #[test]
    fn a_leap_second_is_the_sixtieth() {
        let time = DateTime::from_timestamp(1_483_228_799, 1_500_000_000).unwrap();
        with_time_text(&time, |text| assert_eq!(text, "2016-12-31T23:59:60.500Z"));
    }

    #[test]
    fn setting_a_name_again_replaces_its_value() {
        let mut extensions = Extensions::default();
        extensions.set("a".into(), 1.into());
        extensions.set("a".into(), 2.into());
        assert_eq!(extensions.iter().collect::<Vec<_>>(), [("a", &AttributeValue::Integer(2))]);
    }
}
