//! Clients that are let in, and may not write to a topic.

use tidings::{Emitter, ErrorKind, OutboxMode, PolicyOverride};

use super::{PASSWORD, USER, secured};
use crate::java;
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::stranger;

/// More than enough failures to open a breaker that counts them.
const EMITS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_write_to_a_topic_hears_so_and_what_is_stored_arrives_once_they_may() {
    let jars = stranger!("TIDINGS_STRANGER_JAVA");
    let secured = secured!();
    let world = &secured.world;
    let operator = async |what| java::run(&jars, "Operator", &[&world.brokers, what, USER, &world.topic]).await;
    let settings = secured.named("PLAIN", USER, PASSWORD);
    let producer = secured.builder(&settings).with_outbox(world.outbox()).build().await.unwrap();
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let relay = RunningRelay::of(&producer);
    let emits_directly = async |sequence: &mut Sequence| {
        let emitted = ledger.emit(&producer, sequence.next()).await;
        emitted.is_ok_and(|receipt| is_published(&receipt)).then_some(())
    };
    eventually("it is connected", async || emits_directly(&mut sequence).await).await;
    operator("deny").await;
    eventually("the broker knows", async || ledger.emit(&producer, sequence.next()).await.err()).await;
    let before = ledger.accepted_count();
    for _ in 0..EMITS {
        let error = ledger.emit(&producer, sequence.next()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unauthorized, false), "{error:?}");
    }
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    for event in Sequence::of("tenant-2").take(3) {
        let stored = producer.emit(event.request().policy(always)).await;
        ledger.enter(event, &stored);
    }
    let parked = "select count(*) from tidings.parked";
    eventually("its key is parked", async || {
        (sqlx::query_scalar::<_, i64>(parked).fetch_one(&world.pool()).await.unwrap() == 1).then_some(())
    })
    .await;
    assert_eq!(ledger.accepted_count(), before + 3);
    operator("allow").await;
    eventually("it may write again", async || emits_directly(&mut sequence).await).await;
    world.verdict(&ledger).await.assert_kept();
    relay.stop().await;
}
