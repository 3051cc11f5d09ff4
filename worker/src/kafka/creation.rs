//! Topics that a cluster is asked to create, and what would become of them. By our own requests: rdkafka's safe interface tells
//! neither a broker's own words nor the configs that a topic would have, and its admin client asks for no tokens (OAUTHBEARER).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{ApiKey, CreateTopicsRequest, CreateTopicsResponse};
use kafka_protocol::protocol::StrBytes;

use super::client::Client;
use super::error::{KafkaError, Subject};
use super::offsets::{PerPartition, topic_name};
use super::wire::Connection;

/// The controller may take so long, in milliseconds.
const TIMEOUT_MS: i32 = 30_000;

/// Effective configs by name.
pub type EffectiveConfigs = HashMap<String, String>;

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

impl Client {
    /// Creates topics; results in the order given, each topic has its own. One whose creation was answered by nobody and asked for
    /// again comes back as existing.
    ///
    /// Afterwards brokers may still need a moment until they name leaders: see [`Client::topics_with_leaders`].
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<PerPartition<EffectiveConfigs>, KafkaError> {
        self.ask_for_topics(topics, false).await
    }

    /// Asks whether topics could be created, with whatever the cluster's policies and permissions say about it; in the order
    /// given, with the configs that each would have. They are empty where the principal may not see them.
    ///
    /// # Errors
    /// Nobody answers. That a topic would be refused is its own error.
    pub async fn validate_topics(
        &self,
        topics: &[NewTopic],
    ) -> Result<PerPartition<EffectiveConfigs>, KafkaError> {
        self.ask_for_topics(topics, true).await
    }

    async fn ask_for_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<PerPartition<EffectiveConfigs>, KafkaError> {
        let request = CreateTopicsRequest::default()
            .with_topics(topics.iter().map(creatable).collect())
            .with_timeout_ms(TIMEOUT_MS)
            .with_validate_only(validate_only);
        let response = self.ask_controller(&request).await?;
        let mut answers: HashMap<_, _> = response
            .topics
            .into_iter()
            .map(|topic| (topic.name.clone(), topic))
            .collect();
        let results = topics.iter().map(|topic| {
            let subject = Subject::Topic(topic.name.clone());
            let Some(answer) = answers.remove(&topic_name(&topic.name)) else {
                let code = ResponseError::UnknownServerError;
                return Err(KafkaError::answered(ApiKey::CreateTopics, subject, code));
            };
            match ResponseError::try_from_code(answer.error_code) {
                None => Ok(answer
                    .configs
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|config| Some((config.name.to_string(), config.value?.to_string())))
                    .collect()),
                Some(code) => Err(KafkaError::Answered {
                    api: ApiKey::CreateTopics,
                    subject,
                    code,
                    message: answer.error_message.map(|message| message.to_string()),
                }),
            }
        });
        Ok(results.collect())
    }

    /// Brokers in KRaft mode forward to the controller; with ZooKeeper each but the controller says that it is not.
    async fn ask_controller(
        &self,
        request: &CreateTopicsRequest,
    ) -> Result<CreateTopicsResponse, KafkaError> {
        let elsewhere = ResponseError::NotController.code();
        let patience = Duration::from_millis(TIMEOUT_MS.unsigned_abs().into());
        let ask = |connection: &Connection| connection.send_patiently(request, patience);
        let mut last = self.with_any(ask).await?;
        for broker in self.brokers() {
            if last
                .topics
                .iter()
                .all(|topic| topic.error_code != elsewhere)
            {
                break;
            }
            last = ask(&self.connection(broker.id).await?)?.await?;
        }
        Ok(last)
    }
}

fn creatable(topic: &NewTopic) -> CreatableTopic {
    let configs = topic.configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_string(name.clone()))
            .with_value(Some(StrBytes::from_string(value.clone())))
    });
    CreatableTopic::default()
        .with_name(topic_name(&topic.name))
        .with_num_partitions(topic.partitions)
        .with_replication_factor(i16::try_from(topic.replication_factor).unwrap_or(i16::MAX))
        .with_configs(configs.collect())
}
