//! The settings, from the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;

use crate::breaker::BreakerConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute::Source;
use crate::naming::{self, Naming};
use crate::policy::{PolicyOverrides, parse_bool};
use crate::rate_limit::RateLimit;
use crate::sanitize::sanitize;
use crate::wire::dead_letter::LIB_STREAMING_PREFIX;
use crate::wire::{DEAD_LETTER_PREFIX, HeaderStyle};

pub(crate) mod properties;
pub(crate) mod security;

use properties::Properties;
use security::Security;

/// In less than this nothing can be done, whatever is set.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// Nothing is waited for longer than this, whatever is set.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);

const MIB: u32 = 1_024 * 1_024;

/// The settings of a service. `.env.reference` lists the variables with their defaults.
///
/// # Examples
///
/// ```
/// use tidings::Config;
///
/// let config = Config::from_vars([
///     ("STREAMING_ENABLED", "true"),
///     ("STREAMING_BROKERS", "kafka-1:9092,kafka-2:9092"),
///     ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
/// ])?;
/// assert!(config.is_enabled());
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) enabled: bool,
    pub(crate) client: ClientSettings,
    source: Option<Source>,
    pub(crate) naming: Naming,
    pub(crate) header_style: HeaderStyle,
    /// Without, that of the header style.
    dead_letter_prefix: Option<String>,
    pub(crate) policies: PolicyOverrides,
    pub(crate) max_record_bytes: usize,
    pub(crate) delivery_timeout: Duration,
    pub(crate) direct_timeout: Duration,
    pub(crate) emit_timeout: Duration,
    pub(crate) max_in_flight_bytes: u32,
    pub(crate) close_timeout: Duration,
    pub(crate) breaker: BreakerConfig,
    pub(crate) tenant_rate_limit: Option<RateLimit>,
    warnings: Vec<String>,
}

/// What only the Kafka client asks for.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "read by the Kafka client"))]
pub(crate) struct ClientSettings {
    pub(crate) brokers: Vec<String>,
    pub(crate) client_id: String,
    pub(crate) linger: Duration,
    pub(crate) batch_max_bytes: u32,
    pub(crate) max_buffered_records: u32,
    pub(crate) compression: Compression,
    pub(crate) record_retries: u32,
    pub(crate) security: Security,
    pub(crate) properties: Properties,
}

/// How records are compressed on their way to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What a broker takes by default (`message.max.bytes`).
const BROKER_MAX_RECORD_BYTES: usize = 1_048_588;

impl Config {
    /// Settings for a service called `source`, such as `//shop/orders`, that publishes to `brokers`. All others are the
    /// defaults of `.env.reference`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if the source is not a URI reference, or a broker not `host:port`.
    ///
    /// # Examples
    ///
    /// ```
    /// let config = tidings::Config::new("//shop/orders", ["localhost:9092"])?;
    /// # Ok::<(), tidings::Error>(())
    /// ```
    pub fn new<B: Into<String>>(source: &str, brokers: impl IntoIterator<Item = B>) -> Result<Self> {
        let mut config = Self::from_vars::<&str, &str>([])?;
        config.enabled = true;
        config.source = Some(source.parse()?);
        let listed = brokers.into_iter().map(Into::into).collect::<Vec<_>>().join(",");
        config.client.brokers = brokers_of(&listed)
            .ok_or_else(|| Error::new(ErrorKind::InvalidConfig, format!("a broker is not {BROKERS_EXPECTED}")))?;
        Ok(config)
    }

    /// The settings in this process's environment.
    ///
    /// # Errors
    ///
    /// See [`from_vars`](Self::from_vars).
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_env() -> Result<Self> {
        // Not `vars`, which panics if any variable, be it somebody else's, is not UTF-8.
        let own = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let own = own.filter(|(name, _)| name.starts_with("STREAMING_")).map(|(name, value)| {
            let fault = |_| Error::new(ErrorKind::InvalidConfig, format!("the value of {name} is not UTF-8"));
            value.into_string().map_err(fault).map(|value| (name, value))
        });
        Self::from_vars(own.collect::<Result<Vec<_>>>()?)
    }

