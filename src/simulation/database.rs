//! The database: what PostgreSQL makes of the outbox's statements (src/outbox/postgres.rs and its migrations), or SQLite
//! (src/outbox/sqlite.rs). No time passes in here: each call is what a statement does at one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rangemap::RangeSet;

use crate::outbox::{
    Appended, Command, Head, HeldRow, Hole, Lanes, Lease, Leases, Limits, Page, Parked, Progress, Row, Settled,
    StoredRow, floor, highest,
};

/// How far ahead of what was given out a sequence is written down (`SEQ_LOG_VALS`): a crash makes it jump there.
const SEQUENCE_AHEAD: i64 = 32;

#[derive(Debug)]
pub(super) struct Database {
    /// Whether it is SQLite: writers take turns, numbers follow the highest row, and one that was rolled back is drawn again.
    pub(super) is_sqlite: bool,
    pub(super) data: Data,
    /// Counts the starts.
    pub(super) life: i64,
    /// Whether the number of lanes is being changed: who has not written yet waits.
    pub(super) is_changing: bool,
    next_transaction: u64,
    open: BTreeMap<u64, Transaction>,
    /// How far its clock is off, in microseconds.
    pub(super) clock_is_off: i64,
}

/// What is on disk.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) layout: Lanes,
    /// Those that are not in use any more, too.
    lanes: Vec<Lane>,
    pub(super) rows: BTreeMap<(u16, i64), Stored>,
    parked: BTreeMap<(u16, Bytes), (Parked, i64)>,
    held: BTreeSet<(u16, Bytes, i64)>,
    /// Until when each relay lives.
    relays: BTreeMap<usize, i64>,
    next_xid: u64,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    /// The highest number that was given out. Of SQLite, that was committed.
    last: i64,
    logged: i64,
    owner: Option<usize>,
    epoch: i64,
    life: i64,
    /// The last write of its relay under this epoch.
    saves: i64,
    leased_until: i64,
    settled: RangeSet<i64>,
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) event: u64,
    definition_key: String,
    row: Row,
}

#[derive(Debug, Default)]
struct Transaction {
    /// Whose it is.
    process: Option<usize>,
    xid: Option<u64>,
    rows: Vec<((u16, i64), Stored)>,
    /// Keys that are locked.
    locks: BTreeSet<usize>,
}

/// A lane that has another owner now.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) lane: u16,
    pub(super) before: Option<usize>,
    pub(super) has_run_out: bool,
}

impl Database {
    pub(super) fn new(lanes: u16, is_sqlite: bool) -> Self {
        Self {
            is_sqlite,
            data: Data {
                layout: Lanes::new(lanes, 0).unwrap(),
                lanes: vec![Lane::default(); usize::from(lanes)],
                rows: BTreeMap::new(),
                parked: BTreeMap::new(),
                held: BTreeSet::new(),
                relays: BTreeMap::new(),
                next_xid: 1,
            },
            life: 1,
            is_changing: false,
            next_transaction: 1,
            open: BTreeMap::new(),
            clock_is_off: 0,
        }
    }

    /// Its clock, in microseconds.
    pub(super) fn clock(&self, elapsed: Duration) -> i64 {
        i64::try_from(elapsed.as_micros()).unwrap() + 1_000_000_000 + self.clock_is_off
    }

    pub(super) fn begin(&mut self, process: Option<usize>) -> u64 {
        let number = self.next_transaction;
        self.next_transaction += 1;
        self.open.insert(number, Transaction { process, ..Transaction::default() });
        number
    }

    pub(super) fn is_open(&self, transaction: u64) -> bool {
        self.open.contains_key(&transaction)
    }

    /// Gives the transaction an id, as its first write does.
    pub(super) fn allocate(&mut self, transaction: u64) {
        let transaction = self.open.get_mut(&transaction).expect("it is open");
        if transaction.xid.is_none() {
            transaction.xid = Some(self.data.next_xid);
            self.data.next_xid += 1;
        }
    }

