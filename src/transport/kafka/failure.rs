//! What librdkafka's errors mean to a caller.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::error::{Error, ErrorKind};

pub(super) const UNAUTHENTICATED: &str =
    "the broker does not know this client, or the client does not trust the broker";

/// The error for a record, or a request, that failed.
pub(super) fn failure(error: &KafkaError, topic: &str) -> Error {
    let (kind, ambiguous) = error.rdkafka_error_code().map_or(UNKNOWN, meaning);
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
    Error::new(kind, message).or_ambiguous(ambiguous).with_source(error.clone())
}

/// The error for a record of which the client says that it was acknowledged, without an offset. It infers that: the request
/// failed, and one behind it did not. But a broker takes any request of a client that it knows nothing of, as one that has just become the
/// leader, and has got nothing of the client's first ones. Then this record is nowhere.
///
/// <https://github.com/confluentinc/librdkafka/blob/v2.12.1/src/rdkafka_broker.c>, `rd_kafka_dr_implicit_ack`;
/// <https://github.com/confluentinc/confluent-kafka-go/issues/921>.
pub(super) fn inferred() -> Error {
    let message = "the broker confirmed a later record, and not this one; it may or may not have it";
    Error::new(ErrorKind::Timeout, message).or_ambiguous(true)
}

/// The error for what is asked of a client that knows no broker any more.
///
/// Brokers may answer that there are none, as one does that hung, and that the controller therefore takes for dead. A client drops all
/// it knows then, those too that it was configured with, and begins anew; but not if another such answer comes meanwhile.
///
/// <https://github.com/confluentinc/librdkafka/issues/5301>
pub(super) fn stranded() -> Error {
    Error::new(ErrorKind::ClientFailed, "the Kafka client knows no broker any more; a new one is needed")
}

/// The kind of a code.
pub(super) fn kind(code: Code) -> ErrorKind {
    meaning(code).0
}

/// The kind of a code, and whether the record may be on the topic all the same.
fn meaning(code: Code) -> (ErrorKind, bool) {
    let found = MEANINGS.iter().find(|(.., codes)| codes.contains(&code));
    found.map_or(UNKNOWN, |(kind, ambiguous, _)| (*kind, *ambiguous))
}

/// A code of a later version: nothing is lost if the broker is taken for unable to serve.
const UNKNOWN: (ErrorKind, bool) = (ErrorKind::BrokerUnavailable, true);

