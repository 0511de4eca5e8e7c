//! Watches the direct client: opens the breaker when nobody answers, and closes it when somebody does again.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::client::DirectClient;
use crate::breaker::{Breaker, BreakerState, pulse::Pulse};
use crate::transport::Transport;

/// How often the client is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the broker is asked for a sign of life while the breaker is not closed.
const PROBE_EVERY: Duration = Duration::from_millis(200);

/// How long it has to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest that nothing may be acknowledged while records wait.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);

/// Starts to watch, until the producer is gone.
///
/// On a thread of its own, as the client has, and not in a task: the runtime that the producer was built on may be busy, or
/// gone while the producer is used on another.
pub(super) fn start(clients: &Arc<DirectClient>, breaker: &Arc<Breaker>, direct_timeout: Duration) {
    let watch = Watch {
        clients: Arc::downgrade(clients),
        breaker: Arc::clone(breaker),
        silence: direct_timeout.min(LONGEST_SILENCE),
    };
    match std::thread::Builder::new().name("tidings-watch".to_owned()).spawn(move || watch.run()) {
        Ok(watcher) => breaker.watched_by(watcher.thread().clone()),
        Err(error) => tracing::error!(%error, "no thread to watch the client on; the breaker hears of failures alone"),
    }
}

struct Watch {
    clients: Weak<DirectClient>,
    breaker: Arc<Breaker>,
    silence: Duration,
}

impl Watch {
    fn run(self) {
        let (mut era, mut generation) = (self.breaker.era(), 0);
        let mut pulse = Pulse::new(self.silence);
        let mut probe_at = Instant::now();
        loop {
            std::thread::park_timeout(LOOK_EVERY);
            let Some(clients) = self.clients.upgrade() else { return };
            let mut client = clients.current();
            if self.breaker.era() != era {
                era = self.breaker.era();
                // Whoever waits for the broker is answered now, from the outbox if there is one.
                clients.replace(client.generation);
                client = clients.current();
            }
            // A producer that is dropped meanwhile is not kept.
            drop(clients);
            if client.generation != generation {
                generation = client.generation;
                pulse = Pulse::new(self.silence);
            }
            match self.breaker.state() {
                BreakerState::Closed | BreakerState::ForcedClosed => self.look(&*client.transport, &mut pulse),
                BreakerState::ForcedOpen => {}
                BreakerState::HalfOpen | BreakerState::Open => {
                    if Instant::now() >= probe_at {
                        self.breaker.probed(answers(&*client.transport));
                        probe_at = Instant::now() + PROBE_EVERY;
                    }
                    self.look(&*client.transport, &mut pulse);
                }
            }
        }
    }

    fn look(&self, transport: &dyn Transport, pulse: &mut Pulse) {
        if let Some(vitals) = transport.vitals()
            && pulse.is_silent(&vitals, Instant::now())
        {
            self.breaker.fell_silent();
        }
    }
}

/// Asks the broker for a sign of life.
fn answers(transport: &dyn Transport) -> bool {
    // One that is not kept: it is needed for as long as the broker is gone, which is seldom.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime to ask the broker on");
            return false;
        }
    };
    runtime.block_on(async {
        // The transport keeps to the time by itself, but it may be anybody's.
        let answer = tokio::time::timeout(PROBE_TIMEOUT * 2, transport.probe(PROBE_TIMEOUT)).await;
        match answer {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the broker does not answer yet");
                false
            }
            Err(_) => false,
        }
    })
}
