//! What was emitted and what became of it, and whether that is what was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::broker::Arrived;
use super::plan::{Fault, Plan};
use super::situation::Situation;
use crate::outbox::Command;

/// How an event was emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Fallback,
    Never,
    Always,
    /// Stored, and sent from memory.
    Journaled,
    Transaction,
}

/// What its producer has said of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing yet, or never: the emit was dropped, or its process has crashed.
    Unknown,
    Accepted,
    /// An error that leaves open whether it is there.
    Ambiguous,
    /// An error that says that it is not there.
    Failed,
}

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) key: usize,
    pub(super) definition: usize,
    /// Place and number of its process.
    pub(super) producer: (usize, u64),
    /// When that producer was built.
    pub(super) built: u64,
    pub(super) way: Way,
    /// Its batch, and its place in it.
    pub(super) batch: Option<(u64, usize)>,
    pub(super) began: u64,
    pub(super) accepted: Option<u64>,
    /// The times of both.
    pub(super) began_at: Duration,
    pub(super) accepted_at: Option<Duration>,
    pub(super) fate: Fate,
    /// Whether its transaction has committed, if it is in one.
    pub(super) committed: bool,
    /// The database has lost it, and its transaction or insert with it.
    pub(super) lost: bool,
    /// How often it may arrive a further time, and why.
    pub(super) licences: Vec<&'static str>,
    /// What became of its last direct record.
    pub(super) direct: Direct,
    /// How many direct records of it are not reported on.
    pub(super) under_way: u32,
    /// Since when its emit has had one, if it has.
    pub(super) direct_since: Option<Duration>,
    /// What became of it each time that a relay has sent it; and how often, by then, the relay of its lane could not know what was
    /// delivered, unless the lane was another's.
    pub(super) relayed: Vec<(Option<u64>, Relayed)>,
    /// How many rows of it are in the outbox.
    pub(super) rows: u32,
    /// What an operator wanted done about it.
    pub(super) commands: Vec<Command>,
    /// How often a relay's record was refused.
    pub(super) refused: u32,
    /// Whether its direct record was refused.
    pub(super) turned_down: bool,
    /// Whether a record of a relay may have been on its way when it was delivered or left out: a relay that has lost the lane, and sleeps,
    /// can't be kept from sending what it has submitted.
    pub(super) settled_under_way: bool,
    pub(super) storing: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direct {
    /// It is not there, as far as is known.
    None,
    Acknowledged,
    /// It may be there.
    Ambiguous,
}

/// What became of a record of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relayed {
    UnderWay,
    Acknowledged,
    /// It may be there.
    Ambiguous,
    Failed,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) events: Vec<Event>,
    pub(super) batches: u64,
    /// An event whose record failed, and one of its key that was in flight behind it.
    pub(super) overtaken: BTreeSet<(u64, u64)>,
}

impl Ledger {
    pub(super) fn event(&mut self, event: u64) -> &mut Event {
        &mut self.events[usize::try_from(event).unwrap()]
    }

    pub(super) fn license(&mut self, event: u64, why: &'static str) {
        self.event(event).licences.push(why);
    }

    /// The event is to be stored: a direct record of it may be there too.
    pub(super) fn store(&mut self, number: u64) {
        let event = self.event(number);
        event.storing = true;
        if event.under_way > 0 || event.direct == Direct::Ambiguous {
            event.licences.push("stored while its direct record is under way");
        }
    }
}

impl Event {
    /// It may be there now, though it was not before.
    pub(super) fn emitted_again(&mut self) {
        if self.fate == Fate::Failed {
            self.fate = Fate::Unknown;
        }
        self.direct_since = None;
    }

    /// It is delivered or left out.
    pub(super) fn settled(&mut self) {
        self.settled_under_way |=
            self.relayed.iter().any(|(_, what)| matches!(what, Relayed::UnderWay | Relayed::Ambiguous));
    }

    /// Whether it has to be there. Of a transaction, whether it has committed is what counts.
    fn must_arrive(&self) -> bool {
        let is_there = match self.way {
            Way::Transaction => self.committed,
            _ => self.fate == Fate::Accepted,
        };
        is_there && !self.lost
    }

    /// Whether an operator or its policy may have left it out, or dead-lettered it.
    fn may_be_left_out(&self) -> bool {
        let by_operator = self.commands.iter().any(|command| *command != Command::Resume);
        by_operator || (self.definition != 0 && self.refused >= ATTEMPTS)
    }

