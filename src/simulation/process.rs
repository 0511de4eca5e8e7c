//! A process: it may end at any moment, and nothing of it is left then.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::broker::Client;
use super::callers;
use super::ledger::DEFINITIONS;
use super::session::{Session, roll_back};
use super::situation::Situation;
use super::world::{Caught, World};
use crate::policy::PoisonMode;
use crate::producer::client::{Role, Transports};
use crate::{Catalog, Config, DeliveryPolicy, Emitter as _, EventDefinition, ForcedBreaker, Producer};

#[derive(Debug)]
pub(super) struct Process {
    world: Arc<World>,
    pub(super) place: usize,
    /// Counts the processes of the place.
    pub(super) number: u64,
    dead: AtomicBool,
    pub(super) stopping: AtomicBool,
    stop: Notify,
    ended: Notify,
    tasks: Mutex<JoinSet<()>>,
    /// The tasks that wait for it to go on, while it sleeps.
    asleep: Mutex<Option<Vec<Waker>>>,
    /// After so many steps it crashes.
    steps_left: AtomicU64,
    pub(super) clients: Mutex<Vec<(Role, Weak<Client>)>>,
    pub(super) producer: Mutex<Option<Producer>>,
}

impl Process {
    pub(super) fn new(world: &Arc<World>, place: usize, number: u64) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            place,
            number,
            dead: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
            ended: Notify::new(),
            tasks: Mutex::default(),
            asleep: Mutex::default(),
            steps_left: AtomicU64::new(u64::MAX),
            clients: Mutex::default(),
            producer: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> String {
        format!("p{}.{}", self.place, self.number)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Runs a task of the process.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        if !self.is_dead() {
            let task = Awake { process: Arc::clone(self), task: Caught::new(&self.world, task) };
            self.tasks.lock().unwrap().spawn(task);
        }
    }

    /// The process may end here.
    pub(super) async fn step(&self) {
        self.count_step();
        if self.is_dead() {
            std::future::pending().await
        }
    }

    pub(super) fn count_step(&self) {
        if !self.is_dead() && self.steps_left.fetch_sub(1, Ordering::SeqCst) == 0 {
            self.crash();
        }
    }

    pub(super) fn crash_in(&self, steps: u64) {
        self.steps_left.store(steps, Ordering::SeqCst);
    }

    /// The process is gone.
    pub(super) fn crash(&self) {
        if self.is_dead() {
            return;
        }
        self.world.tell(|| format!("{} crashes", self.name()));
        let (place, name) = (self.place, self.name());
        let open = {
            let database = self.world.database();
            if self.world.relays_of(place).into_iter().any(|relay| database.has_parked(relay)) {
                self.world.reach(Situation::ParkedCrash);
            }
            database.open_of(place)
        };
        if !open.is_empty() {
            self.world.reach(Situation::CrashOpenTransaction);
            let (world, pause) = (Arc::clone(&self.world), self.world.rng(3, self.number).u64(0..3_000));
            let pause = Duration::from_millis(pause);
            // The database learns of it when the connections end.
            self.world.spawn_later(pause, move || {
                let mut database = world.database();
                for transaction in open {
                    roll_back(&world, &mut database, &name, transaction);
                }
            });
        }
        self.end();
    }

    pub(super) fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
        for client in self.clients.lock().unwrap().drain(..).filter_map(|(_, client)| client.upgrade()) {
            client.vanish();
        }
        self.tasks.lock().unwrap().abort_all();
        self.thaw();
        self.ended.notify_one();
    }

    /// Asks the process to stop.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(super) fn freeze(&self) {
        self.world.tell(|| format!("{} sleeps", self.name()));
        self.asleep.lock().unwrap().get_or_insert_default();
    }

    pub(super) fn thaw(&self) {
        let woken = self.asleep.lock().unwrap().take();
        if let Some(woken) = woken {
            self.world.tell(|| format!("{} goes on", self.name()));
            woken.into_iter().for_each(Waker::wake);
        }
    }

    fn is_asleep(&self) -> bool {
        self.asleep.lock().unwrap().is_some()
    }

    pub(super) fn in_flight(&self, role: Role, lane: Option<u16>) -> usize {
        let clients = self.clients.lock().unwrap();
        let clients = clients.iter().filter(|(of, _)| *of == role).filter_map(|(_, client)| client.upgrade());
        clients.map(|client| client.in_flight(lane)).sum()
    }

    /// A lane of this process has been leased to another one.
    pub(super) fn lost(&self, lane: u16) {
        if self.in_flight(Role::Relay, Some(lane)) > 0 {
            self.world.reach(Situation::LeaseLostInFlight);
        }
        if self.is_asleep() {
            self.world.reach(Situation::FrozenTooLong);
        }
    }

    pub(super) fn fail_clients(&self) {
        let clients: Vec<_> = self.clients.lock().unwrap().iter().filter_map(|(_, client)| client.upgrade()).collect();
        for client in clients {
            client.fail();
        }
    }

    pub(super) fn force_breaker(&self, forced: Option<ForcedBreaker>) {
        if let Some(producer) = &*self.producer.lock().unwrap() {
            producer.force_breaker(forced);
        }
    }
}

