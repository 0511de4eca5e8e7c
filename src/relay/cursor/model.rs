//! The cursor against a database in miniature, in which everything happens between any two steps of the relay.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::witnesses::Witnesses;
use super::*;

/// What would be wrong with the database, or with what the relay makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// A transaction draws a number, and gets its id after that.
    NumberBeforeId,
    /// A session draws some numbers at a time, for its later transactions too.
    HoardedNumbers,
    /// The mark is one that was taken before the page showed the gap.
    EarlyMark,
    /// The mark is not allocated, but the upper end of a snapshot: an open transaction may have it.
    UnallocatedMark,
    /// The horizon is of a later time than the rows of the page.
    LateHorizon,
    /// The writers are those of a time before the page showed the gap.
    EarlyWitnesses,
    /// A writer that is prepared goes by another name.
    VirtualNames,
    /// Witnesses that ended while the page was read count as if they had before.
    LateEnd,
    /// A row that is handed over is taken as if a page had shown it alone.
    HandedLikeAPage,
    /// A page is taken whole, though some of what it shows was handed over while it was read.
    WholePage,
}

#[derive(Debug)]
struct Transaction {
    name: u64,
    id: Option<u64>,
    numbers: Vec<i64>,
    is_prepared: bool,
}

#[derive(Debug)]
struct Database {
    flaw: Flaw,
    next_id: u64,
    /// The highest id of a transaction that has ended.
    ended_id: u64,
    next_name: u64,
    next_number: i64,
    hoarded: Vec<i64>,
    open: Vec<Transaction>,
    /// Of each number that was drawn the key of its row. A key is locked until the end of the transaction.
    keys: BTreeMap<i64, usize>,
    committed: BTreeSet<i64>,
    rolled_back: BTreeSet<i64>,
}

impl Database {
    fn allocate(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    fn begin(&mut self, has_id: bool) {
        let id = has_id.then(|| self.allocate());
        self.open.push(Transaction { name: self.next_name, id, numbers: Vec::new(), is_prepared: false });
        self.next_name += 1;
    }

    fn draw(&mut self, pick: usize) {
        if self.open.is_empty() {
            return;
        }
        let index = pick % self.open.len();
        let key = pick / self.open.len() % 3;
        let locks = |tx: &Transaction| tx.numbers.iter().any(|number| self.keys[number] == key);
        let is_locked = self.open.iter().enumerate().any(|(other, tx)| other != index && locks(tx));
        if self.open[index].is_prepared || is_locked {
            return;
        }
        if self.flaw != Flaw::NumberBeforeId && self.open[index].id.is_none() {
            self.open[index].id = Some(self.allocate());
        }
        if self.hoarded.is_empty() {
            let count = if self.flaw == Flaw::HoardedNumbers { 3 } else { 1 };
            self.hoarded = (self.next_number..self.next_number + count).rev().collect();
            self.next_number += count;
        }
        if let Some(number) = self.hoarded.pop() {
            self.open[index].numbers.push(number);
            self.keys.insert(number, key);
        }
    }

    fn end(&mut self, pick: usize, commits: bool) {
        if self.open.is_empty() {
            return;
        }
        let index = pick % self.open.len();
        // It writes its row by now at the latest.
        if self.open[index].id.is_none() && !self.open[index].numbers.is_empty() {
            self.open[index].id = Some(self.allocate());
            return;
        }
        let Transaction { id, numbers, .. } = self.open.remove(index);
        self.ended_id = self.ended_id.max(id.unwrap_or(0));
        if commits { &mut self.committed } else { &mut self.rolled_back }.extend(numbers);
    }

    fn prepare(&mut self, pick: usize) {
        if let Some(index) = (!self.open.is_empty()).then(|| pick % self.open.len()) {
            self.open[index].is_prepared = self.open[index].id.is_some();
        }
    }

    fn horizon(&self) -> u64 {
        self.open.iter().filter_map(|tx| tx.id).fold(self.ended_id + 1, u64::min)
    }

    fn writers(&self) -> Vec<String> {
        let writers = self.open.iter().filter(|tx| tx.id.is_some() && !tx.numbers.is_empty());
        let is_renamed = |tx: &Transaction| tx.is_prepared && self.flaw == Flaw::VirtualNames;
        writers.map(|tx| if is_renamed(tx) { format!("prepared {}", tx.name) } else { tx.name.to_string() }).collect()
    }
}

/// A page on its way.
#[derive(Debug)]
struct Reading {
    holes: Vec<Hole>,
    ended: u64,
    /// What there was in each hole when the snapshot was taken, and the horizon.
    shown: Option<(Vec<Vec<i64>>, u64)>,
}

/// One lane, its database, and its relay.
#[derive(Debug)]
struct Model {
    database: Database,
    cursor: Cursor,
    saved: RangeSet<i64>,
    witnesses: Witnesses,
    reading: Option<Reading>,
    in_flight: Vec<i64>,
    /// Under this lease.
    read: BTreeSet<i64>,
    delivered: BTreeSet<i64>,
    limit: usize,
    early_mark: u64,
    early_writers: Vec<String>,
}

impl Model {
    fn new(flaw: Flaw, limit: usize) -> Self {
        let database = Database {
            flaw,
            next_id: 1,
            ended_id: 0,
            next_name: 1,
            next_number: 1,
            hoarded: Vec::new(),
            open: Vec::new(),
            keys: BTreeMap::new(),
            committed: BTreeSet::new(),
            rolled_back: BTreeSet::new(),
        };
        Self {
            database,
            cursor: Cursor::new(RangeSet::new()),
            saved: RangeSet::new(),
            witnesses: Witnesses::default(),
            reading: None,
            in_flight: Vec::new(),
            read: BTreeSet::new(),
            delivered: BTreeSet::new(),
            limit,
            early_mark: 0,
            early_writers: Vec::new(),
        }
    }

