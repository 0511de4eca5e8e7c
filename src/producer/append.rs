//! Events in a caller's transaction.

use super::Producer;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::outbox::Row;
use crate::tx::Tx;

impl Producer {
    pub(super) async fn append_all(&self, tx: Tx<'_>, requests: Vec<EmitRequest>) -> Result<Vec<Receipt>> {
        let _running = self.enter()?;
        let Some(fallback) = &self.0.fallback else {
            let message = "an emit in a transaction needs an outbox, and this producer has none";
            return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
        };
        // All are checked before the first statement: a refused request leaves the transaction usable.
        let resolved =
            requests.into_iter().map(|request| self.0.catalog.resolve(request)).collect::<Result<Vec<_>>>()?;
        if let Some(limits) = &self.0.tenant_limits {
            let enabled = resolved.iter().filter(|resolved| resolved.policy.enabled());
            limits.check_all(enabled.filter_map(|resolved| resolved.tenant.as_ref()))?;
        }
        let ids: Vec<_> = resolved.iter().map(|resolved| (resolved.id.clone(), resolved.policy.enabled())).collect();
        let enabled = resolved.into_iter().filter(|resolved| resolved.policy.enabled());
        let lanes = fallback.lanes();
        let rows: Vec<_> = enabled.map(|resolved| Row::new(resolved, lanes)).collect();
        let known: Vec<_> = rows.iter().map(|row| fallback.spills.known(row.lane)).collect();
        let appended = match &rows[..] {
            [] => Vec::new(),
            rows => match fallback.outbox.append_in(lanes, tx, rows).await {
                Err(error) if error.kind() == ErrorKind::StorageConflict => {
                    // It may be the number of lanes. The transaction is lost anyway; run again, it finds the new one.
                    if let Err(error) = fallback.recount(lanes).await {
                        tracing::debug!(%error, "the lanes could not be counted anew");
                    }
                    return Err(error);
                }
                appended => appended?,
            },
        };
        for ((row, appended), known) in rows.iter().zip(&appended).zip(known) {
            // Spilled already before the commit: no direct event of the key may come in between.
            fallback.spill(row.lane, *appended, known).await?;
        }
        let mut stored = rows.iter().zip(appended);
        let receipt = |(event_id, enabled)| {
            let row = if enabled { stored.next() } else { None };
            let outcome = row.map_or(Outcome::Disabled, |(row, appended)| Outcome::Stored {
                lane: row.lane,
                sequence: appended.sequence,
                reason: StoredReason::Transaction,
            });
            Receipt { event_id, outcome }
        };
        Ok(ids.into_iter().map(receipt).collect())
    }
}