/// Every code of librdkafka: the kind, whether the record may be on the topic all the same, and the codes
/// (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/src/rdkafka.h>, `rd_kafka_resp_err_t`).
const MEANINGS: &[(ErrorKind, bool, &[Code])] = &[
    (
        ErrorKind::Timeout,
        true,
        // What waits in a queue may have been sent before: after a connection was cut it is put back there.
        &[
            Code::MessageTimedOut,
            Code::OperationTimedOut,
            Code::PurgeInflight,
            Code::PurgeQueue,
            Code::RequestTimedOut,
            Code::TimedOutQueue,
        ],
    ),
    (ErrorKind::Overloaded, false, &[Code::QueueFull, Code::ThrottlingQuotaExceeded]),
    (
        ErrorKind::Unauthenticated,
        false,
        &[
            Code::Authentication,
            Code::SSL,
            Code::SaslAuthenticationFailed,
            Code::UnsupportedSASLMechanism,
            Code::IllegalSASLState,
            Code::SecurityDisabled,
            Code::UnacceptableCredential,
        ],
    ),
    (
        ErrorKind::Unauthorized,
        false,
        &[
            Code::TopicAuthorizationFailed,
            Code::ClusterAuthorizationFailed,
            Code::TransactionalIdAuthorizationFailed,
            Code::GroupAuthorizationFailed,
            Code::DelegationTokenAuthorizationFailed,
        ],
    ),
    (
        ErrorKind::UnknownTopic,
        false,
        &[Code::UnknownTopic, Code::UnknownTopicId, Code::UnknownTopicOrPartition, Code::UnknownPartition],
    ),
    (ErrorKind::TooLarge, false, &[Code::MessageSizeTooLarge, Code::MessageBatchTooLarge]),
    (
        ErrorKind::RecordRejected,
        false,
        &[
            Code::BadCompression,
            Code::BadMessage,
            Code::InvalidArgument,
            Code::InvalidConfig,
            Code::InvalidMessage,
            Code::InvalidMessageSize,
            Code::InvalidRecord,
            Code::InvalidRequest,
            Code::InvalidRequiredAcks,
            Code::InvalidTimestamp,
            Code::InvalidTopic,
            Code::InvalidType,
            Code::KeySerialization,
            Code::PolicyViolation,
            Code::UnsupportedCompressionType,
            Code::UnsupportedFeature,
            Code::UnsupportedForMessageFormat,
            Code::UnsupportedVersion,
            Code::ValueSerialization,
        ],
    ),
    (
        ErrorKind::ClientFailed,
        true,
        &[
            Code::BrokerDestroy,
            Code::CriticalSystemResource,
            Code::DestroyBroker,
            Code::DuplicateSequenceNumber,
            Code::Fatal,
            Code::Fenced,
            Code::GaplessGuarantee,
            Code::Inconsistent,
            Code::InvalidProducerEpoch,
            Code::InvalidProducerIdMapping,
            Code::OutOfOrderSequenceNumber,
            Code::ProducerFenced,
            Code::State,
            Code::UnknownProducerId,
        ],
    ),
    (
        ErrorKind::BrokerUnavailable,
        false,
        &[
            Code::AllBrokersDown,
            Code::BrokerNotAvailable,
            Code::FencedLeaderEpoch,
            Code::ISRInsufficient,
            Code::KafkaStorageError,
            Code::LeaderNotAvailable,
            Code::ListenerNotFound,
            Code::LogDirNotFound,
            Code::NodeUpdate,
            Code::NotEnoughReplicas,
            Code::NotLeaderForPartition,
            Code::PreferredLeaderNotAvailable,
            Code::RebootstrapRequired,
            Code::ReplicaNotAvailable,
            Code::Resolve,
            Code::StaleBrokerEpoch,
            Code::UnknownBroker,
            Code::UnknownLeaderEpoch,
            Code::WaitCache,
        ],
    ),
    (
        ErrorKind::BrokerUnavailable,
        true,
        &[
            Code::BrokerTransportFailure,
            Code::Fail,
            Code::Interrupted,
            Code::NetworkException,
            Code::NotEnoughReplicasAfterAppend,
            Code::Partial,
            Code::Retry,
            Code::Underflow,
            Code::Unknown,
        ],
    ),
    (UNKNOWN.0, UNKNOWN.1, NOT_OF_PRODUCING),
];

