//! How an event is delivered: the policy, what may change it, and the grammar of `STREAMING_EVENT_POLICIES`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute;

/// How the events of one definition are delivered.
///
/// Effective is what the definition says, then what `STREAMING_EVENT_POLICIES` says, then what the request says.
///
/// # Examples
///
/// ```
/// use tidings::{DeliveryPolicy, OutboxMode};
///
/// let policy = DeliveryPolicy::default().with_outbox(OutboxMode::Always);
/// assert_eq!(policy.to_string(), "enabled:true,direct:direct,outbox:always,dlq:on_routable_failure,poison:block");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[must_use]
pub struct DeliveryPolicy {
    pub(crate) enabled: bool,
    pub(crate) direct: DirectMode,
    pub(crate) outbox: OutboxMode,
    pub(crate) dlq: DlqMode,
    pub(crate) poison: PoisonMode,
}

impl Default for DeliveryPolicy {
    /// Enabled, direct, with the outbox as fallback, and dead-lettered on a routable failure; a poisonous one blocks its key.
    fn default() -> Self {
        Self {
            enabled: true,
            direct: DirectMode::Direct,
            outbox: OutboxMode::Fallback,
            dlq: DlqMode::OnRoutableFailure,
            poison: PoisonMode::Block,
        }
    }
}

impl DeliveryPolicy {
    /// Sets whether the event is delivered at all. Defaults to true.
    pub fn with_enabled(mut self, enabled: bool) -> Self {
        self.enabled = enabled;
        self
    }

    /// Sets whether the event may be published directly. Defaults to [`DirectMode::Direct`].
    pub fn with_direct(mut self, direct: DirectMode) -> Self {
        self.direct = direct;
        self
    }

    /// Sets when the event goes to the outbox. Defaults to [`OutboxMode::Fallback`].
    pub fn with_outbox(mut self, outbox: OutboxMode) -> Self {
        self.outbox = outbox;
        self
    }

    /// Sets when the event goes to its dead-letter topic. Defaults to [`DlqMode::OnRoutableFailure`].
    pub fn with_dlq(mut self, dlq: DlqMode) -> Self {
        self.dlq = dlq;
        self
    }

    /// Sets what becomes of an event in the outbox that can't be delivered. Defaults to [`PoisonMode::Block`].
    pub fn with_poison(mut self, poison: PoisonMode) -> Self {
        self.poison = poison;
        self
    }

    /// Whether the event is delivered at all.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whether the event may be published directly.
    #[must_use]
    pub fn direct(&self) -> DirectMode {
        self.direct
    }

    /// When the event goes to the outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxMode {
        self.outbox
    }

    /// When the event goes to its dead-letter topic.
    #[must_use]
    pub fn dlq(&self) -> DlqMode {
        self.dlq
    }

    /// What becomes of an event in the outbox that can't be delivered.
    #[must_use]
    pub fn poison(&self) -> PoisonMode {
        self.poison
    }

    /// Whether every event goes by the outbox.
    pub(crate) fn always_stored(&self) -> bool {
        matches!(self.outbox, OutboxMode::Always | OutboxMode::Journaled)
    }

    /// Whether an event goes to the relay from memory once it is committed.
    pub(crate) fn is_journaled(&self) -> bool {
        self.outbox == OutboxMode::Journaled
    }

    /// This policy with what `change` says.
    pub(crate) fn overridden(mut self, change: &PolicyOverride) -> Self {
        self.enabled = change.enabled.unwrap_or(self.enabled);
        self.direct = change.direct.unwrap_or(self.direct);
        self.outbox = change.outbox.unwrap_or(self.outbox);
        self.dlq = change.dlq.unwrap_or(self.dlq);
        self.poison = change.poison.unwrap_or(self.poison);
        self
    }

    /// Checks that an enabled event has a way to be delivered.
    pub(crate) fn check(&self, key: &str, has_outbox: bool) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let fault = if self.always_stored() && !has_outbox {
            "stores every event in an outbox, and none is configured: give the producer one, or choose another `outbox` mode"
        } else if self.direct == DirectMode::Skip && !self.always_stored() {
            "leaves it no way to be delivered: `direct=skip` needs `outbox=always`"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidPolicy, format!("the policy of `{key}` ({self}) {fault}")))
    }
}

