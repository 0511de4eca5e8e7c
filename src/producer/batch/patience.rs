//! How long a batch waits for what is in flight.

use std::time::Duration;

use tokio::time::Instant;

use super::{Batch, Chain, Sent};
use crate::error::{Error, ErrorKind};
use crate::producer::direct::LOOK_EVERY;

/// How long a client that was given up may take to report on what it held.
const GIVING_UP: Duration = Duration::from_secs(1);

impl Batch<'_> {
    /// Gives up the client of a chain's events in flight, and with it these: some could arrive without those before them.
    pub(super) fn give_up_client(&mut self, chain: usize) {
        self.shared.clients.replace(self.chains[chain].generation());
        if self.chains[chain].in_flight().len() == 0 {
            return;
        }
        let until = Instant::now() + GIVING_UP;
        self.given_up.entry(chain).or_insert(until);
        self.look_at = self.look_at.min(until);
    }

    /// Looks whether something takes too long.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        let sent = self.chains.iter().flat_map(Chain::in_flight).filter_map(|place| self.events.get(place)?.sent);
        let waits = sent.map(|sent| sent.at).min().is_some_and(|at| now >= at + LOOK_EVERY);
        let refusal = if waits { self.client.transport.refusal() } else { None };
        for chain in 0..self.chains.len() {
            self.look_at_chain(chain, refusal.as_ref(), now);
        }
    }

    fn look_at_chain(&mut self, chain: usize, refusal: Option<&Error>, now: Instant) {
        if let Some(until) = self.given_up.get(&chain) {
            if now >= *until {
                // Nobody knows what the client still does with them, so they must not be stored.
                self.unsure.insert(chain);
                self.give_up(chain, late);
            } else {
                self.look_at = self.look_at.min(*until);
            }
            return;
        }
        let sent: Vec<_> = self.chains[chain]
            .in_flight()
            .filter_map(|place| self.events.get(place).and_then(|event| event.sent))
            .collect();
        for sent in sent.iter().filter(|sent| sent.until > now) {
            self.look_at = self.look_at.min(sent.until);
        }
        let overdue = sent.iter().find(|sent| now >= sent.until);
        let is_refused = |sent: &Sent| now >= sent.at + LOOK_EVERY;
        let refusal = refusal.filter(|_| sent.iter().any(is_refused));
        if overdue.is_none() && refusal.is_none() {
            return;
        }
        let outage = overdue.filter(|sent| self.shared.times.is_outage(now - sent.at));
        if let (Some(sent), None) = (outage, refusal) {
            self.shared.breaker.failed(sent.era);
        }
        if sent.len() > 1 && (outage.is_some() || refusal.is_some()) {
            // Given up one by one, the client could deliver the second and not the first.
            self.give_up_client(chain);
        } else if sent.len() > 1 {
            // One had too little time, which is no reason to give up everybody's client. Without that, none must be stored: as long as
            // others have time left, it waits with them.
            if sent.iter().all(|sent| now >= sent.until) {
                self.unsure.insert(chain);
                self.give_up(chain, late);
            }
        } else {
            // The client keeps the record, and may still deliver it.
            self.give_up(chain, || refusal.map_or_else(late, |refusal| refusal.retold().or_ambiguous(true)));
        }
    }

    fn give_up(&mut self, chain: usize, why: impl Fn() -> Error) {
        for place in self.chains[chain].give_up() {
            if let Some(event) = self.events.get_mut(place) {
                event.error = Some(why());
            }
        }
        self.ready.push_back(chain);
    }
}

pub(super) fn late() -> Error {
    let message = "the broker did not confirm the event in time; it may or may not have it";
    Error::new(ErrorKind::Timeout, message).or_ambiguous(true)
}