/// Answers to requests that this library does not make: of consumers, groups, transactions, administrators.
const NOT_OF_PRODUCING: &[Code] = &[
    Code::Application,
    Code::AssignPartitions,
    Code::AssignmentLost,
    Code::AutoOffsetReset,
    Code::ConcurrentTransactions,
    Code::Conflict,
    Code::CoordinatorLoadInProgress,
    Code::CoordinatorNotAvailable,
    Code::DelegationTokenAuthDisabled,
    Code::DelegationTokenExpired,
    Code::DelegationTokenNotFound,
    Code::DelegationTokenOwnerMismatch,
    Code::DelegationTokenRequestNotAllowed,
    Code::DuplicateResource,
    Code::ElectionNotNeeded,
    Code::EligibleLeadersNotAvailable,
    Code::ExistingSubscription,
    Code::FeatureUpdateFailed,
    Code::FencedInstanceId,
    Code::FencedMemberEpoch,
    Code::FetchSessionIdNotFound,
    Code::FileSystem,
    Code::GroupIdNotFound,
    Code::GroupMaxSizeReached,
    Code::GroupSubscribedToTopic,
    Code::IllegalGeneration,
    Code::InProgress,
    Code::InconsistentGroupProtocol,
    Code::InconsistentVoterSet,
    Code::InvalidCommitOffsetSize,
    Code::InvalidDifferentRecord,
    Code::InvalidFetchSessionEpoch,
    Code::InvalidGroupId,
    Code::InvalidPartitions,
    Code::InvalidPrincipalType,
    Code::InvalidReplicaAssignment,
    Code::InvalidReplicationFactor,
    Code::InvalidSessionTimeout,
    Code::InvalidTransactionTimeout,
    Code::InvalidTransactionalState,
    Code::InvalidUpdateVersion,
    Code::KeyDeserialization,
    Code::LogTruncation,
    Code::MemberIdRequired,
    Code::NoEnt,
    Code::NoError,
    Code::NoOffset,
    Code::NoReassignmentInProgress,
    Code::NonEmptyGroup,
    Code::Noop,
    Code::NotConfigured,
    Code::NotController,
    Code::NotCoordinator,
    Code::NotImplemented,
    Code::OffsetMetadataTooLarge,
    Code::OffsetNotAvailable,
    Code::OffsetOutOfRange,
    Code::OperationNotAttempted,
    Code::Outdated,
    Code::PartitionEOF,
    Code::PollExceeded,
    Code::PreviousInProgress,
    Code::PrincipalDeserializationFailure,
    Code::ReadOnly,
    Code::ReassignmentInProgress,
    Code::RebalanceInProgress,
    Code::ResourceNotFound,
    Code::RevokePartitions,
    Code::StaleControllerEpoch,
    Code::StaleMemberEpoch,
    Code::TelemetryTooLarge,
    Code::TopicAlreadyExists,
    Code::TopicDeletionDisabled,
    Code::TransactionCoordinatorFenced,
    Code::UnknownGroup,
    Code::UnknownMemberId,
    Code::UnknownProtocol,
    Code::UnknownSubscriptionId,
    Code::UnreleasedInstanceId,
    Code::UnstableOffsetCommit,
    Code::UnsupportedAssignor,
    Code::ValueDeserialization,
    Code::WaitingForCoordinator,
];

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    /// All codes that librdkafka knows, but for the marks of a range.
    fn codes() -> impl Iterator<Item = Code> {
        let known = (-300..1_000).filter_map(|number| RDKafkaRespErr::try_from(number).ok()).map(Code::from);
        known.filter(|code| !matches!(code, Code::Begin | Code::End | Code::EndAll))
    }

    #[test]
    fn every_code_of_librdkafka_has_one_meaning() {
        assert!(codes().count() > 150);
        for code in codes() {
            let places = MEANINGS.iter().filter(|(.., codes)| codes.contains(&code)).count();
            assert_eq!(places, 1, "{code:?}");
        }
        for (.., listed) in MEANINGS {
            for pair in listed.windows(2) {
                assert_ne!(pair[0], pair[1]);
            }
        }
    }

    #[test]
    fn the_cause_and_the_doubt_are_told() {
        let error = failure(&KafkaError::MessageProduction(Code::MessageTimedOut), "orders");
        assert!(error.is_ambiguous() && error.is_retryable());
        assert!(std::error::Error::source(&error).is_some());
        // After a connection was cut, what was sent waits in the queue once more.
        assert!(failure(&KafkaError::MessageProduction(Code::PurgeQueue), "orders").is_ambiguous());
        let error = failure(&KafkaError::MessageProduction(Code::TopicAuthorizationFailed), "orders");
        assert!(!error.is_ambiguous() && error.to_string().contains("`orders`"));
    }

    #[test]
    fn the_documented_codes_are_these() {
        let lines = MEANINGS.iter().map(|(kind, ambiguous, codes)| {
            let mut codes: Vec<_> = codes.iter().map(|code| format!("{code:?} ({})", *code as i32)).collect();
            codes.sort();
            format!("| `{kind}` | {} | {} |", if *ambiguous { "yes" } else { "" }, codes.join(", "))
        });
        let head = ["| kind | ambiguous | codes |".to_owned(), "| --- | --- | --- |".into()];
        crate::documented::check("librdkafka", head.into_iter().chain(lines));
    }
}