impl fmt::Display for DeliveryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { enabled, direct, outbox, dlq, poison } = self;
        write!(f, "enabled:{enabled},direct:{direct},outbox:{outbox},dlq:{dlq},poison:{poison}")
    }
}

/// Defines a mode of the policy with the names it has in the environment.
macro_rules! mode {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal $(| $synonym:literal)*,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_meta])* $variant,)+ }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads the name, in any case.
            fn from_str(text: &str) -> Result<Self> {
                match text.to_ascii_lowercase().as_str() {
                    $($text $(| $synonym)* => Ok(Self::$variant),)+
                    _ => Err(Error::new(
                        ErrorKind::InvalidPolicy,
                        format!("`{text}` is not one of {}", [$($text),+].join(", ")),
                    )),
                }
            }
        }
    };
}

mode! {
    /// Whether an event may be published directly.
    DirectMode {
        /// Publish directly, as long as that keeps the order of the key.
        Direct = "direct",
        /// Never publish directly.
        Skip = "skip",
    }
}

mode! {
    /// When an event goes to the outbox.
    OutboxMode {
        /// Only if it is emitted inside a transaction. An event that can't be published directly is an error.
        Never = "never",
        /// If the broker can't take it now, or an older event of its lane waits in the outbox.
        Fallback = "fallback" | "fallback_on_circuit_open",
        /// Always; and once it is committed it goes to the relay from memory, which need not read it. After a transaction
        /// of yours say that it was committed, by [`EmitterExt::commit`](crate::EmitterExt::commit). If you don't, or the process dies,
        /// the relay reads the event, a little later.
        Journaled = "journaled",
        /// Always; the relay publishes it.
        Always = "always",
    }
}

mode! {
    /// When an event goes to its dead-letter topic.
    DlqMode {
        /// Never: a refused event is an error and nothing else.
        Never = "never",
        /// If the broker refuses this event, rather than being unable to serve.
        OnRoutableFailure = "on_routable_failure",
    }
}

mode! {
    /// What becomes of an event in the outbox that the broker refuses for what it is, however often it is tried. The later
    /// events of its key wait behind it meanwhile.
    PoisonMode {
        /// It is tried again and again, and waits for an operator.
        Block = "block",
        /// After three attempts it goes to its dead-letter topic, and its key goes on.
        DeadLetter = "dead_letter",
        /// After three attempts it is left out for good, and its key goes on.
        Skip = "skip",
    }
}

/// What an operator or a request changes about a policy; what is not set stays as it is.
///
/// # Examples
///
/// ```
/// use tidings::{OutboxMode, PolicyOverride};
///
/// let change = PolicyOverride::default().with_outbox(OutboxMode::Always);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct PolicyOverride {
    enabled: Option<bool>,
    direct: Option<DirectMode>,
    outbox: Option<OutboxMode>,
    dlq: Option<DlqMode>,
    /// Of the operator alone: the relay does not know the request.
    poison: Option<PoisonMode>,
}

impl PolicyOverride {
    /// Sets whether the event is delivered at all.
    pub fn with_enabled(mut self, enabled: bool) -> Self {
        self.enabled = Some(enabled);
        self
    }

    /// Sets whether the event may be published directly.
    pub fn with_direct(mut self, direct: DirectMode) -> Self {
        self.direct = Some(direct);
        self
    }

    /// Sets when the event goes to the outbox.
    pub fn with_outbox(mut self, outbox: OutboxMode) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// Sets when the event goes to its dead-letter topic.
    pub fn with_dlq(mut self, dlq: DlqMode) -> Self {
        self.dlq = Some(dlq);
        self
    }
}

