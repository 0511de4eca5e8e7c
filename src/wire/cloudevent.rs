//! To and from the `Event` of the CloudEvents SDK.

use bytes::Bytes;
use cloudevents::AttributesReader;
use cloudevents::event::{ExtensionValue, SpecVersion};
use cloudevents::message::{
    BinaryDeserializer, BinarySerializer, Error as SdkError, MessageAttributeValue, Result as SdkResult,
};

use super::Headers;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;

/// The attributes of CloudEvents 1.0 that a header may carry; every other `ce_` header is an extension.
const ATTRIBUTES: [&str; 6] = ["id", "source", "type", "subject", "time", "dataschema"];

/// A record in binary mode as the `Event` of the CloudEvents SDK.
///
/// # Errors
///
/// [`ErrorKind::InvalidEvent`] if the headers are not those of a CloudEvent 1.0.
///
/// # Examples
///
/// ```
/// use cloudevents::AttributesReader;
/// use tidings::wire::{self, Headers};
///
/// let mut headers = Headers::default();
/// for (name, value) in [("ce_specversion", "1.0"), ("ce_id", "17"), ("ce_source", "//shop"), ("ce_type", "shop.order.created")] {
///     headers.push(name, value.as_bytes());
/// }
/// let event = wire::to_cloudevent(&headers, b"{}")?;
/// assert_eq!(event.id(), "17");
/// # Ok::<(), tidings::Error>(())
/// ```
pub fn to_cloudevent(headers: &Headers, payload: &[u8]) -> Result<cloudevents::Event> {
    BinaryDeserializer::into_event(BinaryRecord { headers, payload }).map_err(|source| {
        Error::new(ErrorKind::InvalidEvent, "the record is not a CloudEvent in binary mode").with_source(source)
    })
}

struct BinaryRecord<'a> {
    headers: &'a Headers,
    payload: &'a [u8],
}

impl BinaryDeserializer for BinaryRecord<'_> {
    fn deserialize_binary<R: Sized, V: BinarySerializer<R>>(self, mut visitor: V) -> SdkResult<R> {
        let text = |value: &[u8]| {
            String::from_utf8(value.to_vec()).map_err(|source| SdkError::Other { source: Box::new(source) })
        };
        let version = self.headers.get("ce_specversion").ok_or(SdkError::WrongEncoding {})?;
        visitor = visitor.set_spec_version(SpecVersion::try_from(text(version)?.as_str())?)?;
        for (name, value) in self.headers.iter() {
            let value = MessageAttributeValue::String(text(value)?);
            visitor = match name.strip_prefix("ce_") {
                Some("specversion") => visitor,
                Some(attribute) if ATTRIBUTES.contains(&attribute) => visitor.set_attribute(attribute, value)?,
                Some(extension) => visitor.set_extension(extension, value)?,
                None if name == "content-type" => visitor.set_attribute("datacontenttype", value)?,
                None => visitor,
            };
        }
        visitor.end_with_data(self.payload.to_vec())
    }
}

impl EmitRequest {
    /// A request to emit `event` as an event of the definition `definition_key`.
    ///
    /// Taken over are the id, the time, the subject, the extension `tenantid` and the data; source, type, content type
    /// and schema are the definition's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidEvent`] if the id can't be an [`EventId`](crate::EventId).
    pub fn from_cloudevent(
        definition_key: impl Into<std::borrow::Cow<'static, str>>,
        event: &cloudevents::Event,
    ) -> Result<Self> {
        let mut request = Self::new(definition_key).id(event.id().parse()?);
        if let Some(time) = event.time() {
            request = request.time(*time);
        }
        if let Some(subject) = event.subject() {
            request = request.subject(subject.to_owned());
        }
        if let Some(ExtensionValue::String(tenant)) = event.extension("tenantid") {
            request = request.tenant(tenant.clone());
        }
        if let Some(data) = event.data() {
            let bytes = Vec::<u8>::try_from(data.clone()).map_err(|source| {
                Error::new(ErrorKind::InvalidPayload, "the data of the CloudEvent can't be written as bytes")
                    .with_source(source)
            })?;
            request = request.payload(Bytes::from(bytes));
        }
        Ok(request)
    }
}
