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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// A row as version 1 stored it, and the record that it is. Bytes are in hexadecimal.
    #[derive(Deserialize)]
    struct Stored {
        what: String,
        topic: String,
        key: String,
        headers: Vec<(String, String)>,
        payload: Option<String>,
        stored_headers: String,
        stored_payload: Option<String>,
    }

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect()
    }

    /// These files only ever gain company: rows of every version stay readable for ever.
    #[test]
    fn rows_of_version_1_are_read_as_they_were_meant() {
        let rows: Vec<Stored> = serde_json::from_str(include_str!("../../tests/vectors/envelope-v1.json")).unwrap();
        assert_eq!(rows.len(), 6);
        for row in rows {
            let key = Bytes::from(row.key.clone());
            let stored_payload = row.stored_payload.as_deref().map(bytes);
            let record = decode(1, &row.topic, key.clone(), bytes(&row.stored_headers), stored_payload).unwrap();
            let headers: Vec<_> = row.headers.iter().map(|(name, value)| (name.as_str(), bytes(value))).collect();
            let found: Vec<_> = record.headers.iter().map(|(name, value)| (name, value.to_vec())).collect();
            assert_eq!(found, headers, "{}", row.what);
            assert_eq!(
                record.payload.as_deref().map(<[u8]>::to_vec),
                row.payload.as_deref().map(bytes),
                "{}",
                row.what
            );
            assert_eq!((&*record.topic, record.key), (row.topic.as_str(), key), "{}", row.what);

            let mut written = Headers::default();
            for (name, value) in headers {
                written.push(name, &value);
            }
            assert_eq!(written.as_bytes(), bytes(&row.stored_headers), "{}", row.what);
        }
    }

    #[test]
    fn a_row_of_a_later_version_is_an_error_that_says_what_to_do() {
        let error = decode(VERSION + 1, "t", Bytes::new(), Vec::new(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(error.to_string().contains("update"), "{error}");
    }

    proptest! {
        #[test]
        fn reading_a_row_never_panics(
            version in 0i16..3, topic in ".{0,20}", headers in proptest::collection::vec(any::<u8>(), 0..60),
            payload in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        ) {
            let _ = decode(version, &topic, Bytes::from_static(b"k"), headers, payload);
        }
    }
}
