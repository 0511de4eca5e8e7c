//! The way by the outbox.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::relays::Advance;
use super::spill::{Known, Spills};
use super::turn::{Turn, Turns};
use crate::catalog::compiled::Resolved;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::{Appended, Lanes, Outbox, Row, lane};
use crate::relay::{Handed, Journaled};

/// The outbox of a producer, and which of its lanes are spilled.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) spills: Spills,
    /// When a relay of this producer last got somewhere.
    pub(crate) advance: Advance,
    /// Rows on their way to the relay of this producer.
    pub(crate) handed: Handed,
    /// How many lanes there are, as far as is known.
    layout: AtomicI64,
    /// When the lanes are looked up.
    look_ups: Turns,
    /// Until when what is known of them will do while somebody looks them up.
    known_until: Mutex<Instant>,
    /// When relays elsewhere are told of rows.
    wakes: Turns,
}

/// A relay that was told looks again within some milliseconds for as long.
const WAKE_EVERY: Duration = Duration::from_millis(20);

/// How often the lanes are looked up in the outbox while events are emitted. One small query.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);

/// What is known of them is not older than this while somebody looks them up: then others wait for that one, as long as for this.
/// It is a little more than the above, so that nobody waits for a database that answers soon in a steady stream of events.
const KNOWN_FOR: Duration = Duration::from_millis(120);

/// How long they are not looked up after that failed: whoever does it waits for a database that may not answer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A caller that asks the database for the others does not wait longer for an answer.
const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// How long it is a caller's turn to do so. To look the lanes up takes two questions at most.
const TURN: Duration = Duration::from_secs(1);

/// An insert that takes longer fails the emit. The row may be there all the same.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// An event that was appended, before anyone can overtake it.
pub(crate) struct Mark {
    pub(crate) lane: u16,
    pub(crate) appended: Appended,
    /// What was known of the lane before it was appended.
    pub(crate) known: Known,
    pub(crate) is_journaled: bool,
}

impl Fallback {
    pub(crate) async fn open(outbox: Arc<dyn Outbox>) -> Result<Self> {
        let spills = Spills::new();
        // Counted last: what is in the heads was laid out for these lanes, or is drained.
        spills.start_from(&outbox.heads().await?);
        let layout = outbox.lanes().await?.layout().into();
        let now = Instant::now();
        Ok(Self {
            outbox,
            spills,
            advance: Advance::new(),
            handed: Handed::default(),
            layout,
            look_ups: Turns::new(now + LOOK_UP_EVERY),
            known_until: Mutex::new(now + KNOWN_FOR),
            wakes: Turns::new(now + WAKE_EVERY),
        })
    }

    /// How many lanes there are, as far as is known. Whoever appends is refused if it is not so any more. Whoever does not hears
    /// of it when it looks the lanes up: what others have stored since is in the new ones.
    pub(crate) fn lanes(&self) -> Lanes {
        // What is stored was a valid one.
        Lanes::from_layout(self.layout.load(Ordering::SeqCst)).expect("it was one")
    }

