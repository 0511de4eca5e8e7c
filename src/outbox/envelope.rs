//! The stored form of an event, and its version.

use bytes::Bytes;

use crate::error::{Error, ErrorKind};
use crate::transport::Record;
use crate::wire::Headers;

/// Written with every row. Version 1: headers as the bytes of [`Headers`], the payload as it came.
pub(crate) const VERSION: i16 = 1;

/// The record of a stored row.
pub(crate) fn decode(
    version: i16,
    topic: &str,
    key: Bytes,
    headers: Vec<u8>,
    payload: Option<Vec<u8>>,
) -> Result<Record, Error> {
    if version != VERSION {
        let message =
            format!("the row has envelope version {version}, and this library reads version {VERSION}: update it");
        return Err(Error::new(ErrorKind::Schema, message));
    }
    let headers = Headers::from_bytes(headers.into())
        .map_err(|source| Error::new(ErrorKind::Schema, "the headers of the row can't be read").with_source(source))?;
    Ok(Record { topic: topic.into(), key, headers, payload: payload.map(Into::into) })
}
