//! Several events at once.

use std::collections::HashMap;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::Producer;
use crate::catalog::compiled::Resolved;
use crate::emitter::Receipt;
use crate::emitter::noop::closed;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;

/// How many keys of a batch are under way at a time.
const BATCH_KEYS: usize = 256;

impl Producer {
    /// The events of one key one after another, the keys side by side.
    pub(super) async fn emit_many(&self, requests: Vec<EmitRequest>) -> Vec<Result<Receipt>> {
        let mut results: Vec<Option<Result<Receipt>>> = Vec::new();
        results.resize_with(requests.len(), || None);
        let Ok(_running) = self.enter() else {
            return requests.iter().map(|_| Err(closed())).collect();
        };
        let start = Instant::now();
        let mut by_key: HashMap<_, Vec<(usize, Resolved, Instant)>> = HashMap::new();
        for (index, request) in requests.into_iter().enumerate() {
            let deadline = start + self.0.times.of(&request);
            match self.0.catalog.resolve(request) {
                Ok(resolved) => {
                    by_key.entry(resolved.record.key.clone()).or_default().push((index, resolved, deadline))
                }
                Err(error) => results[index] = Some(Err(error)),
            }
        }
        let chains = by_key.into_values().map(|events| self.emit_in_turn(events));
        let mut chains = futures_util::stream::iter(chains).buffer_unordered(BATCH_KEYS);
        while let Some(chain) = chains.next().await {
            for (index, result) in chain {
                results[index] = Some(result);
            }
        }
        // Each request was resolved or refused, and each resolved one is in one chain.
        results.into_iter().map(|result| result.expect("every request has a result")).collect()
    }

    async fn emit_in_turn(&self, events: Vec<(usize, Resolved, Instant)>) -> Vec<(usize, Result<Receipt>)> {
        let mut results = Vec::with_capacity(events.len());
        let mut failed: Option<ErrorKind> = None;
        for (index, resolved, deadline) in events {
            let result = match failed {
                None => self.0.deliver(resolved, deadline).await,
                Some(kind) => {
                    let message =
                        "an earlier event of the same key in the batch failed, and this one must not overtake it";
                    Err(Error::new(kind, message).with_event_id(resolved.id))
                }
            };
            failed = failed.or(result.as_ref().err().map(Error::kind));
            results.push((index, result));
        }
        results
    }
}
