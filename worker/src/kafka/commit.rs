//! Changes of what consumer groups have committed.
//!
//! # Guarantees
//! - A group is changed by one request to its coordinator, which writes all that it does not refuse at once; what it does
//!   refuse is an error that names the group, and the topic and partition where it is about one.
//! - A change whose answer was lost, or whose coordinator was moving or loading, is made again for the client's
//!   `retry_timeout`: both kinds of change are idempotent.
//! - A group with live members is not changed under their feet: the coordinator refuses commits then, and deletions for topics
//!   that members subscribe to ([`KafkaError::is_group_in_use`]).
//!
//! # Assumptions
//! - Nobody else changes the group meanwhile: a client that came and went between an attempt and its repetition is overwritten.
//! - The offsets of a group fit into one record batch of `__consumer_offsets` (`max.message.bytes`, 1 MiB if not set: some
//!   10,000 partitions); beyond that the broker answers INVALID_COMMIT_OFFSET_SIZE and commits nothing.

use std::collections::HashMap;
use std::sync::Arc;

use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
    OffsetDeleteResponse,
};

use super::api::Api;
use super::client::Client;
use super::code::is_group_in_use;
use super::error::{KafkaError, Subject};
use super::groups::{CommittedOffset, str_bytes};
use super::offsets::{by_topic, topic_name};
use super::retry::Retry;

/// The generation, member epoch and leader epoch of who has none.
const NONE: i32 = -1;

impl Client {
    /// Commits offsets for a group, as one who is no member of it; a group that does not exist comes into being.
    ///
    /// Moving coordinators, lost answers and topics that not every broker knows yet are waited for, for `retry_timeout`.
    ///
    /// # Errors
    /// The group has live members, a permission is missing, or a partition is refused: no such topic, more metadata than
    /// `offset.metadata.max.bytes`. Partitions that are not refused may have been committed.
    pub async fn commit_offsets(
        &self,
        group: &Arc<str>,
        offsets: &[CommittedOffset],
    ) -> Result<(), KafkaError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let request = commit_request(group, offsets)?;
        self.ask_coordinator(group, &request, |broker, response| {
            let change = Change {
                api: ApiKey::OffsetCommit,
                group,
                broker,
            };
            let places = offsets.iter().map(|o| (&o.topic, o.partition));
            change.verdict(places, &commit_answers(response))
        })
        .await
    }

    /// Removes what a group has committed for these partitions (KIP-496); what is not there is no error, nor is a group that
    /// does not exist.
    ///
    /// Waits as [`Client::commit_offsets`] does.
    ///
    /// # Errors
    /// The group has live members that subscribe to one of the topics, or that are no consumers; a permission is missing; or a
    /// topic does not exist: brokers look for it before they ask the coordinator (`KafkaApis.handleOffsetDeleteRequest`), and
    /// remove by themselves what was committed for a topic that is deleted. Offsets of other partitions may have been removed.
    pub async fn delete_offsets(
        &self,
        group: &Arc<str>,
        places: &[(Arc<str>, i32)],
    ) -> Result<(), KafkaError> {
        if places.is_empty() {
            return Ok(());
        }
        let request = delete_request(group, places)?;
        self.ask_coordinator(group, &request, |broker, response| {
            let change = Change {
                api: ApiKey::OffsetDelete,
                group,
                broker,
            };
            match response.error_code.err() {
                // Groups of another kind than those that commit count as none, too.
                Some(ResponseError::GroupIdNotFound) => return Ok(()),
                Some(code) => return Err(change.refused(Subject::Group(group.clone()), code)),
                None => {}
            }
            let places = places.iter().map(|(topic, p)| (topic, *p));
            change.verdict(places, &delete_answers(response))
        })
        .await
    }

    /// Sends a request to the coordinator of a group; again, to whoever is the coordinator then, while it or what `read` makes of
    /// the answer (and of the broker that gave it) fails in a way that passes.
    async fn ask_coordinator<R: Api>(
        &self,
        group: &Arc<str>,
        request: &R,
        read: impl Fn(&Arc<str>, &R::Response) -> Result<(), KafkaError>,
    ) -> Result<(), KafkaError> {
        let mut retry = Retry::new(self.config().retry_timeout);
        loop {
            let attempt = async {
                let coordinator = self.coordinator(group).await?;
                let connection = self.connection(coordinator).await?;
                let response = connection.send(request)?.await?;
                read(connection.broker(), &response)
            };
            match attempt.await {
                Ok(()) => return Ok(()),
                Err(error) => retry.pause_or_fail(error).await?,
            }
            self.relearn_brokers().await;
        }
    }
}

