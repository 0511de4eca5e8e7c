//! Takes credentials out of texts that others wrote, such as the errors of brokers and drivers. Pure.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_lite::{Captures, Regex};

/// What stands where a credential was.
const REDACTED: &str = "[redacted]";

/// Words that announce a credential, as part of a name too (`sasl.password`, `client_secret`). Not `key` alone: partition
/// keys and record keys are what these texts are about.
const SECRET: &str = "(?:password|passwd|passphrase|pwd|secret|token|credentials?|api[-_.]?key|access[-_.]?key|private[-_.]?key|jaas[-_.]config)";

/// Words that have such a word in them, and announce nothing.
const HARMLESS: [&str; 4] = ["tokenis", "tokeniz", "secretar", "passwordless"];

static RULES: LazyLock<[(Regex, Rule); 6]> = LazyLock::new(|| {
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
            if is_harmless(&c[1]) { c[0].to_owned() } else { format!("{}{REDACTED}", &c[1]) }
        }),
        // The same of `pass`, which only a whole word may be: not that of `bypass` or `passed`.
        rule(r#"(?i)((?:^|[^a-z0-9])pass["']?\s*[:=]\s*)(?:"[^"]*"|'[^']*'|[^\s,;&)}\]]+)"#, |c| {
            format!("{}{REDACTED}", &c[1])
        }),
        // The ids of AWS keys
        rule(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", |_| REDACTED.to_owned()),
    ]
});

type Rule = fn(&Captures<'_>) -> String;

/// Whether all that looks like the announcement of a credential in this name is part of a harmless word.
fn is_harmless(name: &str) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(SECRET).expect("the pattern is one"));
    let rest = HARMLESS.iter().fold(name.to_ascii_lowercase(), |rest, word| rest.replace(word, " "));
    !WORD.is_match(&rest)
}

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
            ("user=bob pass=hunter2", "user=bob pass=[redacted]"),
            (r#"{"db_pass":"x","n":1}"#, r#"{"db_pass":[redacted],"n":1}"#),
            ("AWS_SECRET_ACCESS_KEY: abc/def", "AWS_SECRET_ACCESS_KEY: [redacted]"),
            (
                "secretary_password=abc, tokenizer.token: def",
                "secretary_password=[redacted], tokenizer.token: [redacted]",
            ),
            ("secretKey=abc tokenValue=def", "secretKey=[redacted] tokenValue=[redacted]"),
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
            // Words that begin or end like those that announce a credential, or stand beside them.
            "key=order-17, keys: 3, key `monkey:1`, keyed by: tenant, hotkey=f5",
            "tokenizer: standard, secretary=bob, passwordless: yes",
            "bypass: 3, compass=north, passed: 4 of 5, passenger=bob",
            "the token expired; the password was refused",
            "authorization failed for the group `billing`",
            "TopicAuthorizationFailed (Broker: Topic authorization failed)",
            "basic auth is off, bearer of news",
            "lerian.streaming.token.issued.dlq, topic=secret-santa",
            "id 018f6b1e-7c1a-7f00-8000-000000000001",
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