    /// Locks a key until the transaction ends. False if another one has the lock.
    pub(super) fn lock(&mut self, transaction: u64, key: usize) -> bool {
        let is_locked = self.open.iter().any(|(other, open)| *other != transaction && open.locks.contains(&key));
        if is_locked || (self.is_sqlite && !self.may_write(Some(transaction))) {
            return false;
        }
        self.allocate(transaction);
        self.open.get_mut(&transaction).expect("it is open").locks.insert(key);
        true
    }

    /// Whether a statement that writes goes on now, be it one of this transaction; else it waits.
    pub(super) fn may_write(&self, transaction: Option<u64>) -> bool {
        let others = self.open.iter().filter(|(other, _)| Some(**other) != transaction);
        let has_written =
            transaction.and_then(|transaction| self.open.get(&transaction)).is_some_and(Transaction::writes);
        if self.is_sqlite {
            others.into_iter().all(|(_, other)| other.xid.is_none())
        } else {
            has_written || !self.is_changing
        }
    }

    /// Inserts rows, whose numbers are drawn now: they show when the transaction has committed.
    pub(super) fn insert(&mut self, transaction: u64, rows: &[Row], event: impl Fn(&Row) -> u64) -> Vec<Appended> {
        self.allocate(transaction);
        let life = self.told_life();
        let draw = |row: &Row| {
            let open = self.open.get_mut(&transaction).expect("it is open");
            let lane = &mut self.data.lanes[usize::from(row.lane)];
            let number = if self.is_sqlite {
                let own = open.rows.iter().filter(|((of, _), _)| *of == row.lane).count();
                lane.last + 1 + i64::try_from(own).unwrap()
            } else {
                lane.last += 1;
                if lane.last > lane.logged {
                    lane.logged = lane.last + SEQUENCE_AHEAD;
                }
                lane.last
            };
            let stored = Stored { event: event(row), definition_key: row.definition_key.to_string(), row: row.clone() };
            open.rows.push(((row.lane, number), stored));
            Appended::new(number, life)
        };
        rows.iter().map(draw).collect()
    }

    /// The life that is told: SQLite knows of none.
    fn told_life(&self) -> i64 {
        if self.is_sqlite { 0 } else { self.life }
    }

    /// The rows of a transaction that has not ended.
    pub(super) fn rows_of(&self, transaction: u64) -> Vec<(u16, i64, u64)> {
        let rows = self.open.get(&transaction).map(|open| &open.rows[..]).unwrap_or_default();
        rows.iter().map(|((lane, number), stored)| (*lane, *number, stored.event)).collect()
    }

    pub(super) fn commit(&mut self, transaction: u64) -> bool {
        let Some(open) = self.open.remove(&transaction) else { return false };
        for ((lane, number), _) in &open.rows {
            let lane = &mut self.data.lanes[usize::from(*lane)];
            lane.last = lane.last.max(*number);
        }
        self.data.rows.extend(open.rows);
        true
    }

    pub(super) fn roll_back(&mut self, transaction: u64) {
        self.open.remove(&transaction);
    }

    pub(super) fn open_of(&self, process: usize) -> Vec<u64> {
        let of = self.open.iter().filter(|(_, open)| open.process == Some(process));
        of.map(|(number, _)| *number).collect()
    }

    /// Every transaction with an older id has ended.
    fn horizon(&self) -> u64 {
        self.open.values().filter_map(|open| open.xid).fold(self.data.next_xid, u64::min)
    }

    pub(super) fn writers(&self) -> Vec<String> {
        let writers = self.open.values().filter(|open| open.writes());
        writers.filter_map(|open| open.xid.map(|xid| xid.to_string())).collect()
    }

    /// Begins to change the number of lanes.
    pub(super) fn begin_change(&mut self) {
        self.is_changing = true;
    }