    /// The settings in these variables. Those that do not begin with `STREAMING_` are left alone; so is one that is empty.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if a value can't be read, that of `STREAMING_EVENT_POLICIES` too, or if streaming is enabled
    /// and the brokers or the source are missing. The text names every such variable, each in a line of its own.
    pub fn from_vars<K: Into<String>, V: Into<String>>(vars: impl IntoIterator<Item = (K, V)>) -> Result<Self> {
        let mut vars = Vars::new(vars);
        let mut config = Self::read(&mut vars);
        config.warnings = vars.finish()?;
        Ok(config)
    }

    /// Reads every variable there is.
    fn read(vars: &mut Vars) -> Self {
        let like = vars.compatibility();
        let style = if like.is_some() { HeaderStyle::Dash } else { HeaderStyle::Binding };
        let header_style = vars.read("STREAMING_HEADER_STYLE", style, "binding or dash", header_style);
        let config = Self {
            enabled: vars.read("STREAMING_ENABLED", false, "true or false", |text| parse_bool(text).ok()),
            client: vars.client(),
            source: vars.read("STREAMING_CLOUDEVENTS_SOURCE", None, "a URI reference such as //shop/orders", |text| {
                text.parse().ok().map(Some)
            }),
            naming: vars.naming(like),
            header_style,
            dead_letter_prefix: vars.read(
                "STREAMING_DLQ_HEADER_PREFIX",
                None,
                "at most 64 letters, digits, `-` and `_`",
                |text| header_prefix(text).map(Some),
            ),
            policies: vars.policies(),
            max_record_bytes: vars.number("STREAMING_MAX_RECORD_BYTES", BROKER_MAX_RECORD_BYTES, 1_024..=100_000_000),
            delivery_timeout: vars.seconds("STREAMING_RECORD_DELIVERY_TIMEOUT_S", 30, 1..=3_600),
            direct_timeout: vars.millis("STREAMING_DIRECT_TIMEOUT_MS", 2_000, 10..=3_600_000),
            emit_timeout: vars.millis("STREAMING_EMIT_TIMEOUT_MS", 30_000, 10..=3_600_000),
            max_in_flight_bytes: vars.number("STREAMING_MAX_IN_FLIGHT_BYTES", 64 * MIB, MIB..=u32::MAX),
            close_timeout: vars.seconds("STREAMING_CLOSE_TIMEOUT_S", 30, 1..=3_600),
            breaker: vars.breaker(),
            tenant_rate_limit: vars.read(
                "STREAMING_TENANT_RATE_LIMIT",
                None,
                "events per second, or events per second and burst such as 100/500",
                |text| text.parse().ok().map(Some),
            ),
            warnings: Vec::new(),
        };
        vars.require_acks_all();
        vars.warn_of_unused();
        if config.enabled {
            vars.require("STREAMING_BROKERS", !config.client.brokers.is_empty(), "set it, or STREAMING_ENABLED=false");
            vars.require(
                "STREAMING_CLOUDEVENTS_SOURCE",
                config.source.is_some(),
                "it names the service, such as //shop/orders",
            );
        }
        config
    }

