//! The events of one key in a batch: what may be submitted, and what becomes of those behind one that fails. Pure: no I/O, no
//! clock.

use std::collections::VecDeque;
use std::sync::Arc;

/// The events of one key, each by its place in the batch.
///
/// They are submitted in order, without waiting for one another. Once one has failed, nothing more is submitted, and what is in
/// flight is waited for. Only when nothing is does it show what did not land; then it may be stored, in order.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Not submitted yet.
    waiting: VecDeque<usize>,
    /// Submitted, and nobody knows what becomes of them.
    in_flight: VecDeque<usize>,
    /// Submitted, and did not land.
    lost: Vec<usize>,
    /// The last one that landed.
    landed: Option<usize>,
    /// Of which client those in flight are.
    generation: u32,
    /// The topics on which that client has delivered something of the key.
    known: Vec<Arc<str>>,
    /// Whether what was taken out is on its way elsewhere: nothing moves until it is back.
    away: bool,
}

/// What did not land of a chain, when nothing is in flight any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// In order.
    pub(super) events: Vec<usize>,
    /// Whether a later one landed all the same. Delivered now, these would come behind it.
    pub(super) overtaken: bool,
}

impl Chain {
    /// Takes in the next event.
    pub(super) fn push(&mut self, event: usize) {
        self.waiting.push_back(event);
    }

    /// The event whose turn it is, unless the chain stands still.
    pub(super) fn next(&self) -> Option<usize> {
        if self.away || !self.lost.is_empty() { None } else { self.waiting.front().copied() }
    }

    /// Whether it may be submitted to the client of this generation, behind those in flight: only if they are of the same
    /// client, and that is `proven` to deliver its records.
    pub(super) fn may_submit(&self, generation: u32, proven: impl FnOnce() -> bool) -> bool {
        self.next().is_some() && (self.in_flight.is_empty() || (self.generation == generation && proven()))
    }

    /// The next event was submitted.
    pub(super) fn submitted(&mut self, generation: u32) {
        if self.generation != generation {
            self.known.clear();
        }
        self.generation = generation;
        self.in_flight.extend(self.waiting.pop_front());
    }

    /// The next event can't be submitted.
    pub(super) fn refused(&mut self) {
        self.lost.extend(self.waiting.pop_front());
    }

    /// An event was reported on. Says whether that matters still: one that was given up may be heard to have landed until it
    /// is on its way elsewhere.
    pub(super) fn reported(&mut self, event: usize, landed: bool) -> bool {
        match self.in_flight.binary_search(&event) {
            Ok(place) => drop(self.in_flight.remove(place)),
            Err(_) => match self.lost.iter().position(|lost| *lost == event) {
                Some(place) if landed => drop(self.lost.remove(place)),
                _ => return false,
            },
        }
        if landed {
            self.landed = self.landed.max(Some(event));
        } else {
            self.lost.push(event);
        }
        true
    }

    /// Whether its client has delivered something of the key on this topic, as far as the chain knows.
    pub(super) fn knows(&self, topic: &str) -> bool {
        self.known.iter().any(|known| **known == *topic)
    }

    /// Its client has delivered something of the key on this topic.
    pub(super) fn learn(&mut self, topic: &Arc<str>) {
        if !self.knows(topic) {
            self.known.push(Arc::clone(topic));
        }
    }

    /// Those in flight, in order.
    pub(super) fn in_flight(&self) -> impl ExactSizeIterator<Item = usize> {
        self.in_flight.iter().copied()
    }

    /// Of which client those in flight are.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether anything of the chain is not submitted, or did not land.
    pub(super) fn has_more(&self) -> bool {
        !self.waiting.is_empty() || !self.lost.is_empty()
    }

    /// Whether some did not land, as far as is known.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Nobody waits any longer for those in flight. Yields them.
    pub(super) fn give_up(&mut self) -> Vec<usize> {
        let given_up: Vec<_> = self.in_flight.drain(..).collect();
        self.lost.extend(&given_up);
        given_up
    }

    /// What did not land, once that is known of all. The chain then stands still until [`back`](Self::back).
    pub(super) fn loss(&mut self) -> Option<Loss> {
        if self.lost.is_empty() || !self.in_flight.is_empty() || self.away {
            return None;
        }
        let mut events = std::mem::take(&mut self.lost);
        events.sort_unstable();
        self.away = true;
        Some(Loss { overtaken: self.landed > events.first().copied(), events })
    }