/// The policy of one definition as compiled: what the service and the operator say, and whether a request may enable it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EffectivePolicy {
    policy: DeliveryPolicy,
    disabled_by_operator: bool,
    has_outbox: bool,
}

impl EffectivePolicy {
    /// Merges the definition's policy and the operator's change, and checks the result, not the steps.
    pub(crate) fn compile(
        key: &str,
        definition: DeliveryPolicy,
        operator: &PolicyOverride,
        has_outbox: bool,
    ) -> Result<Self> {
        let mut policy = definition.overridden(operator);
        // Fallback is the default, so a producer without an outbox is not an error: the event just has no fallback.
        if policy.outbox == OutboxMode::Fallback && !has_outbox {
            policy.outbox = OutboxMode::Never;
        }
        policy.check(key, has_outbox)?;
        Ok(Self { policy, disabled_by_operator: operator.enabled == Some(false), has_outbox })
    }

    /// The policy of requests that change nothing.
    pub(crate) fn of_most(&self) -> DeliveryPolicy {
        self.policy
    }

    /// When the event goes to the outbox. None, if it is disabled.
    pub(crate) fn outbox(&self) -> Option<OutboxMode> {
        self.policy.enabled.then_some(self.policy.outbox)
    }

    /// What becomes of an event in the outbox that can't be delivered.
    pub(crate) fn poison(&self) -> PoisonMode {
        self.policy.poison
    }

    /// The policy for one request.
    pub(crate) fn for_request(&self, key: &str, request: &PolicyOverride) -> Result<DeliveryPolicy> {
        if *request == PolicyOverride::default() {
            return Ok(self.policy);
        }
        let mut policy = self.policy.overridden(request);
        policy.enabled &= !self.disabled_by_operator;
        policy.check(key, self.has_outbox)?;
        Ok(policy)
    }
}

/// The operator's changes to policies, by definition key: the value of `STREAMING_EVENT_POLICIES`.
///
/// The grammar: entries apart by `,`, `;` or a new line; each is `key.attribute=value`, the attribute behind the last
/// dot being one of `enabled` (`true`, `1`, `yes`, `false`, `0`, `no`), `direct`, `outbox`, `dlq` and
/// `poison`. Case and the order of entries don't matter; the same attribute of the same key twice is an error.
///
/// # Examples
///
/// ```
/// use tidings::PolicyOverrides;
///
/// let overrides: PolicyOverrides = "order.created.outbox=always; payment.failed.enabled=false".parse()?;
/// assert_eq!(overrides.keys().collect::<Vec<_>>(), ["order.created", "payment.failed"]);
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyOverrides(BTreeMap<String, PolicyOverride>);

impl PolicyOverrides {
    /// More entries than anyone writes by hand; keeps a runaway template from becoming a start-up that takes minutes.
    const MAX_ENTRIES: usize = 1024;

    /// The keys that have a change, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The change for `key`, empty if there is none.
    pub(crate) fn get(&self, key: &str) -> PolicyOverride {
        self.0.get(key).copied().unwrap_or_default()
    }
}

impl FromStr for PolicyOverrides {
    type Err = Error;

    /// Reads the entries. The error tells all that can't be read, each in a line of its own.
    fn from_str(text: &str) -> Result<Self> {
        let mut overrides = Self::default();
        let mut faults = Vec::new();
        let entries = text.split([',', ';', '\n']).map(str::trim).filter(|entry| !entry.is_empty());
        for (count, entry) in entries.enumerate() {
            let fault = |why: String| Error::new(ErrorKind::InvalidPolicy, format!("policy entry `{entry}`: {why}"));
            if count == Self::MAX_ENTRIES {
                faults.push(fault(format!("more than {} entries", Self::MAX_ENTRIES)));
                break;
            }
            faults.extend(overrides.read(entry).map_err(fault).err());
        }
        Error::all(faults)?;
        Ok(overrides)
    }
}

