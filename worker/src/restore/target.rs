//! Target topics: looked at, then emptied or created, and waited for.
//!
//! # Guarantees
//! - [`look`] changes nothing. What it lets pass, [`prepare`] can only find otherwise if somebody else was there in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::manifest::TopicPart;
use kafka_backup_shared::plan::{RestoreRequest, SpecError};
use kafka_backup_shared::spec::{IfTopicNotEmpty, TopicConfig};

use super::assign::{Assignment, assign};
use super::configs::{self, Finals, History};
use super::error::RestoreError;
use super::purge::{self, Filled};
use crate::kafka::{
    AclOperation, Client, ConfigEntry, EffectiveConfigs, KafkaError, LedPartition, NewTopic,
    OffsetSpec, ResponseError, Subject, TopicFilter, TopicMetadata,
};
use crate::store::Store;

/// A controller takes some milliseconds for each partition.
const TOPICS_PER_REQUEST: usize = 100;

/// What a source topic needs of its target.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// Name of the source topic.
    pub(super) source: &'a str,
    /// Name of the target topic.
    pub(super) target: Arc<str>,
    /// What the source is.
    pub(super) part: &'a TopicPart,
    /// What its records are.
    pub(super) history: History,
}

/// What a target topic is before anything is changed.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Where the source's partitions go.
    pub(super) assignment: Assignment,
    /// Largest batch that it takes, or will take.
    pub(super) max_message_bytes: u32,
    /// Number of replicas that it has, or will have.
    pub(super) replication_factor: i32,
    /// Whether this restore makes it, or has made it.
    pub(super) created: bool,
    /// The topic, where it is there.
    existing: Option<Existing>,
}

impl Standing {
    /// Offsets that a purge would free.
    pub(super) fn filled(&self) -> u64 {
        let existing = self.existing.as_ref();
        existing.map_or(0, |existing| existing.filled)
    }
}

#[derive(Clone, Debug)]
struct Existing {
    metadata: TopicMetadata,
    partitions: Vec<LedPartition>,
    configs: Vec<ConfigEntry>,
    /// Offsets between log starts and log ends.
    filled: u64,
    ends: Vec<i64>,
}

/// A target topic that is ready to be written to.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    /// What it is.
    pub(super) standing: Standing,
    /// The topic.
    pub(super) metadata: TopicMetadata,
    /// Log ends of its partitions.
    pub(super) base_offsets: Vec<i64>,
}

/// Where target topics are, and how they are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) request: &'a RestoreRequest,
    pub(super) client: &'a Client,
    pub(super) now: Timestamp,
    /// Whether offsets are committed on them in the end.
    pub(super) carries_groups: bool,
}

