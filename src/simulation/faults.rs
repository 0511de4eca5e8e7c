//! Has the plan's faults happen that are more than a state of affairs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::database::{Data, Database};
use super::plan::{Fault, Window};
use super::process::Process;
use super::situation::Situation;
use super::world::World;
use crate::ForcedBreaker;
use crate::outbox::Command;

pub(super) fn schedule(world: &Arc<World>) {
    for window in world.plan.faults.clone() {
        world.spawn(happen(Arc::clone(world), window));
    }
}

async fn happen(world: Arc<World>, Window { at, lasts, fault }: Window) {
    sleep_until(world.at(at)).await;
    world.tell(|| format!("{fault:?}, for {lasts:?}"));
    let on = |place: usize, act: &dyn Fn(&Process)| {
        let process = world.processes()[place].clone();
        process.iter().for_each(|process| act(process));
    };
    let mut copy = None;
    let mut pin = None;
    let until = world.at(at + lasts);
    match fault {
        Fault::Operator => return operate(&world, until).await,
        Fault::ChangeLanes(count) => return change_lanes(&world, count, until).await,
        Fault::ClientsFail(place) => on(place, &|process| process.fail_clients()),
        Fault::Crash(place) => on(place, &|process| process.crash()),
        Fault::CrashAtStep(place, steps) => {
            on(place, &|process| process.crash_in(steps));
        }
        Fault::Stop(place) => on(place, &|process| process.stop()),
        Fault::Freeze(place) => {
            world.sleeps(place);
            on(place, &|process| process.freeze());
        }
        Fault::ForcedOpen(place) => {
            on(place, &|process| process.force_breaker(Some(ForcedBreaker::Open)));
        }
        Fault::Restart => restart(&world, &mut world.database(), None),
        Fault::SetBack => copy = Some(world.database().data.clone()),
        Fault::Clock(millis) => {
            let mut database = world.database();
            database.clock_is_off += millis * 1_000;
            if database.owners().iter().any(|(_, owner, _)| owner.is_some()) {
                world.reach(Situation::ClockJump);
            }
        }
        Fault::Pinned => {
            let mut database = world.database();
            let transaction = database.begin(None);
            database.allocate(transaction);
            pin = Some(transaction);
        }
        _ => {}
    }
    sleep_until(until).await;
    world.tell(|| format!("{fault:?} is over"));
    match fault {
        Fault::CrashAtStep(place, _) => {
            on(place, &|process| process.crash_in(u64::MAX));
        }
        Fault::Freeze(place) => on(place, &|process| process.thaw()),
        Fault::ForcedOpen(place) => {
            on(place, &|process| process.force_breaker(None));
        }
        Fault::SetBack => restart(&world, &mut world.database(), copy),
        Fault::Pinned => pin.into_iter().for_each(|pin| world.database().roll_back(pin)),
        _ => {}
    }
}

/// Decides now and then what becomes of the first event of each parked key.
async fn operate(world: &World, until: Instant) {
    let mut rng = world.rng(6, world.step());
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(100..2_000))).await;
        let parked = world.database().parked_keys();
        for (lane, key) in parked {
            let (command, situation) = match rng.u8(..4) {
                0 => (Command::Skip, Situation::CommandSkip),
                1 => (Command::DeadLetter, Situation::CommandDeadLetter),
                2 => (Command::Resume, Situation::CommandResume),
                _ => continue,
            };
            let Some(event) = world.database().command(lane, &key, command) else { continue };
            world.tell(|| format!("an operator wants {command:?} of e{event}"));
            world.reach(situation);
            world.ledger().event(event).commands.push(command);
        }
    }
}

/// Changes the number of lanes, as `tidings.change_lanes` does; tries again until that succeeds.
async fn change_lanes(world: &World, count: u16, until: Instant) {
    while Instant::now() < until {
        let life = {
            let mut database = world.database();
            database.begin_change();
            database.life
        };
        let give_up = Instant::now() + Duration::from_millis(1_200);
        loop {
            sleep(Duration::from_millis(10)).await;
            let mut database = world.database();
            if database.life != life {
                break;
            }
            if database.try_change(count) {
                world.lanes.store(count, Ordering::SeqCst);
                world.reach(Situation::LanesChanged);
                world.tell(|| format!("there are {count} lanes now"));
                return;
            }
            if Instant::now() >= give_up {
                database.is_changing = false;
                world.reach(Situation::LanesNotChanged);
                break;
            }
        }
        sleep(Duration::from_millis(700)).await;
    }
}

fn restart(world: &World, database: &mut Database, copy: Option<Data>) {
    let before: Vec<_> = database.heads().iter().map(|head| head.last).collect();
    if let Some(copy) = &copy {
        let kept: BTreeSet<_> = copy.rows.values().map(|stored| stored.event).collect();
        let mut ledger = world.ledger();
        let lost: BTreeSet<_> =
            database.data.rows.values().map(|stored| stored.event).filter(|event| !kept.contains(event)).collect();
        for event in &lost {
            ledger.event(*event).lost = true;
        }
        if !lost.is_empty() {
            world.reach(Situation::SetBack);
        }
        world.tell(|| format!("the database is set back; lost are {lost:?}"));
    }
    let is_set_back = copy.is_some();
    let jumped = database.restart(copy);
    world.lanes.store(database.data.layout.count(), Ordering::SeqCst);
    for (lane, ..) in database.owners() {
        world.breaks(lane);
    }
    world.shown.lock().unwrap().clear();
    if jumped > 0 && !is_set_back {
        world.reach(Situation::SequenceJump);
    }
    if database.heads().iter().zip(before).any(|(head, before)| head.last < before) {
        world.reach(Situation::NumbersAgain);
    }
    world.tell(|| format!("the database has started again, in life {}: {:?}", database.life, database.heads()));
}