    fn begin_page(&mut self) {
        let ended = self.witnesses.ended();
        self.reading = Some(Reading { holes: self.cursor.holes(0).collect(), ended, shown: None });
    }

    fn take_snapshot(&mut self) {
        let Some(reading) = self.reading.as_mut().filter(|reading| reading.shown.is_none()) else { return };
        let there =
            |hole: &Hole| self.database.committed.range(hole.low..hole.high).copied().take(self.limit).collect();
        reading.shown = Some((reading.holes.iter().map(there).collect(), self.database.horizon()));
        self.early_mark = self.database.ended_id + 1;
        self.early_writers = self.database.writers();
    }

    fn look(&mut self) -> Result<(), String> {
        let Some(Reading { holes, ended, shown: Some((shown, horizon)) }) =
            self.reading.take_if(|reading| reading.shown.is_some())
        else {
            return Ok(());
        };
        let horizon = if self.database.flaw == Flaw::LateHorizon { self.database.horizon() } else { horizon };
        let ended = if self.database.flaw == Flaw::LateEnd { self.witnesses.ended() } else { ended };
        for (hole, numbers) in holes.into_iter().zip(shown) {
            let cut = numbers.len() == self.limit;
            let new = self.cursor.look(&Look { hole, numbers: &numbers, cut, horizon, ended });
            let Some(mut new) = new else { continue };
            if self.database.flaw == Flaw::WholePage {
                new = hole.low;
            }
            for number in numbers.into_iter().filter(|number| *number >= new) {
                self.take_in(number)?;
            }
            if cut {
                break;
            }
        }
        self.find_lost()
    }

    /// A row is read or handed over: for the first time, and behind all of its key that were committed before it.
    fn take_in(&mut self, number: i64) -> Result<(), String> {
        let Database { committed, keys, flaw, .. } = &self.database;
        let of_key = committed.range(..number).filter(|other| keys[other] == keys[&number]);
        let is_known = |other: &i64| self.read.contains(other) || self.cursor.settled.contains(other);
        // Numbers that a session has kept for later are in no order.
        if *flaw != Flaw::HoardedNumbers && !of_key.clone().all(is_known) {
            return Err(format!("{number} overtook one of its key"));
        }
        if !self.read.insert(number) {
            return Err(format!("{number} was read twice"));
        }
        self.in_flight.push(number);
        Ok(())
    }

    /// Somebody hands over what was committed some time ago, perhaps not for the first time.
    fn hand(&mut self, pick: usize) -> Result<(), String> {
        let Some(number) = self.database.committed.iter().nth(pick % self.database.committed.len().max(1)).copied()
        else {
            return Ok(());
        };
        let is_taken = if self.database.flaw == Flaw::HandedLikeAPage && !self.cursor.knows(number) {
            self.cursor.read_to <= number && {
                self.cursor.expect(number - 1);
                self.cursor.read_to += 1;
                true
            }
        } else {
            self.cursor.take(number)
        };
        if is_taken { self.take_in(number) } else { Ok(()) }
    }

    /// What counts as settled was delivered, or never will be there.
    fn find_lost(&self) -> Result<(), String> {
        for number in self.cursor.settled.iter().flat_map(Clone::clone) {
            if !self.delivered.contains(&number) && !self.database.rolled_back.contains(&number) {
                return Err(format!("{number} was taken for dead"));
            }
        }
        Ok(())
    }

    fn save(&mut self) {
        self.saved.extend(self.cursor.take_unsaved());
        let mark = match self.database.flaw {
            Flaw::EarlyMark => self.early_mark,
            Flaw::UnallocatedMark => self.database.ended_id + 1,
            _ => {
                let mark = self.database.allocate();
                self.database.ended_id = mark;
                mark
            }
        };
        self.cursor.mark(mark);
    }