    /// Changes the number of lanes, if everything that was stored is delivered, and nobody has written who has not ended.
    pub(super) fn try_change(&mut self, count: u16) -> bool {
        let unused = self.data.lanes.len()..usize::from(count);
        self.data.lanes.extend(unused.map(|_| Lane::default()));
        let is_delivered = (0u16..).zip(&self.data.lanes).all(|(lane, _)| self.unsettled(lane).is_empty());
        if !is_delivered || !self.data.parked.is_empty() || self.open.values().any(Transaction::writes) {
            return false;
        }
        for lane in self.data.lanes.iter_mut().filter(|lane| lane.last > 0) {
            lane.settled.insert(1..lane.last + 1);
        }
        let changes = u32::try_from(self.data.layout.layout() / 10_000).unwrap() + 1;
        self.data.layout = Lanes::new(count, changes).unwrap();
        self.is_changing = false;
        true
    }

    /// An operator wants this done about a key, if it is parked and its first held event is the one that failed. Yields that
    /// event.
    pub(super) fn command(&mut self, lane: u16, key: &Bytes, command: Command) -> Option<u64> {
        let first =
            self.data.held.iter().find(|(of, held, _)| *of == lane && held == key).map(|(_, _, number)| *number)?;
        let (parked, _) = self.data.parked.get_mut(&(lane, key.clone())).filter(|(parked, _)| parked.head == first)?;
        parked.command = Some(command);
        Some(self.data.rows.get(&(lane, first))?.event)
    }

    pub(super) fn parked_keys(&self) -> Vec<(u16, Bytes)> {
        self.data.parked.keys().cloned().collect()
    }

    pub(super) fn heads(&self) -> Vec<Head> {
        let head = |(index, lane): (u16, &Lane)| {
            let held = self.data.held.iter().filter(|(of, ..)| *of == index).map(|(_, _, number)| *number).min();
            let floor = floor(&lane.settled);
            let highest_settled = highest(&lane.settled);
            Head {
                last: lane.last,
                floor: held.map_or(floor, |held| held.min(floor)),
                highest_settled,
                life: self.told_life(),
                lanes: self.data.layout,
            }
        };
        (0..).zip(&self.data.lanes).map(head).collect()
    }

    pub(super) fn lease(&mut self, relay: usize, ttl: Duration, saves: i64, now: i64) -> (Leases, Vec<Granted>) {
        let until = now + i64::try_from(ttl.as_micros()).unwrap();
        self.data.relays.insert(relay, until);
        let others: Vec<_> = self.data.relays.iter().filter(|(id, seen)| **id != relay && **seen > now).collect();
        let rank = others.iter().filter(|(id, _)| **id < relay).count();
        let (used, relays) = (usize::from(self.data.layout.count()), others.len() + 1);
        let share = used / relays + usize::from(rank < used % relays);
        let all = 0..self.data.lanes.len();
        let mine: Vec<_> = all.filter(|lane| self.data.lanes[*lane].owner == Some(relay)).collect();
        let is_free = |lane: &Lane| lane.owner.is_none_or(|owner| owner != relay && lane.leased_until < now);
        let free: Vec<_> =
            (0..used).filter(|lane| is_free(&self.data.lanes[*lane])).take(share.saturating_sub(mine.len())).collect();
        let life = self.told_life();
        let (mut leases, mut granted) = (Leases { share, life, leases: Vec::new() }, Vec::new());
        for index in mine.iter().chain(&free).copied() {
            let lane = &mut self.data.lanes[index];
            lane.saves = lane.saves.max(saves);
            if lane.owner != Some(relay) || lane.life != life {
                lane.saves = 0;
                lane.epoch = if self.is_sqlite { lane.epoch + 1 } else { now.max(lane.epoch + 1) };
                granted.push(Granted {
                    lane: u16::try_from(index).unwrap(),
                    before: lane.owner,
                    has_run_out: lane.owner.is_some_and(|owner| owner != relay),
                });
            }
            (lane.owner, lane.life, lane.leased_until) = (Some(relay), life, until);
            let is_mine = mine.iter().position(|mine| *mine == index);
            let keep = index < used && is_mine.is_none_or(|position| position < share);
            leases.leases.push(Lease {
                lane: u16::try_from(index).unwrap(),
                epoch: lane.epoch,
                settled: lane.settled.clone(),
                last: lane.last,
                keep,
            });
        }
        (leases, granted)
    }