    /// Whether it may have been left out, and come again: the database does not know that any more, it was one of two rows, or a
    /// record of it was on its way.
    fn may_come_again(&self, plan: &Plan) -> bool {
        let can_be_undone = plan.faults.iter().any(|window| window.fault == Fault::SetBack);
        (can_be_undone || self.rows > 1 || self.settled_under_way) && self.may_be_left_out()
    }

    fn may_arrive(&self) -> bool {
        match self.way {
            Way::Transaction => self.committed,
            _ => self.fate != Fate::Failed,
        }
    }
}

/// What is wrong, and what was seen besides.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) violations: Vec<String>,
    pub(super) situations: BTreeSet<Situation>,
    /// Accepted and not there yet.
    pub(super) missing: Vec<u64>,
}

/// Of definitions: a poisonous event waits for an operator, is dead-lettered, or left out.
pub(super) const DEFINITIONS: [&str; 3] = ["waits", "buried", "skipped"];
const BURIED: usize = 1;
const SKIPPED: usize = 2;

/// So often a relay tries a record that is refused before it gives it up.
const ATTEMPTS: u32 = 3;

/// How long an event of another process may be overlooked: lanes are looked up ten times a second, or a little later.
const OVERLOOKED_FOR: Duration = Duration::from_millis(120);

/// How long an event may take that nothing keeps, whatever becomes of others.
const ARRIVES_WITHIN: Duration = Duration::from_secs(4);

/// How long a fault may be felt: a relay that is gone is missed after ten seconds, and a key that was stuck waits for thirty.
const FELT_FOR: Duration = Duration::from_secs(40);

pub(super) fn judge(Ledger { events, overtaken, .. }: &Ledger, log: &[Arrived], plan: &Plan) -> Verdict {
    let mut verdict = Verdict::default();
    let mut first: BTreeMap<u64, usize> = BTreeMap::new();
    let mut copies: BTreeMap<u64, usize> = BTreeMap::new();
    let mut buried = BTreeSet::new();
    for (position, arrived) in log.iter().enumerate() {
        let Some(event) = arrived.event.filter(|event| *event < events.len() as u64) else {
            verdict.violations.push(format!("a record arrived that nobody emitted: {arrived:?}"));
            continue;
        };
        if arrived.is_dead_letter {
            buried.insert(event);
            continue;
        }
        first.entry(event).or_insert(position);
        *copies.entry(event).or_default() += 1;
    }
    for (number, event) in (0u64..).zip(events) {
        let count = copies.get(&number).copied().unwrap_or(0);
        let given_up = event.refused >= ATTEMPTS;
        let wanted = |command| event.commands.contains(&command);
        let is_dead_letter = buried.contains(&number);
        let may_be_buried = event.definition == BURIED && given_up || wanted(Command::DeadLetter);
        let is_buried = may_be_buried && is_dead_letter;
        let is_skipped = event.definition == SKIPPED && given_up || wanted(Command::Skip);
        if count == 0 && event.must_arrive() && !is_buried && !is_skipped {
            verdict.missing.push(number);
        }
        if count > 0 && !event.may_arrive() {
            let why = if event.way == Way::Transaction {
                "its transaction did not commit"
            } else {
                "its emit has failed unambiguously"
            };
            verdict.violations.push(format!("invented: e{number} is on the topic, and {why}"));
        }
        // One that was turned down may be accepted when it is emitted again.
        if is_dead_letter && !(may_be_buried && event.may_arrive() || event.turned_down) {
            verdict.violations.push(format!("invented: e{number} is a dead letter, and nothing was to make it one"));
        }
        if count > 1 {
            verdict.situations.insert(Situation::Duplicate);
        }
        if count > 1 + event.licences.len() {
            verdict
                .violations
                .push(format!("repeated: e{number} arrived {count} times, allowed by {:?}", event.licences));
        }
    }
    check_order(events, overtaken, &first, plan, &mut verdict);
    check_delays(events, &first, log, plan, &mut verdict);
    check_batches(events, overtaken, &first, plan, &mut verdict);
    verdict
}

