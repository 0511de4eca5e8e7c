//! A relay whose lanes somebody else has taken.

use sqlx::PgPool;
use tidings::{Emitter, OutboxMode, PolicyOverride, Producer};

use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence, stored_at};
use crate::support::murmur2::{lane_of, stranger_to};
use crate::support::relaying::RunningRelay;
use crate::world::{LANES, published, settled_to, world};

async fn store(producer: &Producer, event: &Numbered) -> (u16, i64) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    stored_at(&producer.emit(event.request().policy(always)).await.unwrap())
}

/// Takes a lane as another relay would whose clock says that the lease has run out.
async fn steal(pool: &PgPool, lane: u16) {
    let steal = "update tidings.lane set owner = 'thief', epoch = epoch + 1, lease_until = now() + interval '1 hour'
                 where lane = $1";
    sqlx::query(steal).bind(i16::try_from(lane).unwrap()).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_writes_nothing_for_a_lane_that_was_taken_from_it() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger) = (world.pool(), Ledger::default());
    let (mut taken, mut kept) = (Sequence::of("tenant-1"), Sequence::of(stranger_to("tenant-1", LANES)));
    let lane = lane_of("tenant-1", LANES);
    let event = taken.next();
    let (_, number) = store(&producer, &event).await;
    ledger.accept(event);
    settled_to(&pool, lane, number).await;

    steal(&pool, lane).await;
    let before = published(&pool, lane).await;
    // The first ones it may send, since it does not know yet; but it may not say that they are settled.
    for _ in 0..20 {
        ledger.doubt({
            let event = taken.next();
            store(&producer, &event).await;
            event
        });
        // Written after the above was read, if that was.
        let event = kept.next();
        let (other, number) = store(&producer, &event).await;
        ledger.accept(event);
        settled_to(&pool, other, number).await;
        assert_eq!(published(&pool, lane).await, before, "written without the lease");
    }
    world.verdict(&ledger).await.assert_kept();

    // The thief is gone: the relay takes the lane again, from what was saved.
    let free = "update tidings.lane set owner = null, lease_until = null where lane = $1";
    sqlx::query(free).bind(i16::try_from(lane).unwrap()).execute(&pool).await.unwrap();
    let event = taken.next();
    let (_, last) = store(&producer, &event).await;
    ledger.accept(event);
    world.verdict(&ledger).await.assert_kept();
    settled_to(&pool, lane, last).await;
}