    pub(super) fn release(&mut self, relay: usize, lanes: &[u16], leaves: bool) {
        if leaves {
            self.data.relays.remove(&relay);
        }
        for (index, lane) in (0u16..).zip(&mut self.data.lanes) {
            if lane.owner == Some(relay) && (leaves || lanes.contains(&index)) {
                lane.owner = None;
            }
        }
    }

    pub(super) fn owners(&self) -> Vec<(u16, Option<usize>, i64)> {
        (0u16..).zip(&self.data.lanes).map(|(index, lane)| (index, lane.owner, lane.epoch)).collect()
    }

    pub(super) fn parked(&self, lanes: &[u16], now: i64) -> Vec<(u16, Parked)> {
        let of = self.data.parked.iter().filter(|((lane, _), _)| lanes.contains(lane));
        let parked = |((lane, _), (parked, at)): (&(u16, Bytes), &(Parked, i64))| {
            let retry_in = Duration::from_micros(u64::try_from(at - now).unwrap_or(0));
            (*lane, Parked { retry_in, ..parked.clone() })
        };
        of.map(parked).collect()
    }

    pub(super) fn held(&self, lane: u16, key: &Bytes, limits: Limits, row_bytes: usize) -> Vec<HeldRow> {
        let numbers = self.data.held.iter().filter(|(of, held, _)| *of == lane && held == key);
        let row = |(lane, _, number): &(u16, Bytes, i64)| {
            let stored = self.data.rows.get(&(*lane, *number))?;
            let row = stored_row(*lane, *number, stored, row_bytes);
            Some(HeldRow { row, definition_key: stored.definition_key.clone() })
        };
        let rows = limits.rows.min(limits.bytes.div_ceil(u32::try_from(row_bytes.max(1)).unwrap()));
        numbers.filter_map(row).take(usize::try_from(rows).unwrap()).collect()
    }

    pub(super) fn page(&self, holes: &[Hole], limits: Limits, row_bytes: usize) -> Page {
        let mut rows = Vec::new();
        for hole in holes {
            let mut bytes = 0;
            let there = self.data.rows.range((hole.lane, hole.low)..(hole.lane, hole.high));
            for ((lane, number), stored) in there.take(usize::try_from(limits.rows).unwrap()) {
                if bytes >= usize::try_from(limits.bytes).unwrap() {
                    break;
                }
                if rows.len() >= usize::try_from(limits.in_all).unwrap() {
                    break;
                }
                bytes += row_bytes;
                rows.push(stored_row(*lane, *number, stored, row_bytes));
            }
        }
        Page { rows, horizon: if self.is_sqlite { 0 } else { self.horizon() }, life: self.told_life() }
    }

