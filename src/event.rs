//! What a service asks to emit, and what that becomes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::config::LONGEST_TIMEOUT;
use crate::error::{Error, ErrorKind, Result};
use crate::policy::PolicyOverride;

pub(crate) mod attribute;
mod documented;
pub(crate) mod domain;
pub(crate) mod extension;

use extension::{AttributeValue, Extensions};

/// One event to emit: the key of its definition in the catalog, and what is particular to this occurrence.
///
/// Nothing is checked here. The emitter checks the whole request against the catalog and names the field that is wrong.
///
/// # Examples
///
/// ```
/// use tidings::EmitRequest;
///
/// #[derive(serde::Serialize)]
/// struct OrderCreated<'a> { order: &'a str, total_cents: u64 }
///
/// let request = EmitRequest::new("order.created")
///     .tenant("t-abc")
///     .subject("order-17")
///     .json(&OrderCreated { order: "order-17", total_cents: 4200 })?;
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is emitted"]
pub struct EmitRequest {
    pub(crate) definition_key: Cow<'static, str>,
    pub(crate) tenant: Option<Cow<'static, str>>,
    pub(crate) subject: Option<Cow<'static, str>>,
    pub(crate) id: Option<EventId>,
    pub(crate) time: Option<DateTime<Utc>>,
    pub(crate) payload: Option<Bytes>,
    /// Whether the payload was written as JSON here, and need not be checked.
    pub(crate) is_json: bool,
    pub(crate) extensions: Extensions,
    pub(crate) policy: PolicyOverride,
    pub(crate) timeout: Option<Duration>,
    /// The type that the payload was made from, if it was.
    pub(crate) typed: Option<domain::Typed>,
}

impl EmitRequest {
    /// A request for the event that the catalog knows as `definition_key`, with an empty payload.
    pub fn new(definition_key: impl Into<Cow<'static, str>>) -> Self {
        Self {
            definition_key: definition_key.into(),
            tenant: None,
            subject: None,
            id: None,
            time: None,
            payload: Some(Bytes::new()),
            is_json: false,
            extensions: Extensions::default(),
            policy: PolicyOverride::default(),
            timeout: None,
            typed: None,
        }
    }