    /// What is allowed, and may not be what was meant: variables that have no effect. A producer logs them when it is built.
    ///
    /// # Examples
    ///
    /// ```
    /// let config = tidings::Config::from_vars([("STREAMING_BROKRES", "kafka-1:9092")])?;
    /// assert!(config.warnings()[0].contains("STREAMING_BROKRES"));
    /// # Ok::<(), tidings::Error>(())
    /// ```
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether streaming is on: `STREAMING_ENABLED`.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Sets how topics and types are named. Defaults to [`Naming::default`].
    #[must_use]
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self
    }

    /// Writes topics, types, headers and dead letters as lib-streaming v0.2 does, byte for byte. Defaults to not.
    #[must_use]
    pub fn with_lib_streaming_v0_2(self) -> Self {
        self.with_lib_streaming(Naming::lib_streaming_v0_2())
    }

    /// Writes topics, types, headers and dead letters as lib-streaming v3 does, byte for byte. Defaults to not.
    ///
    /// Topics are named by the source, which must be one word of lower-case letters, digits, `_` and `-`.
    ///
    /// # Examples
    ///
    /// ```
    /// let config = tidings::Config::new("tx-service", ["localhost:9092"])?.with_lib_streaming_v3();
    /// # Ok::<(), tidings::Error>(())
    /// ```
    #[must_use]
    pub fn with_lib_streaming_v3(self) -> Self {
        self.with_lib_streaming(Naming::lib_streaming_v3())
    }

    fn with_lib_streaming(mut self, naming: Naming) -> Self {
        self.naming = naming;
        self.header_style = HeaderStyle::Dash;
        self.dead_letter_prefix = None;
        self
    }

    /// Sets how the names of the headers are written, and what those of dead letters begin with, unless
    /// [that is set](Self::with_dead_letter_prefix). Defaults to [`HeaderStyle::Binding`].
    #[must_use]
    pub fn with_header_style(mut self, header_style: HeaderStyle) -> Self {
        self.header_style = header_style;
        self
    }

    /// Sets what the headers begin with that a dead letter has beside those of its event. Defaults to `x-tidings-dlq-`, or
    /// `x-lerian-dlq-` with [`HeaderStyle::Dash`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if it is not 1 to 64 letters, digits, `-` and `_`.
    pub fn with_dead_letter_prefix(mut self, prefix: &str) -> Result<Self> {
        let checked = header_prefix(prefix).ok_or_else(|| {
            let message = "the prefix of dead letters' headers must be 1 to 64 letters, digits, `-` and `_`";
            Error::new(ErrorKind::InvalidConfig, message)
        })?;
        self.dead_letter_prefix = Some(checked);
        Ok(self)
    }

    /// Sets how long a direct publish may take before the event goes to the outbox: two seconds by default, 10 ms at least, an hour
    /// at most.
    #[must_use]
    pub fn with_direct_timeout(mut self, direct_timeout: Duration) -> Self {
        self.direct_timeout = direct_timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        self
    }

    /// Sets how long an emit may take altogether, whatever way the event goes: 30 seconds by default, 10 ms at least, an hour at most;
    /// a request may [say otherwise](crate::EmitRequest::timeout).
    #[must_use]
    pub fn with_emit_timeout(mut self, emit_timeout: Duration) -> Self {
        self.emit_timeout = emit_timeout.clamp(SHORTEST_TIMEOUT, LONGEST_TIMEOUT);
        self
    }

    /// Sets how long [`close`](crate::Emitter::close) waits for what is in flight: 30 seconds by default, an hour at most.
    #[must_use]
    pub fn with_close_timeout(mut self, close_timeout: Duration) -> Self {
        self.close_timeout = close_timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Sets how many bytes the events of all emits that are running may take in memory. An emit for which there is no room
    /// waits its turn, up to the direct timeout. 64 MiB by default, 1 MiB at least.
    #[must_use]
    pub fn with_max_in_flight_bytes(mut self, bytes: u32) -> Self {
        self.max_in_flight_bytes = bytes.max(MIB);
        self
    }

    /// Sets the operator's changes to policies. Defaults to none.
    #[must_use]
    pub fn with_policies(mut self, policies: PolicyOverrides) -> Self {
        self.policies = policies;
        self
    }

    /// Sets a further property of the Kafka client, librdkafka, such as `client.rack`; see `STREAMING_KAFKA_PROPERTIES`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if it would break a promise, or has a setting of its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::Config;
    ///
    /// let config = Config::new("//shop/orders", ["localhost:9092"])?;
    /// let config = config.with_kafka_property("client.rack", "eu-west-1a")?;
    /// assert!(config.with_kafka_property("acks", "1").is_err());
    /// # Ok::<(), tidings::Error>(())
    /// ```
    pub fn with_kafka_property(mut self, name: &str, value: impl Into<String>) -> Result<Self> {
        self.client.properties.set(name, value.into())?;
        Ok(self)
    }

    /// Who reads headers of one style expects dead letters of the same.
    pub(crate) fn dead_letter_prefix(&self) -> &str {
        self.dead_letter_prefix.as_deref().unwrap_or(match self.header_style {
            HeaderStyle::Binding => DEAD_LETTER_PREFIX,
            HeaderStyle::Dash => LIB_STREAMING_PREFIX,
        })
    }

    /// With this source, if there is none, as nobody needs one while streaming is off.
    pub(crate) fn named_or(mut self, source: &str) -> Result<Self> {
        if self.source.is_none() {
            self.source = Some(source.parse()?);
        }
        Ok(self)
    }

    pub(crate) fn source(&self) -> Result<&Source> {
        self.source.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidConfig,
                "STREAMING_CLOUDEVENTS_SOURCE is missing: it names the service, such as //shop/orders",
            )
        })
    }
}

