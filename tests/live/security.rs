//! Brokers that ask who a client is, and clients that ask the same of a broker.

use std::fs;
use std::path::PathBuf;

use tidings::{Producer, ProducerBuilder};

use crate::support::events::catalog;
use crate::world::{World, wanted};

mod knowing;
mod permission;
mod refusing;
mod secrets;
mod tls;
mod tokens;

/// Whom the broker knows, as `scripts/services` says.
const USER: &str = "tidings";
const PASSWORD: &str = "tidings-secret";

/// The listeners that ask, and what it takes to be let in.
struct Secured {
    world: World,
    /// TLS and SASL.
    sasl: String,
    /// TLS, for clients with a certificate.
    mutual: String,
    /// TLS, with a certificate that has expired.
    expired: String,
    certificates: PathBuf,
}

/// The world of this test, or, loudly, the end of it.
macro_rules! secured {
    () => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        let Some(secured) = crate::security::Secured::open(test).await else { return };
        secured
    }};
}
use secured;

/// The variables of a client.
type Settings = Vec<(&'static str, String)>;

impl Secured {
    async fn open(test: &str) -> Option<Self> {
        let names = ["KAFKA_SASL_SSL_BROKERS", "KAFKA_SSL_BROKERS", "KAFKA_EXPIRED_SSL_BROKERS", "KAFKA_CERTIFICATES"];
        let [sasl, mutual, expired, certificates] = wanted(test, names, "`scripts/services env`")?;
        let world = World::open(test).await?;
        Some(Self { world, sasl, mutual, expired, certificates: certificates.into() })
    }

    /// A file of the certificates' folder.
    fn pem(&self, file: &str) -> String {
        fs::read_to_string(self.certificates.join(file)).unwrap()
    }

    /// A client that trusts the broker.
    fn trusting(&self, brokers: &str) -> Settings {
        vec![
            ("STREAMING_BROKERS", brokers.to_owned()),
            ("STREAMING_TLS_ENABLED", "true".to_owned()),
            ("STREAMING_TLS_CA_CERT", self.pem("ca.pem")),
        ]
    }

    /// One that says who it is.
    fn named(&self, mechanism: &str, user: &str, password: &str) -> Settings {
        let login = [
            ("STREAMING_SASL_MECHANISM", mechanism.to_owned()),
            ("STREAMING_SASL_USERNAME", user.to_owned()),
            ("STREAMING_SASL_PASSWORD", password.to_owned()),
        ];
        self.trusting(&self.sasl).into_iter().chain(login).collect()
    }

    /// One that shows a token.
    fn with_tokens(&self) -> Settings {
        let mechanism = ("STREAMING_SASL_MECHANISM", "OAUTHBEARER".to_owned());
        self.trusting(&self.sasl).into_iter().chain([mechanism]).collect()
    }

    fn builder(&self, settings: &Settings) -> ProducerBuilder {
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Producer::builder(self.world.config(&settings), catalog())
    }
}
