//! What the cluster has of the topics that offsets are of: ids, and where partitions begin and end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_backup_shared::archive::layout::TopicId;

use super::error::OffsetsError;
use crate::kafka::{Client, IsolationLevel, LedPartition, OffsetSpec, TopicFilter};

/// Topics that are asked for together.
const PAGE: usize = 1000;

/// A topic and a partition of it.
pub(crate) type Place = (Arc<str>, i32);

/// Topics and their partitions.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    topics: BTreeMap<Arc<str>, (TopicId, BTreeMap<i32, Log>)>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    led: LedPartition,
    /// Its log start offset.
    pub(crate) start: i64,
    /// Its high watermark.
    pub(crate) end: i64,
}

impl Logs {
    /// Asks for `topics`; one that does not exist is not among them afterwards.
    ///
    /// # Errors
    /// A topic may not be described, or a partition does not tell.
    pub(crate) async fn look(
        client: &Client,
        topics: BTreeSet<Arc<str>>,
    ) -> Result<Self, OffsetsError> {
        let mut logs = Self::default();
        let mut led = Vec::new();
        let names: Vec<Arc<str>> = topics.into_iter().collect();
        for page in names.chunks(PAGE) {
            let filter = TopicFilter::Named(page.to_vec());
            let step = "look at the topics of committed offsets";
            let found = client
                .topics(&filter)
                .await
                .map_err(OffsetsError::kafka(step))?;
            for topic in found {
                if topic.is_unknown() {
                    continue;
                }
                let partitions = topic.led_partitions().map_err(OffsetsError::kafka(step))?;
                led.extend(partitions);
                let id = TopicId(topic.id.into_bytes());
                logs.topics.insert(topic.name, (id, BTreeMap::new()));
            }
        }
        let latest = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
        let (starts, ends) = tokio::join!(
            client.list_offsets(&led, OffsetSpec::Earliest),
            client.list_offsets(&led, latest)
        );
        for ((led, start), end) in led.into_iter().zip(starts).zip(ends) {
            let step = "ask where partitions begin and end";
            let log = Log {
                start: start.map_err(OffsetsError::kafka(step))?.offset,
                end: end.map_err(OffsetsError::kafka(step))?.offset,
                led,
            };
            if let Some((_, partitions)) = logs.topics.get_mut(&log.led.topic) {
                partitions.insert(log.led.partition, log);
            }
        }
        Ok(logs)
    }

    /// The topic's id; `None`: it does not exist.
    pub(crate) fn id(&self, topic: &str) -> Option<TopicId> {
        self.topics.get(topic).map(|(id, _)| *id)
    }

    /// Ids of all topics.
    pub(crate) fn ids(&self) -> BTreeMap<String, TopicId> {
        let ids = self.topics.iter();
        ids.map(|(topic, (id, _))| (topic.to_string(), *id))
            .collect()
    }

    /// A partition; `None`: it does not exist.
    pub(crate) fn get(&self, topic: &str, partition: i32) -> Option<&Log> {
        self.topics.get(topic)?.1.get(&partition)
    }

    /// The first offset at or after a time of each place that exists; the high watermark where there is none.
    pub(crate) async fn at_time(
        &self,
        client: &Client,
        places: &BTreeSet<Place>,
        ms: i64,
    ) -> Result<BTreeMap<Place, i64>, OffsetsError> {
        let there: Vec<&Log> = places
            .iter()
            .filter_map(|(topic, partition)| self.get(topic, *partition))
            .collect();
        let led: Vec<LedPartition> = there.iter().map(|log| log.led.clone()).collect();
        let found = client.list_offsets(&led, OffsetSpec::Timestamp(ms)).await;
        let found = there.into_iter().zip(found).map(|(log, found)| {
            let step = "look for the first record at or after a time";
            let found = found.map_err(OffsetsError::kafka(step))?.offset;
            let offset = if found < 0 { log.end } else { found };
            Ok(((log.led.topic.clone(), log.led.partition), offset))
        });
        found.collect()
    }
}
