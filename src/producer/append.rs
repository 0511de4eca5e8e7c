//! Events in a caller's transaction.

use super::Producer;
use super::fallback::{Fallback, Mark};
use crate::catalog::compiled::Resolved;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::outbox::Row;
use crate::policy::DeliveryPolicy;
use crate::relay::Journaled;
use crate::telemetry::Emit;
use crate::tx::Tx;

impl Producer {
    pub(super) async fn append_all(&self, tx: Tx<'_>, mut requests: Vec<EmitRequest>) -> Result<Vec<Receipt>> {
        let emits: Vec<_> = requests.iter_mut().map(|request| Emit::begin(&self.0.catalog, request)).collect();
        let result = self.append_seen(tx, requests, &emits).await;
        for (index, emit) in emits.into_iter().enumerate() {
            emit.end(result.as_ref().map(|receipts| &receipts[index]));
        }
        result
    }

    async fn append_seen(&self, tx: Tx<'_>, requests: Vec<EmitRequest>, emits: &[Emit]) -> Result<Vec<Receipt>> {
        let _running = self.0.enter()?;
        let Some(fallback) = &self.0.fallback else {
            let message = "an emit in a transaction needs an outbox, and this producer has none";
            return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
        };
        let resolved = self.resolve_all(requests)?;
        emits.iter().zip(&resolved).for_each(|(emit, resolved)| emit.becomes(&resolved.id));
        self.append_resolved(fallback, tx, resolved).await
    }

    /// Checks all before the first statement: a refused request leaves the transaction usable.
    fn resolve_all(&self, requests: Vec<EmitRequest>) -> Result<Vec<Resolved>> {
        let all: Vec<_> = requests.into_iter().map(|request| self.0.catalog.resolve(request)).collect::<Result<_>>()?;
        if let Some(limits) = &self.0.tenant_limits {
            let enabled = all.iter().filter(|resolved| resolved.policy.enabled());
            let tenants: Vec<_> = enabled.filter_map(Resolved::tenant).collect();
            limits.check_all(&tenants)?;
        }
        Ok(all)
    }

    async fn append_resolved(&self, fallback: &Fallback, tx: Tx<'_>, resolved: Vec<Resolved>) -> Result<Vec<Receipt>> {
        let fates: Vec<_> = resolved.iter().map(|resolved| (resolved.id.clone(), resolved.policy)).collect();
        let enabled = resolved.into_iter().filter(|resolved| resolved.policy.enabled());
        let lanes = fallback.lanes();
        let rows: Vec<_> = enabled.map(|resolved| Row::new(resolved, lanes)).collect();
        let known: Vec<_> = rows.iter().map(|row| fallback.spills.known(row.lane)).collect();
        let is_open = tx.is_open();
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
        let journaled = fates.iter().filter(|(_, policy)| policy.enabled()).map(|(_, policy)| policy.is_journaled());
        let marks = rows.iter().zip(&appended).zip(known).zip(journaled);
        let marks = marks.map(|(((row, appended), known), is_journaled)| Mark {
            lane: row.lane,
            appended: *appended,
            known,
            is_journaled,
        });
        // Spilled already before the commit: no direct event of the key may come in between.
        let spilled = fallback.spill(&marks.collect::<Vec<_>>()).await;
        spilled.map_err(|error| if is_open { error.decided() } else { error })?;
        let mut stored = rows.into_iter().zip(appended);
        let receipt = |(event_id, policy): (_, DeliveryPolicy)| {
            let row = if policy.enabled() { stored.next() } else { None };
            let Some((row, appended)) = row else { return Receipt::new(event_id, Outcome::Disabled) };
            let (lane, sequence, reason) = (row.lane, appended.sequence, StoredReason::Transaction);
            let receipt = Receipt::new(event_id, Outcome::Stored { lane, sequence, reason });
            if policy.is_journaled() { receipt.with_row(Journaled::new(row, appended)) } else { receipt }
        };
        Ok(fates.into_iter().map(receipt).collect())
    }

    /// Hands the rows of these receipts over to the relay.
    pub(super) fn hand_over(&self, receipts: Vec<Receipt>) {
        if let Some(fallback) = &self.0.fallback {
            receipts.into_iter().filter_map(Receipt::into_row).for_each(|row| fallback.hand_over(row));
        }
    }
}
