//! What a run sets out to do: which topics, from where to where, in which generation.
//!
//! # Guarantees
//! - `begin.json` is created once, before any segment; every attempt of the run follows the one that is there.
//! - Nothing is written when a topic is missing that must not be, or when no topic can be captured at all.
//! - A topic whose offsets cannot be learnt stands in `failed`: such a run can only end partial.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::layout::TopicId;
use kafka_backup_shared::archive::manifest::{
    Begin, BeginPartition, BeginTopic, ConfigValue, TopicDescription, TopicPart, from_json, to_json,
};
use kafka_backup_shared::archive::tiles::{Foundation, Sizes};
use kafka_backup_shared::plan::{self, BackupPlan};
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::selector::{has_glob, is_internal};
use kafka_backup_shared::spec::MissingTopics;
use tokio::time::Instant;

use super::archive::{Archive, Bases, CONCURRENCY};
use super::error::{BackupError, TopicFailure, kafka};
use super::generation::{Before, Now, Reopened, last_epoch, may_continue, may_refill, resume_at};
use super::groups;
use crate::kafka::{
    Client, ConfigEntry, ConfigSource, IsolationLevel, KafkaError, LedPartition, ListedOffset,
    OffsetSpec, PartitionEpoch, TopicFilter, TopicMetadata,
};
use crate::store::Created;

/// For how long partitions without leader are waited for before their topics count as failed.
const LEADER_PATIENCE: Duration = Duration::from_secs(60);

/// Fixes the run, unless another attempt does so first.
pub(super) async fn fix(
    plan: &BackupPlan,
    archive: &Archive,
    client: &Client,
    bases: &mut Bases,
) -> Result<Begin, BackupError> {
    let (begin, groups) = decide(plan, archive, client, bases).await?;
    if let Some((part, bytes)) = begin.groups.as_ref().zip(groups) {
        // Another attempt's, which then finds the run fixed, is not named by begin.json and stays unread.
        let key = archive.layout.groups(&plan.run.run, part.crc32c);
        archive.store.create_segment(&key, bytes.into()).await?;
    }
    let key = archive.layout.begin(&plan.run.run);
    match archive.store.create(&key, to_json(&begin).into()).await? {
        Created::New | Created::Same => Ok(begin),
        Created::Exists(found) => Ok(from_json(&key, &found)?),
    }
}

/// What the run sets out to do, and the object with its consumer groups.
async fn decide(
    plan: &BackupPlan,
    archive: &Archive,
    client: &Client,
    bases: &mut Bases,
) -> Result<(Begin, Option<Bytes>), BackupError> {
    let start_time = Timestamp::now();
    let Selected {
        topics: mut chosen,
        missing,
        only_visible,
    } = select(plan, client).await?;
    let names: Vec<String> = chosen.iter().map(|topic| topic.name.to_string()).collect();
    let mut failed = wait_for_leaders(client, &mut chosen).await?;
    chosen.retain(|topic| !failed.contains_key(&*topic.name));

    // Before the ends, so that what is committed has been captured.
    let names: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
    let (groups, object) = groups::capture(plan, client, &names).await?.unzip();
    let names: Vec<Arc<str>> = chosen.iter().map(|topic| topic.name.clone()).collect();
    let configs = client
        .topic_configs(&names)
        .await
        .map_err(kafka("describe the configs of the topics"))?;
    let offsets = list_offsets(client, &chosen, plan.isolation_level).await;
    let mut topics = BTreeMap::new();
    for ((topic, configs), offsets) in chosen.iter().zip(configs).zip(offsets) {
        let described = configs.and_then(|configs| Ok((configs, offsets?)));
        let (configs, partitions) = match described {
            Ok(described) => described,
            Err(error) => {
                failed.insert(topic.name.to_string(), TopicFailure::of_kafka(&error));
                continue;
            }
        };
        let description = TopicDescription {
            topic_id: TopicId(topic.id.into_bytes()),
            replication_factor: replication_factor(topic),
            configs: configs.into_iter().map(config_value).collect(),
        };
        topics.insert(
            topic.name.to_string(),
            BeginTopic {
                description,
                partitions,
            },
        );
    }
    if topics.is_empty() {
        return Err(BackupError::Topics {
            failed,
            complete: 0,
            run: plan.run.run.clone(),
        });
    }
    leave_damaged(bases, &topics, archive).await?;
    let mut begin = Begin {
        format_version: FORMAT_VERSION,
        run: plan.run.clone(),
        start_time,
        cluster_id: client.cluster_id().to_owned(),
        source_cluster_id: plan.source_cluster_id.clone(),
        isolation_level: plan.isolation_level,
        base: bases.complete.as_ref().map(|base| base.run.clone()),
        partial_bases: topics
            .keys()
            .filter_map(|topic| Some((topic.clone(), bases.partial.get(topic)?.run.clone())))
            .collect(),
        topics,
        missing_topics: missing,
        only_visible,
        final_faults: failed
            .iter()
            .filter(|(_, failure)| !failure.fault.is_retried())
            .map(|(topic, failure)| (topic.clone(), failure.fault))
            .collect(),
        failed: failed
            .into_iter()
            .map(|(topic, failure)| (topic, failure.message))
            .collect(),
        groups,
        include_offset_headers: plan.include_offset_headers,
    };
    choose_generations(&mut begin, archive, client, bases, &chosen).await?;
    Ok((begin, object))
}