impl PolicyOverrides {
    /// Adds one entry; the error says why it can't be read.
    fn read(&mut self, entry: &str) -> Result<(), String> {
        let (path, value) = entry.split_once('=').ok_or("expected `key.attribute=value`")?;
        let (key, attribute) = path.trim().rsplit_once('.').ok_or("expected `key.attribute` before the `=`")?;
        attribute::check("key", key, attribute::MAX_KEY_BYTES, ErrorKind::InvalidPolicy).map_err(text)?;
        let (attribute, value) = (attribute.trim().to_ascii_lowercase(), value.trim());
        let change = self.0.entry(key.to_owned()).or_default();
        let repeated = match attribute.as_str() {
            "enabled" => change.enabled.replace(parse_bool(value)?).is_some(),
            "direct" => change.direct.replace(value.parse().map_err(text)?).is_some(),
            "outbox" => change.outbox.replace(value.parse().map_err(text)?).is_some(),
            "dlq" => change.dlq.replace(value.parse().map_err(text)?).is_some(),
            "poison" => change.poison.replace(value.parse().map_err(text)?).is_some(),
            other => return Err(format!("`{other}` is not one of enabled, direct, outbox, dlq, poison")),
        };
        if repeated {
            return Err(format!("`{attribute}` of `{key}` is set twice"));
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is mapped over errors")]
fn text(error: Error) -> String {
    error.to_string()
}

/// Reads a truth value as the environment writes them.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!("`{text}` is not one of true, 1, yes, false, 0, no")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compile(definition: DeliveryPolicy, operator: &str, has_outbox: bool) -> Result<EffectivePolicy> {
        let operator: PolicyOverrides = operator.parse()?;
        EffectivePolicy::compile("e", definition, &operator.get("e"), has_outbox)
    }

    #[test]
    fn a_policy_says_what_it_was_told() {
        let policy = DeliveryPolicy::default()
            .with_enabled(false)
            .with_direct(DirectMode::Skip)
            .with_outbox(OutboxMode::Journaled)
            .with_dlq(DlqMode::Never)
            .with_poison(PoisonMode::DeadLetter);
        assert_eq!(policy.to_string(), "enabled:false,direct:skip,outbox:journaled,dlq:never,poison:dead_letter");
        assert!(!policy.enabled() && policy.with_enabled(true).enabled());
        assert!(policy.is_journaled() && !policy.with_outbox(OutboxMode::Always).is_journaled());
    }

    #[test]
    fn the_default_falls_back_to_an_outbox_where_there_is_one() {
        let outbox = |operator, has_outbox| {
            let effective = compile(DeliveryPolicy::default(), operator, has_outbox).unwrap();
            (effective.outbox(), effective.of_most().outbox())
        };
        assert_eq!(outbox("", true), (Some(OutboxMode::Fallback), OutboxMode::Fallback));
        assert_eq!(outbox("", false), (Some(OutboxMode::Never), OutboxMode::Never));
        assert_eq!(outbox("e.enabled=no, e.outbox=always", true), (None, OutboxMode::Always));
    }

    #[test]
    fn the_request_wins_over_the_operator_who_wins_over_the_definition() {
        let definition = DeliveryPolicy::default().with_dlq(DlqMode::Never);
        let effective = compile(definition, "e.outbox=always", true).unwrap();
        let none = effective.for_request("e", &PolicyOverride::default()).unwrap();
        assert_eq!((none.outbox, none.dlq), (OutboxMode::Always, DlqMode::Never));
        let request = PolicyOverride::default().with_outbox(OutboxMode::Never);
        assert_eq!(effective.for_request("e", &request).unwrap().outbox, OutboxMode::Never);
    }

    #[test]
    fn a_request_cannot_lift_what_the_operator_disabled() {
        let enable = PolicyOverride::default().with_enabled(true);
        let by_operator = compile(DeliveryPolicy::default(), "e.enabled=false", true).unwrap();
        assert!(!by_operator.for_request("e", &enable).unwrap().enabled);
        let by_definition = compile(DeliveryPolicy::default().with_enabled(false), "", true).unwrap();
        assert!(by_definition.for_request("e", &enable).unwrap().enabled);
    }

    #[test]
    fn a_policy_without_a_way_to_deliver_is_refused_unless_disabled() {
        let kind = |result: Result<EffectivePolicy>| result.unwrap_err().kind();
        assert_eq!(kind(compile(DeliveryPolicy::default(), "e.direct=skip", true)), ErrorKind::InvalidPolicy);
        assert_eq!(kind(compile(DeliveryPolicy::default(), "e.outbox=always", false)), ErrorKind::InvalidPolicy);
        assert!(compile(DeliveryPolicy::default(), "e.direct=skip, e.enabled=false", true).is_ok());
        assert!(compile(DeliveryPolicy::default(), "e.direct=skip, e.outbox=always", true).is_ok());
        assert!(compile(DeliveryPolicy::default(), "", false).is_ok());
    }

    /// Only what comes out is checked: steps on the way to it may be worth nothing alone.
    #[test]
    fn a_policy_is_checked_when_all_changes_are_made() {
        let skip = DeliveryPolicy::default().with_direct(DirectMode::Skip);
        assert!(compile(skip, "", true).is_err());
        for operator in ["e.outbox=always", "e.outbox=journaled", "e.direct=direct", "e.enabled=false"] {
            assert!(compile(skip, operator, true).is_ok(), "{operator}");
        }
        let stored = compile(skip, "e.outbox=always", true).unwrap();
        for (request, is_ok) in [
            (PolicyOverride::default().with_outbox(OutboxMode::Journaled), true),
            (PolicyOverride::default().with_outbox(OutboxMode::Never).with_direct(DirectMode::Direct), true),
            (PolicyOverride::default().with_outbox(OutboxMode::Never).with_enabled(false), true),
            (PolicyOverride::default().with_outbox(OutboxMode::Never), false),
            (PolicyOverride::default().with_outbox(OutboxMode::Fallback), false),
        ] {
            let policy = stored.for_request("e", &request);
            assert_eq!(policy.is_ok(), is_ok, "{request:?}");
            assert!(is_ok || policy.unwrap_err().kind() == ErrorKind::InvalidPolicy);
        }
    }

    #[test]
    fn what_only_an_outbox_could_do_is_refused_without_one() {
        let default = compile(DeliveryPolicy::default(), "", false).unwrap();
        for (mode, is_ok) in [
            (OutboxMode::Never, true),
            (OutboxMode::Fallback, true),
            (OutboxMode::Journaled, false),
            (OutboxMode::Always, false),
        ] {
            assert_eq!(compile(DeliveryPolicy::default(), &format!("e.outbox={mode}"), false).is_ok(), is_ok, "{mode}");
            assert_eq!(compile(DeliveryPolicy::default().with_outbox(mode), "", false).is_ok(), is_ok, "{mode}");
            let request = PolicyOverride::default().with_outbox(mode);
            assert_eq!(default.for_request("e", &request).is_ok(), is_ok, "{mode}");
        }
    }

    #[test]
    fn every_entry_is_read_into_the_change_that_it_says() {
        let none = PolicyOverride::default;
        for (text, change) in [
            ("e.enabled=true", none().with_enabled(true)),
            ("e.enabled=1", none().with_enabled(true)),
            ("e.enabled=Yes", none().with_enabled(true)),
            ("e.enabled=FALSE", none().with_enabled(false)),
            ("e.enabled=0", none().with_enabled(false)),
            ("e.enabled=no", none().with_enabled(false)),
            ("e.direct=DIRECT", none().with_direct(DirectMode::Direct)),
            ("e.direct=skip", none().with_direct(DirectMode::Skip)),
            ("e.outbox=never", none().with_outbox(OutboxMode::Never)),
            ("e.outbox=fallback", none().with_outbox(OutboxMode::Fallback)),
            ("e.outbox=fallback_on_circuit_open", none().with_outbox(OutboxMode::Fallback)),
            ("e.outbox=journaled", none().with_outbox(OutboxMode::Journaled)),
            ("e.outbox=Always", none().with_outbox(OutboxMode::Always)),
            ("e.poison=Dead_Letter", PolicyOverride { poison: Some(PoisonMode::DeadLetter), ..none() }),
            ("e.dlq=never", none().with_dlq(DlqMode::Never)),
            ("e.dlq=On_Routable_Failure", none().with_dlq(DlqMode::OnRoutableFailure)),
            (" e.DLQ = never ;;,\r\n", none().with_dlq(DlqMode::Never)),
            ("e.dlq=never;e.outbox=never\ne.direct=skip", {
                none().with_dlq(DlqMode::Never).with_outbox(OutboxMode::Never).with_direct(DirectMode::Skip)
            }),
        ] {
            assert_eq!(text.parse::<PolicyOverrides>().unwrap().get("e"), change, "{text}");
        }
        let two: PolicyOverrides = "b.dlq=never, a.dlq=never".parse().unwrap();
        assert!(two.keys().eq(["a", "b"]));
        let dotted: PolicyOverrides = "a.b.enabled.enabled=no".parse().unwrap();
        assert_eq!(dotted.get("a.b.enabled"), none().with_enabled(false), "the last dot parts key and attribute");
    }

    #[test]
    fn a_key_has_256_bytes_and_there_are_1024_entries_at_most() {
        let key = |len| format!("{}.dlq=never", "k".repeat(len)).parse::<PolicyOverrides>();
        assert!(key(256).is_ok() && key(257).is_err());
        let entries = |count| {
            let entries: Vec<_> = (0..count).map(|n| format!("e{n}.dlq=never")).collect();
            entries.join(",").parse::<PolicyOverrides>()
        };
        assert!(entries(1024).is_ok() && entries(1025).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_entry() {
        for text in [
            "e",
            "e=1",
            "e.enabled=perhaps",
            "e.outbox=sometimes",
            "e.colour=red",
            ".enabled=true",
            "enabled=true",
            "e.=true",
            "e.dlq=",
            "e.dlq",
            "e\u{7f}.dlq=never",
            "e.dlq=never,E.DLQ",
            "e.dlq=never,e.DLQ=on_routable_failure",
            "e.dlq=never,e.dlq=never",
        ] {
            let error = text.parse::<PolicyOverrides>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{text}");
            assert!(error.to_string().contains("policy entry"), "{error}");
        }
    }

    #[test]
    fn all_entries_that_cannot_be_read_are_told_each_in_its_line() {
        let error = "a.dlq=perhaps, b.dlq=never, c.colour=red; d".parse::<PolicyOverrides>().unwrap_err().to_string();
        let lines: Vec<_> = error.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["policy entry `a.dlq=perhaps`", "policy entry `c.colour=red`", "policy entry `d`"]);
        assert!(error.contains("`perhaps` is not one of"), "{error}");
    }

    proptest! {
        #[test]
        fn the_grammar_never_panics(
            text in ".{0,200}",
            entries in proptest::collection::vec(
                (
                    "[a-z.]{0,8}",
                    "(enabled|direct|outbox|dlq|DLQ|[a-z]{0,6})",
                    "(=|==| = |)",
                    "(true|no|skip|always|never|fallback_on_circuit_open|on_routable_failure|.{0,8})",
                    "[,;\n ]{0,2}",
                ),
                0..12,
            ),
        ) {
            let _ = text.parse::<PolicyOverrides>();
            let near = entries.iter().map(|(key, attribute, is, value, end)| format!("{key}.{attribute}{is}{value}{end}"));
            let _ = near.collect::<String>().parse::<PolicyOverrides>();
        }

        #[test]
        fn the_order_of_entries_does_not_matter(mut entries in proptest::sample::subsequence(
            vec!["a.x.enabled=no", "a.x.outbox=always", "a.direct=skip", "b.dlq=never", "b.outbox=never"], 0..=5)) {
            let forward = entries.join(",").parse::<PolicyOverrides>().unwrap();
            entries.reverse();
            prop_assert_eq!(forward, entries.join("\n").parse::<PolicyOverrides>().unwrap());
        }
    }
}
