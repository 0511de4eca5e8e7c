//! Dead letters: what they say beside the event, and reading them.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{HeaderStyle, Headers};
use crate::error::{Error, ErrorKind, Result};
use crate::sanitize::{cut, sanitize};
use crate::transport::Record;

/// How the headers of a dead letter begin, unless configured otherwise.
pub const DEAD_LETTER_PREFIX: &str = "x-tidings-dlq-";

/// How long the text of the error may be.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How the headers of a dead letter begin when they are those of lib-streaming.
pub(crate) const LIB_STREAMING_PREFIX: &str = "x-lerian-dlq-";

/// How dead letters are written.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    pub(crate) prefix: String,
    pub(crate) style: HeaderStyle,
    /// Where a dead letter would be larger, its payload is left out.
    pub(crate) max_bytes: usize,
}

/// Why an event is dead, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The topic for which the event was meant: header `source-topic`.
    pub source_topic: String,
    /// The [kind](ErrorKind::as_str) of the error: `error-class`. With [`HeaderStyle::Dash`] it is a class of lib-streaming's.
    pub error_class: String,
    /// The text of the error, without credentials, of 4 KiB at most: `error-message`.
    pub error_message: String,
    /// How often this library tried again: `retry-count`. Retries within the Kafka client are not counted.
    pub retry_count: u32,
    /// When the first attempt failed: `first-failure-at`.
    pub first_failure_at: DateTime<Utc>,
    /// The producer that gave up: `producer-id`.
    pub producer_id: String,
    /// How many bytes the payload had, if it had to be left out: `payload-omitted` and `payload-bytes`.
    pub omitted_payload_bytes: Option<usize>,
}

impl DeadLetter {
    pub(crate) fn new(
        record: &Record,
        error: &Error,
        retry_count: u32,
        first_failure_at: DateTime<Utc>,
        producer_id: String,
        style: HeaderStyle,
    ) -> Self {
        Self {
            source_topic: record.topic.to_string(),
            error_class: error_class(error.kind(), style).to_owned(),
            error_message: cut(&sanitize(&error.to_string_with_causes()), MAX_MESSAGE_BYTES).into_owned(),
            retry_count,
            first_failure_at,
            producer_id,
            omitted_payload_bytes: None,
        }
    }

    /// The dead letter of `record`: its key, headers and value, and these headers behind them. Where that is too large,
    /// without the value.
    pub(crate) fn record(&mut self, record: &Record, topic: &Arc<str>, how: &DeadLetters) -> Record {
        let headers = self.headers(&record.headers, how);
        let whole = Record { topic: Arc::clone(topic), headers, ..record.clone() };
        if whole.wire_bytes() <= how.max_bytes { whole } else { self.record_without_payload(record, topic, how) }
    }

    /// The dead letter of `record` without its value, which its headers say.
    pub(crate) fn record_without_payload(&mut self, record: &Record, topic: &Arc<str>, how: &DeadLetters) -> Record {
        self.omitted_payload_bytes = Some(record.payload.as_ref().map_or(0, Bytes::len));
        let headers = self.headers(&record.headers, how);
        Record { topic: Arc::clone(topic), key: record.key.clone(), headers, payload: Some(Bytes::new()) }
    }

    fn headers(&self, of_event: &Headers, DeadLetters { prefix, style, .. }: &DeadLetters) -> Headers {
        let mut headers = of_event.with_room(512 + self.error_message.len());
        for (name, value) in [
            ("source-topic", &*self.source_topic),
            ("error-class", &self.error_class),
            ("error-message", &self.error_message),
            ("retry-count", &self.retry_count.to_string()),
            ("first-failure-at", &style.time_text(&self.first_failure_at)),
            ("producer-id", &self.producer_id),
        ] {
            headers.push_prefixed(prefix, name, value.as_bytes());
        }
        if let Some(bytes) = self.omitted_payload_bytes {
            headers.push_prefixed(prefix, "payload-omitted", b"true");
            headers.push_prefixed(prefix, "payload-bytes", bytes.to_string().as_bytes());
        }
        headers
    }

