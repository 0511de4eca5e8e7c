//! What follows from what was seen. Pure: no I/O, no clock.

use std::time::Duration;

use super::{BrokerHealth, Health, OLD_BACKLOG, OutboxHealth, Reason, ReasonKind, RelayHealth, Status};
use crate::breaker::BreakerState;
use crate::error::{Error, ErrorKind};
use crate::outbox::Lag;
use crate::policy::OutboxMode;
use crate::sanitize::sanitize;

/// What a health check has seen of a producer.
#[derive(Debug)]
pub(crate) struct Sight {
    /// Within what time the broker answered.
    pub(crate) broker: Result<Duration, Error>,
    /// Whether the client failed for good, and there is no new one.
    pub(crate) client_lost: bool,
    pub(crate) breaker: BreakerState,
    pub(crate) outbox: Option<OutboxSight>,
    /// When events of the enabled definitions go to the outbox.
    pub(crate) modes: Vec<OutboxMode>,
}

/// What it has seen of the outbox.
#[derive(Debug)]
pub(crate) struct OutboxSight {
    /// Within what time the database answered, and what.
    pub(crate) answer: Result<(Duration, Lag), Error>,
    pub(crate) spilled_lanes: usize,
    pub(crate) relay: RelayHealth,
}

/// How the producer is of which this was seen.
pub(crate) fn judge(sight: Sight) -> Health {
    let Sight { broker, client_lost, breaker, outbox, modes } = sight;
    let mut reasons = Vec::new();
    if let Err(error) = &broker {
        reasons.push(about_broker(error, client_lost));
    }
    let breaker_open = match breaker {
        BreakerState::Open => {
            Some("the breaker is open: the broker has failed too often, and is left alone for a while")
        }
        BreakerState::ForcedOpen => Some("the breaker is open: an operator holds it"),
        _ => None,
    };
    reasons.extend(breaker_open.map(|text| Reason::new(ReasonKind::BreakerOpen, text)));
    let can_publish = broker.is_ok() && breaker_open.is_none();
    let can_store = outbox.as_ref().is_some_and(|outbox| outbox.answer.is_ok());
    match outbox.as_ref().map(|outbox| &outbox.answer) {
        None => {}
        Some(Err(error)) => reasons.push(Reason::new(ReasonKind::OutboxFailed, sanitize(&error.to_string()))),
        Some(Ok((_, lag))) => reasons.extend(about_backlog(lag)),
    }
    let is_accepted = |mode: &OutboxMode| match mode {
        OutboxMode::Never => can_publish,
        OutboxMode::Fallback => can_publish || can_store,
        OutboxMode::Always | OutboxMode::Journaled => can_store,
    };
    let status = if reasons.is_empty() {
        Status::Healthy
    } else if modes.is_empty() || modes.iter().any(is_accepted) {
        // An emit of a definition that is disabled succeeds whatever is down.
        Status::Degraded
    } else {
        Status::Down
    };
    Health {
        status,
        live: !client_lost,
        reasons,
        relay: outbox.as_ref().map(|outbox| outbox.relay.clone()),
        outbox: outbox.map(described),
        broker: Some(BrokerHealth { answered_in: broker.ok(), breaker }),
    }
}

fn about_broker(error: &Error, client_lost: bool) -> Reason {
    let kind = match error.kind() {
        _ if client_lost => ReasonKind::ClientFailed,
        ErrorKind::Unauthenticated | ErrorKind::Unauthorized => ReasonKind::BrokerRefusesClient,
        _ => ReasonKind::BrokerUnreachable,
    };
    Reason::new(kind, sanitize(&error.to_string()))
}