fn commit_request(
    group: &Arc<str>,
    offsets: &[CommittedOffset],
) -> Result<OffsetCommitRequest, KafkaError> {
    let topics = by_topic(ApiKey::OffsetCommit, offsets, |o| (&o.topic, o.partition))?;
    let topics = topics.into_iter().map(|(topic, offsets)| {
        let partitions = offsets.into_iter().map(|committed| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(committed.partition)
                .with_committed_offset(committed.offset)
                .with_committed_leader_epoch(committed.leader_epoch.unwrap_or(NONE))
                .with_committed_metadata(Some(str_bytes(&committed.metadata)))
        });
        OffsetCommitRequestTopic::default()
            .with_name(topic_name(&topic))
            .with_partitions(partitions.collect())
    });
    Ok(OffsetCommitRequest::default()
        .with_group_id(GroupId(str_bytes(group)))
        .with_generation_id_or_member_epoch(NONE)
        .with_topics(topics.collect()))
}

fn delete_request(
    group: &Arc<str>,
    places: &[(Arc<str>, i32)],
) -> Result<OffsetDeleteRequest, KafkaError> {
    let topics = by_topic(ApiKey::OffsetDelete, places, |(topic, p)| (topic, *p))?;
    let topics = topics.into_iter().map(|(topic, places)| {
        let partitions = places.into_iter().map(|(_, partition)| {
            OffsetDeleteRequestPartition::default().with_partition_index(*partition)
        });
        OffsetDeleteRequestTopic::default()
            .with_name(topic_name(&topic))
            .with_partitions(partitions.collect())
    });
    Ok(OffsetDeleteRequest::default()
        .with_group_id(GroupId(str_bytes(group)))
        .with_topics(topics.collect()))
}

/// Error codes by topic and partition.
type Codes<'a> = HashMap<(&'a str, i32), i16>;

fn commit_answers(response: &OffsetCommitResponse) -> Codes<'_> {
    let topics = response.topics.iter();
    topics
        .flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| ((&*topic.name.0, p.partition_index), p.error_code))
        })
        .collect()
}

fn delete_answers(response: &OffsetDeleteResponse) -> Codes<'_> {
    let topics = response.topics.iter();
    topics
        .flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|p| ((&*topic.name.0, p.partition_index), p.error_code))
        })
        .collect()
}

/// What was asked of whom.
struct Change<'a> {
    api: ApiKey,
    group: &'a Arc<str>,
    broker: &'a Arc<str>,
}

