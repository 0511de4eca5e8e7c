//! Tokens from an asynchronous provider, for a client that asks in a callback.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;

use crate::sanitize::sanitize;
use crate::token::{Token, TokenProvider};

/// How long the provider may take. Meanwhile a client that has no token yet has nothing else to do.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that has a valid token waits for the next: delivery reports wait with it. It asks again ten seconds
/// later, and then finds what has come meanwhile.
const REFRESH_WAIT: Duration = Duration::from_millis(500);

/// Asks the provider on the service's runtime, while the client's own thread waits: no worker of the runtime is blocked, and
/// a runtime that is busy, or gone, costs the client no more than its patience.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<Shared>);

struct Shared {
    provider: Arc<dyn TokenProvider>,
    runtime: Handle,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    asking: bool,
    /// What the provider has answered, and the client has not taken.
    answer: Option<Result<Token, String>>,
    /// Until when the client's last token is valid.
    valid_to: Option<DateTime<Utc>>,
    closed: bool,
}

impl Tokens {
    pub(crate) fn new(provider: Arc<dyn TokenProvider>, runtime: Handle) -> Self {
        Self(Arc::new(Shared { provider, runtime, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// The next token. Blocks, though not for long.
    pub(super) fn next(&self) -> Result<Token, String> {
        self.ask();
        let state = self.0.lock();
        let has_one = state.valid_to.is_some_and(|valid_to| Utc::now() < valid_to);
        // The provider has its own limit; a runtime that does not get to it has this one.
        let patience = if has_one { REFRESH_WAIT } else { PROVIDER_TIMEOUT + REFRESH_WAIT };
        let waits = |state: &mut State| state.asking && state.answer.is_none() && !state.closed;
        let waited = self.0.changed.wait_timeout_while(state, patience, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let token = match state.answer.take() {
            Some(answer) => answer?,
            None if state.closed => return Err("the client is closed".into()),
            None if state.asking => return Err("the token provider has not answered yet".into()),
            None => return Err("the token provider broke down".into()),
        };
        state.valid_to = Some(token.expires_at);
        Ok(token)
    }

    /// Has the provider asked, unless it is being asked, or has answered since the client last was.
    fn ask(&self) {
        {
            let mut state = self.0.lock();
            // A failure that nobody waited for is an old one.
            state.answer.take_if(|answer| answer.is_err());
            if state.asking || state.answer.is_some() {
                return;
            }
            state.asking = true;
        }
        let asking = Asking(Arc::clone(&self.0));
        self.0.runtime.spawn(async move {
            let answer = tokio::time::timeout(PROVIDER_TIMEOUT, asking.0.provider.token()).await;
            asking.0.lock().answer = Some(match answer {
                Ok(Ok(token)) => check(token),
                Ok(Err(error)) => Err(text(&*error)),
                Err(_) => Err("the token provider did not answer in time".into()),
            });
        });
    }

    /// Lets a client that waits go.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Being asked until dropped: also when the provider panics, or the runtime ends.
struct Asking(Arc<Shared>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.lock().asking = false;
        self.0.changed.notify_all();
    }
}

/// librdkafka would quote a token that it does not accept.
fn check(token: Token) -> Result<Token, String> {
    let value = token.value.expose();
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token is empty, or has characters that a token can't have".into());
    }
    if token.principal.is_empty() || token.principal.contains('\0') {
        return Err("the token's principal is empty, or has a null character".into());
    }
    Ok(token)
}

/// The error with its causes, without credentials.
fn text(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    sanitize(&text).replace('\0', "")
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::BoxFuture;

    type Answer = Result<Token, Box<dyn std::error::Error + Send + Sync>>;

    struct Scripted<F>(F);

    impl<F: Fn() -> BoxFuture<'static, Answer> + Send + Sync + 'static> TokenProvider for Scripted<F> {
        fn token(&self) -> BoxFuture<'_, Answer> {
            (self.0)()
        }
    }

    fn tokens(runtime: &Runtime, answer: impl Fn() -> BoxFuture<'static, Answer> + Send + Sync + 'static) -> Tokens {
        Tokens::new(Arc::new(Scripted(answer)), runtime.handle().clone())
    }

    /// What comes of this in the client's thread, while the runtime runs in this one.
    fn beside<T: Send + 'static>(runtime: &Runtime, call: impl FnOnce() -> T + Send + 'static) -> T {
        runtime.block_on(async { tokio::task::spawn_blocking(call).await.unwrap() })
    }

    fn next_beside(runtime: &Runtime, tokens: &Tokens) -> Result<Token, String> {
        let tokens = tokens.clone();
        beside(runtime, move || tokens.next())
    }

    fn good(value: &str) -> Answer {
        Ok(Token::new(value, "orders", Utc::now() + TimeDelta::hours(1)))
    }

    fn current_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_token_comes_from_a_provider_on_a_runtime_of_one_thread() {
        let runtime = current_thread();
        let tokens = tokens(&runtime, || {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                good("t0ken")
            })
        });
        assert_eq!(next_beside(&runtime, &tokens).unwrap().value.expose(), "t0ken");
    }

    #[test]
    fn a_provider_that_fails_panics_or_gives_nonsense_is_an_error_without_the_token_and_is_asked_again() {
        let runtime = current_thread();
        let turn = std::sync::atomic::AtomicUsize::new(0);
        let tokens = tokens(&runtime, move || {
            let turn = turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Box::pin(async move {
                match turn {
                    0 => Err("token=pl4nted refused\0".into()),
                    1 => panic!("pl4nted"),
                    2 => good("pl4nted\n"),
                    3 => good(""),
                    _ => good("t0ken"),
                }
            })
        });
        for _ in 0..4 {
            let error = next_beside(&runtime, &tokens).unwrap_err();
            assert!(!error.contains("pl4nted") && !error.contains('\0'), "{error}");
        }
        assert!(next_beside(&runtime, &tokens).is_ok());
    }

    #[test]
    fn a_client_that_has_a_token_does_not_wait_for_a_slow_provider_and_finds_the_answer_later() {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let slow = Arc::new(tokio::sync::Semaphore::new(1));
        let gate = Arc::clone(&slow);
        let tokens = tokens(&runtime, move || {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await?.forget();
                good("t0ken")
            })
        });
        tokens.next().unwrap();
        assert_eq!(tokens.next().unwrap_err(), "the token provider has not answered yet");
        slow.add_permits(1);
        while tokens.0.lock().asking {
            std::thread::yield_now();
        }
        slow.close();
        tokens.next().unwrap();
    }

    #[test]
    fn a_failure_that_nobody_waited_for_is_forgotten() {
        let runtime = current_thread();
        let tokens = tokens(&runtime, || Box::pin(async { good("t0ken") }));
        tokens.0.lock().answer = Some(Err("the identity service is away".into()));
        next_beside(&runtime, &tokens).unwrap();
    }

    #[test]
    fn a_runtime_that_is_gone_and_a_client_that_is_closed_wait_for_nobody() {
        let runtime = current_thread();
        let tokens = tokens(&runtime, || Box::pin(std::future::pending()));
        let waiting = tokens.clone();
        let client = std::thread::spawn(move || waiting.next().unwrap_err());
        tokens.close();
        assert_eq!(client.join().unwrap(), "the client is closed");
        tokens.0.lock().closed = false;
        drop(runtime);
        assert_eq!(tokens.next().unwrap_err(), "the token provider broke down");
    }
}