/// The variables, and what is wrong with them: all faults are told at once.
struct Vars {
    vars: BTreeMap<String, String>,
    /// The names that were asked for: others have no effect.
    known: BTreeSet<String>,
    /// The names of those that could not be read.
    unreadable: BTreeSet<String>,
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Vars {
    fn new<K: Into<String>, V: Into<String>>(vars: impl IntoIterator<Item = (K, V)>) -> Self {
        let vars = vars.into_iter().map(|(name, value)| (name.into(), value.into().trim().to_owned()));
        Self {
            vars: vars.filter(|(name, value)| name.starts_with("STREAMING_") && !value.is_empty()).collect(),
            known: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The value of a variable, if it is set.
    fn get(&mut self, name: &str) -> Option<&str> {
        self.known.insert(name.to_owned());
        self.vars.get(name).map(String::as_str)
    }

    /// The value of a variable, or the default if it is not set.
    fn read<T>(&mut self, name: &str, default: T, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(text) = self.get(name) else {
            return default;
        };
        let Some(value) = parse(text) else {
            let fault = format!("{name}=`{}`: expected {expected}", sanitize(text));
            return self.unreadable(name, fault, default);
        };
        value
    }

    /// As [`read`](Self::read), of a value that a fault must not quote.
    fn read_secret<T>(&mut self, name: &str, default: T, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let Some(text) = self.get(name) else {
            return default;
        };
        match parse(text) {
            Some(value) => value,
            None => self.unreadable(name, format!("{name}: expected {expected}"), default),
        }
    }

    fn unreadable<T>(&mut self, name: &str, fault: String, default: T) -> T {
        self.unreadable.insert(name.to_owned());
        self.faults.push(fault);
        default
    }

    fn warn(&mut self, what: &str) {
        self.warnings.push(what.to_owned());
    }

    fn fault(&mut self, why: &str) {
        self.faults.push(why.to_owned());
    }

    fn number<T: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> T {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(name, default, &expected, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    fn millis(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.number(name, default, range))
    }

    fn seconds(&mut self, name: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(name, default, range))
    }

    fn client(&mut self) -> ClientSettings {
        ClientSettings {
            brokers: self.brokers(),
            client_id: self.read("STREAMING_CLIENT_ID", "tidings".into(), "a name", |text| Some(text.into())),
            // Longer ones could be taken for the silence of a broker that is gone.
            linger: self.millis("STREAMING_BATCH_LINGER_MS", 0, 0..=250),
            batch_max_bytes: self.number("STREAMING_BATCH_MAX_BYTES", 1_048_576, 1_024..=100_000_000),
            max_buffered_records: self.number("STREAMING_MAX_BUFFERED_RECORDS", 10_000, 1..=10_000_000),
            compression: self.read(
                "STREAMING_COMPRESSION",
                Compression::Lz4,
                "none, gzip, snappy, lz4 or zstd",
                compression,
            ),
            record_retries: self.number("STREAMING_RECORD_RETRIES", 2_147_483_647, 0..=2_147_483_647),
            security: self.security(),
            properties: self.properties(),
        }
    }

    fn brokers(&mut self) -> Vec<String> {
        const NAME: &str = "STREAMING_BROKERS";
        // What stands before an `@` may be a password.
        let is_secret = self.get(NAME).is_some_and(|text| text.contains('@'));
        let read = if is_secret { Self::read_secret } else { Self::read };
        read(self, NAME, Vec::new(), BROKERS_EXPECTED, brokers_of)
    }

    fn properties(&mut self) -> Properties {
        let (properties, faults) = Properties::parse(self.get("STREAMING_KAFKA_PROPERTIES").unwrap_or_default());
        self.faults.extend(faults.into_iter().map(|fault| format!("STREAMING_KAFKA_PROPERTIES: {fault}")));
        properties
    }

    /// 0 is the default, as it is for lib-streaming.
    fn breaker(&mut self) -> BreakerConfig {
        let default = BreakerConfig::default();
        let ratio = self.read("STREAMING_CB_FAILURE_RATIO", 0.0, "a number from 0 to 1", ratio);
        let min_requests = self.number("STREAMING_CB_MIN_REQUESTS", 0, 0..=1_000_000);
        let open_time = self.seconds("STREAMING_CB_TIMEOUT_S", 0, 0..=3_600);
        BreakerConfig {
            failure_ratio: if ratio == 0.0 { default.failure_ratio } else { ratio },
            min_requests: if min_requests == 0 { default.min_requests } else { min_requests },
            open_time: if open_time.is_zero() { default.open_time } else { open_time },
        }
    }

    /// How the library that this one is to be compatible with names things.
    fn compatibility(&mut self) -> Option<Strategy> {
        let expected = "none, lib-streaming-v0.2 or lib-streaming-v3";
        let like = self.read("STREAMING_COMPATIBILITY", None, expected, |text| match text {
            "none" => Some(None),
            other => lib_streaming(other).map(Some),
        });
        // Were the one or the other to win, what is on the topic would not be what somebody has read in the settings.
        for name in SETTLED_BY_COMPATIBILITY {
            if like.is_some() && self.vars.contains_key(name) {
                self.fault(&format!("STREAMING_COMPATIBILITY settles what {name} does: remove one of them"));
            }
        }
        like
    }

    fn naming(&mut self, like: Option<Strategy>) -> Naming {
        let strategy = self.read(
            "STREAMING_TOPIC_NAMING",
            like.unwrap_or(|prefix| Naming::per_event(prefix)),
            "per-event, per-application, lib-streaming-v0.2 or lib-streaming-v3",
            |text| match text {
                "per-event" => Some(|prefix| Naming::per_event(prefix)),
                "per-application" => Some(|prefix| Naming::per_application(prefix)),
                other => lib_streaming(other),
            },
        );
        let prefix = self.read(
            "STREAMING_TOPIC_PREFIX",
            "events".to_owned(),
            "letters, digits, `.`, `_` and `-`, and no dot at the beginning",
            |text| naming::is_topic(text).then(|| text.to_owned()),
        );
        let has_own_prefix = self.get("STREAMING_TOPIC_NAMING").and_then(lib_streaming).is_some();
        if has_own_prefix && self.vars.contains_key("STREAMING_TOPIC_PREFIX") {
            self.warn("STREAMING_TOPIC_PREFIX has no effect: STREAMING_TOPIC_NAMING brings lib-streaming's prefix");
        }
        let naming = strategy(&prefix);
        match self.read("STREAMING_CLOUDEVENTS_TYPE_PREFIX", None, "a prefix", |text| Some(Some(text.to_owned()))) {
            Some(prefix) => naming.with_type_prefix(prefix),
            None => naming,
        }
    }

    fn policies(&mut self) -> PolicyOverrides {
        let text = self.get("STREAMING_EVENT_POLICIES").unwrap_or_default();
        text.parse().unwrap_or_else(|error: Error| {
            let faults = error.to_string();
            self.faults.extend(faults.lines().map(|fault| format!("STREAMING_EVENT_POLICIES: {fault}")));
            PolicyOverrides::default()
        })
    }

    /// Anything less than all replicas in sync would lose accepted events.
    fn require_acks_all(&mut self) {
        self.read("STREAMING_REQUIRED_ACKS", (), "all: with less, an accepted event could be lost", |text| {
            ["all", "-1"].contains(&text.to_ascii_lowercase().as_str()).then_some(())
        });
    }

    fn require(&mut self, name: &str, is_there: bool, why: &str) {
        // One that could not be read has been told of already.
        if !is_there && !self.unreadable.contains(name) {
            self.faults.push(format!("{name} is missing: {why}"));
        }
    }

    /// Tells of variables that have no effect: those of lib-streaming that have no counterpart, and misspelt ones.
    fn warn_of_unused(&mut self) {
        if self.get("STREAMING_EVENT_TOGGLES").is_some() {
            self.warn("STREAMING_EVENT_TOGGLES has no effect: say `key.enabled=false` in STREAMING_EVENT_POLICIES");
        }
        for name in [
            "STREAMING_SCHEMA_REGISTRY_URL",
            "STREAMING_SCHEMA_REGISTRY_USERNAME",
            "STREAMING_SCHEMA_REGISTRY_PASSWORD",
        ] {
            if self.get(name).is_some() {
                self.warn(&format!("{name} has no effect: payloads are published as the service gives them"));
            }
        }
        // The settings of lib-streaming's consumer are for another program.
        let unknown =
            self.vars.keys().filter(|name| !self.known.contains(*name) && !name.starts_with("STREAMING_CONSUMER_"));
        self.warnings.extend(unknown.map(|name| format!("{name} has no effect: there is no such variable")));
    }

    fn finish(self) -> Result<Vec<String>> {
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        Err(Error::new(ErrorKind::InvalidConfig, format!("the environment is not usable:\n{}", self.faults.join("\n"))))
    }
}

const BROKERS_EXPECTED: &str = "host:port, apart by commas, without scheme and password";

fn brokers_of(text: &str) -> Option<Vec<String>> {
    let brokers = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    brokers.map(|broker| is_broker(broker).then(|| broker.to_owned())).collect()
}

/// Whether a text is a name, an IPv4 address or an IPv6 address in brackets, and a port.
fn is_broker(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_name =
        |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_host && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn compression(text: &str) -> Option<Compression> {
    let known = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    known.into_iter().find(|compression| compression.as_str() == text.to_ascii_lowercase())
}

/// What may not be set beside `STREAMING_COMPATIBILITY`.
const SETTLED_BY_COMPATIBILITY: [&str; 5] = [
    "STREAMING_TOPIC_NAMING",
    "STREAMING_TOPIC_PREFIX",
    "STREAMING_CLOUDEVENTS_TYPE_PREFIX",
    "STREAMING_HEADER_STYLE",
    "STREAMING_DLQ_HEADER_PREFIX",
];

/// From a prefix, how to name things.
type Strategy = fn(&str) -> Naming;

/// Their prefixes are theirs.
fn lib_streaming(text: &str) -> Option<Strategy> {
    match text {
        "lib-streaming-v0.2" => Some(|_| Naming::lib_streaming_v0_2()),
        "lib-streaming-v3" => Some(|_| Naming::lib_streaming_v3()),
        _ => None,
    }
}

fn header_style(text: &str) -> Option<HeaderStyle> {
    match text {
        "binding" => Some(HeaderStyle::Binding),
        "dash" => Some(HeaderStyle::Dash),
        _ => None,
    }
}

fn header_prefix(text: &str) -> Option<String> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    fits.then(|| text.to_owned())
}

fn ratio(text: &str) -> Option<f64> {
    text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

#[cfg(test)]
mod tests;
