//! Consumer groups and what they have committed.
//!
//! # Guarantees
//! - A list of groups is whole: coordinators that were loading, moving or without leader while they were asked are asked again.
//! - An offset is one that stands: a transaction that is about to replace it is waited for (`require_stable`, KIP-447).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    ApiKey, FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::client::Client;
use super::error::{KafkaError, Subject, chain};
use super::metadata::{LedPartition, TopicFilter, TopicMetadata};
use super::offsets::PerPartition;
use super::retry::Retry;

/// FindCoordinator's number for groups.
const GROUP_KEY: i8 = 0;
/// Where brokers keep groups: who leads a partition of it coordinates the groups in it.
const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// For how long offsets in transactions are waited for: a producer that has died has its transaction aborted after 60 s
/// (`transaction.timeout.ms`), found every 10 s.
const UNSTABLE_PATIENCE: Duration = Duration::from_secs(90);

/// A group of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// The group's id.
    pub group: Arc<str>,
    /// Its kind.
    pub group_type: GroupType,
    /// Such as `Stable` or `Empty`; empty where the broker does not say, as those before 2.6.
    pub state: String,
    /// What its members agreed on: `consumer` for consumers, `streams` for groups of Kafka Streams' own protocol, empty for
    /// groups that only commit.
    pub protocol_type: String,
}

impl ListedGroup {
    /// Whether the group has members, so that its coordinator refuses commits of others.
    ///
    /// A group whose broker tells no state (before 2.6) counts as one without: its coordinator refuses all the same.
    pub fn is_live(&self) -> bool {
        !matches!(self.state.as_str(), "" | "Empty" | "Dead")
    }
}

/// The kinds of group. Brokers before 3.8 do not tell: theirs are classic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupType {
    /// The original protocol.
    Classic,
    /// KIP-848.
    Consumer,
    /// Kafka Streams' own (KIP-1071).
    Streams,
    /// KIP-932; these have no committed offsets.
    Share,
    /// A kind that is newer than this client.
    Other(String),
}

/// What a group has committed for a partition: the next record to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The next record to read.
    pub offset: i64,
    /// The epoch of the last record that was read, where the committer told it.
    pub leader_epoch: Option<i32>,
    /// What the committer wrote beside it.
    pub metadata: String,
}

impl Client {
    /// All groups that the principal may see, ascending by id: every broker is asked.
    pub async fn list_groups(&self) -> Result<Vec<ListedGroup>, KafkaError> {
        let mut retry = Retry::new(self.config().retry_timeout);
        loop {
            let listed = async {
                let before = self.coordinating().await?;
                let groups = self.try_list_groups().await?;
                // A group that moved meanwhile may have been named by neither broker.
                if self.coordinating().await? == before {
                    return Ok(groups);
                }
                let code = ResponseError::NotCoordinator;
                Err(KafkaError::answered(
                    ApiKey::ListGroups,
                    Subject::Cluster,
                    code,
                ))
            };
            match listed.await {
                Ok(groups) => return Ok(groups),
                Err(error) => retry.pause_or_fail(error).await?,
            }
        }
    }