impl Change<'_> {
    /// What the broker answered for each place as one result. One that does not pass is told before those that do.
    fn verdict<'a>(
        &self,
        places: impl Iterator<Item = (&'a Arc<str>, i32)>,
        answers: &Codes<'_>,
    ) -> Result<(), KafkaError> {
        let mut passing = None;
        for (topic, partition) in places {
            let answer = answers.get(&(&**topic, partition));
            let code = answer.ok_or_else(|| KafkaError::Malformed {
                broker: self.broker.clone(),
                api: self.api,
                detail: format!(
                    "consumer group {}, topic {topic} partition {partition}: no answer",
                    self.group
                ),
            })?;
            let Some(code) = code.err() else {
                continue;
            };
            let error = self.refused(self.subject(topic, partition, code), code);
            if !error.is_retriable() {
                return Err(error);
            }
            passing.get_or_insert(error);
        }
        passing.map_or(Ok(()), Err)
    }

    /// Answers to OffsetCommit have no place for what is said of the group: it stands at every partition.
    fn subject(&self, topic: &Arc<str>, partition: i32, code: ResponseError) -> Subject {
        let subscribed = code == ResponseError::GroupSubscribedToTopic;
        let of_group = matches!(
            code,
            ResponseError::CoordinatorLoadInProgress
                | ResponseError::CoordinatorNotAvailable
                | ResponseError::NotCoordinator
                | ResponseError::GroupAuthorizationFailed
                | ResponseError::InvalidGroupId
                | ResponseError::GroupIdNotFound
                | ResponseError::InvalidCommitOffsetSize
        );
        if of_group || (is_group_in_use(code) && !subscribed) {
            return Subject::Group(self.group.clone());
        }
        Subject::GroupPartition {
            group: self.group.clone(),
            topic: topic.clone(),
            partition,
        }
    }

    fn refused(&self, subject: Subject, code: ResponseError) -> KafkaError {
        KafkaError::answered(self.api, subject, code)
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf, BufMut};
    use kafka_backup_shared::report::Fault;

    use super::super::fake_broker::{FakeGroup, Got, OFFSET_COMMIT, OFFSET_DELETE, Take};
    use super::*;

    fn committed(topic: &str, partition: i32, offset: i64) -> CommittedOffset {
        CommittedOffset {
            topic: Arc::from(topic),
            partition,
            offset,
            leader_epoch: None,
            metadata: String::new(),
        }
    }

    /// Two topics with three partitions.
    fn three() -> [CommittedOffset; 3] {
        [
            CommittedOffset {
                leader_epoch: Some(4),
                metadata: "half way".to_owned(),
                ..committed("a", 1, 30)
            },
            committed("b", 0, 7),
            committed("a", 0, 20),
        ]
    }

    fn group() -> Arc<str> {
        Arc::from("g")
    }

    fn put_string(body: &mut Vec<u8>, text: &str) {
        body.put_i16(text.len() as i16);
        body.put_slice(text.as_bytes());
    }

    fn put_topics(body: &mut Vec<u8>, codes: &[(&str, i32, i16)]) {
        body.put_i32(codes.len() as i32);
        for (topic, partition, code) in codes {
            put_string(body, topic);
            body.put_i32(1);
            body.put_i32(*partition);
            body.put_i16(*code);
        }
    }

    fn commit_answer(codes: &[(&str, i32, i16)]) -> Take {
        let mut body = Vec::new();
        body.put_i32(0); // throttle time
        put_topics(&mut body, codes);
        Take::Answer(body)
    }

    /// The same code for each of [`three`].
    fn all(code: i16) -> Take {
        commit_answer(&[("a", 0, code), ("a", 1, code), ("b", 0, code)])
    }

    fn delete_answer(code: i16, codes: &[(&str, i32, i16)]) -> Take {
        let mut body = Vec::new();
        body.put_i16(code);
        body.put_i32(0); // throttle time
        put_topics(&mut body, codes);
        Take::Answer(body)
    }

    fn string(body: &mut &[u8]) -> String {
        let length = usize::try_from(body.get_i16()).unwrap();
        String::from_utf8(body.copy_to_bytes(length).to_vec()).unwrap()
    }

    fn each<T>(body: &mut &[u8], mut read: impl FnMut(&mut &[u8]) -> T) -> Vec<T> {
        let count = body.get_i32();
        (0..count).map(|_| read(body)).collect()
    }

    /// Reads OffsetCommit, version 7, of one who is no member of group g.
    fn read_commit(got: &Got) -> Vec<CommittedOffset> {
        assert_eq!(got.api, OFFSET_COMMIT);
        let body = &mut got.body.as_slice();
        assert_eq!(string(body), "g");
        assert_eq!(body.get_i32(), -1, "generation");
        assert_eq!(string(body), "", "member id");
        assert_eq!(body.get_i16(), -1, "group instance id");
        let topics = each(body, |body| {
            let topic: Arc<str> = Arc::from(string(body));
            each(body, |body| {
                let partition = body.get_i32();
                let offset = body.get_i64();
                let epoch = body.get_i32();
                CommittedOffset {
                    leader_epoch: (epoch != -1).then_some(epoch),
                    metadata: string(body),
                    ..committed(&topic, partition, offset)
                }
            })
        });
        assert!(body.is_empty());
        topics.concat()
    }

    #[tokio::test]
    async fn offsets_of_a_group_are_committed_in_one_request_with_epochs_and_metadata() {
        let (fake, client) = FakeGroup::new(&[2], vec![all(0)]).await;
        client.commit_offsets(&group(), &three()).await.unwrap();
        let got = fake.got();
        assert_eq!(got.iter().map(|got| got.broker).collect::<Vec<_>>(), [2]);
        let [first, second, third] = three();
        assert_eq!(read_commit(&got[0]), [first, third, second]);
    }

    #[tokio::test]
    async fn coordinator_that_moved_is_followed() {
        let takes = vec![all(ResponseError::NotCoordinator.code()), all(0)];
        let (fake, client) = FakeGroup::new(&[1, 2], takes).await;
        client.commit_offsets(&group(), &three()).await.unwrap();
        let brokers: Vec<i32> = fake.got().iter().map(|got| got.broker).collect();
        assert_eq!(brokers, [1, 2]);
    }

    #[tokio::test]
    async fn change_whose_answer_was_lost_is_made_again() {
        let (fake, client) = FakeGroup::new(&[2], vec![Take::HangUp, all(0)]).await;
        client.commit_offsets(&group(), &three()).await.unwrap();
        let got = fake.got();
        assert_eq!(got.len(), 2);
        assert_eq!(read_commit(&got[0]), read_commit(&got[1]));

        let removed = delete_answer(0, &[("a", 0, 0)]);
        let (fake, client) = FakeGroup::new(&[2], vec![Take::HangUp, removed]).await;
        let places = [(Arc::from("a"), 0)];
        client.delete_offsets(&group(), &places).await.unwrap();
        assert_eq!(fake.got().len(), 2);
    }

    #[tokio::test]
    async fn group_that_stays_without_coordinator_is_an_error_at_last() {
        let code = ResponseError::CoordinatorLoadInProgress;
        let takes = (0..9).map(|_| all(code.code())).collect();
        let (fake, client) = FakeGroup::new(&[2], takes).await;
        let error = client.commit_offsets(&group(), &three()).await.unwrap_err();
        assert_eq!(
            (error.code(), error.fault()),
            (Some(code), Fault::Unavailable)
        );
        assert!(!error.is_group_in_use());
        assert_eq!(fake.got().len(), 3);
    }

    #[tokio::test]
    async fn refused_partition_is_named_with_its_group() {
        let too_large = ResponseError::OffsetMetadataTooLarge.code();
        // A topic that is unknown may become known; what is final is told at once.
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        let answer = commit_answer(&[("a", 0, unknown), ("a", 1, too_large), ("b", 0, 0)]);
        let (fake, client) = FakeGroup::new(&[2], vec![answer]).await;
        let error = client.commit_offsets(&group(), &three()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "OffsetCommit failed for consumer group g, topic a partition 1: OffsetMetadataTooLarge (12)"
        );
        assert_eq!(error.fault(), Fault::Spec);
        assert!(!error.is_group_in_use());
        assert_eq!(fake.got().len(), 1);
    }

    #[tokio::test]
    async fn topic_that_is_not_known_yet_is_waited_for() {
        let unknown = ResponseError::UnknownTopicOrPartition.code();
        let (fake, client) = FakeGroup::new(&[2], vec![all(unknown), all(0)]).await;
        client.commit_offsets(&group(), &three()).await.unwrap();
        assert_eq!(fake.got().len(), 2);

        let missing = || delete_answer(0, &[("gone", 3, unknown)]);
        let takes = vec![missing(), missing(), missing()];
        let (_fake, client) = FakeGroup::new(&[2], takes).await;
        let places = [(Arc::from("gone"), 3)];
        let error = client.delete_offsets(&group(), &places).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "OffsetDelete failed for consumer group g, topic gone partition 3: UnknownTopicOrPartition (3)"
        );
    }

    #[tokio::test]
    async fn partition_without_answer_is_not_taken_as_changed() {
        let answer = commit_answer(&[("a", 0, 0), ("b", 0, 0)]);
        let (_fake, client) = FakeGroup::new(&[2], vec![answer]).await;
        let error = client.commit_offsets(&group(), &three()).await.unwrap_err();
        assert!(matches!(error, KafkaError::Malformed { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("topic a partition 1"), "{message}");
    }

    #[tokio::test]
    async fn commit_to_a_group_with_live_members_is_refused_as_in_use() {
        for code in [
            ResponseError::UnknownMemberId,
            ResponseError::IllegalGeneration,
            ResponseError::StaleMemberEpoch,
            ResponseError::RebalanceInProgress,
        ] {
            let (fake, client) = FakeGroup::new(&[2], vec![all(code.code())]).await;
            let error = client.commit_offsets(&group(), &three()).await.unwrap_err();
            assert!(error.is_group_in_use(), "{error}");
            assert_eq!(error.fault(), Fault::Spec, "{error}");
            let number = code.code();
            assert_eq!(
                error.to_string(),
                format!(
                    "OffsetCommit failed for consumer group g: {code} ({number}); the group has live members, stop them first"
                )
            );
            assert_eq!(fake.got().len(), 1);
        }
    }

    #[tokio::test]
    async fn deletion_from_a_group_with_live_members_is_refused_as_in_use() {
        let subscribed = ResponseError::GroupSubscribedToTopic.code();
        let non_empty = ResponseError::NonEmptyGroup.code();
        let cases = [
            (
                delete_answer(0, &[("a", 5, subscribed)]),
                "consumer group g, topic a partition 5: GroupSubscribedToTopic (86)",
            ),
            (
                delete_answer(non_empty, &[]),
                "consumer group g: NonEmptyGroup (68)",
            ),
        ];
        for (answer, words) in cases {
            let (_fake, client) = FakeGroup::new(&[2], vec![answer]).await;
            let places = [(Arc::from("a"), 5)];
            let error = client.delete_offsets(&group(), &places).await.unwrap_err();
            assert!(error.is_group_in_use(), "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "OffsetDelete failed for {words}; the group has live members, stop them first"
                )
            );
        }
    }

    #[tokio::test]
    async fn offsets_are_removed_by_topic_and_partition_and_a_group_that_is_not_there_has_none() {
        let codes = [("a", 0, 0), ("a", 1, 0), ("b", 2, 0)];
        let absent = ResponseError::GroupIdNotFound.code();
        let takes = vec![delete_answer(0, &codes), delete_answer(absent, &[])];
        let (fake, client) = FakeGroup::new(&[2], takes).await;
        let places = codes.map(|(topic, partition, _)| (Arc::from(topic), partition));
        client.delete_offsets(&group(), &places).await.unwrap();
        client.delete_offsets(&group(), &places).await.unwrap();
        let got = fake.got();
        assert_eq!((got.len(), got[0].api), (2, OFFSET_DELETE));
        let body = &mut got[0].body.as_slice();
        assert_eq!(string(body), "g");
        let asked = each(body, |body| {
            (string(body), each(body, |body| body.get_i32()))
        });
        assert_eq!(
            asked,
            [("a".to_owned(), vec![0, 1]), ("b".to_owned(), vec![2])]
        );
        assert!(body.is_empty());
    }

    #[tokio::test]
    async fn nothing_to_change_asks_nobody() {
        let (fake, client) = FakeGroup::new(&[2], Vec::new()).await;
        client.commit_offsets(&group(), &[]).await.unwrap();
        client.delete_offsets(&group(), &[]).await.unwrap();
        assert!(fake.got().is_empty());
    }

    #[tokio::test]
    async fn partition_that_stands_twice_is_not_sent() {
        let (fake, client) = FakeGroup::new(&[2], Vec::new()).await;
        let twice = [committed("a", 0, 1), committed("a", 0, 2)];
        let error = client.commit_offsets(&group(), &twice).await.unwrap_err();
        assert!(matches!(error, KafkaError::Request { .. }), "{error:?}");
        assert!(fake.got().is_empty());
    }
}
