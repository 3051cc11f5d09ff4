//! What a cluster says about itself: brokers, topics, leaders.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{ApiKey, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::error::{KafkaError, Subject};

/// Which topics to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFilter {
    /// All that the principal may see.
    All,
    /// These; one that does not exist comes back with its error.
    Named(Vec<Arc<str>>),
    /// None: brokers and cluster id only.
    Nothing,
}

/// A broker's advertised address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// The broker's id.
    pub id: i32,
    /// `host:port`.
    pub address: String,
    /// The rack, where brokers have one.
    pub rack: Option<String>,
}

/// A topic, or why there is nothing to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// The name.
    pub name: Arc<str>,
    /// The id, which a topic made anew under the same name does not share. Nil when `error` is set.
    pub id: Uuid,
    /// Kafka's own topic.
    pub internal: bool,
    /// Why the topic cannot be described: unknown, invalid name, not authorized.
    pub error: Option<ResponseError>,
    /// What the principal may do with the topic (KIP-430): a bit for each [`AclOperation`]; `None` where it was not asked for.
    pub authorized: Option<u32>,
    /// Ascending by partition, without holes when `error` is `None`.
    pub partitions: Vec<PartitionMetadata>,
}

/// What a principal may do with a topic; the numbers are those of `org.apache.kafka.common.acl.AclOperation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclOperation {
    /// Fetch records.
    Read = 3,
    /// Append records.
    Write = 4,
    /// Delete records, or the topic.
    Delete = 6,
    /// Read configs.
    DescribeConfigs = 10,
    /// Change configs.
    AlterConfigs = 11,
}

/// A partition and who leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The partition.
    pub partition: i32,
    /// `None` while there is none.
    pub leader: Option<i32>,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// Brokers that hold a replica.
    pub replicas: Vec<i32>,
    /// Those of them that are in sync.
    pub isr: Vec<i32>,
    /// Such as `LeaderNotAvailable`.
    pub error: Option<ResponseError>,
}

/// A partition with the leader that metadata names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The leader's broker id.
    pub leader: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
}

impl TopicMetadata {
    /// Whether there is no such topic. Who asks for one by name that it may not describe is told `TopicAuthorizationFailed` instead,
    /// whether there is one or not.
    pub fn is_unknown(&self) -> bool {
        self.error == Some(ResponseError::UnknownTopicOrPartition)
    }

    /// Whether the principal may do that; brokers without an authorizer permit everything.
    pub fn permits(&self, operation: AclOperation) -> bool {
        self.authorized
            .is_none_or(|authorized| authorized & (1 << operation as u32) != 0)
    }

    /// The partitions with their leaders.
    ///
    /// # Errors
    /// The topic's or a partition's own, or a partition has no leader.
    pub fn led_partitions(&self) -> Result<Vec<LedPartition>, KafkaError> {
        if let Some(code) = self.error {
            let subject = Subject::Topic(self.name.clone());
            return Err(KafkaError::answered(ApiKey::Metadata, subject, code));
        }
        self.partitions
            .iter()
            .map(|partition| partition.led(&self.name))
            .collect()
    }
}

impl PartitionMetadata {
    /// The partition with its leader.
    ///
    /// # Errors
    /// It has none.
    pub fn led(&self, topic: &Arc<str>) -> Result<LedPartition, KafkaError> {
        let leader = self.leader.ok_or_else(|| KafkaError::NoLeader {
            topic: topic.clone(),
            partition: self.partition,
        })?;
        Ok(LedPartition {
            topic: topic.clone(),
            partition: self.partition,
            leader,
            leader_epoch: self.leader_epoch,
        })
    }
}

/// The request for a filter; never creates a topic.
pub(crate) fn request(filter: &TopicFilter) -> MetadataRequest {
    let topics = match filter {
        TopicFilter::All => None,
        TopicFilter::Named(names) => {
            let named = |name: &Arc<str>| {
                let name = TopicName(StrBytes::from_string(name.to_string()));
                MetadataRequestTopic::default().with_name(Some(name))
            };
            Some(names.iter().map(named).collect())
        }
        TopicFilter::Nothing => Some(Vec::new()),
    };
    MetadataRequest::default()
        .with_topics(topics)
        .with_allow_auto_topic_creation(false)
        .with_include_topic_authorized_operations(matches!(filter, TopicFilter::Named(_)))
}

/// The brokers of an answer by id.
pub(crate) fn brokers(response: &MetadataResponse) -> BTreeMap<i32, Broker> {
    let broker = |id: i32, host: &str, port: i32| Broker {
        id,
        // An IPv6 address needs its brackets to be told from the port.
        address: match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        },
        rack: None,
    };
    response
        .brokers
        .iter()
        .map(|b| {
            let rack = b.rack.as_ref().map(|rack| rack.to_string());
            let found = broker(b.node_id.0, &b.host, b.port);
            (b.node_id.0, Broker { rack, ..found })
        })
        .collect()
}

/// The topics of an answer, ascending by name.
pub(crate) fn topics(response: &MetadataResponse) -> Vec<TopicMetadata> {
    let mut topics: Vec<_> = response.topics.iter().filter_map(topic).collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    topics
}

fn topic(topic: &MetadataResponseTopic) -> Option<TopicMetadata> {
    // A topic without name is only in answers to requests by id, which are not made.
    let name = topic.name.as_ref()?;
    let mut partitions: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| PartitionMetadata {
            partition: p.partition_index,
            leader: (p.leader_id.0 >= 0).then_some(p.leader_id.0),
            leader_epoch: p.leader_epoch,
            replicas: p.replica_nodes.iter().map(|node| node.0).collect(),
            isr: p.isr_nodes.iter().map(|node| node.0).collect(),
            error: p.error_code.err(),
        })
        .collect();
    partitions.sort_by_key(|p| p.partition);
    Some(TopicMetadata {
        name: Arc::from(name.as_str()),
        id: topic.topic_id,
        internal: topic.is_internal,
        error: topic.error_code.err(),
        // The least number stands for "not asked for".
        authorized: (topic.topic_authorized_operations != i32::MIN)
            .then(|| topic.topic_authorized_operations.cast_unsigned()),
        partitions,
    })
}