    pub(super) fn settle(&mut self, progress: &[Progress], now: i64) -> Settled {
        // A transaction of its own, which has ended by the time that anybody hears of the mark.
        let mark = if self.is_sqlite { u64::MAX } else { self.data.next_xid };
        self.data.next_xid += 1;
        let (mut lanes, life) = (Vec::new(), self.told_life());
        for Progress { lane: index, epoch, life: of, save, settled, held, unheld, parked, freed, obeyed } in progress {
            // One that was set back may not have the lane any more.
            let lane = self.data.lanes.get_mut(usize::from(*index));
            let Some(lane) = lane.filter(|lane| lane.epoch == *epoch && lane.life == *of && *of == life) else {
                continue;
            };
            if !self.is_sqlite && lane.saves >= *save {
                continue;
            }
            lane.saves = *save;
            lanes.push(*index);
            lane.settled.extend(settled.iter().cloned());
            for (key, number) in unheld {
                self.data.held.remove(&(*index, key.clone(), *number));
            }
            self.data.held.extend(held.iter().map(|(key, number)| (*index, key.clone(), *number)));
            for (key, command) in obeyed {
                if let Some((parked, _)) = self.data.parked.get_mut(&(*index, key.clone())) {
                    parked.command.take_if(|given| given == command);
                }
            }
            for key in freed {
                self.data.parked.remove(&(*index, key.clone()));
            }
            for parked in parked {
                let at = now + i64::try_from(parked.retry_in.as_micros()).unwrap();
                let place = (*index, parked.key.clone());
                let before = self.data.parked.get(&place).filter(|(before, _)| before.head == parked.head);
                let command = before.and_then(|(before, _)| before.command);
                self.data.parked.insert(place, (Parked { command, ..parked.clone() }, at));
            }
        }
        Settled { lanes, mark }
    }

    /// The head of a parked key.
    pub(super) fn head_of(&self, lane: u16, key: &Bytes) -> Option<i64> {
        self.data.parked.get(&(lane, key.clone())).map(|(parked, _)| parked.head)
    }

    pub(super) fn has_parked(&self, relay: usize) -> bool {
        self.data.parked.keys().any(|(lane, _)| self.data.lanes[usize::from(*lane)].owner == Some(relay))
    }

    /// The event of this row, if it is there.
    pub(super) fn event(&self, lane: u16, number: i64) -> Option<u64> {
        self.data.rows.get(&(lane, number)).map(|stored| stored.event)
    }

    /// The events of a lane that are not settled, or held.
    pub(super) fn unsettled(&self, lane: u16) -> Vec<u64> {
        let settled = &self.data.lanes[usize::from(lane)].settled;
        let rows = self.data.rows.range((lane, 0)..=(lane, i64::MAX));
        let is_open = |(_, number): &(u16, i64), stored: &Stored| {
            let key = &stored.row.record.key;
            !settled.contains(number) || self.data.held.contains(&(lane, key.clone(), *number))
        };
        rows.filter(|(at, stored)| is_open(at, stored)).map(|(_, stored)| stored.event).collect()
    }

    pub(super) fn is_settled(&self, lane: u16, number: i64) -> bool {
        self.data.lanes[usize::from(lane)].settled.contains(&number)
    }

    pub(super) fn last(&self, lane: u16) -> i64 {
        self.data.lanes[usize::from(lane)].last
    }

    /// Whether everything that was stored is settled, and nobody writes. In lanes that are not in use any more nothing is left but
    /// numbers that a crash has jumped over.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_settled = |lane: &Lane| floor(&lane.settled) > lane.last;
        self.open.values().all(|open| !open.writes())
            && self.data.held.is_empty()
            && self.data.lanes.iter().take(usize::from(self.data.layout.count())).all(is_settled)
    }

    /// The database is started again, as `data` if that is given. Yields how many of its sequences have jumped.
    pub(super) fn restart(&mut self, data: Option<Data>) -> usize {
        self.open.clear();
        self.is_changing = false;
        if let Some(data) = data {
            self.data = data;
        }
        self.life += 1;
        // SQLite has nothing that it has not written down.
        let jumped = self.data.lanes.iter().filter(|lane| lane.logged > lane.last).count();
        for lane in &mut self.data.lanes {
            lane.last = lane.last.max(lane.logged);
        }
        jumped
    }
}

impl Transaction {
    /// Whether it has drawn numbers.
    fn writes(&self) -> bool {
        !self.rows.is_empty()
    }
}

fn stored_row(lane: u16, sequence: i64, stored: &Stored, bytes: usize) -> StoredRow {
    let record = stored.row.record.clone();
    StoredRow { lane, sequence, key: record.key.clone(), record: Ok(record), bytes }
}
