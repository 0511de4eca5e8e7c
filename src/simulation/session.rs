//! The outbox as a process sees it: statements that take time, fail, and are carried out though nobody waits any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::broker::event_of_id;
use super::database::Database;
use super::ledger::Way;
use super::plan::Fault;
use super::process::Process;
use super::situation::Situation;
use super::world::World;
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::{
    Appended, Head, HeldRow, Hole, Lanes, Leases, Limits, Outbox, Page, Parked, Progress, Row, Settled,
};
use crate::producer::client::Role;
use crate::tx::{Inner, Tx};

/// A statement that takes longer has lost its connection.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// So long a statement waits for others that write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// A transaction that is open for longer is rolled back.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub(super) struct Session {
    world: Arc<World>,
    process: Arc<Process>,
    rng: Arc<Mutex<Rng>>,
    /// Lanes of which the last that its relay wanted to write down may not be there.
    unsaved: Arc<Mutex<BTreeSet<u16>>>,
    /// Until when the relay of the process has its leases, as far as it knows.
    leased_until: Arc<Mutex<Option<Instant>>>,
}

/// What becomes of a statement.
#[derive(Debug, Clone, Copy)]
struct Luck {
    before: Duration,
    between: Duration,
    after: Duration,
    fails_before: bool,
    loses_answer: bool,
    coin: bool,
    /// Whether nobody waits for it any more.
    is_late: bool,
}

fn gone(is_ambiguous: bool) -> Error {
    Error::new(ErrorKind::Storage, "the database is gone").or_ambiguous(is_ambiguous)
}

fn is_gone(fault: Fault) -> bool {
    matches!(fault, Fault::Gone | Fault::Restart | Fault::Blackout)
}

impl Session {
    pub(super) fn new(world: &Arc<World>, process: &Arc<Process>) -> Self {
        let rng = world.rng(2, (process.place as u64) << 32 | process.number);
        Self {
            world: Arc::clone(world),
            process: Arc::clone(process),
            rng: Arc::new(Mutex::new(rng)),
            unsaved: Arc::default(),
            leased_until: Arc::default(),
        }
    }

    fn luck(&self) -> Luck {
        let slow = self.world.has(|fault| fault == Fault::SlowDatabase);
        let flaky = self.world.has(|fault| fault == Fault::Flaky);
        let mut rng = self.rng.lock().unwrap();
        let mut pause = |most: u64| Duration::from_millis(if slow { rng.u64(0..1_500) } else { rng.u64(0..most) });
        let (before, between, after) = (pause(3), pause(8), pause(3));
        let failure = if flaky { rng.u8(..6) } else { 6 };
        let (fails_before, loses_answer) = (failure == 0, failure == 1);
        Luck { before, between, after, fails_before, loses_answer, coin: rng.bool(), is_late: false }
    }

