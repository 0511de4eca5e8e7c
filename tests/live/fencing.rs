//! A relay whose lanes somebody else has taken.

use std::time::Duration;

use sqlx::PgPool;
use tidings::outbox::{Outbox, Progress};
use tidings::{Emitter, OutboxMode, PolicyOverride, Producer};

use crate::broker::{large, take_small_records_alone};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_parks_no_key_of_a_lane_that_was_taken_from_it() {
    let world = world!();
    let producer = world.producer().await;
    take_small_records_alone(&world).await;
    let _relay = RunningRelay::of(&producer);
    let pool = world.pool();
    let (mut taken, mut kept) = (Sequence::of("tenant-1"), Sequence::of(stranger_to("tenant-1", LANES)));
    let lane = lane_of("tenant-1", LANES);
    let (_, number) = store(&producer, &taken.next()).await;
    settled_to(&pool, lane, number).await;
    steal(&pool, lane).await;
    // It does not know yet: it sends the event, which is refused, and that is the first it would say of the lane.
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    producer.emit(large(&taken.next()).policy(always)).await.unwrap();
    for _ in 0..20 {
        let (other, number) = store(&producer, &kept.next()).await;
        settled_to(&pool, other, number).await;
        // Of that lane: a small record that goes in one batch with the large one is refused with it, and held until it is tried alone.
        let noted = "select (select count(*) from tidings.held where lane = $1)
                          + (select count(*) from tidings.parked where lane = $1)";
        let noted = sqlx::query_scalar::<_, i64>(noted).bind(i16::try_from(lane).unwrap());
        assert_eq!(noted.fetch_one(&pool).await.unwrap(), 0, "written without the lease");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_writes_nothing_under_a_lease_of_another_life_of_the_database() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let lane = lane_of("tenant-1", LANES);
    let index = i16::try_from(lane).unwrap();
    let epoch = async || -> i64 {
        sqlx::query_scalar("select epoch from tidings.lane where lane = $1").bind(index).fetch_one(&pool).await.unwrap()
    };
    for event in sequence.take(4) {
        let before = epoch().await;
        let (_, number) = store(&producer, &event).await;
        ledger.accept(event);
        settled_to(&pool, lane, number).await;
        assert!(number == 1 || epoch().await != before, "written under the old lease");
        let update = "update tidings.lane set life = life - 1 where lane = $1";
        sqlx::query(update).bind(index).execute(&pool).await.unwrap();
    }
    world.verdict(&ledger).await.assert_kept();
}

/// After its clock and then the whole database were set back, it gives the same epoch out again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_of_a_lease_of_another_life_of_the_database_is_not_written_though_its_epoch_is_the_same() {
    let world = world!();
    let outbox = world.outbox();
    let leased = outbox.lease(uuid::Uuid::now_v7(), Duration::from_secs(60), 0).await.unwrap();
    let mut progress = Progress::default();
    (progress.lane, progress.epoch, progress.save) = (leased.leases[0].lane, leased.leases[0].epoch, 1);
    progress.settled.insert(1..2);
    for (life, written) in [(leased.life - 1, vec![]), (leased.life, vec![progress.lane])] {
        progress.life = life;
        assert_eq!(outbox.settle(&[progress.clone()]).await.unwrap().lanes, written);
    }
}

/// A statement that was given up may be carried out when the network carries it once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_relay_said_before_is_not_written_behind_what_it_has_said_since() {
    let world = world!();
    let (outbox, relay) = (world.outbox(), uuid::Uuid::now_v7());
    let lease = async |saves| outbox.lease(relay, Duration::from_secs(60), saves).await.unwrap();
    let leased = lease(0).await;
    let (lane, epoch) = (leased.leases[0].lane, leased.leases[0].epoch);
    let settle = async |save, number: i64| {
        let mut progress = Progress::default();
        (progress.lane, progress.epoch, progress.life, progress.save) = (lane, epoch, leased.life, save);
        progress.settled.insert(number..number + 1);
        !outbox.settle(&[progress]).await.unwrap().lanes.is_empty()
    };
    assert!(settle(2, 1).await);
    assert!(!settle(1, 2).await && !settle(2, 2).await, "it was given up, and said again, or taken back");
    assert!(settle(3, 2).await);
    // Who has lost its lanes and leases them again goes by what it finds: nothing that it said before may change that.
    assert!(lease(5).await.leases.iter().any(|lease| (lease.lane, lease.epoch) == (lane, epoch)));
    assert!(!settle(4, 3).await && !settle(5, 3).await && settle(6, 3).await);
}
