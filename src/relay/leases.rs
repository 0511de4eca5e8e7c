//! Which lanes the relay has.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::cursor::Cursor;
use super::lane::Lane;
use super::{RETRY_AFTER, Relay, within};
use crate::outbox::{Lease, Leases, Parked, highest};

/// How long a lease holds. A relay that died is taken over after this time.
pub(super) const LEASE_TIME: Duration = Duration::from_secs(10);
/// Leases are extended this often: two attempts may fail before a lease runs out.
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(3);
/// So often a relay asks for lanes as long as it has fewer than its share: another one is about to hand some over.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl Relay {
    /// Extends the leases, and takes the lanes that are free. Lanes that are not ours any more are dropped at once, with
    /// all that is known of them: whoever has them now starts from what was saved.
    pub(super) async fn keep_leases(&mut self) {
        let asked_at = Instant::now();
        if asked_at < self.renew_at {
            return;
        }
        match within(self.outbox.lease(self.id, LEASE_TIME, self.saves)).await {
            Some(Leases { leases, share, life }) => {
                // Counted from before the question, so never longer than the database counts it.
                self.leased_until = asked_at + LEASE_TIME;
                if life != self.life {
                    // What is known of the lanes is of another history, whatever their epochs are.
                    self.lanes.clear();
                }
                self.life = life;
                self.hear(&leases, life).await;
                let pause = if leases.len() < share { ASK_EVERY } else { RENEW_EVERY };
                self.renew_at = asked_at + if self.adopt(leases).await { pause } else { RETRY_AFTER };
            }
            None => {
                self.renew_at = Instant::now() + RETRY_AFTER;
                if Instant::now() >= self.leased_until {
                    self.lanes.clear();
                }
            }
        }
        self.tell();
    }

    /// Takes in which numbers others have drawn. If they were rolled back and nothing is stored behind them, nobody else tells,
    /// and producers would take the lane for spilled for ever.
    async fn hear(&self, leases: &[Lease], life: i64) {
        let spills = &self.fallback.spills;
        let known = spills.all_known();
        let is_new = |lease: &Lease| known.get(usize::from(lease.lane)).is_some_and(|known| known.life != life);
        if leases.iter().any(is_new)
            && let Some(heads) = within(self.outbox.heads()).await
        {
            spills.refresh(&known, &heads);
        }
        for lease in leases {
            spills.hear(lease.lane, lease.last, life);
        }
    }

    /// Takes over the lanes that are leased now. False if some have to be asked for again.
    async fn adopt(&mut self, leases: Vec<Lease>) -> bool {
        let ours: BTreeMap<u16, i64> = leases.iter().map(|lease| (lease.lane, lease.epoch)).collect();
        self.lanes.retain(|lane, state| {
            let kept = ours.get(lane) == Some(&state.epoch);
            if !kept {
                tracing::warn!(lane, epoch = state.epoch, "the lease of the lane was lost");
            }
            kept
        });
        // Of a lane that is new, the parked keys must be known before a row is read; of the others, what is wanted of them.
        let asked: Vec<_> = leases
            .iter()
            .map(|lease| lease.lane)
            .filter(|lane| self.lanes.get(lane).is_none_or(Lane::has_parked))
            .collect();
        let parked = if asked.is_empty() { Some(Vec::new()) } else { within(self.outbox.parked(&asked)).await };
        let Some(parked) = parked else { return false };
        let mut of_lane: BTreeMap<u16, Vec<Parked>> = BTreeMap::new();
        for (lane, parked) in parked {
            of_lane.entry(lane).or_default().push(parked);
        }
        let (mut taken, mut surplus, now) = (0, Vec::new(), Instant::now());
        for lease in leases {
            let parked = of_lane.remove(&lease.lane).unwrap_or_default();
            if let Some(lane) = self.lanes.get_mut(&lease.lane) {
                lane.leaving |= !lease.keep;
                for Parked { key, head, command, .. } in parked {
                    if let Some(command) = command {
                        lane.command(&key, head, command, now);
                    }
                }
            } else if !lease.keep {
                surplus.push(lease.lane);
            } else if is_sound(&lease) {
                taken += 1;
                self.tenures += 1;
                let lane = Lane::new(lease.epoch, self.tenures, Cursor::new(lease.settled), parked, now);
                self.lanes.insert(lease.lane, lane);
            }
        }
        // Handed over, but that could not be written down; or leased in an earlier life of the database. As long as this relay renews
        // its leases, nobody else would end these.
        if !surplus.is_empty() {
            within(self.outbox.release(self.id, &surplus, false)).await;
        }
        self.fallback.spills.relay_here(|lane| self.lanes.contains_key(&lane));
        if taken > 0 {
            tracing::info!(taken, owned = self.lanes.len(), "the relay took over lanes");
            self.poll.hint(now);
        }
        true
    }

    /// Releases the lanes that go to another relay, and have nothing in flight any more.
    pub(super) async fn hand_over(&mut self) {
        let ready = |lane: &Lane| lane.leaving && lane.submitted == 0 && !lane.has_unsaved();
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| ready(lane)).map(|(lane, _)| *lane).collect();
        if lanes.is_empty() {
            return;
        }
        self.lanes.retain(|_, lane| !ready(lane));
        tracing::info!(lanes = lanes.len(), "the relay hands lanes over");
        // If that fails, it is done when they are leased again.
        within(self.outbox.release(self.id, &lanes, false)).await;
    }
}

/// Whether the numbers of a lane go on where they ended. If not, as after a restore of the database without its sequences,
/// new events would be taken for delivered ones.
pub(super) fn is_sound(lease: &Lease) -> bool {
    let highest = highest(&lease.settled);
    if lease.last < highest {
        tracing::error!(
            lane = lease.lane,
            last = lease.last,
            highest,
            "the numbers of the lane have gone back: nothing of it is relayed until its sequence is set to the highest number"
        );
    }
    lease.last >= highest
}
