//! Every error with which a broker can answer a record.

use std::collections::HashSet;

use futures_util::{StreamExt, stream};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use tidings::{BreakerState, ErrorKind};

use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::World;

/// What an emit comes to when the broker goes on answering like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The client tries again until the event is stored instead.
    Stored,
    /// An error of this kind.
    Refused(ErrorKind),
}

use Fate::{Refused, Stored};

/// The error codes of a produce response (<https://kafka.apache.org/protocol#protocol_error_codes>): those that the broker's
/// `ReplicaManager` and `KafkaApis` answer a `Produce` with, and those of proxies and other brokers that speak the protocol. Not
/// the one that says that the broker has the record already: the mock broker has it not.
const ANSWERS: [(Code, Fate); 26] = [
    (Code::RD_KAFKA_RESP_ERR_INVALID_MSG, Stored),
    (Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, Stored),
    (Code::RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, Stored),
    (Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, Stored),
    (Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, Stored),
    (Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE, Stored),
    (Code::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE, Stored),
    (Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Refused(ErrorKind::TooLarge)),
    (Code::RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION, Stored),
    (Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE, Refused(ErrorKind::TooLarge)),
    (Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, Stored),
    (Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND, Stored),
    (Code::RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Refused(ErrorKind::Unauthorized)),
    (Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, Refused(ErrorKind::Unauthorized)),
    (Code::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_POLICY_VIOLATION, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, Stored),
    (Code::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH, Stored),
    (Code::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH, Stored),
    (Code::RD_KAFKA_RESP_ERR_INVALID_RECORD, Refused(ErrorKind::RecordRejected)),
    (Code::RD_KAFKA_RESP_ERR_THROTTLING_QUOTA_EXCEEDED, Stored),
    (Code::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT, Stored),
];

/// What an event comes to that the broker answers with this code, until it does not any more.
async fn fate_of(code: Code) -> Fate {
    /// Enough for the client's retries within the direct timeout.
    const TIMES: usize = 100;
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    // The first one may wait for the client's number.
    let relay = RunningRelay::of(&producer);
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    relay.stop().await;
    world.cluster.request_errors(RDKafkaApiKey::Produce, &[code; TIMES]);
    let fate = match ledger.emit(&producer, sequence.next()).await {
        Ok(receipt) if is_published(&receipt) => panic!("{code:?} is no acknowledgement"),
        Ok(_) => Stored,
        Err(error) => Refused(error.kind()),
    };
    world.cluster.clear_request_errors(RDKafkaApiKey::Produce);
    if matches!(fate, Refused(_)) {
        assert_eq!(producer.breaker_state(), BreakerState::Closed, "{code:?} tells nothing of the broker's health");
    }
    let _relay = RunningRelay::of(&producer);
    eventually("an emit is direct again", async || {
        ledger.emit(&producer, sequence.next()).await.is_ok_and(|receipt| is_published(&receipt)).then_some(())
    })
    .await;
    let verdict = world.verdict(&ledger).await;
    assert!(verdict.is_kept(), "{code:?}: {verdict}");
    fate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_error_of_a_produce_has_the_fate_that_it_is_documented_to_have_and_loses_nothing() {
    const AT_A_TIME: usize = 6;
    let tried = ANSWERS.map(|(code, expected)| async move { (code, expected, fate_of(code).await) });
    let fates: Vec<_> = stream::iter(tried).buffer_unordered(AT_A_TIME).collect().await;
    let wrong: Vec<_> = fates.iter().filter(|(_, expected, fate)| expected != fate).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let codes: HashSet<i32> = ANSWERS.iter().map(|(code, _)| *code as i32).collect();
    assert_eq!(codes.len(), ANSWERS.len(), "each is tried once");
}

/// The fatal ones: the client is of no use any more, and is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_error_that_is_fatal_to_the_client_another_one_goes_on() {
    for code in [
        Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        Code::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
        Code::RD_KAFKA_RESP_ERR_PRODUCER_FENCED,
    ] {
        let world = World::new().await;
        let producer = world.producer().await;
        let _relay = RunningRelay::of(&producer);
        let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
        ledger.emit(&producer, sequence.next()).await.unwrap();
        world.cluster.request_errors(RDKafkaApiKey::Produce, &[code; 3]);
        ledger.emit(&producer, sequence.next()).await.unwrap();
        world.cluster.clear_request_errors(RDKafkaApiKey::Produce);
        eventually("an emit is direct again", async || {
            is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
        })
        .await;
        let verdict = world.verdict(&ledger).await;
        assert!(verdict.is_kept(), "{code:?}: {verdict}");
    }
}