    fn name_witnesses(&mut self) {
        let early = (self.database.flaw == Flaw::EarlyWitnesses).then(|| self.early_writers.clone());
        if let Some(named) = self.witnesses.take(early.unwrap_or_else(|| self.database.writers())) {
            self.cursor.name_witnesses(named);
        }
    }

    fn deliver(&mut self, pick: usize) {
        if !self.in_flight.is_empty() {
            let number = self.in_flight.swap_remove(pick % self.in_flight.len());
            self.delivered.insert(number);
            self.cursor.settle(number..number + 1);
        }
    }

    /// The lane is leased anew.
    fn lose_lease(&mut self) {
        self.cursor = Cursor::new(self.saved.clone());
        self.reading = None;
        self.in_flight.clear();
        self.read.clear();
    }

    fn step(&mut self, step: u8, pick: usize) -> Result<(), String> {
        match step {
            0..6 => self.database.begin(step < 3),
            6..15 => self.database.draw(pick),
            15..18 => self.database.end(pick, true),
            18..21 => self.database.end(pick, false),
            21..24 => self.database.prepare(pick),
            24..30 => self.begin_page(),
            30..36 => self.take_snapshot(),
            36..42 => return self.look(),
            42..45 => self.save(),
            45..51 => self.name_witnesses(),
            51..57 => self.deliver(pick),
            57 => self.cursor.expect(self.database.next_number - 1),
            58..66 => return self.hand(pick),
            _ => self.lose_lease(),
        }
        Ok(())
    }

    /// Once nobody writes any more, everything is delivered or proven dead: with marks if no transaction is open at all, by the
    /// witnesses though there is one that never drew a number.
    fn come_to_rest(mut self, by_marks: bool) -> Result<(), String> {
        self.database.open.retain(|tx| !by_marks || !tx.numbers.is_empty());
        if !by_marks {
            self.database.begin(true);
        }
        while let Some(at) = self.database.open.iter().position(|tx| !tx.numbers.is_empty()) {
            self.database.open.swap(0, at);
            self.database.end(0, at % 2 == 0);
        }
        self.cursor.expect(self.database.next_number - 1);
        for _ in 0..200 {
            if by_marks {
                self.save();
            } else {
                self.name_witnesses();
            }
            self.begin_page();
            self.take_snapshot();
            self.look()?;
            while !self.in_flight.is_empty() {
                self.deliver(0);
            }
        }
        if self.delivered != self.database.committed {
            return Err("not all that was committed was delivered".to_owned());
        }
        if self.cursor.has_gaps() || self.cursor.floor() != self.database.next_number {
            return Err(format!("{:?} is not at rest", self.cursor));
        }
        Ok(())
    }
}

type Case = (Vec<(u8, usize)>, usize, bool);

fn cases() -> impl Strategy<Value = Case> {
    (proptest::collection::vec((0u8..67, any::<usize>()), 1..300), 1usize..4, any::<bool>())
}

fn run((steps, limit, by_marks): Case, flaw: Flaw) -> Result<(), String> {
    let mut model = Model::new(flaw, limit);
    for (step, pick) in steps {
        model.step(step, pick)?;
    }
    model.come_to_rest(by_marks)
}

proptest! {
    #[test]
    fn nothing_that_is_committed_is_taken_for_dead_read_twice_or_overtaken_and_all_that_is_rolled_back_ends(
        case in cases(),
    ) {
        prop_assert_eq!(run(case, Flaw::None), Ok(()));
    }
}

/// Were any of what the proofs rest on not so, the property above would not hold: it is not empty.
#[test]
fn each_premise_of_the_proofs_is_needed() {
    for (flaw, wrong) in [
        (Flaw::NumberBeforeId, "taken for dead"),
        (Flaw::HoardedNumbers, "taken for dead"),
        (Flaw::EarlyMark, "taken for dead"),
        (Flaw::UnallocatedMark, "taken for dead"),
        (Flaw::LateHorizon, "taken for dead"),
        (Flaw::EarlyWitnesses, "taken for dead"),
        (Flaw::VirtualNames, "taken for dead"),
        (Flaw::LateEnd, "taken for dead"),
        (Flaw::HandedLikeAPage, "overtook"),
        (Flaw::WholePage, "read twice"),
    ] {
        let mut runner = TestRunner::deterministic();
        let mut case = || cases().new_tree(&mut runner).unwrap().current();
        let found = (0..5_000).find_map(|_| run(case(), flaw).err().filter(|error| error.contains(wrong)));
        assert!(found.is_some(), "{flaw:?} goes unnoticed");
    }
}
