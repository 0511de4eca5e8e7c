//! Whether the brokers let this client in. Pure: no I/O, no clock.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::failure::{UNAUTHENTICATED, kind};
use crate::error::{Error, ErrorKind};

/// librdkafka tells of an error that goes on every 30 s (`rd_kafka_broker_set_error`). One that it has not told of for
/// longer is over, though nothing was delivered since.
const REPEATED_WITHIN: Duration = Duration::from_secs(40);

/// The alerts of TLS (RFC 8446, section 6) that speak of a certificate: bad, unsupported, revoked, expired, unknown, of an
/// unknown authority, access denied, required.
const CERTIFICATE_ALERTS: [u8; 8] = [42, 43, 44, 45, 46, 48, 49, 116];

/// What the client last heard of how brokers and it like each other.
///
/// librdkafka says by a callback that a connection was refused, tries again for ever, and lets records wait. With several
/// brokers one may refuse what another accepts, so a refusal alone fails nothing: it is the answer for those who have waited
/// in vain since.
#[derive(Debug, Default)]
pub(super) struct Trust {
    refusal: Option<Refusal>,
    /// Whether somebody has waited in vain since: others need not.
    given_up: bool,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
struct Refusal {
    reason: String,
    #[source]
    cause: KafkaError,
    at: Instant,
}

impl Trust {
    /// A connection was refused, by either side.
    pub(super) fn refused(&mut self, cause: KafkaError, reason: String, now: Instant) {
        self.refusal = Some(Refusal { reason, cause, at: now });
    }

    /// A broker has answered.
    pub(super) fn let_in(&mut self) {
        *self = Self::default();
    }

    /// The refusal that stands, if one does.
    pub(super) fn refusal(&self, now: Instant) -> Option<Error> {
        let standing = self.refusal.as_ref().filter(|refusal| now < refusal.at + REPEATED_WITHIN)?;
        Some(Error::new(ErrorKind::Unauthenticated, UNAUTHENTICATED).with_source(standing.clone()))
    }

    /// The refusal that stands, for somebody who has waited in vain.
    pub(super) fn give_up(&mut self, now: Instant) -> Option<Error> {
        let refusal = self.refusal(now);
        self.given_up = refusal.is_some();
        refusal
    }

    /// Why one more record is not taken, if so. As long as the client has records, they are its trial: delivered once it is
    /// let in. When it has none left, the next one is.
    pub(super) fn shuts_out(&mut self, waiting: usize, now: Instant) -> Option<Error> {
        self.given_up &= waiting > 0;
        if self.given_up { self.refusal(now) } else { None }
    }
}

/// Whether an error that the client reports is a refusal.
pub(super) fn is_refusal(code: RDKafkaErrorCode, reason: &str) -> bool {
    match code {
        // With TLS 1.3 the handshake is over for a client before the broker has looked at its certificate. librdkafka takes
        // what the broker then says for a failure of the transport, and only the text has the number of the alert.
        RDKafkaErrorCode::BrokerTransportFailure => {
            let number = reason
                .split("SSL alert number ")
                .nth(1)
                .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
            number.and_then(|number| number.parse().ok()).is_some_and(|number: u8| CERTIFICATE_ALERTS.contains(&number))
        }
        code => kind(code) == ErrorKind::Unauthenticated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(now: Instant) -> Trust {
        let mut trust = Trust::default();
        trust.refused(KafkaError::Global(RDKafkaErrorCode::Authentication), "wrong password".into(), now);
        trust
    }

    #[test]
    fn a_refusal_is_told_with_its_cause_until_a_broker_answers() {
        let now = Instant::now();
        let mut trust = refused(now);
        let error = trust.give_up(now).unwrap();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "wrong password");
        trust.let_in();
        assert!(trust.give_up(now).is_none());
        assert!(trust.shuts_out(5, now).is_none());
    }

    #[test]
    fn a_refusal_shuts_nobody_out_until_somebody_has_waited_in_vain() {
        let now = Instant::now();
        let mut trust = refused(now);
        assert!(trust.shuts_out(5, now).is_none());
        trust.give_up(now);
        assert!(trust.shuts_out(5, now).is_some());
    }

    #[test]
    fn when_no_record_is_left_the_next_is_the_trial_and_others_wait_with_it() {
        let now = Instant::now();
        let mut trust = refused(now);
        trust.give_up(now);
        assert!(trust.shuts_out(0, now).is_none());
        assert!(trust.shuts_out(1, now).is_none());
        trust.give_up(now);
        assert!(trust.shuts_out(1, now).is_some());
    }

    #[test]
    fn a_certificate_that_the_broker_does_not_like_is_told_from_a_broken_connection() {
        let down = RDKafkaErrorCode::BrokerTransportFailure;
        for reason in [
            "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42 (after 3ms)",
            "Receive failed: error:0A00045C:SSL routines::tlsv13 alert certificate required: SSL alert number 116",
        ] {
            assert!(is_refusal(down, reason), "{reason}");
        }
        for reason in
            ["Connection refused", "SSL alert number ", "SSL alert number 80 (after 42ms)", "SSL alert number 4200"]
        {
            assert!(!is_refusal(down, reason), "{reason}");
        }
        assert!(is_refusal(RDKafkaErrorCode::SSL, "") && !is_refusal(RDKafkaErrorCode::AllBrokersDown, ""));
    }

    #[test]
    fn a_refusal_that_is_not_repeated_is_over() {
        let now = Instant::now();
        let mut trust = refused(now);
        trust.give_up(now);
        let later = now + Duration::from_secs(60);
        assert!(trust.shuts_out(5, later).is_none());
        assert!(trust.give_up(later).is_none());
        trust.refused(KafkaError::Global(RDKafkaErrorCode::SSL), "expired".into(), later);
        assert!(trust.give_up(later).is_some());
    }

    proptest::proptest! {
        #[test]
        fn an_alert_is_read_from_any_text(before in "\\PC*", alert: u16, behind in "\\PC*") {
            let reason = format!("{before}SSL alert number {alert}: {behind}");
            let is_one = u8::try_from(alert).is_ok_and(|alert| CERTIFICATE_ALERTS.contains(&alert));
            proptest::prop_assert_eq!(is_refusal(RDKafkaErrorCode::BrokerTransportFailure, &reason), is_one);
            let cut_short = format!("{before}SSL alert number ");
            proptest::prop_assert!(!is_refusal(RDKafkaErrorCode::BrokerTransportFailure, &cut_short));
        }
    }
}
