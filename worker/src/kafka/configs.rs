//! Configs of topics: effective values with their source, and changes that leave the rest alone.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::{ApiKey, DescribeConfigsRequest, IncrementalAlterConfigsRequest};
use kafka_protocol::protocol::StrBytes;

use super::client::Client;
use super::error::{KafkaError, Subject};
use super::offsets::PerPartition;

/// Kafka's number of topics among the resources that have configs.
const TOPIC_RESOURCE: i8 = 2;

/// Topics in one request: some 40 configs of some 60 bytes each keep the answer at a few megabytes.
const TOPICS_PER_REQUEST: usize = 1000;

/// A config of a topic with its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The name, such as `retention.ms`.
    pub name: String,
    /// The value; `None` where it is unset or sensitive.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Brokers do not tell values of this one.
    pub sensitive: bool,
    /// It cannot be changed.
    pub read_only: bool,
}

/// Where an effective value comes from (Kafka's `DescribeConfigsResponse.ConfigSource`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on the broker at run time.
    DynamicBroker,
    /// Set for all brokers at run time.
    DynamicDefaultBroker,
    /// From the broker's properties file.
    StaticBroker,
    /// Kafka's default.
    Default,
    /// A source that topics do not have, or that this client does not know.
    Other(i8),
}

impl ConfigSource {
    fn from_code(code: i8) -> Self {
        match code {
            1 => Self::Topic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicDefaultBroker,
            4 => Self::StaticBroker,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

/// A change of one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// The name, such as `retention.ms`.
    pub name: String,
    /// What happens to it.
    pub operation: ConfigOperation,
}

/// What happens to a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOperation {
    /// It gets this value.
    Set(String),
    /// The topic no longer has a value of its own.
    Delete,
}

impl Client {
    /// Effective configs of topics, in the order given; each topic has its own error.
    pub async fn topic_configs(
        &self,
        topics: &[Arc<str>],
    ) -> Result<PerPartition<Vec<ConfigEntry>>, KafkaError> {
        let mut all = Vec::with_capacity(topics.len());
        for topics in topics.chunks(TOPICS_PER_REQUEST) {
            let resources = topics.iter().map(|topic| {
                DescribeConfigsResource::default()
                    .with_resource_type(TOPIC_RESOURCE)
                    .with_resource_name(StrBytes::from_string(topic.to_string()))
                    .with_configuration_keys(None)
            });
            let request = DescribeConfigsRequest::default().with_resources(resources.collect());
            let response = self.ask_any(&request).await?;
            let answers = response.results.into_iter().map(|result| {
                let answer = Answer {
                    topic: result.resource_name,
                    code: result.error_code,
                    message: result.error_message,
                    value: result.configs.into_iter().map(entry).collect(),
                };
                (answer.topic.clone(), answer)
            });
            all.extend(align(ApiKey::DescribeConfigs, topics, answers.collect()));
        }
        Ok(all)
    }

    /// Changes configs of topics and leaves all others as they are; results in the order given.
    ///
    /// A topic's changes are made together or not at all.
    pub async fn alter_topic_configs(
        &self,
        changes: &[(Arc<str>, Vec<ConfigChange>)],
    ) -> Result<PerPartition<()>, KafkaError> {
        let resources = changes.iter().map(|(topic, changes)| {
            AlterConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_string(topic.to_string()))
                .with_configs(changes.iter().map(alterable).collect())
        });
        let request = IncrementalAlterConfigsRequest::default().with_resources(resources.collect());
        let response = self.ask_any(&request).await?;
        let answers = response.responses.into_iter().map(|result| {
            let answer = Answer {
                topic: result.resource_name,
                code: result.error_code,
                message: result.error_message,
                value: (),
            };
            (answer.topic.clone(), answer)
        });
        let topics: Vec<_> = changes.iter().map(|(topic, _)| topic.clone()).collect();
        let answers = answers.collect();
        Ok(align(ApiKey::IncrementalAlterConfigs, &topics, answers))
    }
}

fn entry(config: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: ConfigSource::from_code(config.config_source),
        sensitive: config.is_sensitive,
        read_only: config.read_only,
    }
}

fn alterable(change: &ConfigChange) -> AlterableConfig {
    let (code, value) = match &change.operation {
        ConfigOperation::Set(value) => (0, Some(StrBytes::from_string(value.clone()))),
        ConfigOperation::Delete => (1, None),
    };
    AlterableConfig::default()
        .with_name(StrBytes::from_string(change.name.clone()))
        .with_config_operation(code)
        .with_value(value)
}

struct Answer<T> {
    topic: StrBytes,
    code: i16,
    message: Option<StrBytes>,
    value: T,
}

fn align<T>(
    api: ApiKey,
    topics: &[Arc<str>],
    mut answers: HashMap<StrBytes, Answer<T>>,
) -> PerPartition<T> {
    topics
        .iter()
        .map(|topic| {
            let answer = answers.remove(&StrBytes::from_string(topic.to_string()));
            // No answer is none of Kafka's; the broker "experienced an unexpected error" describes it best.
            let Some(answer) = answer else {
                let subject = Subject::Topic(topic.clone());
                return Err(KafkaError::answered(
                    api,
                    subject,
                    ResponseError::UnknownServerError,
                ));
            };
            match ResponseError::try_from_code(answer.code) {
                None => Ok(answer.value),
                Some(code) => Err(KafkaError::Answered {
                    api,
                    subject: Subject::Topic(topic.clone()),
                    code,
                    message: answer.message.map(|message| message.to_string()),
                }),
            }
        })
        .collect()
}