    /// Takes out the first events of those that wait, as many as `belong`, unless something is in flight. The chain then stands
    /// still until [`back`](Self::back).
    pub(super) fn take_out(&mut self, mut belong: impl FnMut(usize) -> bool) -> Vec<usize> {
        if self.next().is_none() || !self.in_flight.is_empty() {
            return Vec::new();
        }
        let count = self.waiting.iter().take_while(|event| belong(**event)).count();
        self.away = count > 0;
        self.waiting.drain(..count).collect()
    }

    /// What was taken out has found its way, except for these.
    pub(super) fn back(&mut self, returned: &[usize]) {
        self.away = false;
        for event in returned.iter().rev() {
            self.waiting.push_front(*event);
        }
    }

    /// Takes out all that wait.
    pub(super) fn stop(&mut self) -> Vec<usize> {
        self.waiting.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(events: usize) -> Chain {
        let mut chain = Chain::default();
        (0..events).for_each(|event| chain.push(event));
        chain
    }

    fn submit(chain: &mut Chain, count: usize) {
        for _ in 0..count {
            assert!(chain.may_submit(1, || true));
            chain.submitted(1);
        }
    }

    #[test]
    fn until_its_topic_is_proven_one_goes_alone() {
        let mut chain = chain(3);
        assert!(chain.may_submit(1, || false));
        chain.submitted(1);
        assert!(!chain.may_submit(1, || false) && chain.may_submit(1, || true));
        assert!(chain.reported(0, true) && chain.may_submit(1, || false));
    }

    #[test]
    fn what_a_client_has_delivered_says_nothing_of_another_client() {
        let mut chain = chain(3);
        submit(&mut chain, 1);
        chain.learn(&"t".into());
        assert!(chain.knows("t") && !chain.knows("u"));
        submit(&mut chain, 1);
        assert!(chain.knows("t"));
        chain.give_up();
        chain.loss();
        chain.back(&[]);
        chain.submitted(2);
        assert!(!chain.knows("t"));
    }

    #[test]
    fn nothing_goes_to_a_new_client_while_an_older_one_has_some() {
        let mut chain = chain(3);
        submit(&mut chain, 1);
        assert!(!chain.may_submit(2, || true));
        chain.reported(0, true);
        assert!(chain.may_submit(2, || true));
        chain.submitted(2);
        assert_eq!(chain.generation(), 2);
    }

    #[test]
    fn what_did_not_land_shows_when_nothing_is_in_flight() {
        let mut chain = chain(4);
        submit(&mut chain, 3);
        chain.reported(0, true);
        chain.reported(1, false);
        assert_eq!((chain.next(), chain.loss()), (None, None));
        chain.reported(2, false);
        assert_eq!(chain.loss(), Some(Loss { events: vec![1, 2], overtaken: false }));
        assert_eq!(chain.next(), None);
        chain.back(&[]);
        assert_eq!(chain.next(), Some(3));
    }

    #[test]
    fn one_that_landed_behind_a_lost_one_has_overtaken_it_and_one_before_has_not() {
        for (lost, overtaken) in [(1, true), (2, false)] {
            let mut chain = chain(3);
            submit(&mut chain, 3);
            for event in [2, 1, 0] {
                chain.reported(event, event != lost);
            }
            assert_eq!(chain.loss(), Some(Loss { events: vec![lost], overtaken }));
        }
    }

    #[test]
    fn one_that_was_given_up_may_be_heard_to_have_landed_until_it_is_away() {
        let mut chain = chain(3);
        submit(&mut chain, 3);
        assert_eq!(chain.give_up(), [0, 1, 2]);
        assert!(chain.reported(0, true) && !chain.reported(0, true) && !chain.reported(1, false));
        assert!(chain.has_lost());
        assert_eq!(chain.loss(), Some(Loss { events: vec![1, 2], overtaken: false }));
        assert!(!chain.reported(1, true) && !chain.has_lost());
    }

    #[test]
    fn of_those_given_up_one_that_landed_behind_another_has_overtaken_it() {
        let mut chain = chain(2);
        submit(&mut chain, 2);
        chain.give_up();
        assert!(chain.reported(1, true));
        assert_eq!(chain.loss(), Some(Loss { events: vec![0], overtaken: true }));
    }

    #[test]
    fn nothing_is_taken_out_while_something_is_in_flight_or_away() {
        let mut chain = chain(4);
        submit(&mut chain, 1);
        assert!(chain.take_out(|_| true).is_empty());
        chain.reported(0, true);
        assert_eq!(chain.take_out(|event| event < 3), [1, 2]);
        assert!(chain.take_out(|_| true).is_empty() && chain.next().is_none());
        chain.back(&[2]);
        assert_eq!(chain.take_out(|_| true), [2, 3]);
    }

    #[test]
    fn a_chain_of_which_nothing_is_taken_out_goes_on() {
        let mut chain = chain(1);
        assert!(chain.take_out(|_| false).is_empty());
        assert_eq!(chain.next(), Some(0));
    }

    #[test]
    fn a_chain_has_more_as_long_as_something_waits_or_did_not_land() {
        let mut chain = chain(2);
        assert!(chain.has_more());
        submit(&mut chain, 2);
        assert!(!chain.has_more() && chain.generation() == 1);
        chain.reported(0, true);
        assert!(!chain.has_more());
        chain.reported(1, false);
        assert!(chain.has_more());
    }

    /// What happens to a chain.
    #[derive(Debug, Clone)]
    enum Step {
        Submit { proven: bool, generation: u32 },
        Report { which: usize, landed: bool },
        Late { which: usize },
        GiveUp,
        Refuse,
        Settle,
        TakeOut { count: usize },
        Back { returned: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (any::<bool>(), 0_u32..2).prop_map(|(proven, generation)| Step::Submit { proven, generation }),
            6 => (0_usize..8, proptest::bool::weighted(0.8)).prop_map(|(which, landed)| Step::Report { which, landed }),
            1 => (0_usize..8).prop_map(|which| Step::Late { which }),
            1 => Just(Step::GiveUp),
            1 => Just(Step::Refuse),
            2 => Just(Step::Settle),
            1 => (1_usize..4).prop_map(|count| Step::TakeOut { count }),
            2 => (0_usize..3).prop_map(|returned| Step::Back { returned }),
        ]
    }

    proptest! {
        /// Whatever happens: events are submitted in order, each once; nothing is submitted behind a loss, nor while anything is
        /// stored; nothing is stored while anything is in flight; and each event ends in one place.
        #[test]
        fn every_event_is_submitted_stored_or_waiting_and_none_overtakes_another(steps in proptest::collection::vec(step(), 0..80)) {
            const EVENTS: usize = 24;
            let mut chain = chain(EVENTS);
            let (mut in_flight, mut landed, mut elsewhere) = (Vec::<usize>::new(), Vec::new(), Vec::new());
            let (mut lost, mut out) = (Vec::<usize>::new(), Vec::<usize>::new());
            let mut last = None;
            for step in steps {
                match step {
                    Step::Submit { proven, generation } if chain.may_submit(generation, || proven) => {
                        let event = chain.next().unwrap();
                        prop_assert!(lost.is_empty() && out.is_empty(), "{event} behind {lost:?} or {out:?}");
                        prop_assert!(in_flight.is_empty() || proven);
                        prop_assert!(last.max(in_flight.last().copied()) < Some(event));
                        chain.submitted(generation);
                        in_flight.push(event);
                        last = Some(event);
                    }
                    Step::Report { which, landed: has_landed } if !in_flight.is_empty() => {
                        let event = in_flight.remove(which % in_flight.len());
                        prop_assert!(chain.reported(event, has_landed));
                        if has_landed { landed.push(event) } else { lost.push(event) }
                    }
                    Step::Late { which } if !lost.is_empty() => {
                        let event = lost.remove(which % lost.len());
                        prop_assert!(chain.reported(event, true));
                        landed.push(event);
                    }
                    Step::GiveUp => {
                        prop_assert_eq!(&chain.give_up(), &in_flight);
                        lost.append(&mut in_flight);
                    }
                    Step::Refuse => if let Some(event) = chain.next() {
                        chain.refused();
                        lost.push(event);
                    },
                    Step::Settle => {
                        let loss = chain.loss();
                        prop_assert_eq!(loss.is_some(), !lost.is_empty() && in_flight.is_empty() && out.is_empty());
                        if let Some(loss) = loss {
                            lost.sort_unstable();
                            prop_assert_eq!(&loss.events, &lost);
                            prop_assert_eq!(loss.overtaken, landed.iter().any(|event| *event > lost[0]));
                            out = std::mem::take(&mut lost);
                        }
                    }
                    Step::TakeOut { count } => {
                        let mut left = count;
                        let taken = chain.take_out(|_| { left = left.saturating_sub(1); left > 0 });
                        if !taken.is_empty() {
                            prop_assert!(in_flight.is_empty() && lost.is_empty() && out.is_empty());
                            out = taken;
                        }
                    }
                    Step::Back { returned } if !out.is_empty() => {
                        // What was lost is never put back.
                        let returned = if Some(out[0]) > last { returned.min(out.len()) } else { 0 };
                        let back = out.split_off(out.len() - returned);
                        chain.back(&back);
                        last = last.max(out.last().copied());
                        elsewhere.append(&mut out);
                    }
                    _ => {}
                }
            }
            let mut all: Vec<_> = [chain.stop(), in_flight, landed, lost, out, elsewhere].concat();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..EVENTS));
        }
    }
}
