//! What librdkafka's errors mean to a caller.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::{Error, ErrorKind};

pub(super) const UNAUTHENTICATED: &str =
    "the broker does not know this client, or the client does not trust the broker";

/// The error for a record, or a request, that failed.
pub(super) fn failure(error: &KafkaError, topic: &str) -> Error {
    let kind = error.rdkafka_error_code().map_or(ErrorKind::BrokerUnavailable, kind);
    let message = match kind {
        ErrorKind::Timeout => "the broker did not confirm the record in time; it may or may not have it".into(),
        ErrorKind::Overloaded => "the broker or the client is overloaded".into(),
        ErrorKind::Unauthorized => format!("the broker does not allow this client to write to `{topic}`"),
        ErrorKind::Unauthenticated => UNAUTHENTICATED.into(),
        ErrorKind::UnknownTopic => format!("the topic `{topic}` does not exist and was not created"),
        ErrorKind::TooLarge => format!("the record is larger than the broker accepts on `{topic}`"),
        ErrorKind::RecordRejected => format!("the broker refused the record for `{topic}`"),
        ErrorKind::ClientFailed => "the Kafka client failed for good; a new one is needed".into(),
        _ => "no broker could take the record".to_owned(),
    };
    Error::new(kind, message).with_source(error.clone())
}

pub(super) fn kind(code: Code) -> ErrorKind {
    match code {
        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::PurgeInflight => ErrorKind::Timeout,
        Code::QueueFull | Code::ThrottlingQuotaExceeded => ErrorKind::Overloaded,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => ErrorKind::Unauthorized,
        Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SSL => ErrorKind::Unauthenticated,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => ErrorKind::UnknownTopic,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => ErrorKind::TooLarge,
        Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidTopic
        | Code::InvalidRequiredAcks
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::PolicyViolation
        | Code::BadMessage
        | Code::BadCompression => ErrorKind::RecordRejected,
        Code::Fatal | Code::Fenced | Code::ProducerFenced | Code::GaplessGuarantee => ErrorKind::ClientFailed,
        _ => ErrorKind::BrokerUnavailable,
    }
}
