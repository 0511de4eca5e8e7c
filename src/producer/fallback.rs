//! The way by the outbox.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::spill::Spills;
use crate::catalog::compiled::Resolved;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::{Outbox, Row};

/// The outbox of a producer, and which of its lanes are spilled.
#[derive(Debug)]
pub(crate) struct Fallback {
    pub(crate) outbox: Arc<dyn Outbox>,
    pub(crate) lanes: u16,
    pub(crate) spills: Spills,
    /// When the lanes were last looked up.
    looked_up: Mutex<Instant>,
    /// When relays elsewhere were last told of rows.
    woke: Mutex<Instant>,
}

/// A relay that was told looks again within some milliseconds for as long.
const WAKE_EVERY: Duration = Duration::from_millis(20);

/// How often a spilled lane is looked up in the outbox, in case a relay elsewhere has drained it. One small query.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);

/// A caller that looks up the lanes for the others does not wait longer for it.
const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// An insert that takes longer fails the emit. The row may be there all the same.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

impl Fallback {
    pub(crate) async fn open(outbox: Arc<dyn Outbox>) -> Result<Self> {
        let lanes = outbox.lanes().await?;
        let spills = Spills::new(lanes);
        spills.start_from(&outbox.heads().await?);
        Ok(Self { outbox, lanes, spills, looked_up: Mutex::new(Instant::now()), woke: Mutex::new(Instant::now()) })
    }

    /// Stores an event. Once this has returned, later events of the lane see that it is spilled.
    pub(crate) async fn store(&self, resolved: Resolved, reason: StoredReason) -> Result<Receipt> {
        let row = Row::new(resolved, self.lanes);
        let lane = row.lane;
        let floor = self.spills.floor(lane);
        let numbers = within(STORE_TIMEOUT, self.outbox.append(std::slice::from_ref(&row))).await;
        let numbers = numbers.map_err(|error| error.with_event_id(row.event_id.clone()))?;
        let Some(&sequence) = numbers.first() else {
            return Err(
                Error::new(ErrorKind::Storage, "the outbox gave the event no number").with_event_id(row.event_id)
            );
        };
        self.spill(lane, sequence, floor).map_err(|error| error.with_event_id(row.event_id.clone()))?;
        if !self.spills.is_relayed_here(lane) {
            self.wake_others().await;
        }
        Ok(Receipt { event_id: row.event_id, outcome: Outcome::Stored { lane, sequence, reason } })
    }

    /// Tells relays elsewhere that there are rows, unless they were told a moment ago: then they are looking anyway.
    async fn wake_others(&self) {
        let Ok(mut woke) = self.woke.try_lock() else { return };
        if woke.elapsed() >= WAKE_EVERY {
            *woke = Instant::now();
            if let Err(error) = within(LOOK_UP_TIMEOUT, self.outbox.wake()).await {
                tracing::debug!(%error, "relays elsewhere were not woken; they poll");
            }
        }
    }

    /// Has every relay of the outbox look for rows now.
    pub(crate) async fn wake(&self) -> Result<()> {
        self.spills.wake();
        within(LOOK_UP_TIMEOUT, self.outbox.wake()).await
    }

    /// Says that an event of the lane is in the outbox, or will be. `floor` is that of the lane before it was appended.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if the database gave it a number that it had given out before: the relay would take it for
    /// delivered.
    pub(crate) fn spill(&self, lane: u16, number: i64, floor: i64) -> Result<()> {
        self.spills.spill(lane, number);
        if number >= floor {
            return Ok(());
        }
        let message = format!(
            "the outbox's lane {lane} counts again from {number}, which was delivered long ago: its sequence was set back, as by \
             a restore; set it to the highest number of the lane before anything else is emitted"
        );
        Err(Error::new(ErrorKind::Schema, message))
    }

    /// Whether a direct event of the lane could overtake one in the outbox.
    pub(crate) async fn is_spilled(&self, lane: u16) -> bool {
        if !self.spills.is_spilled(lane) {
            return false;
        }
        // One caller looks it up; the others take the lane for spilled meanwhile.
        if let Ok(mut looked_up) = self.looked_up.try_lock()
            && looked_up.elapsed() >= LOOK_UP_EVERY
        {
            *looked_up = Instant::now();
            match within(LOOK_UP_TIMEOUT, self.outbox.heads()).await {
                Ok(heads) => self.spills.refresh(&heads),
                Err(error) => tracing::debug!(%error, "the lanes could not be looked up; they stay spilled"),
            }
        }
        self.spills.is_spilled(lane)
    }

    /// Waits until the lane is not spilled, for `timeout` at most.
    pub(crate) async fn wait_until_settled(&self, lane: u16, timeout: Duration) -> bool {
        let settled = async {
            loop {
                let settlement = self.spills.wait_for_settlement();
                if !self.is_spilled(lane).await {
                    return;
                }
                let _ = tokio::time::timeout(LOOK_UP_EVERY, settlement).await;
            }
        };
        tokio::time::timeout(timeout, settled).await.is_ok()
    }
}

async fn within<T>(limit: Duration, statement: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(limit, statement).await;
    answer.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Storage, "the outbox's database did not answer in time").or_ambiguous(true))
    })
}