/// Leaves out the partial runs of which something is lost that the source cannot give again. Nothing needs them, and a topic goes on
/// from the complete run as if there had been none: what it lacks is damage, and what a partial one lacks is not.
async fn leave_damaged(
    bases: &mut Bases,
    topics: &BTreeMap<String, BeginTopic>,
    archive: &Archive,
) -> Result<(), BackupError> {
    let changed = bases.partial.iter().filter_map(|(name, base)| {
        let now = topics.get(name)?;
        Some((name.clone(), base.changed_part(name, now)?, now.clone()))
    });
    let changed: Vec<_> = changed.collect();
    let looked = futures::stream::iter(changed)
        .map(|(name, part, now)| damage_of(archive, name, part, now))
        .buffer_unordered(CONCURRENCY);
    let damaged: Vec<Option<(String, String)>> = looked.try_collect().await?;
    for (topic, damage) in damaged.into_iter().flatten() {
        tracing::warn!(topic, damage, "a partial run cannot be gone on from");
        bases.partial.remove(&topic);
    }
    Ok(())
}

/// The topic with what is lost for good of the part that a run has of it.
async fn damage_of(
    archive: &Archive,
    name: String,
    run: String,
    now: BeginTopic,
) -> Result<Option<(String, String)>, BackupError> {
    let part = match archive.part(&run, &name).await {
        Err(BackupError::Format(error)) => return Ok(Some((name, error.to_string()))),
        part => part?,
    };
    let listing = archive.segments(&name, now.description.topic_id).await?;
    let gone = now.partitions.iter().find_map(|partition| {
        let number = partition.partition;
        let pinned = part.partitions.iter().find(|p| p.partition == number)?;
        let there = listing.get(&(number, pinned.generation.clone()));
        let lost = Foundation::new(pinned).lost(there.unwrap_or(&Sizes::new()));
        let gone = lost
            .first()
            .filter(|link| link.range.start < partition.log_start)?;
        Some(format!(
            "partition {number} lacks the segment {}",
            gone.name
        ))
    });
    Ok(gone.map(|gone| (name, gone)))
}

/// What the source has of the topics that are meant.
#[derive(Debug)]
pub(super) struct Selected {
    /// Those that are listed.
    pub(super) topics: Vec<TopicMetadata>,
    /// Literal names that are not there, and topics that may not be described.
    pub(super) missing: Vec<String>,
    /// See [`Begin::only_visible`].
    pub(super) only_visible: bool,
}

/// Looks for the topics that are meant.
///
/// # Errors
/// One that must be there is missing or may not be described, or there is none at all.
pub(super) async fn select(plan: &BackupPlan, client: &Client) -> Result<Selected, BackupError> {
    let existing = client
        .topics(&TopicFilter::All)
        .await
        .map_err(kafka("list the topics of the source cluster"))?;
    let listed = existing.iter().map(|topic| topic.name.clone()).collect();
    let existing: Vec<_> = existing
        .into_iter()
        .filter(|topic| !topic.internal && !is_internal(&topic.name))
        .collect();
    let names = existing.iter().map(|topic| &*topic.name);
    let selection = plan.topics.select(names)?;
    let sight = look_for_hidden(plan, client, &listed, &selection.missing).await?;
    let hidden = sight.hidden;
    let mut absent = selection.missing;
    absent.retain(|name| !hidden.contains(name));
    if plan.topics.missing == MissingTopics::Fail {
        if !hidden.is_empty() {
            let names = hidden.into_iter().collect();
            return Err(BackupError::HiddenTopics { names });
        }
        if !absent.is_empty() {
            return Err(BackupError::MissingTopics { names: absent });
        }
    }
    if selection.topics.is_empty() {
        let patterns = plan.topics.include.clone();
        return Err(BackupError::NoTopicMatches {
            patterns,
            existing: existing.len(),
        });
    }
    let is_meant = |name: &str| selection.topics.iter().any(|meant| meant == name);
    Ok(Selected {
        topics: existing
            .into_iter()
            .filter(|topic| is_meant(&topic.name))
            .collect(),
        missing: hidden.into_iter().chain(absent).collect(),
        only_visible: sight.only_visible,
    })
}