    /// Whether a group may ever have committed. To ask for a coordinator where none has makes brokers create their topic.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn has_groups(&self) -> Result<bool, KafkaError> {
        let filter = TopicFilter::Named(vec![Arc::from(OFFSETS_TOPIC)]);
        Ok(!self
            .topics(&filter)
            .await?
            .iter()
            .any(TopicMetadata::is_unknown))
    }

    /// Who coordinates groups; learns the brokers anew. Empty where no group has ever committed, or where the principal may
    /// not describe the topic: then the brokers' word has to do.
    async fn coordinating(&self) -> Result<Vec<LedPartition>, KafkaError> {
        let filter = TopicFilter::Named(vec![Arc::from(OFFSETS_TOPIC)]);
        let topics = self.topics(&filter).await?;
        let hidden = [
            Some(ResponseError::UnknownTopicOrPartition),
            Some(ResponseError::TopicAuthorizationFailed),
        ];
        let seen = topics.iter().filter(|topic| !hidden.contains(&topic.error));
        seen.map(|topic| topic.led_partitions())
            .collect::<Result<Vec<_>, _>>()
            .map(|led| led.concat())
    }

    async fn try_list_groups(&self) -> Result<Vec<ListedGroup>, KafkaError> {
        let request = ListGroupsRequest::default();
        let asked = self.brokers().into_iter().map(|broker| {
            let request = &request;
            async move { self.connection(broker.id).await?.send(request)?.await }
        });
        let mut groups = BTreeMap::new();
        for response in join_all(asked).await {
            let response = response?;
            if let Some(code) = response.error_code.err() {
                return Err(KafkaError::answered(
                    ApiKey::ListGroups,
                    Subject::Cluster,
                    code,
                ));
            }
            for listed in response.groups {
                let group: Arc<str> = Arc::from(listed.group_id.as_str());
                let listed = ListedGroup {
                    group: group.clone(),
                    group_type: group_type(&listed.group_type),
                    state: listed.group_state.to_string(),
                    protocol_type: listed.protocol_type.to_string(),
                };
                groups.insert(group, listed);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// What groups have committed for the topics that `wants` names, in the order given, each group ascending by topic and
    /// partition; each group has its own error.
    ///
    /// Offsets of transactions that are not finished are waited for, and moving coordinators followed, for 90 s. A group that
    /// commits in transactions all the time is hardly ever stable as a whole, so each partition is taken when it is. A group
    /// that does not exist has committed nothing. Each broker gets one request for all of its groups: the caller bounds how
    /// many these are.
    pub async fn committed_offsets(
        &self,
        groups: &[Arc<str>],
        wants: impl Fn(&str) -> bool,
    ) -> PerPartition<Vec<CommittedOffset>> {
        let mut known: HashMap<Arc<str>, Stable> = HashMap::new();
        let mut results: HashMap<Arc<str>, Result<(), KafkaError>> = HashMap::new();
        let mut open = groups.to_vec();
        let mut retry = Retry::new(self.config().retry_timeout.max(UNSTABLE_PATIENCE));
        loop {
            for (group, answer) in self.try_committed_offsets(&open).await {
                let known = known.entry(group.clone()).or_default();
                let result = answer.and_then(|answer| take(&group, known, answer, &wants));
                results.insert(group, result);
            }
            let error_of = |group: &Arc<str>| match results.get(group) {
                Some(Err(error)) if error.is_retriable() => Some(error.clone()),
                Some(_) | None => None,
            };
            open.retain(|group| error_of(group).is_some());
            let Some(error) = open.first().and_then(error_of) else {
                break;
            };
            if retry.pause_or_fail(error).await.is_err() {
                break;
            }
            self.relearn_brokers().await;
        }
        let unanswered = |group: &Arc<str>| {
            let subject = Subject::Group(group.clone());
            let code = ResponseError::UnknownServerError;
            Err(KafkaError::answered(ApiKey::OffsetFetch, subject, code))
        };
        groups
            .iter()
            .map(|group| {
                let result = results.remove(group);
                result.unwrap_or_else(|| unanswered(group))?;
                let known = known.remove(group).unwrap_or_default();
                Ok(known.into_values().collect())
            })
            .collect()
    }

    async fn try_committed_offsets(
        &self,
        groups: &[Arc<str>],
    ) -> Vec<(Arc<str>, Result<Answered, KafkaError>)> {
        let all_failed = |groups: &[Arc<str>], error: &KafkaError| {
            let failed = |group: &Arc<str>| (group.clone(), Err(error.clone()));
            groups.iter().map(failed).collect::<Vec<_>>()
        };
        let found = match self.coordinators(groups).await {
            Ok(found) => found,
            Err(error) => return all_failed(groups, &error),
        };
        let mut results = Vec::new();
        let mut coordinators: BTreeMap<i32, Vec<Arc<str>>> = BTreeMap::new();
        for (group, coordinator) in found {
            match coordinator {
                Ok(broker) => coordinators.entry(broker).or_default().push(group),
                Err(error) => results.push((group, Err(error))),
            }
        }
        let asked = coordinators.iter().map(|(broker, groups)| async move {
            match self.fetch_offsets(*broker, groups).await {
                Ok(results) => results,
                Err(error) => all_failed(groups, &error),
            }
        });
        results.extend(join_all(asked).await.into_iter().flatten());
        results
    }

    /// Learns the brokers before another attempt: a coordinator may be on one that is not known yet.
    pub(crate) async fn relearn_brokers(&self) {
        // When nobody answers, the next attempt asks those known before.
        if let Err(error) = self.topics(&TopicFilter::Nothing).await {
            tracing::debug!(error = %chain(&error), "brokers not learnt anew");
        }
    }

    /// The broker that coordinates a group, one attempt.
    pub(crate) async fn coordinator(&self, group: &Arc<str>) -> Result<i32, KafkaError> {
        let found = self.coordinators(std::slice::from_ref(group)).await?;
        let found = found.into_iter().find(|(found, _)| found == group);
        let (_, broker) = found.ok_or_else(|| {
            let subject = Subject::Group(group.clone());
            let code = ResponseError::UnknownServerError;
            KafkaError::answered(ApiKey::FindCoordinator, subject, code)
        })?;
        broker
    }

    async fn coordinators(
        &self,
        groups: &[Arc<str>],
    ) -> Result<Vec<(Arc<str>, Result<i32, KafkaError>)>, KafkaError> {
        let keys = groups.iter().map(|group| str_bytes(group)).collect();
        let request = FindCoordinatorRequest::default()
            .with_key_type(GROUP_KEY)
            .with_coordinator_keys(keys);
        let response = self.ask_any(&request).await?;
        let coordinators = response.coordinators.into_iter();
        Ok(coordinators
            .map(|found| {
                let group: Arc<str> = Arc::from(found.key.as_str());
                let broker = match found.error_code.err() {
                    None => Ok(found.node_id.0),
                    Some(code) => Err(KafkaError::Answered {
                        api: ApiKey::FindCoordinator,
                        subject: Subject::Group(group.clone()),
                        code,
                        message: found.error_message.map(|message| message.to_string()),
                    }),
                };
                (group, broker)
            })
            .collect())
    }

    async fn fetch_offsets(
        &self,
        coordinator: i32,
        groups: &[Arc<str>],
    ) -> Result<Vec<(Arc<str>, Result<Answered, KafkaError>)>, KafkaError> {
        let groups = groups.iter().map(|group| {
            OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(str_bytes(group)))
                .with_member_epoch(-1)
                // All topics.
                .with_topics(None)
        });
        let request = OffsetFetchRequest::default()
            .with_groups(groups.collect())
            .with_require_stable(true);
        let connection = self.connection(coordinator).await?;
        let response = connection.send(&request)?.await?;
        let committed = response.groups.into_iter().map(|answer| {
            let group: Arc<str> = Arc::from(answer.group_id.as_str());
            (group.clone(), committed(&group, answer))
        });
        Ok(committed.collect())
    }
}

pub(crate) fn str_bytes(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_type(name: &str) -> GroupType {
    match name.to_ascii_lowercase().as_str() {
        "" | "classic" => GroupType::Classic,
        "consumer" => GroupType::Consumer,
        "streams" => GroupType::Streams,
        "share" => GroupType::Share,
        _ => GroupType::Other(name.to_owned()),
    }
}

/// Offsets by topic and partition.
type Stable = BTreeMap<(Arc<str>, i32), CommittedOffset>;

/// What one answer says of a group.
#[derive(Debug, Default)]
struct Answered {
    stable: Stable,
    /// Whose offset is part of a transaction that is not finished.
    unstable: Vec<(Arc<str>, i32)>,
}

/// Adds an answer to what is known of a group; an error while an offset is not known because it is not stable.
fn take(
    group: &Arc<str>,
    known: &mut Stable,
    answer: Answered,
    wants: impl Fn(&str) -> bool,
) -> Result<(), KafkaError> {
    let wanted = answer.stable.into_iter();
    known.extend(wanted.filter(|((topic, _), _)| wants(topic)));
    let mut unstable = answer.unstable.iter().filter(|(topic, _)| wants(topic));
    let waiting = unstable.find(|place| !known.contains_key(place));
    let Some((topic, partition)) = waiting else {
        return Ok(());
    };
    Err(KafkaError::Answered {
        api: ApiKey::OffsetFetch,
        subject: Subject::Group(group.clone()),
        code: ResponseError::UnstableOffsetCommit,
        message: Some(format!(
            "the offset for topic {topic} partition {partition} is part of a transaction that is not finished"
        )),
    })
}

fn committed(group: &Arc<str>, answer: OffsetFetchResponseGroup) -> Result<Answered, KafkaError> {
    let failed = |code| {
        let subject = Subject::Group(group.clone());
        KafkaError::answered(ApiKey::OffsetFetch, subject, code)
    };
    if let Some(code) = answer.error_code.err() {
        return Err(failed(code));
    }
    let mut answered = Answered::default();
    for topic in answer.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in topic.partitions {
            let place = (name.clone(), partition.partition_index);
            match partition.error_code.err() {
                None => {}
                Some(ResponseError::UnstableOffsetCommit) => {
                    answered.unstable.push(place);
                    continue;
                }
                Some(code) => return Err(failed(code)),
            }
            // -1: nothing committed.
            if partition.committed_offset < 0 {
                continue;
            }
            let epoch = partition.committed_leader_epoch;
            let offset = CommittedOffset {
                topic: name.clone(),
                partition: partition.partition_index,
                offset: partition.committed_offset,
                leader_epoch: (epoch >= 0).then_some(epoch),
                metadata: partition.metadata.unwrap_or_default().to_string(),
            };
            answered.stable.insert(place, offset);
        }
    }
    Ok(answered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stable: &[(i32, i64)], unstable: &[i32]) -> Answered {
        let topic: Arc<str> = Arc::from("t");
        let offset = |(partition, offset): &(i32, i64)| {
            let committed = CommittedOffset {
                topic: topic.clone(),
                partition: *partition,
                offset: *offset,
                leader_epoch: None,
                metadata: String::new(),
            };
            ((topic.clone(), *partition), committed)
        };
        Answered {
            stable: stable.iter().map(offset).collect(),
            unstable: unstable.iter().map(|p| (topic.clone(), *p)).collect(),
        }
    }

    #[test]
    fn group_is_live_in_every_state_but_those_without_members() {
        let cases = [
            ("Stable", true),
            ("PreparingRebalance", true),
            ("CompletingRebalance", true),
            ("Assigning", true),
            ("Reconciling", true),
            ("NotReady", true),
            ("Empty", false),
            ("Dead", false),
            ("", false),
        ];
        for (state, live) in cases {
            let listed = ListedGroup {
                group: Arc::from("g"),
                group_type: GroupType::Classic,
                state: state.to_owned(),
                protocol_type: "consumer".to_owned(),
            };
            assert_eq!(listed.is_live(), live, "{state:?}");
        }
    }

    #[test]
    fn each_partition_is_taken_when_it_is_stable() {
        let group: Arc<str> = Arc::from("g");
        let mut known = Stable::new();
        let error = take(&group, &mut known, answer(&[(0, 5)], &[1]), |_| true).unwrap_err();
        assert!(error.is_retriable());
        let message = chain(&error);
        assert!(
            message.contains("consumer group g") && message.contains("topic t partition 1"),
            "{message}"
        );
        // Never stable as a whole, and yet known.
        take(&group, &mut known, answer(&[(1, 8)], &[0]), |_| true).unwrap();
        let offsets: Vec<i64> = known.values().map(|committed| committed.offset).collect();
        assert_eq!(offsets, [5, 8]);
        // Topics that nobody asked for are not waited for.
        take(&group, &mut Stable::new(), answer(&[], &[0]), |_| false).unwrap();
    }
}