impl Target<'_> {
    /// Checks all target topics: those that are there must fit, those that are not must be permitted.
    ///
    /// # Errors
    /// [`SpecError`] names the topic, what was expected and what was found.
    pub(super) async fn look(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Standing>, RestoreError> {
        let names: Vec<Arc<str>> = wanted.iter().map(|w| w.target.clone()).collect();
        let found = self
            .client
            .topics(&TopicFilter::Named(names))
            .await
            .map_err(RestoreError::kafka("look for the target topics"))?;
        let mut found: HashMap<Arc<str>, TopicMetadata> = found
            .into_iter()
            .map(|topic| (topic.name.clone(), topic))
            .collect();
        let there =
            |topic: &TopicMetadata| topic.error != Some(ResponseError::UnknownTopicOrPartition);
        let existing: Vec<(&Wanted<'_>, TopicMetadata)> = wanted
            .iter()
            .filter_map(|wanted| Some((wanted, found.remove(&wanted.target).filter(there)?)))
            .collect();
        let existing = self.check_existing(existing).await?;
        let mut existing: HashMap<Arc<str>, Standing> = existing.into_iter().collect();
        let mut standings = Vec::new();
        let mut new = Vec::new();
        for wanted in wanted {
            let standing = match existing.remove(&wanted.target) {
                Some(standing) => standing,
                None => {
                    let standing = self.standing_of_new(wanted)?;
                    new.push(new_topic(wanted, &standing));
                    standing
                }
            };
            standings.push(standing);
        }
        let failed = RestoreError::kafka("create the target topics (nothing was created yet)");
        for new in new.chunks(TOPICS_PER_REQUEST) {
            let results = self.client.validate_topics(new).await.map_err(&failed)?;
            for result in results {
                result.map_err(&failed)?;
            }
        }
        Ok(standings)
    }

    /// Empties and creates what was looked at, and tells where writing begins. `purge_key` is where a purge makes its notes.
    pub(super) async fn prepare(
        &self,
        wanted: &[Wanted<'_>],
        standings: Vec<Standing>,
        purge_key: &str,
        store: &Store,
    ) -> Result<Vec<Ready>, RestoreError> {
        if self.request.if_topic_not_empty == IfTopicNotEmpty::Purge {
            let filled = standings.iter().filter_map(|standing| {
                let existing = standing.existing.as_ref().filter(|e| e.filled > 0)?;
                Some(Filled {
                    topic: existing.metadata.name.clone(),
                    configs: existing.configs.clone(),
                    partitions: existing.partitions.clone(),
                })
            });
            let filled: Vec<Filled> = filled.collect();
            purge::purge(&filled, purge_key, store, self.client).await?;
        }
        let missing = wanted.iter().zip(&standings);
        let missing = missing.filter(|(_, standing)| standing.existing.is_none());
        let missing: Vec<NewTopic> = missing.map(|(w, s)| new_topic(w, s)).collect();
        self.create(&missing).await?;
        // Whatever happened meanwhile, and by whom, is judged like everything that exists.
        let names: Vec<Arc<str>> = wanted.iter().map(|w| w.target.clone()).collect();
        let found = self
            .client
            .topics_with_leaders(&names)
            .await
            .map_err(RestoreError::kafka("find the leaders of the target topics"))?;
        let mut found: HashMap<Arc<str>, TopicMetadata> = found
            .into_iter()
            .map(|topic| (topic.name.clone(), topic))
            .collect();
        let mut existing = Vec::new();
        for wanted in wanted {
            let topic = found.remove(&wanted.target).ok_or_else(|| {
                RestoreError::Bug(format!("no metadata for topic {}", wanted.target))
            })?;
            existing.push((wanted, topic));
        }
        let checked = self.check_existing(existing).await?;
        let mut ready = Vec::new();
        for ((topic, now), before) in checked.into_iter().zip(standings) {
            let appended = before.existing.is_some()
                && self.request.if_topic_not_empty == IfTopicNotEmpty::Append;
            if now.filled() > 0 && !appended {
                return Err(SpecError::new(
                    format!("target topic {topic}"),
                    "a topic that nobody else writes to",
                    format!(
                        "{} offsets with records a moment after it was found or made empty",
                        now.filled()
                    ),
                )
                .into());
            }
            let existing = now
                .existing
                .clone()
                .ok_or_else(|| RestoreError::Bug(format!("topic {topic} is there and is not")))?;
            ready.push(Ready {
                standing: now,
                metadata: existing.metadata,
                base_offsets: existing.ends,
            });
        }
        Ok(ready)
    }

    /// What the target cluster gives a topic that says nothing itself.
    pub(super) async fn default_configs(
        &self,
        like: &Arc<str>,
    ) -> Result<EffectiveConfigs, RestoreError> {
        if self.request.topic_config == TopicConfig::Source {
            return Ok(EffectiveConfigs::new());
        }
        let failed = RestoreError::kafka("read the target's defaults for topics");
        // One that does not exist: asked about one that does, the cluster only says so.
        let probe = NewTopic {
            name: Arc::from(format!(
                "{}-{}",
                &like[..like.len().min(200)],
                uuid::Uuid::new_v4()
            )),
            partitions: 1,
            replication_factor: 1,
            configs: Vec::new(),
        };
        let mut answers = self
            .client
            .validate_topics(&[probe])
            .await
            .map_err(&failed)?;
        answers
            .pop()
            .transpose()
            .map_err(&failed)
            .map(Option::unwrap_or_default)
    }

    /// What is to become of a created topic's configs.
    pub(super) fn finals(
        &self,
        wanted: &Wanted<'_>,
        defaults: &EffectiveConfigs,
        replication_factor: i32,
    ) -> Finals {
        let (source, history) = (&wanted.part.description, &wanted.history);
        match self.request.topic_config {
            TopicConfig::Source => configs::finals(source, history, replication_factor, self.now),
            TopicConfig::Target => {
                configs::default_finals(source, defaults, history, replication_factor, self.now)
            }
        }
    }

    fn assign(&self, wanted: &Wanted<'_>, existing: Option<i32>) -> Result<Assignment, SpecError> {
        let sources = i32::try_from(wanted.part.partitions.len()).unwrap_or(i32::MAX);
        assign(
            wanted.source,
            sources,
            &wanted.target,
            existing,
            self.request,
        )
    }

    fn standing_of_new(&self, wanted: &Wanted<'_>) -> Result<Standing, SpecError> {
        if !self.request.create_topics {
            return Err(SpecError::new(
                format!("target topic {}", wanted.target),
                "a topic that exists, since spec.createTopics is false",
                "none",
            ));
        }
        let brokers = i32::try_from(self.client.brokers().len())
            .unwrap_or(i32::MAX)
            .max(1);
        let source = &wanted.part.description;
        let asked = self.request.default_replication_factor.map(i32::from);
        let replication_factor = match asked {
            Some(asked) if asked > brokers => {
                return Err(SpecError::new(
                    "spec.defaultReplicationFactor",
                    format!("at most {brokers}, as many as the target has brokers"),
                    asked.to_string(),
                ));
            }
            Some(asked) => asked,
            None => i32::from(source.replication_factor).clamp(1, brokers),
        };
        let configs = configs::at_creation(source, replication_factor);
        let max_message_bytes = configs.get(configs::MAX_MESSAGE_BYTES);
        Ok(Standing {
            assignment: self.assign(wanted, None)?,
            max_message_bytes: max_message_bytes
                .and_then(|bytes| bytes.parse().ok())
                .unwrap_or(u32::MAX),
            replication_factor,
            created: true,
            existing: None,
        })
    }

    /// Checks that existing topics may be written to, fit, and keep what is written; in the order given.
    async fn check_existing(
        &self,
        topics: Vec<(&Wanted<'_>, TopicMetadata)>,
    ) -> Result<Vec<(Arc<str>, Standing)>, RestoreError> {
        let names: Vec<Arc<str>> = topics.iter().map(|(w, _)| w.target.clone()).collect();
        let mut led = Vec::new();
        for (_, topic) in &topics {
            let partitions = topic
                .led_partitions()
                .map_err(RestoreError::kafka("find the leaders of the target topics"))?;
            self.check_permitted(topic)?;
            led.push(partitions);
        }
        let configs = configs_of(&names, self.client).await?;
        let all: Vec<LedPartition> = led.iter().flatten().cloned().collect();
        let mut starts = offsets(&all, OffsetSpec::Earliest, self.client)
            .await?
            .into_iter();
        let mut ends = offsets(&all, OffsetSpec::LogEnd, self.client)
            .await?
            .into_iter();
        let mut checked = Vec::new();
        for (((wanted, metadata), partitions), configs) in topics.into_iter().zip(led).zip(configs)
        {
            let starts: Vec<i64> = starts.by_ref().take(partitions.len()).collect();
            let ends: Vec<i64> = ends.by_ref().take(partitions.len()).collect();
            let count = i32::try_from(partitions.len()).unwrap_or(i32::MAX);
            let assignment = self.assign(wanted, Some(count))?;
            let full = partitions.iter().zip(starts.iter().zip(&ends));
            let mut full = full.filter(|(_, (start, end))| start != end);
            if let Some((partition, (start, end))) = full.next()
                && self.request.if_topic_not_empty == IfTopicNotEmpty::Refuse
            {
                return Err(SpecError::new(
                    format!("target topic {}", partition.topic),
                    "a topic that is empty or does not exist (spec.topicMapping gives it another name, spec.ifTopicNotEmpty: \
                     Append puts the restored records behind those that are there, Purge deletes those first)",
                    format!("offsets {start} to {end} in partition {}", partition.partition),
                )
                .into());
            }
            let source = &wanted.part.description;
            configs::check_existing(&wanted.target, &configs, source, &wanted.history, self.now)?;
            let replicas = metadata.partitions.first().map_or(1, |p| p.replicas.len());
            let replication_factor = i32::try_from(replicas).unwrap_or(i32::MAX);
            let created_with = configs::at_creation(source, replication_factor);
            let filled = starts
                .iter()
                .zip(&ends)
                .map(|(start, end)| (end - start).unsigned_abs());
            let standing = Standing {
                assignment,
                max_message_bytes: configs::max_message_bytes(&configs),
                replication_factor,
                created: configs::is_ours(&configs, &created_with),
                existing: Some(Existing {
                    metadata,
                    partitions,
                    configs,
                    filled: filled.sum(),
                    ends,
                }),
            };
            checked.push((wanted.target.clone(), standing));
        }
        Ok(checked)
    }

    /// Checks what the principal may do with a topic before it is touched.
    pub(super) fn check_permitted(&self, topic: &TopicMetadata) -> Result<(), RestoreError> {
        check_permits(topic, AclOperation::Write)?;
        if self.carries_groups {
            check_permits(topic, AclOperation::Read)?;
        }
        if self.request.if_topic_not_empty == IfTopicNotEmpty::Purge {
            check_permits(topic, AclOperation::Delete)?;
            check_permits(topic, AclOperation::AlterConfigs)?;
        }
        Ok(())
    }

    async fn create(&self, new: &[NewTopic]) -> Result<(), RestoreError> {
        if new.is_empty() {
            return Ok(());
        }
        let failed = RestoreError::kafka("create the target topics");
        for new in new.chunks(TOPICS_PER_REQUEST) {
            let results = self.client.create_topics(new).await.map_err(&failed)?;
            for (topic, result) in new.iter().zip(results) {
                match result {
                    Ok(_) => {
                        let replicas = topic.replication_factor;
                        tracing::info!(topic = %topic.name, partitions = topic.partitions, replicas, "topic created");
                    }
                    // By an attempt whose answer was lost, or by somebody else: it is looked at before it is used.
                    Err(error) if error.code() == Some(ResponseError::TopicAlreadyExists) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(())
    }
}

/// Checks that the principal may do something with a topic, as far as brokers tell it beforehand (KIP-430).
pub(super) fn check_permits(
    topic: &TopicMetadata,
    operation: AclOperation,
) -> Result<(), RestoreError> {
    if topic.permits(operation) {
        return Ok(());
    }
    Err(RestoreError::Kafka {
        step: "write to the target topics (nothing was written yet)",
        source: KafkaError::Answered {
            api: kafka_protocol::messages::ApiKey::Metadata,
            subject: Subject::Topic(topic.name.clone()),
            code: ResponseError::TopicAuthorizationFailed,
            message: Some(format!("the permission {operation:?} is missing")),
        },
    })
}

fn new_topic(wanted: &Wanted<'_>, standing: &Standing) -> NewTopic {
    let configs: BTreeMap<String, String> =
        configs::at_creation(&wanted.part.description, standing.replication_factor);
    NewTopic {
        name: wanted.target.clone(),
        partitions: standing.assignment.partitions,
        replication_factor: standing.replication_factor,
        configs: configs.into_iter().collect(),
    }
}

async fn configs_of(
    names: &[Arc<str>],
    client: &Client,
) -> Result<Vec<Vec<ConfigEntry>>, RestoreError> {
    let failed = RestoreError::kafka("read the configs of the target topics");
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let configs = client.topic_configs(names).await.map_err(&failed)?;
    configs
        .into_iter()
        .map(|entries| entries.map_err(&failed))
        .collect()
}

/// An offset of each partition.
pub(super) async fn offsets(
    partitions: &[LedPartition],
    spec: OffsetSpec,
    client: &Client,
) -> Result<Vec<i64>, RestoreError> {
    let failed = RestoreError::kafka("read offsets of the target topics");
    let listed = client.list_offsets(partitions, spec).await;
    listed
        .into_iter()
        .map(|listed| listed.map(|l| l.offset).map_err(&failed))
        .collect()
}
