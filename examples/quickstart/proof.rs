//! Compares what was accepted with what is on the topic.

use std::collections::HashSet;

use crate::ledger::{Ledger, Path};
use crate::topic::Record;

/// Prints whether each promise was kept, and says whether all were. `written` is how many rows the table of orders has.
pub(crate) fn check(ledger: &Ledger, records: &[Record], written: usize) -> bool {
    // Of an event that is there more than once, the first one counts: a reader that knows its id skips the others.
    let mut seen = HashSet::new();
    let first: Vec<_> = records.iter().filter(|record| seen.insert(&*record.id)).collect();

    let there = ledger.accepted.iter().filter(|event| seen.contains(&*event.id)).count();
    let lost = ledger.accepted.len() - there;
    let rolled_back = ledger.rolled_back.iter().filter(|id| seen.contains(&***id)).count();
    let unknown = first.len() - there - rolled_back;
    let committed = ledger.accepted.iter().filter(|event| event.path == Path::Transaction).count();
    let customers: HashSet<_> = ledger.accepted.iter().map(|event| &*event.customer).collect();
    let disordered: Vec<_> = customers.iter().filter(|customer| !in_order(ledger, &first, customer)).collect();
    let but = if disordered.is_empty() { String::new() } else { format!(", but not those of {disordered:?}") };

    let total = ledger.accepted.len();
    let kept = [
        tell(lost == 0, &format!("nothing lost: {there} of {total} accepted events are on the topic")),
        tell(
            rolled_back == 0 && unknown == 0,
            &format!(
                "nothing invented: {rolled_back} of {} rolled-back events are, and {unknown} unknown ones",
                ledger.rolled_back.len()
            ),
        ),
        tell(
            written == committed,
            &format!("events and database agree: {committed} events of transactions, {written} rows in `orders`"),
        ),
        tell(disordered.is_empty(), &format!("in order: all events of {} customers{but}", customers.len())),
    ];
    let timed_out: HashSet<_> =
        ledger.accepted.iter().filter(|event| event.path == Path::PublishFailed).map(|event| &*event.id).collect();
    let mut seen = HashSet::new();
    let copies: Vec<_> = records.iter().filter(|record| !seen.insert(&*record.id)).collect();
    let explained = copies.iter().filter(|copy| timed_out.contains(&*copy.id)).count();
    println!("         second copies: {}, {explained} of them of events that had waited for the broker", copies.len());
    kept.iter().all(|kept| *kept)
}

/// Whether the events of a customer are on the topic in the order in which they were accepted, by their ids and by their
/// running numbers, and on one partition.
fn in_order(ledger: &Ledger, first: &[&Record], customer: &str) -> bool {
    let accepted = ledger.accepted.iter().filter(|event| event.customer == customer).map(|event| &event.id);
    let on_topic: Vec<_> = first.iter().filter(|record| record.key == customer).collect();
    let partitions: HashSet<_> = on_topic.iter().map(|record| record.partition).collect();
    on_topic.iter().map(|record| &record.id).eq(accepted)
        && on_topic.is_sorted_by(|one, next| one.number < next.number)
        && partitions.len() == 1
}

fn tell(kept: bool, what: &str) -> bool {
    println!("  {} {what}", if kept { "[ok]  " } else { "[FAIL]" });
    kept
}
