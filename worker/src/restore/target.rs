//! Target topics: looked at, created, waited for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::manifest::TopicPart;
use kafka_backup_shared::plan::SpecError;

use super::configs::{self, History};
use super::error::RestoreError;
use crate::kafka::{
    Admin, Client, ConfigEntry, LedPartition, NewTopic, OffsetSpec, ResponseError, TopicFilter,
    TopicMetadata,
};

/// A controller takes some milliseconds for each partition.
const TOPICS_PER_REQUEST: usize = 100;

/// What a source topic needs of its target.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// Name of the target topic.
    pub(super) target: Arc<str>,
    /// What the source is.
    pub(super) part: &'a TopicPart,
    /// What its records are.
    pub(super) history: History,
}

/// A target topic that is ready to be written to.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    /// The topic with its leaders.
    pub(super) metadata: TopicMetadata,
    /// Whether this restore made it.
    pub(super) created: bool,
    /// Number of replicas.
    pub(super) replication_factor: i32,
    /// Largest batch that it takes.
    pub(super) max_message_bytes: u32,
    /// Log ends of its partitions.
    pub(super) base_offsets: Vec<i64>,
}

/// Checks all target topics, then creates those that are missing; nothing is created when one cannot be used.
///
/// # Errors
/// [`SpecError`] names the topic, what was expected and what was found.
pub(super) async fn prepare(
    wanted: &[Wanted<'_>],
    client: &Client,
    now: Timestamp,
) -> Result<Vec<Ready>, RestoreError> {
    let missing = check(wanted, client, now).await?;
    create(&missing, client).await?;
    let names: Vec<Arc<str>> = wanted.iter().map(|w| w.target.clone()).collect();
    let metadata = client
        .topics_with_leaders(&names)
        .await
        .map_err(RestoreError::kafka("find the leaders of the target topics"))?;
    let mut metadata: HashMap<Arc<str>, TopicMetadata> = metadata
        .into_iter()
        .map(|topic| (topic.name.clone(), topic))
        .collect();
    // What was created meanwhile, and by whom, is judged like everything that exists.
    let mut existing = Vec::new();
    for wanted in wanted {
        let Some(topic) = metadata.remove(&wanted.target) else {
            return Err(RestoreError::Bug(format!(
                "no metadata for topic {}",
                wanted.target
            )));
        };
        existing.push((wanted, topic));
    }
    let checked = check_existing(&existing, client, now).await?;
    let ready = existing
        .into_iter()
        .zip(checked)
        .map(|((wanted, metadata), checked)| {
            let replication_factor = replication_factor(&metadata);
            let created_with = configs::at_creation(&wanted.part.description, replication_factor);
            Ready {
                created: configs::is_ours(&checked.configs, &created_with),
                replication_factor,
                max_message_bytes: configs::max_message_bytes(&checked.configs),
                base_offsets: checked.ends,
                metadata,
            }
        });
    Ok(ready.collect())
}

fn replication_factor(topic: &TopicMetadata) -> i32 {
    let replicas = topic.partitions.first().map_or(1, |p| p.replicas.len());
    i32::try_from(replicas).unwrap_or(i32::MAX)
}

/// Checks the topics that exist; those that do not are given back.
async fn check<'a, 'b>(
    wanted: &'a [Wanted<'b>],
    client: &Client,
    now: Timestamp,
) -> Result<Vec<&'a Wanted<'b>>, RestoreError> {
    let names: Vec<Arc<str>> = wanted.iter().map(|w| w.target.clone()).collect();
    let found = client
        .topics(&TopicFilter::Named(names))
        .await
        .map_err(RestoreError::kafka("look for the target topics"))?;
    let mut found: HashMap<Arc<str>, TopicMetadata> = found
        .into_iter()
        .map(|topic| (topic.name.clone(), topic))
        .collect();
    let mut missing = Vec::new();
    let mut existing = Vec::new();
    for wanted in wanted {
        match found.remove(&wanted.target) {
            Some(topic) if topic.error != Some(ResponseError::UnknownTopicOrPartition) => {
                existing.push((wanted, topic));
            }
            Some(_) | None => missing.push(wanted),
        }
    }
    check_existing(&existing, client, now).await?;
    Ok(missing)
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

/// An existing topic that may be written to.
struct Checked {
    configs: Vec<ConfigEntry>,
    /// Log ends of its partitions.
    ends: Vec<i64>,
}

/// Checks that existing topics are empty, fit, and keep what is written.
async fn check_existing(
    topics: &[(&Wanted<'_>, TopicMetadata)],
    client: &Client,
    now: Timestamp,
) -> Result<Vec<Checked>, RestoreError> {
    let names: Vec<Arc<str>> = topics
        .iter()
        .map(|(wanted, _)| wanted.target.clone())
        .collect();
    let configs = configs_of(&names, client).await?;
    let mut led = Vec::new();
    for (wanted, topic) in topics {
        let partitions = topic
            .led_partitions()
            .map_err(RestoreError::kafka("find the leaders of the target topics"))?;
        let expected = wanted.part.partitions.len();
        if partitions.len() != expected {
            return Err(SpecError::new(
                format!("target topic {}", wanted.target),
                format!("{expected} partitions, as the source has"),
                partitions.len().to_string(),
            )
            .into());
        }
        led.extend(partitions);
    }
    let starts = offsets(&led, OffsetSpec::Earliest, client).await?;
    let ends = offsets(&led, OffsetSpec::LogEnd, client).await?;
    let full = led
        .iter()
        .zip(starts.iter().zip(&ends))
        .find(|(_, (start, end))| start != end);
    if let Some((partition, (start, end))) = full {
        return Err(SpecError::new(
            format!("target topic {}", partition.topic),
            "a topic that is empty or does not exist (records are restored only into what nobody else writes to; \
             delete the topic, or map to another name by spec.topicMapping)",
            format!("offsets {start} to {end} in partition {}", partition.partition),
        )
        .into());
    }
    let mut ends = ends.into_iter();
    let mut checked = Vec::new();
    for ((wanted, topic), configs) in topics.iter().zip(configs) {
        let source = &wanted.part.description;
        configs::check_existing(&wanted.target, &configs, source, &wanted.history, now)?;
        let ends = ends.by_ref().take(topic.partitions.len()).collect();
        checked.push(Checked { configs, ends });
    }
    Ok(checked)
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

async fn create(missing: &[&Wanted<'_>], client: &Client) -> Result<(), RestoreError> {
    if missing.is_empty() {
        return Ok(());
    }
    let failed = RestoreError::kafka("create the target topics");
    let brokers = i32::try_from(client.brokers().len())
        .unwrap_or(i32::MAX)
        .max(1);
    let new: Vec<NewTopic> = missing
        .iter()
        .map(|wanted| {
            let source = &wanted.part.description;
            let replication_factor = i32::from(source.replication_factor).clamp(1, brokers);
            let configs: BTreeMap<String, String> =
                configs::at_creation(source, replication_factor);
            NewTopic {
                name: wanted.target.clone(),
                partitions: i32::try_from(wanted.part.partitions.len()).unwrap_or(i32::MAX),
                replication_factor,
                configs: configs.into_iter().collect(),
            }
        })
        .collect();
    let admin = Admin::new(client.config()).map_err(&failed)?;
    for new in new.chunks(TOPICS_PER_REQUEST) {
        let results = admin.create_topics(new).await.map_err(&failed)?;
        for (topic, result) in new.iter().zip(results) {
            match result {
                Ok(()) => {
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
