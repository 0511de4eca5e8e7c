//! The promises of an emitter, checked against what is on the topic: events of a key one after another.

use std::collections::HashSet;

use tidings::testing::verify::{self, History};

/// One event of a key, counted from 1 in the order in which its caller emitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Numbered {
    pub(crate) key: String,
    pub(crate) number: u64,
    pub(crate) id: String,
}

/// Where an event was seen.
pub(crate) type Seen = verify::Seen<Numbered>;

/// What the topic says of the promises.
pub(crate) type Verdict = verify::Verdict<Numbered>;

/// Holds what was emitted against what is there.
///
/// `accepted` has the events of each key in the order of their acceptance. `doubtful` are those whose emit was given up, or failed
/// with an ambiguous error: they may be there, or not. `refused` are those that may not, unless another emit of them may have brought
/// them there.
pub(crate) fn check(accepted: &[Numbered], doubtful: &[Numbered], refused: &[Numbered], seen: Vec<Seen>) -> Verdict {
    let mut history = History::new();
    for event in accepted {
        history.began(&event.key, event.clone());
        history.accepted(event);
    }
    for event in doubtful {
        history.began(&event.key, event.clone());
    }
    let may_be_there: HashSet<_> = accepted.iter().chain(doubtful).collect();
    for event in refused.iter().filter(|event| !may_be_there.contains(event)) {
        history.began(&event.key, event.clone());
        history.refused(event);
    }
    history.verify(seen)
}