    /// Has the database carry out something that writes, once it may.
    async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&Arc<World>, &mut Database, Luck) -> T + Send + 'static,
    ) -> Result<T> {
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        let write = move |world: Arc<World>, life, luck: Luck| async move {
            if world.plan.is_sqlite {
                wait_for_turn(&world, None).await?;
                // Who has given up sends nothing behind the `begin`.
                if waiting.strong_count() == 0 {
                    return Err(gone(true));
                }
            }
            let mut database = world.database();
            if database.life == life { Ok(effect(&world, &mut database, luck)) } else { Err(gone(true)) }
        };
        let written = self.run(what, move |world, life, luck| Box::pin(write(world, life, luck))).await;
        drop(waits);
        written
    }

    /// Has the database carry something out.
    async fn statement<T: Send + 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&Arc<World>, &mut Database) -> T + Send + 'static,
    ) -> Result<T> {
        self.run(what, move |world: Arc<World>, life, _| {
            let mut database = world.database();
            let done = if database.life == life { Ok(effect(&world, &mut database)) } else { Err(gone(true)) };
            Box::pin(std::future::ready(done))
        })
        .await
    }

    /// Sends a statement to the database, which carries it out some time, whether or not anybody waits for it.
    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(Arc<World>, i64, Luck) -> BoxFuture<'static, Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.process.step().await;
        let mut luck = self.luck();
        let world = Arc::clone(&self.world);
        if world.has(is_gone) || luck.fails_before {
            sleep(luck.after).await;
            return Err(gone(false));
        }
        let (answer, answered) = oneshot::channel();
        let (life, process, name) = (world.database().life, Arc::clone(&self.process), self.process.name());
        let outside = Arc::clone(&world);
        outside.spawn(async move {
            sleep(luck.before).await;
            world.outlast(|fault| fault == Fault::Hangs).await;
            if answer.is_closed() {
                // It got through to the database, or not.
                if luck.coin {
                    return;
                }
                // The network carries it once more, some time; what was said since may be there before it.
                if !world.plan.is_sqlite {
                    sleep(luck.after * 1_500).await;
                }
                world.tell(|| format!("{name}: {what} is carried out late"));
                world.reach(Situation::LateStatement);
                luck.is_late = true;
            }
            if world.has(is_gone) {
                let _ = answer.send(Err(gone(true)));
                return;
            }
            let result = work(Arc::clone(&world), life, luck).await;
            if process.is_dead() {
                world.reach(Situation::CrashMidStatement);
            }
            let result = if luck.loses_answer && result.is_ok() {
                match what {
                    "commit" => world.reach(Situation::AmbiguousCommit),
                    "append" => world.reach(Situation::AmbiguousAppend),
                    _ => {}
                }
                Err(gone(true))
            } else {
                result
            };
            sleep(luck.after).await;
            let _ = answer.send(result);
        });
        let answer = timeout(STATEMENT_TIMEOUT, answered).await;
        self.process.step().await;
        match answer {
            Ok(Ok(answer)) => answer,
            // Only a task that panicked has not answered.
            Ok(Err(_)) => Err(gone(true)),
            Err(_) => Err(Error::new(ErrorKind::Storage, "the database did not answer").or_ambiguous(true)),
        }
    }

    pub(super) async fn begin(&self) -> Result<u64> {
        let place = self.process.place;
        let name = self.process.name();
        let begin = move |world: &Arc<World>, database: &mut Database| {
            let transaction = database.begin(Some(place));
            // A transaction that is forgotten is rolled back with its connection, some time.
            let of_world = Arc::clone(world);
            world.spawn_later(LONGEST_TRANSACTION, move || {
                let mut database = of_world.database();
                roll_back(&of_world, &mut database, &name, transaction);
            });
            transaction
        };
        self.statement("begin", begin).await
    }

    /// Waits for the lock of a key.
    pub(super) async fn lock(&self, transaction: u64, key: usize) -> Result<()> {
        loop {
            let lock = move |_: &Arc<World>, database: &mut Database| {
                if database.is_open(transaction) { Ok(database.lock(transaction, key)) } else { Err(gone(false)) }
            };
            if self.statement("lock", lock).await?? {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn commit(&self, transaction: u64) -> Result<()> {
        let name = self.process.name();
        let committed = self.statement("commit", move |world, database| commit(world, database, &name, transaction));
        if committed.await? { Ok(()) } else { Err(gone(false)) }
    }

    pub(super) async fn roll_back(&self, transaction: u64) {
        let name = self.process.name();
        let _ = self.statement("rollback", move |world, database| roll_back(world, database, &name, transaction)).await;
    }

    async fn append_once(&self, lanes: Lanes, rows: Vec<Row>) -> Result<Vec<Appended>> {
        let name = self.process.name();
        let append = move |world: Arc<World>, life, luck: Luck| async move {
            wait_for_turn(&world, None).await?;
            let (transaction, appended) = {
                let mut database = world.database();
                if database.life != life {
                    return Err(gone(true));
                }
                if database.data.layout != lanes {
                    world.reach(Situation::OtherLanes);
                    return Err(Error::new(ErrorKind::StorageConflict, "other lanes"));
                }
                let transaction = database.begin(None);
                let appended = database.insert(transaction, &rows, |row| event_of_id(&row.event_id.to_string()));
                (transaction, appended)
            };
            sleep(luck.between).await;
            let mut database = world.database();
            if !commit(&world, &mut database, &name, transaction) {
                return Err(gone(true));
            }
            Ok(appended)
        };
        self.run("append", move |world, life, luck| Box::pin(append(world, life, luck))).await
    }
}

/// Waits until somebody who wants to write may do so.
async fn wait_for_turn(world: &Arc<World>, transaction: Option<u64>) -> Result<()> {
    let until = Instant::now() + BUSY_TIMEOUT;
    while !world.database().may_write(transaction) {
        world.reach(Situation::WriterWaits);
        if Instant::now() >= until {
            return Err(Error::new(ErrorKind::Storage, "others write"));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Commits, if the transaction is still there.
fn commit(world: &World, database: &mut Database, name: &str, transaction: u64) -> bool {
    let rows = database.rows_of(transaction);
    if !database.commit(transaction) {
        return false;
    }
    let step = world.step();
    let mut ledger = world.ledger();
    let mut shown = world.shown.lock().unwrap();
    for (lane, number, event) in rows {
        if *shown.entry(lane).or_default() > number {
            world.reach(Situation::LateCommit);
        }
        let event_state = ledger.event(event);
        event_state.committed = true;
        event_state.rows += 1;
        if event_state.way == Way::Transaction {
            event_state.accepted = Some(step);
            event_state.accepted_at = Some(world.elapsed());
        }
        world.tell(|| format!("{name}: e{event} is in the outbox, lane {lane} number {number}"));
    }
    drop(shown);
    true
}

pub(super) fn roll_back(world: &World, database: &mut Database, name: &str, transaction: u64) {
    for (lane, number, event) in database.rows_of(transaction) {
        world.tell(|| format!("{name}: e{event} is rolled back, lane {lane} number {number}"));
        world.dead.lock().unwrap().push((lane, number, database.life));
        world.reach(Situation::RolledBack);
    }
    database.roll_back(transaction);
}

impl Outbox for Session {
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        Box::pin(self.statement("lanes", |_, database| database.data.layout))
    }

    fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let events: Vec<_> = rows.iter().map(|row| event_of_id(&row.event_id.to_string())).collect();
            for event in &events {
                self.world.ledger().store(*event);
            }
            let life = self.world.database().life;
            let appended = self.append_once(lanes, rows.to_vec()).await;
            let is_cut_off = self.world.database().life != life && !self.world.plan.is_sqlite;
            if !appended.as_ref().is_err_and(Error::is_ambiguous) || !is_cut_off {
                return appended;
            }
            // The connection was cut off; on another one it is tried again.
            for event in &events {
                self.world.ledger().license(*event, "appended a second time");
            }
            self.append_once(lanes, rows.to_vec()).await.map_err(|error| error.or_ambiguous(true))
        })
    }

    fn append_in<'a>(&'a self, lanes: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        let Inner::Simulated(transaction) = tx.0 else { unreachable!("there is no other") };
        let rows = rows.to_vec();
        Box::pin(async move {
            let insert = move |world: Arc<World>, life, _| async move {
                wait_for_turn(&world, Some(transaction)).await?;
                let mut database = world.database();
                if database.life != life || !database.is_open(transaction) {
                    return Err(gone(false));
                }
                if database.data.layout != lanes {
                    world.reach(Situation::OtherLanes);
                    return Err(Error::new(ErrorKind::StorageConflict, "other lanes"));
                }
                let appended = database.insert(transaction, &rows, |row| event_of_id(&row.event_id.to_string()));
                world.tell(|| format!("transaction {transaction} draws {appended:?}"));
                Ok(appended)
            };
            let appended = self.run("append in a transaction", |world, life, luck| Box::pin(insert(world, life, luck)));
            appended.await.map_err(|error| match error.kind() {
                ErrorKind::StorageConflict => error,
                _ => gone(false),
            })
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(self.statement("heads", |_, database| database.heads()))
    }

    fn drawn(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(self.write("drawn", |_, database, _| database.heads()))
    }

    fn lease(&self, owner: Uuid, ttl: Duration, saves: i64) -> BoxFuture<'_, Result<Leases>> {
        Box::pin(async move {
            let asked_at = Instant::now();
            let (process, name) = (Arc::clone(&self.process), self.process.name());
            let lease = move |world: &Arc<World>, database: &mut Database, _| {
                let relay = world.relay_of(owner, process.place);
                let now = database.clock(world.elapsed());
                let (leases, granted) = database.lease(relay, ttl, saves, now);
                for granted in granted {
                    let lane = granted.lane;
                    world.tell(|| format!("{name}: leases lane {lane}"));
                    if granted.before.is_some() {
                        world.breaks(lane);
                    }
                    world.unheard.lock().unwrap().insert(lane);
                    world.lane_is_lost(lane, granted.before, granted.has_run_out);
                }
                if leases.leases.iter().any(|lease| !lease.keep && process.in_flight(Role::Relay, Some(lease.lane)) > 0)
                {
                    world.reach(Situation::HandedOverInFlight);
                }
                leases
            };
            let leases = self.write("lease", lease).await;
            if let Ok(leases) = &leases {
                let heard = |lane: &u16| leases.leases.iter().any(|lease| lease.lane == *lane);
                self.world.unheard.lock().unwrap().retain(|lane| !heard(lane));
                let before = self.leased_until.lock().unwrap().replace(asked_at + ttl);
                if before.is_some_and(|before| Instant::now() >= before) {
                    // It has forgotten what it knew of its lanes.
                    for lease in &leases.leases {
                        self.world.breaks(lease.lane);
                    }
                    self.world.reach(Situation::SameEpoch);
                }
            }
            leases
        })
    }

    fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>> {
        let (lanes, process, unsaved) = (lanes.to_vec(), Arc::clone(&self.process), Arc::clone(&self.unsaved));
        // It has forgotten what it knew of its lanes.
        let has_run_out = self.leased_until.lock().unwrap().is_some_and(|until| Instant::now() >= until);
        Box::pin(self.write("release", move |world, database, luck| {
            let name = process.name();
            world.tell(|| format!("{name}: releases {}", if leaves { "all".to_owned() } else { format!("{lanes:?}") }));
            let relay = world.relay_of(owner, process.place);
            for (lane, of, _) in database.owners() {
                // Who hands a lane over has delivered and written down what it has begun with. Who leaves does so if it can.
                let is_unsaved = unsaved.lock().unwrap().contains(&lane);
                let is_unfinished = has_run_out || is_unsaved || process.in_flight(Role::Relay, Some(lane)) > 0;
                if of == Some(relay) && (luck.is_late || (leaves && is_unfinished)) {
                    world.breaks(lane);
                }
            }
            database.release(relay, &lanes, leaves);
        }))
    }

    fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        let lanes = lanes.to_vec();
        Box::pin(self.statement("parked", move |world, database| {
            let now = database.clock(world.elapsed());
            database.parked(&lanes, now)
        }))
    }

    fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        let key = key.clone();
        Box::pin(self.statement("held", move |world, database| database.held(lane, &key, limits, world.plan.row_bytes)))
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        let holes = holes.to_vec();
        Box::pin(async move {
            let before = self.world.database().owners();
            let lanes: Vec<_> = holes.iter().map(|hole| hole.lane).collect();
            let page = self
                .statement("page", move |world, database| {
                    let page = database.page(&holes, limits, world.plan.row_bytes);
                    let mut shown = world.shown.lock().unwrap();
                    for row in &page.rows {
                        let highest = shown.entry(row.lane).or_default();
                        *highest = row.sequence.max(*highest);
                    }
                    drop(shown);
                    let cut = |hole: &Hole| {
                        let of = |row: &&crate::outbox::StoredRow| {
                            row.lane == hole.lane && (hole.low..hole.high).contains(&row.sequence)
                        };
                        page.rows.iter().filter(of).map(|row| row.bytes).sum::<usize>() >= limits.bytes as usize
                    };
                    if holes.iter().any(cut) {
                        world.reach(Situation::CutPage);
                    }
                    page
                })
                .await;
            let after = self.world.database().owners();
            let epoch =
                |owners: &[(u16, Option<usize>, i64)], lane: u16| owners.get(usize::from(lane)).map(|owner| owner.2);
            let is_lost = |lane: &u16| epoch(&before, *lane) != epoch(&after, *lane);
            if page.is_ok() && lanes.iter().any(is_lost) {
                self.world.reach(Situation::PageOfLostLane);
            }
            page
        })
    }

    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        Box::pin(self.statement("writers", |_, database| (!database.is_sqlite).then(|| database.writers())))
    }

    fn wake(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.statement("wake", |world, database| {
            if !database.is_sqlite {
                world.wake.notify_waiters();
            }
        }))
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.world.wake.notified())
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        let lanes = progress.iter().map(|progress| progress.lane);
        let (progress, name) = (progress.to_vec(), self.process.name());
        let settle = move |world: &Arc<World>, database: &mut Database, _| {
            let now = database.clock(world.elapsed());
            let is_late =
                |lane, parked: &Parked| database.head_of(lane, &parked.key).is_some_and(|head| parked.head < head);
            let has_late = |progress: &&Progress| progress.parked.iter().any(|parked| is_late(progress.lane, parked));
            let late_heads: Vec<_> = progress.iter().filter(has_late).map(|progress| progress.lane).collect();
            let settled = database.settle(&progress, now);
            for progress in progress.iter().filter(|progress| settled.lanes.contains(&progress.lane)) {
                world.tell(|| {
                    format!(
                        "{name}: writes down lane {} {:?} {:?} {:?}",
                        progress.lane, progress.settled, progress.held, progress.unheld
                    )
                });
                let held: BTreeSet<_> = progress.held.iter().map(|(_, number)| *number).collect();
                let settled = progress.settled.iter().flat_map(Clone::clone).filter(|number| !held.contains(number));
                for number in settled.chain(progress.unheld.iter().map(|(_, number)| *number)) {
                    if let Some(event) = database.event(progress.lane, number) {
                        world.ledger().event(event).settled();
                    }
                }
                if !progress.parked.is_empty() {
                    world.reach(Situation::Parked);
                }
                if late_heads.contains(&progress.lane) {
                    world.reach(Situation::LateHead);
                }
                if !progress.freed.is_empty() {
                    world.reach(Situation::ParkedDelivered);
                }
                if !progress.obeyed.is_empty() {
                    world.reach(Situation::Obeyed);
                }
            }
            world.look_at_the_dead(database);
            settled
        };
        Box::pin(async move {
            // Should this be dropped, it is not known either.
            self.unsaved.lock().unwrap().extend(lanes);
            let settled = self.write("settle", settle).await?;
            self.unsaved.lock().unwrap().retain(|lane| !settled.lanes.contains(lane));
            Ok(settled)
        })
    }
}