    /// Sets the tenant: the `ce_tenantid` of the event and, by default, its partition key. At most 256 bytes.
    ///
    /// System events have no tenant: theirs is left out.
    pub fn tenant(mut self, tenant: impl Into<Cow<'static, str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets the subject: the thing inside the source that the event is about. At most 1,024 bytes.
    pub fn subject(mut self, subject: impl Into<Cow<'static, str>>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Sets the id. Defaults to a new UUIDv7.
    ///
    /// Set it to emit an event *again* whose first emit failed in a way that leaves open whether it arrived: readers
    /// recognise the duplicate by its id.
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets when the event happened, in the years 0 to 9999. Defaults to now.
    pub fn time(mut self, time: DateTime<Utc>) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the payload to `value` as JSON.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`] if `value` can't be serialised.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        let json = serde_json::to_vec(value).map_err(|source| {
            Error::new(
                ErrorKind::InvalidPayload,
                format!("the payload of `{}` can't be written as JSON", self.definition_key),
            )
            .with_source(source)
        })?;
        let mut request = self.payload(json);
        request.is_json = true;
        Ok(request)
    }

    /// Sets the payload to these bytes, which reach the topic as they are.
    ///
    /// If the definition's content type is JSON, they must be JSON.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Some(payload.into());
        self.is_json = false;
        self.typed = None;
        self
    }

    /// Makes the record a tombstone: one with a null value, by which a compacted topic forgets its key.
    pub fn tombstone(mut self) -> Self {
        self.payload = None;
        self
    }

    /// Sets an extension attribute: a name of 1 to 20 lower-case letters and digits, and a value of one of the types of
    /// the specification. Setting it again replaces the value.
    pub fn extension(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<AttributeValue>) -> Self {
        self.extensions.set(name.into(), value.into());
        self
    }

    /// Changes the delivery policy for this request alone. An operator's `enabled=false` stands.
    pub fn policy(mut self, policy: PolicyOverride) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how long the emit may take altogether, whatever way the event goes: half of it, and no more than the direct timeout,
    /// is for the broker if the event can still go to the outbox. An emit in a transaction takes as long as its statement.
    /// Defaults to what the configuration says, 30 seconds if nothing; an hour at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout.min(LONGEST_TIMEOUT));
        self
    }

    /// The key of the definition.
    #[must_use]
    pub fn definition_key(&self) -> &str {
        &self.definition_key
    }

    /// The tenant, if set.
    #[must_use]
    pub fn tenant_id(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// The subject, if set.
    #[must_use]
    pub fn subject_name(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The payload; `None` of a tombstone.
    #[must_use]
    pub fn payload_bytes(&self) -> Option<&Bytes> {
        self.payload.as_ref()
    }

    /// The value of an extension attribute, if it was set.
    #[must_use]
    pub fn extension_value(&self, name: &str) -> Option<&AttributeValue> {
        self.extensions.get(name)
    }
}

/// The identity of one event, its `ce_id`: the same on every path it takes and on every duplicate.
///
/// A new one is a UUIDv7. Any text of 1 to 256 bytes without control characters is one too.
///
/// # Examples
///
/// ```
/// use tidings::EventId;
///
/// let id: EventId = "payment-2024-00017".parse()?;
/// assert_eq!(id.to_string(), "payment-2024-00017");
/// assert_ne!(EventId::new(), EventId::new());
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EventId(Repr);

/// A UUID in its canonical text is always `Uuid`, so equality of the text is equality of the values.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    Uuid(Uuid),
    Text(Arc<str>),
}

impl EventId {
    /// A new id, unique and ordered by time.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a default that is different each time would surprise")]
    pub fn new() -> Self {
        Self(Repr::Uuid(Uuid::now_v7()))
    }

    /// Calls `f` with the text, without allocating.
    pub(crate) fn with_str<R>(&self, f: impl FnOnce(&str) -> R) -> R {
        match &self.0 {
            Repr::Uuid(uuid) => f(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            Repr::Text(text) => f(text),
        }
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self(Repr::Uuid(uuid))
    }
}

impl std::str::FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        attribute::check("id", text, attribute::MAX_ID_BYTES, ErrorKind::InvalidEvent)?;
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => {
                Ok(Self(Repr::Uuid(uuid)))
            }
            _ => Ok(Self(Repr::Text(text.into()))),
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_str(|text| f.write_str(text))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventId({self})")
    }
}

/// What an event is ordered by.
#[derive(Debug)]
pub(crate) enum RecordKey {
    /// The event's tenant, which it has.
    Tenant,
    /// The event's subject, which it has.
    Subject,
    /// A text of its own.
    Own(String),
}

/// A request that the catalog has accepted: every field is there and within its limits.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) record_key: RecordKey,
    pub(crate) id: EventId,
    pub(crate) time: DateTime<Utc>,
    pub(crate) tenant: Option<Cow<'static, str>>,
    pub(crate) subject: Option<Cow<'static, str>>,
    /// `None` is a tombstone.
    pub(crate) payload: Option<Bytes>,
    pub(crate) extensions: Extensions,
}

impl Event {
    /// The key of the event's record, and the tenant, unless that is the key.
    pub(crate) fn into_key_and_tenant(self) -> (Bytes, Option<Cow<'static, str>>) {
        match self.record_key {
            RecordKey::Own(text) => (bytes_of(Some(text.into())), self.tenant),
            RecordKey::Subject => (bytes_of(self.subject), self.tenant),
            RecordKey::Tenant => (bytes_of(self.tenant), None),
        }
    }
}

fn bytes_of(text: Option<Cow<'static, str>>) -> Bytes {
    match text {
        Some(Cow::Borrowed(text)) => Bytes::from_static(text.as_bytes()),
        // Without room to spare the buffer becomes the key as it is.
        Some(Cow::Owned(text)) => text.into_boxed_str().into_boxed_bytes().into(),
        None => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_the_text_it_was_made_from() {
        for text in ["018f6b1e-7c1a-7f00-8000-000000000001", "018F6B1E-7C1A-7F00-8000-000000000001", "ünïcode", "x"] {
            assert_eq!(text.parse::<EventId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_id_that_is_empty_too_long_or_has_controls_is_refused() {
        for text in ["", &"x".repeat(257), "a\nb", "a\u{7f}"] {
            assert_eq!(text.parse::<EventId>().unwrap_err().kind(), ErrorKind::InvalidEvent);
        }
    }
}
