//! Broker and database: embedded, or those of the environment.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tempfile::TempDir;
use tidings::{Config, Naming};

use crate::Result;
use crate::database::Database;

/// The mock cluster has one broker.
const BROKER_ID: i32 = 1;

const PARTITIONS: i32 = 3;

/// How long an emit waits for the embedded broker, which answers within few milliseconds unless it is down.
const DIRECT_TIMEOUT: Duration = Duration::from_millis(200);

/// How long the breaker stays open before an emit may try the embedded broker again.
pub(crate) const BREAKER_OPEN_TIME: Duration = Duration::from_secs(1);

pub(crate) struct Services {
    pub(crate) broker: Broker,
    pub(crate) database: Database,
    pub(crate) topic: String,
    /// Of this run alone, so that earlier runs don't count.
    prefix: String,
    vars: HashMap<String, String>,
    /// Where the SQLite file is.
    _folder: TempDir,
}

pub(crate) enum Broker {
    Embedded(MockCluster<'static, DefaultProducerContext>),
    Kafka { brokers: String },
}

impl Services {
    #[expect(clippy::disallowed_methods, reason = "the quickstart decides by these variables what to run on")]
    pub(crate) async fn from_env() -> Result<Self> {
        // Of a variable that is not text we want nothing.
        let vars = std::env::vars_os();
        let vars = vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let vars: HashMap<_, _> = vars.collect();
        let set = |name| vars.get(name).filter(|value| !value.is_empty()).cloned();
        let folder = tempfile::tempdir()?;
        let run = &uuid::Uuid::now_v7().simple().to_string()[24..];
        let prefix = format!("quickstart-{run}");
        let topic = format!("{prefix}.order.changed");
        let (broker, database) = match (set("STREAMING_BROKERS"), set("DATABASE_URL")) {
            (Some(brokers), Some(url)) => {
                (Broker::Kafka { brokers }, Database::postgres(url, format!("quickstart_orders_{run}")).await?)
            }
            (brokers, url) => {
                if brokers.is_some() || url.is_some() {
                    println!("Of STREAMING_BROKERS and DATABASE_URL only one is set: both are embedded.");
                }
                let database = Database::sqlite(folder.path().join("shop.sqlite")).await?;
                (Broker::Embedded(MockCluster::new(1)?), database)
            }
        };
        broker.create_topic(&topic).await.map_err(|error| format!("{broker}: no topic can be created: {error}"))?;
        database.create_orders().await?;
        Ok(Self { broker, database, topic, prefix, vars, _folder: folder })
    }

    /// The producer's settings.
    pub(crate) fn config(&self) -> tidings::Result<Config> {
        let mut vars = HashMap::from([
            ("STREAMING_ENABLED", "true".to_owned()),
            ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders".to_owned()),
            ("STREAMING_BROKERS", self.broker.servers()),
        ]);
        match self.broker {
            Broker::Embedded(_) => {
                vars.insert("STREAMING_DIRECT_TIMEOUT_MS", DIRECT_TIMEOUT.as_millis().to_string());
                vars.insert("STREAMING_CB_TIMEOUT_S", BREAKER_OPEN_TIME.as_secs().to_string());
            }
            Broker::Kafka { .. } => vars.extend(self.vars.iter().map(|(name, value)| (name.as_str(), value.clone()))),
        }
        Ok(Config::from_vars(vars)?.with_naming(Naming::per_event(&self.prefix)))
    }

    /// Leaves nothing behind.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.database.drop_orders().await?;
        if let Broker::Kafka { brokers } = &self.broker {
            admin(brokers)?.delete_topics(&[&self.topic], &admin_options()).await?;
        }
        Ok(())
    }
}

impl Broker {
    pub(crate) fn servers(&self) -> String {
        match self {
            Self::Embedded(mock) => mock.bootstrap_servers(),
            Self::Kafka { brokers } => brokers.clone(),
        }
    }

    async fn create_topic(&self, name: &str) -> Result<()> {
        match self {
            Self::Embedded(mock) => mock.create_topic(name, PARTITIONS, 1)?,
            Self::Kafka { brokers } => {
                let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1));
                for created in admin(brokers)?.create_topics([&topic], &admin_options()).await? {
                    created.map_err(|(topic, error)| format!("the topic {topic} can't be created: {error}"))?;
                }
            }
        }
        Ok(())
    }

    /// Takes the broker down. Says whether it could.
    pub(crate) fn stop(&self) -> Result<bool> {
        match self {
            Self::Embedded(mock) => mock.broker_down(BROKER_ID).map(|()| true).map_err(Into::into),
            Self::Kafka { .. } => Ok(false),
        }
    }

    pub(crate) fn start(&self) -> Result<()> {
        match self {
            Self::Embedded(mock) => Ok(mock.broker_up(BROKER_ID)?),
            Self::Kafka { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(_) => f.write_str("librdkafka's mock cluster, in this process"),
            Self::Kafka { brokers } => write!(f, "Kafka at {brokers}"),
        }
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(Duration::from_secs(10)))
}

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", brokers).create()?)
}
