//! Takes credentials out of texts that others wrote, such as the errors of brokers and drivers. Pure.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// What stands where a credential was.
const REDACTED: &str = "[redacted]";

/// Words that announce a credential, as part of a name too (`sasl.password`, `client_secret`). Not `key` alone: partition
/// keys and record keys are what these texts are about.
const SECRET: &str = "(?:password|passwd|passphrase|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key|jaas[-_.]config)";

static RULES: LazyLock<[(Regex, Rule); 5]> = LazyLock::new(|| {
    let rule = |pattern: &str, rule: Rule| (Regex::new(pattern).expect("the pattern is one"), rule);
    [
        // user:password@ in a URL
        rule(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@]*(?:@[^\s/?#@]*)*@", |c| format!("{}{REDACTED}@", &c[1])),
        // Authorization: Basic …
        rule(r"(?i)\b(authorization\s*[:=]\s*)(?:(?:basic|bearer|digest|negotiate)\s+)?[^\s,;]+", |c| {
            format!("{}{REDACTED}", &c[1])
        }),
        rule(r"(?i)\b(basic|bearer)\s+[a-z0-9._~+/=-]{8,}", |c| format!("{} {REDACTED}", &c[1])),
        // name=value, name: value, "name": "value"
        rule(&format!(r#"(?i)([\w.-]*{SECRET}[\w.-]*["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&)}}\]]+)"#), |c| {
            format!("{}{REDACTED}", &c[1])
        }),
        // The ids of AWS keys
        rule(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", |_| REDACTED.to_owned()),
    ]
});

type Rule = fn(&Captures<'_>) -> String;

/// The text without credentials.
pub(crate) fn sanitize(text: &str) -> Cow<'_, str> {
    let mut clean = Cow::Borrowed(text);
    for (pattern, rule) in RULES.iter() {
        if let Cow::Owned(cleaner) = pattern.replace_all(&clean, *rule) {
            clean = Cow::Owned(cleaner);
        }
    }
    clean
}

/// The text, cut to `max_bytes` on a character, with a word on how long it was.
pub(crate) fn cut(text: &str, max_bytes: usize) -> Cow<'_, str> {
    if text.len() <= max_bytes {
        return text.into();
    }
    let note = format!("...[truncated, {} bytes total]", text.len());
    let end = (0..=max_bytes.saturating_sub(note.len())).rev().find(|end| text.is_char_boundary(*end));
    format!("{}{note}", &text[..end.unwrap_or(0)]).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credentials_are_taken_out() {
        for (text, clean) in [
            ("can't reach kafka://user:s3cret@host:9092/x", "can't reach kafka://[redacted]@host:9092/x"),
            ("postgres://shop:p@ss@host/db failed", "postgres://[redacted]@host/db failed"),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [redacted]"),
            ("sent Bearer eyJhbGciOi.J9.abc", "sent Bearer [redacted]"),
            ("sasl.password=hunter2, sasl.username=bob", "sasl.password=[redacted], sasl.username=bob"),
            (r#"{"client_secret": "a b c", "id": 1}"#, r#"{"client_secret": [redacted], "id": 1}"#),
            ("password='x y' rest", "password=[redacted] rest"),
            ("key AKIAIOSFODNN7EXAMPLE was refused", "key [redacted] was refused"),
            ("api_key=123&token=456", "api_key=[redacted]&token=[redacted]"),
        ] {
            assert_eq!(sanitize(text), clean);
        }
    }

    #[test]
    fn harmless_texts_stay_as_they_are() {
        for text in [
            "the partition key `t-abc` is stuck",
            "record_key=order-17 lane=3",
            "see https://kafka.apache.org/documentation/#basic_ops",
            "Message production error: MessageTimedOut (Local: Message timed out)",
            "a basic test of keys: monkey=banana",
            "mail bob@example.com",
        ] {
            assert_eq!(sanitize(text), text);
        }
    }

    #[test]
    fn a_long_text_is_cut_on_a_character_and_says_how_long_it_was() {
        let text = "é".repeat(3000);
        let short = cut(&text, 4096);
        assert!(short.len() <= 4096 && short.len() > 4090);
        assert!(short.ends_with("...[truncated, 6000 bytes total]"));
        assert_eq!(cut("short", 4096), "short");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_planted_secrets_are_gone(before in ".{0,40}", secret in "[A-Z0-9]{12}", after in ".{0,40}") {
            for text in [
                format!("{before} password={secret} {after}"),
                format!("{before} https://user:{secret}@host/{after}"),
                format!("{before} Authorization: Bearer {secret} {after}"),
            ] {
                prop_assert!(!sanitize(&text).contains(&secret));
            }
            let _ = cut(&before, 10);
        }
    }
}
