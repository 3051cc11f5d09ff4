//! A Kafka cluster: how it is reached, who leads what, and bulk requests to all leaders.
//!
//! # Guarantees
//! - The cluster is reached through any of the bootstrap servers; while none answers, all are tried again with back-off for
//!   [`ClientConfig::retry_timeout`], then the failure names each of them with its reason.
//! - Metadata that names another cluster id than at the start is an error: half a run from one cluster and half from
//!   another is never made.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_shared::spec::KafkaCluster;
use kafka_protocol::messages::{ApiKey, MetadataResponse};

use super::api::Api;
use super::error::{KafkaError, chain};
use super::metadata::{self, Broker, TopicFilter, TopicMetadata};
use super::produce::ProducerId;
use super::retry::Retry;
use super::security::Security;
use super::wire::{Connection, InFlight};
use crate::buffers::Buffers;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of one or more brokers.
    pub bootstrap_servers: Vec<String>,
    /// How brokers are spoken to, and who we are.
    pub security: Security,
    /// What brokers log and throttle us by.
    pub client_id: String,
    /// For one stream to one broker, and again for the exchange that opens it.
    pub connect_timeout: Duration,
    /// For one request, from the last byte that moved.
    pub request_timeout: Duration,
    /// For how long unreachable brokers and moving leaders are waited for.
    pub retry_timeout: Duration,
    /// The largest answer that memory is taken for.
    pub max_response_bytes: usize,
    /// Memory of large answers.
    pub buffers: Buffers,
}

impl ClientConfig {
    /// The cluster of a spec, with default times and limits. Secrets that it names are folders of `secrets_dir`.
    pub fn new(cluster: &KafkaCluster, secrets_dir: &Path, client_id: &str) -> Self {
        Self {
            bootstrap_servers: cluster.bootstrap_servers.clone(),
            security: Security::new(cluster, secrets_dir),
            client_id: client_id.to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(30),
            max_response_bytes: 100 << 20,
            buffers: Buffers::default(),
        }
    }
}

/// A cluster that was reached; clones share connections and metadata.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    cluster_id: String,
    brokers: Mutex<BTreeMap<i32, Broker>>,
    /// One connection per broker for everything that is not bulk data, opened when first needed.
    control: Mutex<HashMap<i32, Slot>>,
}

/// The lock is held while the broker is connected to, so that no second connection is made meanwhile.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

impl Client {
    /// Reaches a cluster and learns its id and its brokers.
    ///
    /// # Errors
    /// No bootstrap server answered within `retry_timeout`, or none will: an address that is none, a broker that is too old.
    pub async fn connect(config: ClientConfig) -> Result<Self, KafkaError> {
        for address in &config.bootstrap_servers {
            check_address(address)?;
        }
        let mut retry = Retry::new(config.retry_timeout);
        loop {
            let error = match bootstrap(&config).await {
                Ok(response) => return Self::new(config, &response),
                Err(error) => error,
            };
            retry.pause_or_fail(error).await?;
        }
    }

