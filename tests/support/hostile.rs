//! Texts that somebody sends who means no good, or whose client is broken.

use tidings::wire::decode;
use tidings::{AttributeValue, EmitRequest, Emitter, ErrorKind, OutboxMode, PolicyOverride};

use super::events::EVENT;
use super::topic::ReadBack;

/// What no attribute may have, somewhere in the text: controls and noncharacters, as the specification says.
const REFUSED: [&str; 12] = [
    "",
    "\0",
    "a\0b",
    "line\nbreak",
    "\r\nce_id: 2",
    "tab\t",
    "\u{1b}[31mred",
    "bell\u{7}",
    "delete\u{7f}",
    "next\u{85}line",
    "noncharacter \u{fffe}",
    "noncharacter \u{1ffff}",
];

/// What looks dangerous, and is a text like any other.
const TAKEN: [&str; 18] = [
    "'; drop table tidings.outbox; --",
    "\"; drop table tidings_outbox; --",
    "$1 $$ $body$ %s %n {} {0} ${HOME} `id`",
    "a\\b\\u0000\\",
    "\\x00",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "{[1,100)}",
    "null",
    " leading and trailing ",
    "\u{202e}txet tfel ot thgir\u{202c}",
    "\u{200b}\u{200d}\u{feff}",
    "e\u{301} is not \u{e9}",
    "مرحبا",
    "日本語 🦀 👩‍👩‍👧",
    "system:order.changed",
    "postgres://shop:hunter2@host/shop",
    ",;=\"'",
];

/// A text in each field of a request that takes one.
fn fields(text: &str) -> [(&'static str, EmitRequest); 5] {
    let request = || EmitRequest::new(EVENT).payload("{}");
    let own = text.to_owned();
    [
        ("tenant", request().tenant(own.clone())),
        ("subject", request().subject(own.clone()).tenant("t")),
        ("extension", request().extension("note", AttributeValue::from(own.clone())).tenant("t")),
        ("partition key", request().partition_key(own.clone()).tenant("t")),
        ("payload", request().tenant("t").json(&own).unwrap()),
    ]
}

/// Emits each text in each field, directly and by the outbox. Yields the ids of those that were taken, and what each is.
pub(crate) async fn emit_each(emitter: &dyn Emitter) -> Vec<(String, &'static str, String)> {
    let mut taken = Vec::new();
    let longest = "k".repeat(256);
    let too_long = ["k".repeat(1025 * 2), "k".repeat(1024 * 1024), "é".repeat(1025)];
    for mode in [OutboxMode::Fallback, OutboxMode::Always] {
        let policy = PolicyOverride::default().with_outbox(mode);
        for text in REFUSED.into_iter().chain(too_long.iter().map(String::as_str)) {
            for (field, request) in fields(text) {
                // JSON has an escape for each, and a payload no limit of its own below that of the record.
                if field == "payload" && text.len() < 1_000_000 {
                    continue;
                }
                let error = emitter.emit(request.policy(policy)).await.unwrap_err();
                let kind = if field == "payload" { ErrorKind::TooLarge } else { ErrorKind::InvalidEvent };
                assert_eq!(error.kind(), kind, "{field}: {text:.50?}");
                assert!(error.is_caller_error() && !error.is_ambiguous());
                let shown = error.to_string();
                assert!(shown.len() < 1_000 && !shown.chars().any(char::is_control), "{shown:?}");
            }
        }
        for text in TAKEN.into_iter().chain([longest.as_str()]) {
            for (field, request) in fields(text) {
                let receipt = emitter.emit(request.policy(policy)).await.unwrap_or_else(|error| {
                    panic!("{field}: {text:?}: {error}");
                });
                taken.push((receipt.event_id.to_string(), field, text.to_owned()));
            }
            // An id is an id once.
            let id = format!("{mode} {}", text.chars().take(200).collect::<String>());
            let request = EmitRequest::new(EVENT).payload("{}").tenant("t").id(id.parse().unwrap());
            emitter.emit(request.policy(policy)).await.unwrap();
            taken.push((id.clone(), "id", id));
        }
    }
    taken
}

/// Each that was taken is on the topic, to the byte.
pub(crate) fn check_each(taken: &[(String, &'static str, String)], records: &[ReadBack]) {
    assert_eq!(records.len(), taken.len());
    for (id, field, text) in taken {
        let record = records.iter().find(|record| record.id() == *id).unwrap();
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let event = decode(headers, Some(&record.payload)).unwrap();
        let payload = serde_json::to_vec(text).unwrap();
        let found = match *field {
            "tenant" => event.extension("tenantid"),
            "subject" => event.subject.as_deref(),
            "extension" => event.extension("note"),
            "partition key" => event.extension("partitionkey"),
            "id" => Some(&*event.id),
            _ => event.data.as_deref().filter(|data| *data == payload).map(|_| text.as_str()),
        };
        assert_eq!(found, Some(text.as_str()), "{field}");
        if *field == "tenant" {
            assert_eq!(record.key, text.as_bytes());
        }
    }
}

/// Emits the largest record that the limit takes, and one that is a byte smaller, either way, and sees one that is a byte larger
/// refused before anything is done. Yields the size of the largest one's payload, and the ids of those that were taken.
///
/// `request` makes one with a payload of so many bytes; `logged` counts what is in the outbox.
pub(crate) async fn emit_largest<C: PartialEq + std::fmt::Debug>(
    emitter: &dyn Emitter,
    limit: usize,
    request: impl Fn(usize) -> EmitRequest + Send + Sync,
    logged: impl AsyncFn() -> C,
) -> (usize, Vec<String>) {
    let error = emitter.emit(request(limit)).await.unwrap_err().to_string();
    let size: usize = error.split_once(" has ").unwrap().1.split_once(" bytes").unwrap().0.parse().unwrap();
    let largest = limit - (size - limit);
    let mut ids = Vec::new();
    for mode in [OutboxMode::Never, OutboxMode::Always] {
        let request = |bytes| request(bytes).policy(PolicyOverride::default().with_outbox(mode));
        for bytes in [largest - 1, largest] {
            ids.push(emitter.emit(request(bytes)).await.unwrap().event_id.to_string());
        }
        let before = logged().await;
        let error = emitter.emit(request(largest + 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(error.is_caller_error() && !error.dead_lettered() && !error.is_ambiguous());
        assert_eq!(logged().await, before);
    }
    (largest, ids)
}

/// Each that was taken is on the topic, whole.
pub(crate) fn check_largest(largest: usize, records: &[ReadBack]) {
    let mut sizes: Vec<_> = records.iter().map(|record| record.payload.len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [largest - 1, largest - 1, largest, largest]);
}
