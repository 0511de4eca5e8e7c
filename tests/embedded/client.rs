//! A Kafka client that breaks down for good.
//!
//! The mock broker does not check the sequence numbers of an idempotent producer: behind a failed batch it takes the next
//! one, which a real broker refuses. So nothing is said of the order of a key here; see the live tests for that.

use std::time::Duration;

use rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION as NOT_LEADER;
use rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER as OUT_OF_ORDER;
use rdkafka::types::RDKafkaApiKey;
use tidings::{Emitter, OutboxMode, PolicyOverride, Producer};
use tokio::time::sleep;

use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::World;

/// For the first request in flight an idempotent producer takes this for proof that it has lost its place.
fn break_next_client(world: &World) {
    world.cluster.request_errors(RDKafkaApiKey::Produce, &[OUT_OF_ORDER]);
}

async fn emit_until_direct(producer: &Producer, ledger: &Ledger, sequence: &mut Sequence) {
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_replaces_a_client_that_failed_for_good() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, always) = (Ledger::default(), PolicyOverride::default().with_outbox(OutboxMode::Always));
    for key in 0..100 {
        let event = Sequence::of(format!("tenant-{key}")).next();
        producer.emit(event.request().policy(always)).await.unwrap();
        ledger.accept(event);
    }
    break_next_client(&world);
    let relay = RunningRelay::of(&producer);
    world.drained().await;
    world.verdict(&ledger).await.assert_kept();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_direct_path_replaces_a_client_that_failed_for_good() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    emit_until_direct(&producer, &ledger, &mut sequence).await;
    break_next_client(&world);
    assert!(!is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()));
    emit_until_direct(&producer, &ledger, &mut sequence).await;
    world.verdict(&ledger).await.assert_kept();
}

/// librdkafka takes a record that was refused for acknowledged once one behind it in its partition is. A broker that has just become
/// the leader may take that one all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_not_acknowledged_by_the_acknowledgement_of_another() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    emit_until_direct(&producer, &ledger, &mut sequence).await;
    // So that both requests are in flight at once.
    world.slow_broker(Duration::from_millis(100));
    world.cluster.request_errors(RDKafkaApiKey::Produce, &[NOT_LEADER]);
    let (first, second) = (sequence.next(), sequence.next());
    let second = async {
        sleep(Duration::from_millis(30)).await;
        ledger.emit(&producer, second).await
    };
    let (first, second) = tokio::join!(ledger.emit(&producer, first), second);
    assert!(!is_published(&first.unwrap()) && is_published(&second.unwrap()));
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}