/// Of each key and topic: who was accepted before another's emit began is first on the topic.
fn check_order(
    events: &[Event],
    overtaken: &BTreeSet<(u64, u64)>,
    first: &BTreeMap<u64, usize>,
    plan: &Plan,
    verdict: &mut Verdict,
) {
    let mut of_key: BTreeMap<(usize, usize), Vec<(usize, u64)>> = BTreeMap::new();
    for (event, position) in first {
        let Event { definition, key, lost, .. } = events[usize::try_from(*event).unwrap()];
        if !lost {
            of_key.entry((definition, key)).or_default().push((*position, *event));
        }
    }
    for arrived in of_key.values_mut() {
        arrived.sort_unstable();
        let events: Vec<_> =
            arrived.iter().map(|(_, event)| (*event, &events[usize::try_from(*event).unwrap()])).collect();
        for (index, (number, event)) in events.iter().enumerate() {
            for (behind, other) in &events[index + 1..] {
                // `other` came later.
                let Some(accepted) = other.accepted else { continue };
                let is_seen = other.accepted_at.is_some_and(|at| {
                    at + OVERLOOKED_FOR < event.began_at && !plan.disturbs_look_up(at, event.began_at)
                });
                let is_promised = other.producer == event.producer
                    || matches!(event.way, Way::Always | Way::Journaled | Way::Transaction)
                    || accepted < event.built
                    || is_seen;
                if accepted < event.began
                    && is_promised
                    && !other.may_come_again(plan)
                    && !overtaken.contains(&(*behind, *number))
                {
                    verdict.violations.push(format!(
                        "out of order: e{number} is before e{behind} of the same key, which was accepted before it was emitted"
                    ));
                }
            }
        }
    }
}

/// An event that nothing keeps arrives soon, though other keys, of its lane too, are stuck or parked.
fn check_delays(events: &[Event], first: &BTreeMap<u64, usize>, log: &[Arrived], plan: &Plan, verdict: &mut Verdict) {
    let others = plan.faults.iter().any(|window| matches!(window.fault, Fault::Refused(_)));
    for (number, event) in (0u64..).zip(events) {
        let (Some(accepted), Some(position)) = (event.accepted_at, first.get(&number)) else { continue };
        let (arrived, due) = (log[*position].at, accepted + ARRIVES_WITHIN);
        if plan.keeps(event.key, accepted.saturating_sub(FELT_FOR), due.min(arrived)) {
            continue;
        }
        if arrived > due {
            verdict.violations.push(format!(
                "too late: nothing keeps e{number} of k{}, and it has arrived {:?} after it was accepted",
                event.key,
                arrived - accepted
            ));
        } else if others && event.rows > 0 {
            verdict.situations.insert(Situation::UnimpededByRefused);
        }
    }
}

fn check_batches(
    events: &[Event],
    overtaken: &BTreeSet<(u64, u64)>,
    first: &BTreeMap<u64, usize>,
    plan: &Plan,
    verdict: &mut Verdict,
) {
    let mut of_batch: BTreeMap<(u64, usize), Vec<(usize, u64)>> = BTreeMap::new();
    for (number, event) in (0u64..).zip(events) {
        if let Some((batch, place)) = event.batch {
            of_batch.entry((batch, event.key)).or_default().push((place, number));
        }
    }
    for items in of_batch.values_mut() {
        items.sort_unstable();
        let mut failed = Vec::new();
        let mut last: BTreeMap<usize, (u64, usize)> = BTreeMap::new();
        for (_, number) in items {
            let event = &events[usize::try_from(*number).unwrap()];
            let fate = if event.way == Way::Transaction && event.committed { Fate::Accepted } else { event.fate };
            match fate {
                Fate::Accepted if failed.iter().any(|before| !overtaken.contains(&(*before, *number))) => {
                    verdict
                        .violations
                        .push(format!("e{number} was accepted though one before it in its batch has failed"));
                }
                Fate::Accepted => {
                    let Some(position) = first.get(number).copied().filter(|_| !event.lost) else { continue };
                    if let Some((before, _)) = last
                        .get(&event.definition)
                        .filter(|(before, last)| *last > position && !overtaken.contains(&(*before, *number)))
                        .filter(|(before, _)| !events[usize::try_from(*before).unwrap()].may_come_again(plan))
                    {
                        verdict.violations.push(format!("out of order: e{number} is before e{before} of its batch"));
                    }
                    last.insert(event.definition, (*number, position));
                }
                Fate::Ambiguous | Fate::Failed => failed.push(*number),
                Fate::Unknown => {}
            }
        }
    }
}