    /// Counts the lanes anew, after an append was refused for these.
    ///
    /// What is known is only replaced if nobody has done so meanwhile. Were an older answer to come behind a newer one, a direct event
    /// could be looked up in another lane than the one that an event before it was stored in.
    pub(crate) async fn recount(&self, refused: Lanes) -> Result<Lanes> {
        let known = self.lanes();
        if known != refused {
            return Ok(known);
        }
        let lanes = within(LOOK_UP_TIMEOUT, self.outbox.lanes()).await?;
        let (from, to) = (known.layout(), lanes.layout());
        if from != to && self.layout.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            tracing::info!(from = known.count(), to = lanes.count(), "the number of the outbox's lanes was changed");
        }
        Ok(self.lanes())
    }

    /// The lane of a record key.
    fn lane_of(&self, key: &[u8]) -> u16 {
        lane::of_key(key, self.lanes().count())
    }

    /// Appends rows, all or none. If the number of lanes was changed meanwhile, each goes to the lane that it has now.
    async fn append(&self, mut lanes: Lanes, rows: &mut [Row], deadline: Instant) -> Result<Vec<(Appended, Known)>> {
        loop {
            let known: Vec<_> = rows.iter().map(|row| self.spills.known(row.lane)).collect();
            let limit = STORE_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()));
            match within(limit, self.outbox.append(lanes, rows)).await {
                Ok(appended) if appended.len() == rows.len() => return Ok(appended.into_iter().zip(known).collect()),
                Ok(_) => return Err(Error::new(ErrorKind::Storage, "the outbox gave an event no number")),
                Err(error) if error.kind() == ErrorKind::StorageConflict => match self.recount(lanes).await {
                    Ok(others) if others != lanes => {
                        lanes = others;
                        for row in &mut *rows {
                            row.lane = lane::of_key(&row.record.key, lanes.count());
                        }
                    }
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
    }

    /// Stores an event. Once this has returned, later events of the lane see that it is spilled.
    pub(crate) async fn store(&self, resolved: Resolved, reason: StoredReason, deadline: Instant) -> Result<Receipt> {
        let event_id = resolved.id.clone();
        let stored = self.store_all(vec![(resolved, reason)], deadline).await;
        let mut receipts = stored.map_err(|error| error.with_event_id(event_id))?;
        // One event has one receipt.
        Ok(receipts.pop().expect("it was stored"))
    }

    /// Stores events, all or none, in this order. Once this has returned, later events of their lanes see that these are spilled.
    pub(crate) async fn store_all(
        &self,
        events: Vec<(Resolved, StoredReason)>,
        deadline: Instant,
    ) -> Result<Vec<Receipt>> {
        let lanes = self.lanes();
        let (mut rows, hows): (Vec<_>, Vec<_>) = events
            .into_iter()
            .map(|(resolved, reason)| {
                let is_journaled = resolved.policy.is_journaled();
                (Row::new(resolved, lanes), (reason, is_journaled))
            })
            .unzip();
        let all = self.append(lanes, &mut rows, deadline).await?;
        let marks = rows.iter().zip(&hows).zip(&all);
        let marks = marks.map(|((row, (_, is_journaled)), (appended, known))| Mark {
            lane: row.lane,
            appended: *appended,
            known: *known,
            is_journaled: *is_journaled,
        });
        self.spill(&marks.collect::<Vec<_>>()).await?;
        if rows.iter().any(|row| !self.spills.is_relayed_here(row.lane)) {
            self.wake_others().await;
        }
        let mut receipts = Vec::with_capacity(rows.len());
        for ((row, (reason, is_journaled)), (appended, _)) in rows.into_iter().zip(hows).zip(all) {
            let outcome = Outcome::Stored { lane: row.lane, sequence: appended.sequence, reason };
            receipts.push(Receipt::new(row.event_id.clone(), outcome));
            if is_journaled
                && self.spills.is_relayed_here(row.lane)
                && let Some(row) = Journaled::new(row, appended)
            {
                self.handed.push(row);
            }
        }
        Ok(receipts)
    }

    /// Hands a committed row over to the relay of this producer, or has it wake the one that has the lane.
    pub(crate) fn hand_over(&self, row: Arc<Journaled>) {
        if self.spills.is_relayed_here(row.lane) {
            self.handed.push(row);
        } else {
            self.handed.tell_others();
        }
    }

    /// Tells relays elsewhere that there are rows, unless they were told a moment ago: then they are looking anyway.
    pub(crate) async fn wake_others(&self) {
        let now = Instant::now();
        let Some(turn) = self.wakes.take(now, TURN) else { return };
        if let Err(error) = within(LOOK_UP_TIMEOUT, self.outbox.wake()).await {
            tracing::debug!(%error, "relays elsewhere were not woken; they poll");
        }
        turn.done(now + WAKE_EVERY);
    }

    /// Has every relay of the outbox look for rows now.
    pub(crate) async fn wake(&self) -> Result<()> {
        self.spills.wake();
        within(LOOK_UP_TIMEOUT, self.outbox.wake()).await
    }

    /// Says that events are in the outbox, or will be. A relay looks for them at once, or a little later if they are handed over
    /// after the commit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if a sequence alone was set back: the relay takes an event for delivered. It is ambiguous if others may be
    /// relayed.
    pub(crate) async fn spill(&self, marks: &[Mark]) -> Result<()> {
        for Mark { lane, appended, is_journaled, .. } in marks {
            self.spills.spill(*lane, appended.sequence);
            if *is_journaled {
                self.spills.announce();
            } else {
                self.spills.expect(*lane, appended.sequence);
            }
        }
        for mark in marks {
            self.check_number(mark).await.map_err(|error| {
                let may_be_relayed = marks.len() > 1 || error.kind() == ErrorKind::Storage;
                error.or_ambiguous(may_be_relayed)
            })?;
        }
        Ok(())
    }

    /// A number below the floor of its lane was given out before. That is right if the whole database is an older one. Its numbers say
    /// nothing then, not even one above the floor, since a relay may have settled more meanwhile.
    async fn check_number(&self, mark: &Mark) -> Result<()> {
        let Mark { lane, appended: Appended { sequence: number, is_new, life }, known, .. } = *mark;
        // One that was there already may have been delivered long ago.
        if life == known.life && (number >= known.floor || !is_new) {
            return Ok(());
        }
        let now = self.spills.known(lane);
        let heads = within(LOOK_UP_TIMEOUT, self.outbox.heads()).await?;
        match heads.get(usize::from(lane)) {
            Some(head) if head.life != known.life && head.is_sound() => {
                if number < known.floor {
                    tracing::warn!(
                        lane,
                        number,
                        "the outbox's database is an older one than it was: numbers are given out again"
                    );
                }
                self.spills.go_back(lane, now, head);
                Ok(())
            }
            _ => Err(Error::new(
                ErrorKind::Schema,
                format!(
                    "the outbox's lane {lane} counts again from {number}, which was delivered long ago: its sequence was set back; \
                     set it to the highest number of the lane before anything else is emitted"
                ),
            )),
        }
    }

    /// Whether a direct event of the key could overtake one in the outbox. `events` is how many come along with it.
    ///
    /// Under a steady stream of events a lane would never settle, each waiting behind the one before it. So once some have taken
    /// the detour, further ones wait for the lane a moment, until `wait_until` at most, if that makes sense.
    pub(crate) async fn is_spilled(&self, key: &[u8], events: usize, wait_until: Option<Instant>) -> bool {
        self.look_up().await;
        let lane = self.lane_of(key);
        if !self.spills.is_spilled(lane) {
            return false;
        }
        let Some(until) = wait_until else { return true };
        let Some(wait) = self.spills.add_detours(lane, events) else { return true };
        let floor = self.spills.known(lane).floor;
        let settled = self.wait_until_settled(key, until.min(Instant::now() + wait.limit)).await;
        if !settled {
            self.spills.waited_in_vain(lane, wait, floor);
        }
        !settled
    }

    /// Whether a direct event of the key overtakes nothing, and that was looked up not long ago.
    pub(crate) fn is_clear(&self, key: &[u8]) -> bool {
        let now = Instant::now();
        // If it is somebody's turn, that one looks it up for all.
        !self.look_ups.is_due(now) && now < *self.known_until() && !self.is_known_spilled(key)
    }

    /// Whether a direct event of the key could overtake one in the outbox, as far as is known.
    pub(crate) fn is_known_spilled(&self, key: &[u8]) -> bool {
        self.spills.is_spilled(self.lane_of(key))
    }

    /// Looks up the lanes, unless that was done a moment ago: another process may have stored something, or a relay elsewhere
    /// have delivered it. One caller does so for all; the others go by what is known, or, if that is old, wait for the one a moment.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the lanes were not looked up, and the next caller does so. Neither polled nor dropped, the next
    /// one does so after a second.
    pub(crate) async fn look_up(&self) {
        let until = Instant::now() + KNOWN_FOR;
        loop {
            let ended = self.look_ups.ended();
            let now = Instant::now();
            if let Some(turn) = self.look_ups.take(now, TURN) {
                return self.look_up_for_all(turn, now).await;
            }
            // Should that one be dropped, it is another's turn.
            if now < *self.known_until() || tokio::time::timeout_at(until, ended).await.is_err() {
                return;
            }
        }
    }

    async fn look_up_for_all(&self, turn: Turn<'_>, began: Instant) {
        let known = self.spills.all_known();
        let heads = within(LOOK_UP_TIMEOUT, self.outbox.heads()).await;
        let counted = match &heads {
            // The lanes come first: until the heads are taken over, what is known is as old as it was.
            Ok(heads) if heads.first().is_some_and(|head| head.lanes != self.lanes()) => {
                self.recount(self.lanes()).await.map(drop)
            }
            _ => Ok(()),
        };
        match counted.and(heads) {
            Ok(heads) => {
                self.spills.refresh(&known, &heads);
                *self.known_until() = began + KNOWN_FOR;
                turn.done(began + LOOK_UP_EVERY);
            }
            Err(error) => {
                tracing::debug!(%error, "the lanes could not be looked up; what was known of them stands");
                let again_at = Instant::now() + LOOK_AGAIN_AFTER;
                *self.known_until() = again_at;
                turn.done(again_at);
            }
        }
    }

    fn known_until(&self) -> MutexGuard<'_, Instant> {
        // Nothing panics while it holds this lock.
        self.known_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the lane of the key is not spilled.
    pub(crate) async fn wait_until_settled(&self, key: &[u8], until: Instant) -> bool {
        let settled = async {
            loop {
                let settlement = self.spills.wait_for_settlement();
                self.look_up().await;
                if !self.spills.is_spilled(self.lane_of(key)) {
                    return;
                }
                let _ = tokio::time::timeout(LOOK_UP_EVERY, settlement).await;
            }
        };
        tokio::time::timeout_at(until, settled).await.is_ok()
    }
}

async fn within<T>(limit: Duration, statement: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(limit, statement).await;
    answer.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Storage, "the outbox's database did not answer in time").or_ambiguous(true))
    })
}
