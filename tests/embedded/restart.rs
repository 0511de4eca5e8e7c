//! A producer that starts with events in the outbox that an earlier one has stored.

use tidings::{Emitter, StoredReason};

use crate::support::events::{Ledger, Sequence, is_published, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_direct_events_of_a_restarted_producer_do_not_overtake_what_the_outbox_still_has() {
    let world = World::new().await;
    let (ledger, mut sequences) = (Ledger::default(), (0..10).map(|n| Sequence::of(format!("tenant-{n}"))));
    let mut sequences: Vec<_> = sequences.by_ref().collect();
    world.broker_down();
    let before = world.producer().await;
    for sequence in &mut sequences {
        for _ in 0..3 {
            assert!(!is_published(&ledger.emit(&before, sequence.next()).await.unwrap()));
        }
    }
    drop(before);
    world.broker_up();
    let after = world.producer().await;
    for sequence in &mut sequences {
        let receipt = ledger.emit(&after, sequence.next()).await.unwrap();
        assert_eq!(stored_reason(&receipt), Some(StoredReason::LaneSpilled));
    }
    let _relay = RunningRelay::of(&after);
    for sequence in &mut sequences {
        eventually("an emit is direct", async || {
            is_published(&ledger.emit(&after, sequence.next()).await.unwrap()).then_some(())
        })
        .await;
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_producer_with_a_drained_outbox_is_direct_at_once() {
    let world = World::new().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    world.broker_down();
    let before = world.producer().await;
    ledger.emit(&before, sequence.next()).await.unwrap();
    world.broker_up();
    let relay = RunningRelay::of(&before);
    world.drained().await;
    relay.stop().await;
    before.close().await.unwrap();
    let after = world.producer_with(&[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    assert!(is_published(&ledger.emit(&after, sequence.next()).await.unwrap()));
    world.verdict(&ledger).await.assert_kept();
}