    fn new(config: ClientConfig, response: &MetadataResponse) -> Result<Self, KafkaError> {
        let cluster_id = response.cluster_id.as_ref();
        let cluster_id = cluster_id.ok_or_else(|| KafkaError::Malformed {
            broker: Arc::from(config.bootstrap_servers.join(",")),
            api: ApiKey::Metadata,
            detail: "the cluster has no id".to_owned(),
        })?;
        let brokers = metadata::brokers(response);
        tracing::debug!(cluster_id = %cluster_id, brokers = brokers.len(), "cluster reached");
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                cluster_id: cluster_id.to_string(),
                brokers: Mutex::new(brokers),
                control: Mutex::default(),
            }),
        })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> &str {
        &self.shared.cluster_id
    }

    /// How the cluster is reached.
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// The brokers, as the last metadata named them.
    pub fn brokers(&self) -> Vec<Broker> {
        lock(&self.shared.brokers).values().cloned().collect()
    }

    /// Asks for topics with their ids, partitions and leaders, and learns the brokers anew.
    ///
    /// A named topic that does not exist comes back with its error; none is created.
    pub async fn topics(&self, filter: &TopicFilter) -> Result<Vec<TopicMetadata>, KafkaError> {
        let response = self.ask_any(&metadata::request(filter)).await?;
        self.learn(&response)?;
        Ok(metadata::topics(&response))
    }

    /// Asks for these topics until each has a leader for every partition, for `retry_timeout`: the moment after creation.
    ///
    /// # Errors
    /// The first topic's or partition's that still has none.
    pub async fn topics_with_leaders(
        &self,
        names: &[Arc<str>],
    ) -> Result<Vec<TopicMetadata>, KafkaError> {
        let filter = TopicFilter::Named(names.to_vec());
        let mut retry = Retry::new(self.shared.config.retry_timeout);
        loop {
            let topics = self.topics(&filter).await?;
            let leaderless = topics.iter().find_map(|topic| topic.led_partitions().err());
            let Some(error) = leaderless else {
                return Ok(topics);
            };
            retry.pause_or_fail(error).await?;
        }
    }

    fn learn(&self, response: &MetadataResponse) -> Result<(), KafkaError> {
        let found = response.cluster_id.as_ref().map(|id| id.as_str());
        if found != Some(self.cluster_id()) {
            return Err(KafkaError::ClusterChanged {
                expected: self.cluster_id().to_owned(),
                found: found.unwrap_or_default().to_owned(),
            });
        }
        let brokers = metadata::brokers(response);
        // A cluster that is being born or is dying names none: better the old ones than nobody to ask.
        if !brokers.is_empty() {
            *lock(&self.shared.brokers) = brokers;
        }
        Ok(())
    }

    fn broker(&self, id: i32) -> Result<Broker, KafkaError> {
        let brokers = lock(&self.shared.brokers);
        let broker = brokers.get(&id).cloned();
        broker.ok_or(KafkaError::UnknownBroker { id })
    }

    /// The shared connection to a broker, for what is not bulk data; opened anew when it has died.
    pub async fn connection(&self, broker: i32) -> Result<Connection, KafkaError> {
        let slot: Slot = lock(&self.shared.control)
            .entry(broker)
            .or_default()
            .clone();
        let address = self.broker(broker)?.address;
        let mut slot = slot.lock().await;
        let alive = slot
            .as_ref()
            .filter(|connection| !connection.is_dead() && **connection.broker() == *address);
        if let Some(connection) = alive {
            return Ok(connection.clone());
        }
        let connection = Connection::open(&address, &self.shared.config).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Opens a connection of the caller's own to a broker, for Fetch or Produce, one attempt.
    pub async fn open(&self, broker: i32) -> Result<Connection, KafkaError> {
        let address = self.broker(broker)?.address;
        Connection::open(&address, &self.shared.config).await
    }

    /// The same with a limit for answers, for partitions with batches near or above the default of 100 MiB.
    pub async fn open_with_limit(
        &self,
        broker: i32,
        max_response_bytes: usize,
    ) -> Result<Connection, KafkaError> {
        let address = self.broker(broker)?.address;
        let config = ClientConfig {
            max_response_bytes,
            ..self.shared.config.clone()
        };
        Connection::open(&address, &config).await
    }

    /// Asks for a producer id; waits while the coordinator is not ready.
    pub async fn init_producer_id(&self) -> Result<ProducerId, KafkaError> {
        self.with_any(|connection| connection.init_producer_id())
            .await
    }

    /// Asks whichever broker answers.
    pub(crate) async fn ask_any<R: Api>(&self, request: &R) -> Result<R::Response, KafkaError> {
        self.with_any(|connection| connection.send(request)).await
    }

    /// The same for any question; retried while it fails in a way that passes.
    pub(crate) async fn with_any<T>(
        &self,
        ask: impl Fn(&Connection) -> Result<InFlight<T>, KafkaError>,
    ) -> Result<T, KafkaError> {
        let mut retry = Retry::new(self.shared.config.retry_timeout);
        loop {
            let error = match self.try_any(&ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            retry.pause_or_fail(error).await?;
        }
    }

    fn is_connected(&self, broker: i32) -> bool {
        let control = lock(&self.shared.control);
        let slot = control.get(&broker).and_then(|slot| slot.try_lock().ok());
        slot.is_some_and(|slot| slot.as_ref().is_some_and(|c| !c.is_dead()))
    }

    /// One attempt at each broker, then at each bootstrap server.
    async fn try_any<T>(
        &self,
        ask: &impl Fn(&Connection) -> Result<InFlight<T>, KafkaError>,
    ) -> Result<T, KafkaError> {
        let mut brokers = self.brokers();
        // One that hangs costs a time-out; those that are known to live are asked before it.
        brokers.sort_by_key(|broker| !self.is_connected(broker.id));
        for broker in brokers {
            let answer = async { ask(&self.connection(broker.id).await?)?.await };
            match answer.await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_stale_metadata() => {
                    tracing::debug!(broker = %broker.address, error = %chain(&error), "broker passed over");
                }
                Err(error) => return Err(error),
            }
        }
        let (connection, _) = bootstrap_connection(&self.shared.config).await?;
        ask(&connection)?.await
    }
}

/// Metadata without topics from the first bootstrap server that gives it.
async fn bootstrap(config: &ClientConfig) -> Result<MetadataResponse, KafkaError> {
    bootstrap_connection(config)
        .await
        .map(|(_, response)| response)
}

async fn bootstrap_connection(
    config: &ClientConfig,
) -> Result<(Connection, MetadataResponse), KafkaError> {
    let request = metadata::request(&TopicFilter::Nothing);
    let mut attempts = Vec::new();
    for address in &config.bootstrap_servers {
        let answer = async {
            let connection = Connection::open(address, config).await?;
            let response = connection.send(&request)?.await?;
            Ok((connection, response))
        };
        match answer.await {
            Ok(reached) => return Ok(reached),
            Err(error) => attempts.push((address.clone(), error)),
        }
    }
    Err(KafkaError::Bootstrap { attempts })
}

fn check_address(address: &str) -> Result<(), KafkaError> {
    let parts = address.rsplit_once(':');
    let valid = parts.is_some_and(|(host, port)| {
        let bare_ipv6 = host.contains(':') && !host.starts_with('[');
        !host.is_empty() && !bare_ipv6 && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if valid {
        return Ok(());
    }
    Err(KafkaError::Address {
        address: address.to_owned(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_address_needs_host_and_port() {
        for good in ["a:9092", "10.0.0.1:1", "[::1]:9092", "kafka.ns.svc:65535"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        for bad in ["a", "a:", ":9092", "a:0", "a:70000", "a:b", "::1:9092", ""] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bootstrap_failure_names_every_server_with_its_reason() {
        let refused = |address: &str| KafkaError::Connect {
            address: address.to_owned(),
            source: Arc::new(std::io::Error::from_raw_os_error(111)),
        };
        let error = KafkaError::Bootstrap {
            attempts: vec![
                ("a:9092".to_owned(), refused("a:9092")),
                ("b:9092".to_owned(), refused("b:9092")),
            ],
        };
        assert_eq!(
            chain(&error),
            "failed to reach any of bootstrapServers [a:9092, b:9092]: a:9092: connection refused; b:9092: connection refused"
        );
        assert_eq!(
            error.fault(),
            kafka_backup_shared::report::Fault::Unavailable
        );
    }
}