    /// Reads the headers of a dead letter that begin with `prefix`. The event itself [`decode`](super::decode()) reads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`] if one is missing or can't be read; the text names it.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::wire::{DEAD_LETTER_PREFIX, DeadLetter};
    ///
    /// let headers = [
    ///     ("x-tidings-dlq-source-topic", &b"events.order.created"[..]),
    ///     ("x-tidings-dlq-error-class", b"record_rejected"),
    ///     ("x-tidings-dlq-error-message", b"the broker refused the record"),
    ///     ("x-tidings-dlq-retry-count", b"0"),
    ///     ("x-tidings-dlq-first-failure-at", b"2026-03-01T08:20:30Z"),
    ///     ("x-tidings-dlq-producer-id", b"018f6b1e-7c1a-7f00-8000-000000000001"),
    /// ];
    /// let letter = DeadLetter::read(headers, DEAD_LETTER_PREFIX)?;
    /// assert_eq!(letter.source_topic, "events.order.created");
    /// # Ok::<(), tidings::Error>(())
    /// ```
    pub fn read<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>, prefix: &str) -> Result<Self> {
        let own = headers.into_iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        let own: Vec<_> = own.collect();
        // The last one counts: a letter that died again has the newer ones behind the older.
        let find = |name: &str| -> Result<Option<&str>> {
            let value = own.iter().rev().find(|(other, _)| *other == name).map(|(_, value)| *value);
            value.map(|value| std::str::from_utf8(value).map_err(|_| fault(prefix, name))).transpose()
        };
        let text = |name: &str| find(name)?.map(str::to_owned).ok_or_else(|| fault(prefix, name));
        let number = |name: &str| text(name)?.parse().map_err(|_| fault(prefix, name));
        let time = DateTime::parse_from_rfc3339(&text("first-failure-at")?);
        let omitted = find("payload-omitted")?.is_some_and(|omitted| omitted == "true");
        let bytes = || text("payload-bytes")?.parse().map_err(|_| fault(prefix, "payload-bytes"));
        Ok(Self {
            source_topic: text("source-topic")?,
            error_class: text("error-class")?,
            error_message: text("error-message")?,
            retry_count: number("retry-count")?,
            first_failure_at: time.map_err(|_| fault(prefix, "first-failure-at"))?.to_utc(),
            producer_id: text("producer-id")?,
            omitted_payload_bytes: if omitted { Some(bytes()?) } else { None },
        })
    }
}

/// What the headers call an error of this kind. lib-streaming has classes of its own, and none for what never goes to a
/// dead-letter topic.
pub(crate) fn error_class(kind: ErrorKind, style: HeaderStyle) -> &'static str {
    match (style, kind) {
        (HeaderStyle::Dash, ErrorKind::TooLarge | ErrorKind::RecordRejected) => "serialization_error",
        (HeaderStyle::Dash, ErrorKind::Unauthorized) => "auth_error",
        (HeaderStyle::Dash, ErrorKind::UnknownTopic) => "topic_not_found",
        _ => kind.as_str(),
    }
}