/// What listings leave out.
struct Sight {
    /// Topics that are meant, and may not be described.
    hidden: BTreeSet<String>,
    /// See [`Begin::only_visible`].
    only_visible: bool,
}

/// Looks for topics that are meant and not `listed`: literal names that are `missing`, and, where globs ask for all that there are,
/// those that only the brokers' logs tell of.
async fn look_for_hidden(
    plan: &BackupPlan,
    client: &Client,
    listed: &BTreeSet<Arc<str>>,
    missing: &[String],
) -> Result<Sight, BackupError> {
    let step = "ask the source cluster for what this user may not describe";
    let literal = missing.iter().map(|name| Arc::from(name.as_str()));
    let refused = client.refused_topics(literal.collect()).await;
    let mut hidden = refused.map_err(kafka(step))?;
    let mut only_visible = false;
    if has_glob(&plan.topics.include) {
        match client.hidden_topics(listed).await.map_err(kafka(step))? {
            Some(all) => hidden.extend(all),
            None => only_visible = true,
        }
    } else if plan.consumer_groups.as_deref().is_none_or(has_glob) {
        only_visible = !client.sees_everything().await.map_err(kafka(step))?;
    }
    let names = hidden.iter().map(|name| &**name);
    let meant = plan
        .topics
        .select(names.filter(|name| !is_internal(name)))?;
    Ok(Sight {
        hidden: meant.topics.into_iter().collect(),
        only_visible,
    })
}