/// A task of a process, which does nothing while the process sleeps.
struct Awake {
    process: Arc<Process>,
    task: Caught,
}

impl Future for Awake {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.process.is_dead() {
            // It is aborted at once; until then it does nothing.
            return Poll::Pending;
        }
        if let Some(waiting) = &mut *self.process.asleep.lock().unwrap() {
            waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.task).poll(context)
    }
}

fn catalog() -> Catalog {
    let modes = [PoisonMode::Block, PoisonMode::DeadLetter, PoisonMode::Skip];
    let definition = |(name, mode): (&str, PoisonMode)| {
        EventDefinition::new(name.to_owned(), name.to_owned(), "happened")
            .with_policy(DeliveryPolicy::default().with_poison(mode))
    };
    Catalog::new(DEFINITIONS.into_iter().zip(modes).map(definition)).unwrap()
}

/// A producer, and what was known when it was built.
async fn build(world: &Arc<World>, process: &Arc<Process>) -> (Producer, u64) {
    let mut config = Config::new("//simulation", ["none:1"]).unwrap();
    config.direct_timeout = world.plan.direct_timeout;
    config.delivery_timeout = world.plan.delivery_timeout;
    loop {
        let began = world.step();
        let (of_world, of_process) = (Arc::clone(world), Arc::clone(process));
        let connect = Arc::new(move |role| Ok(Client::connect(&of_world, &of_process, role) as Arc<_>));
        let built = Producer::builder(config.clone(), catalog())
            .with_transports(Transports::without_threads(connect))
            .with_outbox(Session::new(world, process))
            .build_unwatched()
            .await;
        match built {
            Ok((producer, watch)) => {
                process.spawn(watch.run());
                return (producer, began);
            }
            Err(error) => {
                world.tell(|| format!("{} can't start: {error}", process.name()));
                sleep(Duration::from_millis(300)).await;
            }
        }
    }
}

/// What a process does from its start on.
async fn live(world: Arc<World>, process: Arc<Process>) {
    let (producer, built) = build(&world, &process).await;
    world.tell(|| format!("{} has started", process.name()));
    *process.producer.lock().unwrap() = Some(producer.clone());
    let (stop_relay, stopped) = oneshot::channel::<()>();
    let (relay_ended, relay_end) = oneshot::channel();
    if world.plan.relays[process.place] {
        let (relay, of_world) = (producer.relay(async { drop(stopped.await) }), Arc::clone(&world));
        process.spawn(async move {
            if let Err(error) = relay.await {
                of_world.violate(format!("a relay failed: {error}"));
            }
            let _ = relay_ended.send(());
        });
    } else {
        drop(relay_ended);
    }
    for (index, caller) in world.plan.callers.iter().enumerate().filter(|(_, caller)| caller.process == process.place) {
        let session = Session::new(&world, &process);
        process.spawn(callers::call(
            Arc::clone(&world),
            Arc::clone(&process),
            producer.clone(),
            session,
            built,
            index,
            caller.clone(),
        ));
    }
    process.stop.notified().await;
    process.stopping.store(true, Ordering::SeqCst);
    world.tell(|| format!("{} stops", process.name()));
    if process.in_flight(Role::Relay, None) > 0 {
        world.reach(Situation::StoppedInFlight);
    }
    let _ = producer.close().await;
    drop(stop_relay);
    let _ = timeout(Duration::from_secs(60), relay_end).await;
    world.tell(|| format!("{} has stopped", process.name()));
    process.ended.notify_one();
}

/// A place where one process lives after the other.
pub(super) async fn keep_alive(world: Arc<World>, place: usize) {
    let mut rng = world.rng(4, place as u64);
    for number in 1.. {
        let process = Process::new(&world, place, number);
        world.processes()[place] = Some(Arc::clone(&process));
        process.spawn(live(Arc::clone(&world), Arc::clone(&process)));
        process.ended.notified().await;
        if world.over.load(Ordering::SeqCst) {
            return;
        }
        process.end();
        // So that the producer is not kept by what waits for it.
        process.producer.lock().unwrap().take();
        world.forget_callers(place);
        sleep(Duration::from_millis(rng.u64(20..6_000))).await;
    }
}