fn fault(prefix: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::InvalidEvent,
        format!("the header `{prefix}{name}` of the dead letter is missing or can't be read"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(payload: &[u8]) -> Record {
        let mut headers = Headers::default();
        headers.push("ce_id", b"e-1");
        Record { topic: "shop.order".into(), key: "k".into(), headers, payload: Some(Bytes::copy_from_slice(payload)) }
    }

    fn letter(message: &str) -> DeadLetter {
        let error = Error::new(ErrorKind::RecordRejected, message.to_owned())
            .with_source(std::io::Error::other("password=hunter2"));
        DeadLetter::new(
            &record(b""),
            &error,
            3,
            DateTime::from_timestamp(1_772_353_230, 0).unwrap(),
            "p-1".into(),
            HeaderStyle::Binding,
        )
    }

    fn how(max_bytes: usize) -> DeadLetters {
        DeadLetters { prefix: DEAD_LETTER_PREFIX.into(), style: HeaderStyle::Binding, max_bytes }
    }

    #[test]
    fn a_dead_letter_is_the_record_with_the_reasons_behind_its_headers() {
        let dead = letter("refused").record(&record(b"{}"), &"shop.order.dlq".into(), &how(1000));
        assert_eq!(
            (&*dead.topic, &dead.key[..], dead.payload.as_deref()),
            ("shop.order.dlq", &b"k"[..], Some(&b"{}"[..]))
        );
        let expected = [
            ("ce_id", "e-1"),
            ("x-tidings-dlq-source-topic", "shop.order"),
            ("x-tidings-dlq-error-class", "record_rejected"),
            ("x-tidings-dlq-error-message", "refused: password=[redacted]"),
            ("x-tidings-dlq-retry-count", "3"),
            ("x-tidings-dlq-first-failure-at", "2026-03-01T08:20:30Z"),
            ("x-tidings-dlq-producer-id", "p-1"),
        ];
        assert_eq!(dead.headers.iter().collect::<Vec<_>>(), expected.map(|(name, value)| (name, value.as_bytes())));
    }

    #[test]
    fn a_dead_letter_that_would_be_too_large_is_sent_without_the_payload() {
        let dead = letter("refused").record(&record(&[b'x'; 2000]), &"dlq".into(), &how(1500));
        assert_eq!(dead.payload, Some(Bytes::new()), "not a tombstone");
        let read = DeadLetter::read(dead.headers.iter(), DEAD_LETTER_PREFIX).unwrap();
        assert_eq!(read.omitted_payload_bytes, Some(2000));
    }

    #[test]
    fn the_dash_style_has_the_classes_of_lib_streaming_and_times_as_go_writes_them() {
        for (kind, class) in [
            (ErrorKind::TooLarge, "serialization_error"),
            (ErrorKind::RecordRejected, "serialization_error"),
            (ErrorKind::Unauthorized, "auth_error"),
            (ErrorKind::UnknownTopic, "topic_not_found"),
        ] {
            assert!(kind.is_dead_letter());
            assert_eq!(error_class(kind, HeaderStyle::Dash), class);
            assert_eq!(error_class(kind, HeaderStyle::Binding), kind.as_str());
        }
        let mut letter = letter("refused");
        for (nanos, text) in [(0, "08:20:30Z"), (120_000_000, "08:20:30.12Z"), (1_000, "08:20:30.000001Z")] {
            letter.first_failure_at = DateTime::from_timestamp(1_772_353_230, nanos).unwrap();
            let how = DeadLetters { style: HeaderStyle::Dash, ..how(1000) };
            let headers = letter.headers(&Headers::default(), &how);
            let time = headers.get("x-tidings-dlq-first-failure-at").unwrap();
            assert_eq!(std::str::from_utf8(time).unwrap(), format!("2026-03-01T{text}"));
        }
    }

    #[test]
    fn a_missing_or_unreadable_header_is_named() {
        let dead = letter("refused").record(&record(b""), &"dlq".into(), &how(1500));
        for name in ["source-topic", "error-class", "error-message", "retry-count", "first-failure-at", "producer-id"] {
            let full = format!("{DEAD_LETTER_PREFIX}{name}");
            let rest = dead.headers.iter().filter(|(other, _)| *other != full);
            let error = DeadLetter::read(rest, DEAD_LETTER_PREFIX).unwrap_err();
            assert!(error.to_string().contains(&full), "{error}");
            let broken = dead.headers.iter().chain([(full.as_str(), &b"\xff"[..])]);
            assert!(DeadLetter::read(broken, DEAD_LETTER_PREFIX).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(message in ".{0,6000}", count in any::<u32>(), prefix in "x-[a-z]{1,10}-dlq-") {
            let mut letter = letter(&message);
            letter.retry_count = count;
            prop_assert!(letter.error_message.len() <= MAX_MESSAGE_BYTES);
            let how = DeadLetters { prefix, ..how(100_000) };
            let dead = letter.record(&record(b"{}"), &"dlq".into(), &how);
            prop_assert_eq!(DeadLetter::read(dead.headers.iter(), &how.prefix).unwrap(), letter);
        }

        #[test]
        fn reading_never_panics(headers in proptest::collection::vec(("(x-tidings-dlq-)?[a-z-]{0,20}", proptest::collection::vec(any::<u8>(), 0..30)), 0..9)) {
            let _ = DeadLetter::read(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())), DEAD_LETTER_PREFIX);
        }
    }
}
