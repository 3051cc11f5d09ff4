//! Topics made by rdkafka's admin client: the control plane that needs no bytes.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic as RdNewTopic, TopicReplication};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;

use super::client::ClientConfig;
use super::error::{KafkaError, Subject};
use super::security::RdKafkaContext;

const DELETE: &str = "delete records";

/// How long the brokers may take until a topic is there on all of them.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    /// The name.
    pub name: Arc<str>,
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas of each.
    pub replication_factor: i32,
    /// Configs of its own; everything else is the cluster's default.
    pub configs: Vec<(String, String)>,
}

/// rdkafka's admin client for the cluster of a [`ClientConfig`].
pub struct Admin {
    client: AdminClient<RdKafkaContext>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admin")
    }
}

impl Admin {
    /// Makes a client; nothing is sent yet.
    ///
    /// # Errors
    /// rdkafka refuses the configuration, or there are no credentials.
    pub async fn new(config: &ClientConfig) -> Result<Self, KafkaError> {
        let mut settings = rdkafka::ClientConfig::new();
        settings
            .set("bootstrap.servers", config.bootstrap_servers.join(","))
            .set("client.id", &config.client_id)
            .set("allow.auto.create.topics", "false");
        let context = config.security.configure(&mut settings).await?;
        let client = settings
            .create_with_context(context)
            .map_err(|source| KafkaError::Admin {
                operation: "make an admin client",
                source,
            })?;
        Ok(Self { client })
    }

    /// An answer, or the refusal of a broker to speak to us.
    async fn unless_refused<T>(
        &self,
        operation: &'static str,
        asking: impl Future<Output = Result<T, rdkafka::error::KafkaError>>,
    ) -> Result<T, KafkaError> {
        tokio::select! {
            biased;
            answer = asking => answer.map_err(|source| KafkaError::Admin { operation, source }),
            reason = self.client.inner().context().refused() => {
                Err(KafkaError::AdminDenied { operation, reason })
            }
        }
    }

    /// Creates topics; results in the order given, each topic has its own.
    ///
    /// Afterwards brokers may still need a moment until they name leaders: see
    /// [`Client::topics_with_leaders`](super::Client::topics_with_leaders).
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<Vec<Result<(), KafkaError>>, KafkaError> {
        let new_topics: Vec<RdNewTopic<'_>> = topics.iter().map(new_topic).collect();
        let options = AdminOptions::new()
            .request_timeout(Some(OPERATION_TIMEOUT * 2))
            .operation_timeout(Some(OPERATION_TIMEOUT));
        let creating = self.client.create_topics(&new_topics, &options);
        let results = self.unless_refused("create topics", creating).await?;
        let failures: std::collections::HashMap<String, RDKafkaErrorCode> =
            results.into_iter().filter_map(Result::err).collect();
        let result = |topic: &NewTopic| match failures.get(&*topic.name) {
            None => Ok(()),
            Some(code) => Err(failure(topic, *code)),
        };
        Ok(topics.iter().map(result).collect())
    }

    /// Deletes the records before an offset of each partition, given as topic, partition, offset.
    ///
    /// # Errors
    /// The first partition's that was refused.
    pub async fn delete_records(&self, before: &[(Arc<str>, i32, i64)]) -> Result<(), KafkaError> {
        let failed = |source| KafkaError::Admin {
            operation: DELETE,
            source,
        };
        let mut offsets = TopicPartitionList::new();
        for (topic, partition, offset) in before {
            offsets
                .add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(failed)?;
        }
        let options = AdminOptions::new()
            .request_timeout(Some(OPERATION_TIMEOUT * 2))
            .operation_timeout(Some(OPERATION_TIMEOUT));
        let deleting = self.client.delete_records(&offsets, &options);
        let deleted = self.unless_refused(DELETE, deleting).await?;
        for element in deleted.elements() {
            if let Err(error) = element.error() {
                let code = error.rdkafka_error_code();
                return Err(KafkaError::Answered {
                    api: ApiKey::DeleteRecords,
                    subject: Subject::Partition(Arc::from(element.topic()), element.partition()),
                    code: code.map_or(ResponseError::UnknownServerError, response_error),
                    message: None,
                });
            }
        }
        Ok(())
    }
}

fn new_topic(topic: &NewTopic) -> RdNewTopic<'_> {
    let replication = TopicReplication::Fixed(topic.replication_factor);
    let new = RdNewTopic::new(&topic.name, topic.partitions, replication);
    topic
        .configs
        .iter()
        .fold(new, |new, (name, value)| new.set(name, value))
}

fn failure(topic: &NewTopic, code: RDKafkaErrorCode) -> KafkaError {
    KafkaError::Answered {
        api: ApiKey::CreateTopics,
        subject: Subject::Topic(topic.name.clone()),
        code: response_error(code),
        // The broker's own words do not come through rdkafka's safe interface, so that the request is said again.
        message: Some(format!(
            "{} partitions, replication factor {}, configs {:?}",
            topic.partitions, topic.replication_factor, topic.configs
        )),
    }
}

/// rdkafka numbers the broker's codes as Kafka does; its own are negative.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not named is the broker's, and told apart by its number"
)]
fn response_error(code: RDKafkaErrorCode) -> ResponseError {
    let own = match code {
        RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::RequestTimedOut
        | RDKafkaErrorCode::TimedOutQueue => Some(ResponseError::RequestTimedOut),
        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown => {
            Some(ResponseError::NetworkException)
        }
        RDKafkaErrorCode::Authentication => Some(ResponseError::SaslAuthenticationFailed),
        _ => None,
    };
    let brokers = i16::try_from(code as i32)
        .ok()
        .and_then(ResponseError::try_from_code);
    own.or(brokers).unwrap_or(ResponseError::UnknownServerError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_rdkafka_are_kafkas() {
        let cases = [
            (
                RDKafkaErrorCode::TopicAlreadyExists,
                ResponseError::TopicAlreadyExists,
            ),
            (
                RDKafkaErrorCode::InvalidReplicationFactor,
                ResponseError::InvalidReplicationFactor,
            ),
            (
                RDKafkaErrorCode::PolicyViolation,
                ResponseError::PolicyViolation,
            ),
            (
                RDKafkaErrorCode::InvalidConfig,
                ResponseError::InvalidConfig,
            ),
            (
                RDKafkaErrorCode::TopicAuthorizationFailed,
                ResponseError::TopicAuthorizationFailed,
            ),
            (
                RDKafkaErrorCode::OperationTimedOut,
                ResponseError::RequestTimedOut,
            ),
            (
                RDKafkaErrorCode::AllBrokersDown,
                ResponseError::NetworkException,
            ),
        ];
        for (code, expected) in cases {
            assert_eq!(response_error(code), expected, "{code:?}");
        }
    }
}