fn about_backlog(lag: &Lag) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let Some(oldest) = lag.oldest_waiting else { return reasons };
    let age = oldest.as_secs();
    if lag.relays == Some(0) {
        let text = format!("events wait in the outbox, the oldest for {age} s, and no relay is alive");
        reasons.push(Reason::new(ReasonKind::NoRelay, text));
    } else if let Some(lanes) = lag.lanes_without_relay.filter(|lanes| *lanes > 0) {
        let text = format!("events wait in {lanes} of the outbox's lanes that no living relay holds");
        reasons.push(Reason::new(ReasonKind::LanesWithoutRelay, text));
    }
    if oldest > OLD_BACKLOG {
        let text = format!("the oldest event in the outbox waits for {age} s");
        reasons.push(Reason::new(ReasonKind::OldBacklog, text));
    }
    reasons
}

fn described(outbox: OutboxSight) -> OutboxHealth {
    let (answered_in, lag) = match outbox.answer {
        Ok((answered_in, lag)) => (Some(answered_in), lag),
        Err(_) => (None, Lag::default()),
    };
    OutboxHealth {
        answered_in,
        oldest_waiting: lag.oldest_waiting,
        waiting: lag.waiting,
        relays: lag.relays,
        lanes_without_relay: lag.lanes_without_relay,
        spilled_lanes: outbox.spilled_lanes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(3);

    fn failed(kind: ErrorKind) -> Error {
        Error::new(kind, "it said no to postgres://shop:pl4nted@db/shop")
    }

    fn lag(oldest_s: Option<u64>, relays: u32, lanes_without_relay: u32) -> Lag {
        Lag {
            oldest_waiting: oldest_s.map(Duration::from_secs),
            relays: Some(relays),
            lanes_without_relay: Some(lanes_without_relay),
            waiting: Some(3),
        }
    }

    fn outbox(answer: Result<Lag, Error>) -> Option<OutboxSight> {
        let relay = RelayHealth { running: true, last_progress: Some(SOON) };
        Some(OutboxSight { answer: answer.map(|lag| (SOON, lag)), spilled_lanes: 2, relay })
    }

    fn well() -> Sight {
        Sight {
            broker: Ok(SOON),
            client_lost: false,
            breaker: BreakerState::Closed,
            outbox: outbox(Ok(lag(None, 1, 0))),
            modes: vec![OutboxMode::Fallback],
        }
    }

    /// Status and kinds of the reasons.
    fn verdict(sight: Sight) -> (Status, Vec<ReasonKind>) {
        let health = judge(sight);
        assert!(!format!("{health:?}").contains("pl4nted"), "{health:?}");
        (health.status, health.reasons.iter().map(|reason| reason.kind).collect())
    }

    #[test]
    fn without_a_reason_it_is_healthy_whoever_has_an_outbox() {
        assert_eq!(verdict(well()), (Status::Healthy, vec![]));
        assert_eq!(verdict(Sight { outbox: None, ..well() }), (Status::Healthy, vec![]));
        let half_open = Sight { breaker: BreakerState::HalfOpen, ..well() };
        assert_eq!(verdict(half_open).0, Status::Healthy);
    }

    #[test]
    fn a_broker_that_is_down_degrades_those_who_can_store_and_takes_down_the_others() {
        use OutboxMode::{Always, Fallback, Never};
        for (modes, has_outbox, status) in [
            (vec![Fallback], true, Status::Degraded),
            (vec![Never, Fallback], true, Status::Degraded),
            (vec![Always], true, Status::Degraded),
            (vec![Never], true, Status::Down),
            (vec![Fallback], false, Status::Down),
            (vec![], false, Status::Degraded),
        ] {
            let down = |kind| Sight { broker: Err(failed(kind)), modes: modes.clone(), ..well() };
            for (kind, reason) in [
                (ErrorKind::BrokerUnavailable, ReasonKind::BrokerUnreachable),
                (ErrorKind::Timeout, ReasonKind::BrokerUnreachable),
                (ErrorKind::Unauthenticated, ReasonKind::BrokerRefusesClient),
            ] {
                let mut sight = down(kind);
                sight.outbox = sight.outbox.filter(|_| has_outbox);
                assert_eq!(verdict(sight), (status, vec![reason]), "{modes:?} {has_outbox}");
            }
        }
    }

    #[test]
    fn a_database_that_is_down_takes_down_those_who_need_it() {
        use OutboxMode::{Always, Fallback, Journaled, Never};
        for (modes, status) in [
            (vec![Fallback], Status::Degraded),
            (vec![Never, Always], Status::Degraded),
            (vec![Always], Status::Down),
            (vec![Journaled, Always], Status::Down),
        ] {
            let outbox = outbox(Err(failed(ErrorKind::Storage)));
            let sight = Sight { outbox, modes: modes.clone(), ..well() };
            assert_eq!(verdict(sight), (status, vec![ReasonKind::OutboxFailed]), "{modes:?}");
        }
    }

    #[test]
    fn without_broker_and_database_it_is_down_and_tells_both() {
        let (broker, outbox) = (Err(failed(ErrorKind::Timeout)), outbox(Err(failed(ErrorKind::Schema))));
        let reasons = vec![ReasonKind::BrokerUnreachable, ReasonKind::OutboxFailed];
        assert_eq!(verdict(Sight { broker, outbox, ..well() }), (Status::Down, reasons));
    }

    #[test]
    fn an_open_breaker_is_as_a_broker_that_is_down() {
        for breaker in [BreakerState::Open, BreakerState::ForcedOpen] {
            let reasons = vec![ReasonKind::BreakerOpen];
            assert_eq!(verdict(Sight { breaker, ..well() }), (Status::Degraded, reasons.clone()));
            assert_eq!(verdict(Sight { breaker, outbox: None, ..well() }), (Status::Down, reasons));
        }
    }

    #[test]
    fn a_backlog_that_nobody_relays_or_that_is_old_degrades() {
        for (lag, reasons) in [
            (lag(None, 0, 0), vec![]),
            (lag(Some(0), 0, 3), vec![ReasonKind::NoRelay]),
            (lag(Some(1), 2, 3), vec![ReasonKind::LanesWithoutRelay]),
            (lag(Some(60), 1, 0), vec![]),
            (lag(Some(61), 1, 0), vec![ReasonKind::OldBacklog]),
            (lag(Some(61), 0, 1), vec![ReasonKind::NoRelay, ReasonKind::OldBacklog]),
            (Lag { oldest_waiting: Some(SOON), ..Lag::default() }, vec![]),
        ] {
            let status = if reasons.is_empty() { Status::Healthy } else { Status::Degraded };
            assert_eq!(verdict(Sight { outbox: outbox(Ok(lag.clone())), ..well() }), (status, reasons), "{lag:?}");
        }
    }

    #[test]
    fn only_a_client_that_is_lost_asks_for_a_restart() {
        let down = |client_lost| Sight {
            broker: Err(failed(ErrorKind::ClientFailed)),
            outbox: outbox(Err(failed(ErrorKind::Storage))),
            breaker: BreakerState::Open,
            client_lost,
            ..well()
        };
        assert!(judge(down(false)).is_live() && judge(well()).is_live() && Health::closed().is_live());
        let lost = judge(down(true));
        assert!(!lost.is_live() && lost.has(ReasonKind::ClientFailed));
    }

    #[test]
    fn what_was_seen_is_written_with_its_units() {
        let json = serde_json::to_value(judge(Sight { outbox: outbox(Ok(lag(Some(2), 1, 0))), ..well() })).unwrap();
        let expected = serde_json::json!({
            "status": "healthy", "live": true, "reasons": [],
            "broker": { "answered_in_ms": 3, "breaker": "closed" },
            "outbox": {
                "answered_in_ms": 3, "oldest_waiting_ms": 2000, "waiting": 3, "relays": 1, "lanes_without_relay": 0,
                "spilled_lanes": 2,
            },
            "relay": { "running": true, "last_progress_ms": 3 },
        });
        assert_eq!(json, expected);
    }
}
