//! Record headers in one buffer.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// The headers of a record: ordered, duplicates kept, in the one buffer in which they are also stored.
///
/// Each header is the length of its name (four bytes, big endian), the name in UTF-8, the length of its value, and the
/// value. That a definition's constant headers are copied whole, and that the outbox stores and returns these very
/// bytes, is why they are kept so.
///
/// # Examples
///
/// ```
/// use tidings::wire::Headers;
///
/// let mut headers = Headers::default();
/// headers.push("ce_id", b"17");
/// headers.push("content-type", b"application/json");
/// assert_eq!(headers.get("ce_id"), Some(&b"17"[..]));
/// assert_eq!(Headers::from_bytes(headers.as_bytes().to_vec().into())?, headers);
/// # Ok::<(), tidings::wire::MalformedHeaders>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(BytesMut);

/// Bytes that are not [`Headers`].
#[derive(Debug, thiserror::Error)]
#[error("the bytes at offset {0} are not a header")]
pub struct MalformedHeaders(usize);

impl Headers {
    /// Appends a header.
    ///
    /// # Panics
    ///
    /// If the name or the value has 4 GiB or more, which no record can.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_prefixed("", name, value);
    }

    /// Appends a header whose name is in two parts.
    pub(crate) fn push_prefixed(&mut self, prefix: &str, name: &str, value: &[u8]) {
        const SMALL: &str = "a header is smaller than 4 GiB";
        self.0.put_u32(u32::try_from(prefix.len() + name.len()).expect(SMALL));
        self.0.put_slice(prefix.as_bytes());
        self.0.put_slice(name.as_bytes());
        self.0.put_u32(u32::try_from(value.len()).expect(SMALL));
        self.0.put_slice(value);
    }

    /// The headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (name, after) = split_part(rest)?;
            let (value, after) = split_part(after)?;
            rest = after;
            Some((std::str::from_utf8(name).ok()?, value))
        })
    }

    /// The value of the first header of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(candidate, _)| *candidate == name).map(|(_, value)| value)
    }

    /// How many headers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut rest = &self.0[..];
        let next = || split_part(rest).and_then(|(_, value)| split_part(value)).map(|(_, after)| rest = after);
        std::iter::from_fn(next).count()
    }

    /// The bytes that they are kept and stored in.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Headers from the bytes of [`as_bytes`](Self::as_bytes).
    ///
    /// # Errors
    ///
    /// [`MalformedHeaders`] if they are not such bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, MalformedHeaders> {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let malformed = || MalformedHeaders(bytes.len() - rest.len());
            let (name, after) = split_part(rest).ok_or_else(malformed)?;
            std::str::from_utf8(name).map_err(|_| malformed())?;
            let (_, after) = split_part(after).ok_or_else(malformed)?;
            rest = after;
        }
        Ok(Self(bytes.into()))
    }

    /// A copy with room for so many bytes more.
    pub(crate) fn with_room(&self, additional: usize) -> Self {
        let mut copy = BytesMut::with_capacity(self.0.len() + additional);
        copy.put_slice(&self.0);
        Self(copy)
    }
}

fn split_part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, String::from_utf8_lossy(value)))).finish()
    }
}
