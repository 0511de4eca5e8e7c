//! Watches the direct client: opens the breaker when nobody answers, and closes it when somebody does again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::client::DirectClient;
use super::fallback::Fallback;
use super::health::probe;
use super::room::Room;
use crate::breaker::{Breaker, BreakerState, pulse::Pulse};
use crate::error::{Error, ErrorKind};
use crate::telemetry::metrics;
use crate::transport::Transport;

/// How often the client is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often the broker is asked for a sign of life while the breaker is not closed.
const PROBE_EVERY: Duration = Duration::from_millis(200);

/// How long it has to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it is told how the producer is.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The longest that nothing may be acknowledged while records wait.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);

pub(crate) struct Watch {
    clients: Weak<DirectClient>,
    breaker: Arc<Breaker>,
    silence: Duration,
    fallback: Option<Weak<Fallback>>,
    room: Arc<Room>,
}

impl Watch {
    pub(super) fn new(
        clients: &Arc<DirectClient>,
        breaker: &Arc<Breaker>,
        direct_timeout: Duration,
        fallback: Option<&Arc<Fallback>>,
        room: &Arc<Room>,
    ) -> Self {
        Self {
            clients: Arc::downgrade(clients),
            breaker: Arc::clone(breaker),
            silence: direct_timeout.min(LONGEST_SILENCE),
            fallback: fallback.map(Arc::downgrade),
            room: Arc::clone(room),
        }
    }

    /// Watches until the producer is gone, on a thread and a runtime of its own, as the client has threads, and not in a task: the
    /// runtime that the producer was built on may be busy, or gone while the producer is used on another.
    pub(super) fn start(self) {
        let watching = std::thread::Builder::new().name("tidings-watch".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime.block_on(self.run()),
                Err(error) => tracing::error!(%error, "{}", UNWATCHED),
            }
        });
        if let Err(error) = watching {
            tracing::error!(%error, "{}", UNWATCHED);
        }
    }

    pub(crate) async fn run(self) {
        let (mut era, mut generation) = (self.breaker.era(), 0);
        let mut pulse = Pulse::new(self.silence);
        let mut probe_at = Instant::now();
        let mut tell_at = probe_at;
        loop {
            let _ = timeout(LOOK_EVERY, self.breaker.opened()).await;
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
            self.breaker.count_successes();
            match self.breaker.state() {
                BreakerState::Closed | BreakerState::ForcedClosed => self.look(&*client.transport, &mut pulse),
                BreakerState::ForcedOpen => {}
                BreakerState::HalfOpen | BreakerState::Open => {
                    if Instant::now() >= probe_at {
                        let answer = probe(&*client.transport, PROBE_TIMEOUT).await;
                        self.breaker.probed(answer.is_ok());
                        if let Err(error) = answer {
                            self.failed_to_answer(&error, client.generation);
                        }
                        probe_at = Instant::now() + PROBE_EVERY;
                    }
                    self.look(&*client.transport, &mut pulse);
                }
            }
            if Instant::now() >= tell_at {
                self.tell(&*client.transport);
                tell_at = Instant::now() + TELL_EVERY;
            }
        }
    }

    fn failed_to_answer(&self, error: &Error, generation: u32) {
        tracing::debug!(%error, "the broker does not answer yet");
        if error.kind() == ErrorKind::ClientFailed
            && let Some(clients) = self.clients.upgrade()
        {
            tracing::error!(%error, "the client failed for good, and is replaced");
            clients.replace(generation);
        }
    }

    /// Says how the producer is.
    fn tell(&self, transport: &dyn Transport) {
        let fallback = self.fallback.as_ref().and_then(Weak::upgrade);
        let spilled_lanes = fallback.map_or(0, |fallback| fallback.spills.spilled_count());
        metrics::producer(self.breaker.state(), spilled_lanes, self.room.taken());
        if let Some(vitals) = transport.vitals() {
            metrics::client("direct", &vitals);
        }
    }

    fn look(&self, transport: &dyn Transport, pulse: &mut Pulse) {
        if let Some(vitals) = transport.vitals()
            && pulse.is_silent(&vitals, Instant::now().into_std())
        {
            self.breaker.fell_silent();
        }
    }
}

const UNWATCHED: &str = "the client can't be watched; the breaker hears of failures alone";

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::super::client::Transports;
    use super::*;
    use crate::BoxFuture;
    use crate::breaker::BreakerConfig;
    use crate::error::Result;
    use crate::transport::{OnDelivery, QueueFull, Record};

    /// Answers every probe, or has failed for good.
    #[derive(Debug)]
    struct Client {
        has_failed: bool,
    }

    impl Transport for Client {
        fn submit(&self, _: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
            Err(QueueFull(on_delivery))
        }

        fn room(&self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }

        fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
            Box::pin(async { true })
        }

        fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
            let failed = self.has_failed.then(|| Error::new(ErrorKind::ClientFailed, "it knows no broker any longer"));
            Box::pin(std::future::ready(failed.map_or(Ok(()), Err)))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_fails_for_good_while_the_breaker_is_open_is_replaced() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        // The breaker gives up the first client as it opens. The second one fails, and nobody emits who would find that out.
        let connect = move |_| -> Result<Arc<dyn Transport>> {
            Ok(Arc::new(Client { has_failed: counted.fetch_add(1, Ordering::SeqCst) == 1 }))
        };
        let clients = Arc::new(DirectClient::connect(Transports::without_threads(Arc::new(connect))).unwrap());
        let breaker = Arc::new(Breaker::new(&BreakerConfig::default()));
        let watch = Watch::new(&clients, &breaker, Duration::from_secs(1), None, &Arc::new(Room::new(1)));
        let silence = async {
            sleep(LOOK_EVERY).await;
            breaker.fell_silent();
        };
        // It watches for ever.
        let _ = timeout(Duration::from_secs(10), async { tokio::join!(watch.run(), silence) }).await;
        assert_eq!((made.load(Ordering::SeqCst), clients.current().generation), (3, 2));
        assert_ne!(breaker.state(), BreakerState::Open);
    }
}