/// Waits until every partition has a leader; the topics of those that never get one are given back with the reason.
async fn wait_for_leaders(
    client: &Client,
    topics: &mut Vec<TopicMetadata>,
) -> Result<BTreeMap<String, TopicFailure>, BackupError> {
    let deadline = Instant::now() + LEADER_PATIENCE;
    loop {
        let leaderless: BTreeMap<String, TopicFailure> = topics
            .iter()
            .filter_map(|topic| {
                Some((
                    topic.name.to_string(),
                    TopicFailure::of_kafka(&topic.led_partitions().err()?),
                ))
            })
            .collect();
        let passes = leaderless
            .values()
            .any(|failure| failure.fault == Fault::Unavailable);
        if !passes || Instant::now() > deadline {
            return Ok(leaderless);
        }
        tracing::warn!(
            topics = leaderless.len(),
            "waiting for leaders of partitions"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        let names = topics.iter().map(|topic| topic.name.clone()).collect();
        let step = kafka("describe the topics of the source cluster");
        *topics = client
            .topics(&TopicFilter::Named(names))
            .await
            .map_err(step)?;
    }
}

/// Log start, end and high watermark of every partition; a topic has all of them or an error.
async fn list_offsets(
    client: &Client,
    topics: &[TopicMetadata],
    isolation: plan::IsolationLevel,
) -> Vec<Result<Vec<BeginPartition>, KafkaError>> {
    let led: Vec<Vec<LedPartition>> = topics
        .iter()
        .map(|topic| topic.led_partitions().unwrap_or_default())
        .collect();
    let all: Vec<LedPartition> = led.iter().flatten().cloned().collect();
    // In this order, so that log start <= end <= high watermark.
    let starts = client.list_offsets(&all, OffsetSpec::Earliest).await;
    let stable = match isolation {
        plan::IsolationLevel::ReadCommitted => Some(
            client
                .list_offsets(&all, OffsetSpec::Latest(IsolationLevel::ReadCommitted))
                .await,
        ),
        plan::IsolationLevel::ReadUncommitted => None,
    };
    let high = client
        .list_offsets(&all, OffsetSpec::Latest(IsolationLevel::ReadUncommitted))
        .await;
    let ends = stable.unwrap_or_else(|| high.clone());
    let mut rows = starts.into_iter().zip(ends).zip(high);
    led.iter()
        .map(|partitions| {
            // Taken whole even after an error, so that the next topic begins with its own.
            let rows: Vec<_> = rows.by_ref().take(partitions.len()).collect();
            partitions
                .iter()
                .zip(rows)
                .map(|(led, ((start, end), high))| partition(led, start, end, high))
                .collect()
        })
        .collect()
}

fn partition(
    led: &LedPartition,
    start: Result<ListedOffset, KafkaError>,
    end: Result<ListedOffset, KafkaError>,
    high: Result<ListedOffset, KafkaError>,
) -> Result<BeginPartition, KafkaError> {
    let (log_start, end, high_watermark) = (start?.offset, end?.offset, high?.offset);
    // Records may have been deleted up to above the last stable offset.
    let end = end.max(log_start);
    Ok(BeginPartition {
        partition: led.partition,
        log_start,
        end,
        high_watermark: high_watermark.max(end),
        leader_epoch: led.leader_epoch,
        generation: String::new(),
    })
}

fn replication_factor(topic: &TopicMetadata) -> i16 {
    let replicas = topic
        .partitions
        .iter()
        .map(|partition| partition.replicas.len())
        .max()
        .unwrap_or(0);
    i16::try_from(replicas).unwrap_or(i16::MAX)
}

fn config_value(entry: ConfigEntry) -> (String, ConfigValue) {
    let source = match entry.source {
        ConfigSource::Topic => 1,
        ConfigSource::DynamicBroker => 2,
        ConfigSource::DynamicDefaultBroker => 3,
        ConfigSource::StaticBroker => 4,
        ConfigSource::Default => 5,
        ConfigSource::Other(other) => other,
    };
    let value = entry.value.filter(|_| !entry.sensitive);
    (entry.name, ConfigValue { value, source })
}

/// Names the generation of every partition.
async fn choose_generations(
    begin: &mut Begin,
    archive: &Archive,
    client: &Client,
    bases: &Bases,
    metadata: &[TopicMetadata],
) -> Result<(), BackupError> {
    let run = begin.run.run.clone();
    let mut to_ask: Vec<(String, usize)> = Vec::new();
    for (name, topic) in &mut begin.topics {
        let before_topic = bases
            .of(name)
            .and_then(|base| Some((base, base.topic(name)?.0)));
        for (index, partition) in topic.partitions.iter_mut().enumerate() {
            let before_partition = before_topic.and_then(|(_, topic)| {
                topic
                    .partitions
                    .iter()
                    .find(|p| p.partition == partition.partition)
            });
            let before = before_topic
                .zip(before_partition)
                .map(|((base, topic), partition)| Before {
                    topic_id: topic.description.topic_id,
                    isolation: base.begin.isolation_level,
                    start_time: base.begin.start_time,
                    end: partition.end,
                    configs: &topic.description.configs,
                });
            let now = Now {
                topic_id: topic.description.topic_id,
                isolation: begin.isolation_level,
                time: begin.start_time,
                end: partition.end,
                configs: &topic.description.configs,
            };
            partition.generation = match may_continue(before.as_ref(), &now) {
                Ok(()) => {
                    let same = |before: &BeginPartition| {
                        before.end == partition.end && before.leader_epoch == partition.leader_epoch
                    };
                    if before_partition.is_some_and(|before| !same(before)) {
                        to_ask.push((name.clone(), index));
                    }
                    before_partition
                        .map(|before| before.generation.clone())
                        .unwrap_or_default()
                }
                Err(reason) => opened(&run, name, partition.partition, reason),
            };
        }
    }
    let parts = archive.parts(changed_parts(begin, bases)).await?;
    let diverged = ask_leaders(begin, client, &parts, metadata, to_ask).await?;
    let diverged = diverged.into_iter().map(|at| (at, Reopened::Diverged));
    let lost = find_lost(begin, archive, &parts).await?;
    let lost = lost.into_iter().map(|at| (at, Reopened::Lost));
    for ((name, index), reason) in diverged.chain(lost) {
        let partition = begin
            .topics
            .get_mut(&name)
            .and_then(|topic| topic.partitions.get_mut(index));
        if let Some(partition) = partition {
            partition.generation = opened(&run, &name, partition.partition, reason);
        }
    }
    Ok(())
}

/// Where the bases' parts of the topics are that are not wholly as they were.
fn changed_parts(begin: &Begin, bases: &Bases) -> Vec<(String, String)> {
    let part = |(name, topic): (&String, &BeginTopic)| {
        let part = bases.of(name)?.changed_part(name, topic)?;
        Some((part, name.clone()))
    };
    begin.topics.iter().filter_map(part).collect()
}

/// The partitions that would be continued, and of which a segment is lost that cannot be fetched again into their generation.
/// Where the source no longer has it at all they stay: then the run is to tell that the archive is damaged.
async fn find_lost(
    begin: &Begin,
    archive: &Archive,
    parts: &BTreeMap<String, TopicPart>,
) -> Result<Vec<(String, usize)>, BackupError> {
    let mut lost = Vec::new();
    for (name, part) in parts {
        let Some(topic) = begin.topics.get(name) else {
            continue;
        };
        let continued = |(index, partition): (usize, &BeginPartition)| {
            let pinned = part.pinned(partition.partition, &partition.generation)?;
            let refilled = may_refill(pinned, &topic.description.configs);
            (!refilled).then(|| (index, partition.log_start, pinned.clone()))
        };
        let continued: Vec<_> = topic
            .partitions
            .iter()
            .enumerate()
            .filter_map(continued)
            .collect();
        if continued.is_empty() {
            continue;
        }
        let id = topic.description.topic_id;
        let listing = archive.segments(name, id).await?;
        for (index, log_start, pinned) in continued {
            let there = listing.get(&(pinned.partition, pinned.generation.clone()));
            let gone = Foundation::new(&pinned).lost(there.unwrap_or(&Sizes::new()));
            if !gone.is_empty() && gone.iter().all(|link| link.range.start >= log_start) {
                lost.push((name.clone(), index));
            }
        }
    }
    Ok(lost)
}

fn opened(run: &str, topic: &str, partition: i32, reason: Reopened) -> String {
    if reason == Reopened::FirstCapture {
        tracing::debug!(topic, partition, "first capture");
    } else {
        tracing::info!(topic, partition, ?reason, "the partition is copied anew");
    }
    run.to_owned()
}

/// Of the partitions that have moved, those whose leader knows nothing of what was captured.
async fn ask_leaders(
    begin: &Begin,
    client: &Client,
    parts: &BTreeMap<String, TopicPart>,
    metadata: &[TopicMetadata],
    to_ask: Vec<(String, usize)>,
) -> Result<Vec<(String, usize)>, BackupError> {
    let mut asked = Vec::new();
    let mut epochs = Vec::new();
    for (name, index) in to_ask {
        let Some(partition) = begin
            .topics
            .get(&name)
            .and_then(|topic| topic.partitions.get(index))
        else {
            continue;
        };
        let links = links_of(parts, &name, partition.partition);
        let Some(epoch) = last_epoch(&links) else {
            continue;
        };
        let led = metadata
            .iter()
            .find(|topic| *topic.name == *name)
            .and_then(|topic| {
                topic
                    .led_partitions()
                    .ok()?
                    .into_iter()
                    .find(|led| led.partition == partition.partition)
            });
        let Some(led) = led else { continue };
        epochs.push(PartitionEpoch {
            partition: led,
            epoch,
        });
        asked.push((name, index, links, epoch));
    }
    let answers = client.epoch_ends(&epochs).await;
    let mut diverged = Vec::new();
    for ((name, index, links, epoch), answer) in asked.into_iter().zip(answers) {
        match answer {
            Ok(answer) if resume_at(&links, epoch, answer).is_none() => {
                diverged.push((name, index))
            }
            Ok(_) => {}
            // Asked again before the first fetch; then the topic fails by itself.
            Err(error) => {
                tracing::warn!(topic = name, error = %error_chain(&error), "leader did not tell its epochs");
            }
        }
    }
    Ok(diverged)
}

fn links_of(
    parts: &BTreeMap<String, TopicPart>,
    topic: &str,
    partition: i32,
) -> Vec<kafka_backup_shared::archive::chain::Link> {
    let pinned = parts
        .get(topic)
        .and_then(|part| part.partitions.iter().find(|p| p.partition == partition));
    pinned.map(|pinned| pinned.links()).unwrap_or_default()
}
