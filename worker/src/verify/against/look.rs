//! What the target has: ids, configs, log starts and log ends, and the partitions that are to be compared.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::layout::TopicId;
use kafka_backup_shared::archive::restore::RestoredTopicDecision;

use super::AgainstError;
use super::compare::{Cleaning, Difference, Field, Target};
use crate::kafka::{
    Client, IsolationLevel, LedPartition, OffsetSpec, ResponseError, TopicFilter, TopicMetadata,
};
use crate::restore::ExpectedPartition;

const CLEANUP_POLICY: &str = "cleanup.policy";

/// A target topic.
pub(super) enum Looked {
    /// It is not the one that was restored to.
    Another(Difference),
    /// It is.
    Same(There),
}

/// What a target topic has.
pub(super) struct There {
    cleaning: Cleaning,
    /// Log start and log end of each partition.
    logs: BTreeMap<i32, OffsetRange>,
}

/// Looks at the target topics, in the order given.
pub(super) async fn look(
    client: &Client,
    topics: &BTreeMap<String, RestoredTopicDecision>,
) -> Result<Vec<Looked>, AgainstError> {
    let failed = AgainstError::kafka("look at the target topics");
    let names = topics.values().map(|topic| Arc::from(&*topic.target));
    let found = client.topics(&TopicFilter::Named(names.collect())).await;
    let found: HashMap<Arc<str>, TopicMetadata> = found
        .map_err(&failed)?
        .into_iter()
        .map(|topic| (topic.name.clone(), topic))
        .collect();
    let mut same: Vec<(Arc<str>, Vec<LedPartition>)> = Vec::new();
    let mut others: HashMap<Arc<str>, Difference> = HashMap::new();
    for topic in topics.values() {
        let name: Arc<str> = Arc::from(&*topic.target);
        let there = found
            .get(&name)
            .filter(|there| there.error != Some(ResponseError::UnknownTopicOrPartition));
        let id = there.map(|there| TopicId(there.id.into_bytes()));
        match there {
            Some(there) if id == Some(topic.target_topic_id) => {
                same.push((name, there.led_partitions().map_err(&failed)?));
            }
            Some(there) => {
                // One that may not be described has an error instead of an id.
                there.led_partitions().map_err(&failed)?;
                let id = id.map(|id| id.to_string()).unwrap_or_default();
                let found =
                    format!("{id}: another topic of the same name, its records were not compared");
                let expected = Some(topic.target_topic_id.to_string());
                let difference = topic_differs(&name, Field::TopicId, expected, found);
                others.insert(name, difference);
            }
            None => {
                let expected = Some("one".into());
                let difference = topic_differs(&name, Field::Topic, expected, "none".into());
                others.insert(name, difference);
            }
        }
    }
    let names: Vec<Arc<str>> = same.iter().map(|(name, _)| name.clone()).collect();
    let configs = client.topic_configs(&names).await.map_err(&failed)?;
    let led: Vec<LedPartition> = same.into_iter().flat_map(|(_, led)| led).collect();
    let starts = client.list_offsets(&led, OffsetSpec::Earliest).await;
    let latest = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
    let ends = client.list_offsets(&led, latest).await;
    let mut there: HashMap<Arc<str>, There> = HashMap::new();
    for (name, configs) in names.into_iter().zip(configs) {
        let configs = configs.map_err(&failed)?;
        let policy = configs.iter().find(|entry| entry.name == CLEANUP_POLICY);
        let policy = policy.and_then(|entry| entry.value.as_deref());
        let cleaning = match policy.is_some_and(|policy| policy.contains("compact")) {
            true => Cleaning::Compacts,
            false => Cleaning::Keeps,
        };
        let logs = BTreeMap::new();
        there.insert(name, There { cleaning, logs });
    }
    for ((led, start), end) in led.into_iter().zip(starts).zip(ends) {
        let range = OffsetRange {
            start: start.map_err(&failed)?.offset,
            end: end.map_err(&failed)?.offset,
        };
        if let Some(there) = there.get_mut(&led.topic) {
            there.logs.insert(led.partition, range);
        }
    }
    let looked = topics.values().filter_map(|topic| {
        let same = there.remove(&*topic.target).map(Looked::Same);
        same.or_else(|| others.remove(&*topic.target).map(Looked::Another))
    });
    Ok(looked.collect())
}

/// A partition to compare.
pub(super) struct Task {
    /// Which of the topics.
    pub(super) topic: usize,
    /// What it has.
    pub(super) target: Target,
    /// What it should have; `None`: nothing is restored there.
    pub(super) expected: Option<ExpectedPartition>,
}

/// The partitions of a topic that are to be compared.
pub(super) fn tasks(
    topic: usize,
    decision: &RestoredTopicDecision,
    there: &There,
    expected: Vec<ExpectedPartition>,
) -> Vec<Task> {
    let target = |partition, base_offset, records| Target {
        topic: Arc::from(&*decision.target),
        partition,
        base_offset,
        records,
        // One that is missing has nothing: its log end tells.
        log: there.logs.get(&partition).copied().unwrap_or(OffsetRange {
            start: base_offset,
            end: base_offset,
        }),
        cleaning: there.cleaning,
    };
    let mut others: BTreeMap<i32, OffsetRange> = there.logs.clone();
    let mut tasks = Vec::new();
    for expected in expected {
        let partition = expected.partition();
        others.remove(&partition);
        tasks.push(Task {
            topic,
            target: target(partition, expected.base_offset(), expected.records()),
            expected: Some(expected),
        });
    }
    // In a topic that the restore has made, nothing is where it wrote nothing. In others, nobody knows what was there.
    if decision.final_configs.is_some() {
        tasks.extend(others.into_keys().map(|partition| Task {
            topic,
            target: target(partition, 0, 0),
            expected: None,
        }));
    }
    tasks
}

/// A difference that concerns a topic as a whole.
pub(super) fn topic_differs(
    topic: &str,
    field: Field,
    expected: Option<String>,
    found: String,
) -> Difference {
    Difference {
        topic: topic.to_owned(),
        partition: None,
        offset: None,
        field,
        expected,
        found,
        object: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::against::compare::Comparison;

    fn there(logs: &[(i32, i64)]) -> There {
        let range = |end: i64| OffsetRange { start: 0, end };
        There {
            cleaning: Cleaning::Keeps,
            logs: logs
                .iter()
                .map(|(number, end)| (*number, range(*end)))
                .collect(),
        }
    }

    #[test]
    fn a_partition_that_was_not_written_is_empty_only_where_the_restore_made_the_topic() {
        let mut decision = RestoredTopicDecision {
            source_topic_id: TopicId([0; 16]),
            target: "t".into(),
            target_topic_id: TopicId([0; 16]),
            max_message_bytes: 1,
            final_configs: None,
            held_configs: BTreeMap::new(),
            sources: vec![],
            partitions: vec![],
            by_key: None,
        };
        let there = there(&[(0, 0), (1, 7)]);
        assert!(tasks(0, &decision, &there, vec![]).is_empty());
        decision.final_configs = Some(BTreeMap::new());
        let tasks = tasks(0, &decision, &there, vec![]);
        let problems: Vec<u64> = tasks
            .into_iter()
            .map(|task| Comparison::new(task.target).finish().0.problems)
            .collect();
        assert_eq!(problems, [0, 1]);
    }
}
