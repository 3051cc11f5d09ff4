//! Produce and InitProducerId.
//!
//! The request's body is written here rather than by `kafka-protocol`, which would copy the record batches: heads and
//! batches alternate in one vectored write. A test compares the bytes with that crate's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiKey, InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId as WireProducerId,
};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use uuid::Uuid;

use super::api::Api;
use super::error::{KafkaError, Subject};
use super::frame;
use super::wire::{Connection, InFlight};
use crate::measure::{self, Stage};

/// The first version that names topics by id.
const BY_TOPIC_ID: i16 = 13;

/// All in-sync replicas.
const ACKS_ALL: i16 = -1;

/// Who sends, for the broker's check of sequence numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerId {
    /// The producer's id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// One record batch for one partition.
#[derive(Clone, Debug)]
pub struct ProduceBatch {
    /// The topic.
    pub topic: Arc<str>,
    /// The topic's id: brokers that can (from 4.1) then refuse a topic made anew under the same name. Nil: by name only.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The batch, in as many pieces as it lies in memory: say a rewritten header and a slice of a segment.
    pub pieces: Vec<Bytes>,
}

/// What became of the batches of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceAnswer {
    /// How long the broker asks to be left alone; the connection keeps to it by itself.
    pub throttle: Duration,
    /// One per batch, in the order they were given.
    pub partitions: Vec<ProducedPartition>,
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedPartition {
    /// Why it is not stored, or (`RequestTimedOut`, `NotEnoughReplicasAfterAppend`) perhaps is.
    pub error: Option<ResponseError>,
    /// The broker's words about the error.
    pub message: Option<String>,
    /// The offset that the batch's first record got; -1 with an error.
    pub base_offset: i64,
    /// The append time in milliseconds, where the topic says LogAppendTime.
    pub log_append_time_ms: Option<i64>,
    /// The first offset of the partition that exists; -1 where the broker does not say.
    pub log_start_offset: i64,
}

impl ProducedPartition {
    /// The error as one, with its place.
    pub fn error_of(&self, batch: &ProduceBatch) -> Option<KafkaError> {
        self.error.map(|code| KafkaError::Answered {
            api: ApiKey::Produce,
            subject: Subject::Partition(batch.topic.clone(), batch.partition),
            code,
            message: self.message.clone(),
        })
    }
}

impl Connection {
    /// Sends one record batch to each of several partitions that this broker leads, to be acknowledged by all in-sync
    /// replicas within `timeout`.
    ///
    /// The order of requests is the order of writing: pipelined requests for one partition arrive in the order sent.
    ///
    /// # Errors
    /// Certainly nothing was sent: a partition stands twice (brokers store one of the batches and report no error), the
    /// broker is too old, or the connection is dead. An error of the [`InFlight`] leaves the outcome unknown.
    pub fn produce(
        &self,
        batches: &[ProduceBatch],
        timeout: Duration,
    ) -> Result<InFlight<ProduceAnswer>, KafkaError> {
        let topics = by_topic(batches)?;
        let ids_known = batches.iter().all(|batch| !batch.topic_id.is_nil());
        let ours = ProduceRequest::VERSIONS;
        let version = match ids_known {
            true => self.version::<ProduceRequest>()?,
            false => self.version_within::<ProduceRequest>(VersionRange {
                max: BY_TOPIC_ID - 1,
                ..ours
            })?,
        };
        let correlation_id = self.next_correlation_id();
        let mut head = BytesMut::with_capacity(128);
        frame::encode_header::<ProduceRequest>(
            &mut head,
            ApiKey::Produce,
            version,
            correlation_id,
            self.client_id(),
        )
        .map_err(request_error)?;
        let pieces = encode_body(head, &topics, version, timeout)?;
        let broker = self.broker().clone();
        let places: Vec<(Arc<str>, Uuid, i32)> = batches
            .iter()
            .map(|batch| (batch.topic.clone(), batch.topic_id, batch.partition))
            .collect();
        let sent = self.submit::<ProduceRequest>(version, correlation_id, pieces, timeout)?;
        let pieces = batches.iter().flat_map(|batch| &batch.pieces);
        measure::count_bytes(Stage::Produced, pieces.map(Bytes::len).sum());
        Ok(sent.and_then(move |response| {
            align(response, &places, version).map_err(|detail| KafkaError::Malformed {
                broker,
                api: ApiKey::Produce,
                detail,
            })
        }))
    }

    /// Asks for a producer id of one's own; any broker can give one.
    pub fn init_producer_id(&self) -> Result<InFlight<ProducerId>, KafkaError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            // Without a transactional id it has no meaning, but must be positive.
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(WireProducerId(-1))
            .with_producer_epoch(-1);
        Ok(self
            .send(&request)?
            .and_then(|response| match response.error_code.err() {
                Some(code) => Err(KafkaError::answered(
                    ApiKey::InitProducerId,
                    Subject::Cluster,
                    code,
                )),
                None => Ok(ProducerId {
                    id: response.producer_id.0,
                    epoch: response.producer_epoch,
                }),
            }))
    }
}

fn request_error(detail: String) -> KafkaError {
    KafkaError::Request {
        api: ApiKey::Produce,
        detail,
    }
}

/// Batches by topic, topics in the order of their first batch.
fn by_topic(batches: &[ProduceBatch]) -> Result<Vec<Vec<&ProduceBatch>>, KafkaError> {
    let mut partitions = HashSet::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut topics: Vec<Vec<&ProduceBatch>> = Vec::new();
    for batch in batches {
        if !partitions.insert((&*batch.topic, batch.partition)) {
            let (topic, partition) = (&batch.topic, batch.partition);
            return Err(request_error(format!(
                "topic {topic} partition {partition} stands twice"
            )));
        }
        let place = *places.entry(&*batch.topic).or_insert(topics.len());
        match topics.get_mut(place) {
            Some(topic) => topic.push(batch),
            None => topics.push(vec![batch]),
        }
    }
    Ok(topics)
}

/// The request in pieces: heads that are written here, batches as they are.
///
/// `head` already holds the request header. Versions 9 to 13 differ in how a topic is named, nothing else.
fn encode_body(
    head: BytesMut,
    topics: &[Vec<&ProduceBatch>],
    version: i16,
    timeout: Duration,
) -> Result<Vec<Bytes>, KafkaError> {
    const NULL: u32 = 0;
    const NO_TAGS: u32 = 0;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut pieces = Vec::new();
    let mut head = head;
    put_varint(&mut head, NULL); // transactional id
    head.put_i16(ACKS_ALL);
    head.put_i32(timeout_ms);
    put_length(&mut head, topics.len())?;
    for topic in topics {
        let Some(first) = topic.first() else { continue };
        if version >= BY_TOPIC_ID {
            head.put_slice(first.topic_id.as_bytes());
        } else {
            put_length(&mut head, first.topic.len())?;
            head.put_slice(first.topic.as_bytes());
        }
        put_length(&mut head, topic.len())?;
        for batch in topic {
            head.put_i32(batch.partition);
            put_length(&mut head, batch.pieces.iter().map(Bytes::len).sum())?;
            pieces.push(head.split().freeze());
            pieces.extend(batch.pieces.iter().cloned());
            put_varint(&mut head, NO_TAGS);
        }
        put_varint(&mut head, NO_TAGS);
    }
    put_varint(&mut head, NO_TAGS);
    pieces.push(head.freeze());
    Ok(pieces)
}

/// Kafka's compact length: one more than the length, so that zero is null.
fn put_length(buffer: &mut BytesMut, length: usize) -> Result<(), KafkaError> {
    let plus_one = i32::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(1));
    let plus_one =
        plus_one.ok_or_else(|| request_error(format!("{length} bytes in one partition")))?;
    put_varint(buffer, plus_one.unsigned_abs());
    Ok(())
}

fn put_varint(buffer: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buffer.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Puts the results into the order of the batches; one that is missing, double or unasked makes the answer unusable.
fn align(
    response: ProduceResponse,
    places: &[(Arc<str>, Uuid, i32)],
    version: i16,
) -> Result<ProduceAnswer, String> {
    let mut results: HashMap<(StrBytes, Uuid, i32), PartitionProduceResponse> = HashMap::new();
    for topic in response.responses {
        for result in topic.partition_responses {
            let place = (topic.name.0.clone(), topic.topic_id, result.index);
            if results.insert(place, result).is_some() {
                return Err("a partition was answered twice".to_owned());
            }
        }
    }
    let mut partitions = Vec::with_capacity(places.len());
    for (topic, topic_id, partition) in places {
        let place = match version >= BY_TOPIC_ID {
            true => (StrBytes::new(), *topic_id, *partition),
            false => (
                StrBytes::from_string(topic.to_string()),
                Uuid::nil(),
                *partition,
            ),
        };
        let result = results
            .remove(&place)
            .ok_or_else(|| format!("no result for topic {topic} partition {partition}"))?;
        partitions.push(produced(result));
    }
    if let Some((topic, _, partition)) = results.keys().next() {
        return Err(format!(
            "a result for topic {topic:?} partition {partition}, which was not sent"
        ));
    }
    let throttle_ms = u64::try_from(response.throttle_time_ms).unwrap_or(0);
    Ok(ProduceAnswer {
        throttle: Duration::from_millis(throttle_ms),
        partitions,
    })
}

fn produced(result: PartitionProduceResponse) -> ProducedPartition {
    let record_errors = result.record_errors.iter().filter_map(|record| {
        let text = record.batch_index_error_message.as_ref()?;
        Some(format!("record {}: {text}", record.batch_index))
    });
    let words: Vec<String> = result
        .error_message
        .iter()
        .map(|message| message.to_string())
        // A batch may have thousands of records that are all wrong in the same way.
        .chain(record_errors.take(3))
        .collect();
    ProducedPartition {
        error: result.error_code.err(),
        message: (!words.is_empty()).then(|| words.join("; ")),
        base_offset: result.base_offset,
        log_append_time_ms: (result.log_append_time_ms >= 0).then_some(result.log_append_time_ms),
        log_start_offset: result.log_start_offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::produce_response::TopicProduceResponse;
    use kafka_protocol::protocol::Encodable;

    fn batch(topic: &str, partition: i32, pieces: &[&'static [u8]]) -> ProduceBatch {
        ProduceBatch {
            topic: Arc::from(topic),
            topic_id: Uuid::from_u128(topic.len() as u128),
            partition,
            pieces: pieces.iter().map(|p| Bytes::from_static(p)).collect(),
        }
    }

    fn batches() -> Vec<ProduceBatch> {
        vec![
            batch("orders", 3, &[b"header", b"body"]),
            batch("t", 0, &[&[7; 300]]),
            batch("orders", 0, &[b"x"]),
        ]
    }

    #[test]
    fn body_is_what_the_protocol_crate_writes() {
        let batches = batches();
        for version in 9..=13 {
            let topics = by_topic(&batches).unwrap();
            let timeout = Duration::from_millis(12_345);
            let pieces = encode_body(BytesMut::new(), &topics, version, timeout).unwrap();
            let ours: Vec<u8> = pieces.concat();
            let data = topics.iter().map(|topic| {
                let partitions = topic.iter().map(|batch| {
                    PartitionProduceData::default()
                        .with_index(batch.partition)
                        .with_records(Some(Bytes::from(batch.pieces.concat())))
                });
                let data = TopicProduceData::default().with_partition_data(partitions.collect());
                match version >= 13 {
                    true => data.with_topic_id(topic[0].topic_id),
                    false => {
                        data.with_name(TopicName(StrBytes::from_string(topic[0].topic.to_string())))
                    }
                }
            });
            let mut theirs = BytesMut::new();
            ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(12_345)
                .with_topic_data(data.collect())
                .encode(&mut theirs, version)
                .unwrap();
            assert_eq!(ours, theirs.to_vec(), "version {version}");
        }
    }

    #[test]
    fn batch_pieces_are_not_copied() {
        let batches = batches();
        let topics = by_topic(&batches).unwrap();
        let pieces = encode_body(BytesMut::new(), &topics, 12, Duration::ZERO).unwrap();
        let body = batches[0].pieces[1].as_ptr();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == body));
    }

    #[test]
    fn partition_twice_in_a_request_is_refused() {
        let twice = [batch("a", 0, &[b"x"]), batch("a", 0, &[b"y"])];
        let error = by_topic(&twice).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("topic a partition 0 stands twice")
        );
    }

    fn response(results: &[(&str, i32, i64)]) -> ProduceResponse {
        let topics = results.iter().map(|(topic, partition, base_offset)| {
            TopicProduceResponse::default()
                .with_name(TopicName(StrBytes::from_string((*topic).to_owned())))
                .with_partition_responses(vec![
                    PartitionProduceResponse::default()
                        .with_index(*partition)
                        .with_base_offset(*base_offset),
                ])
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    #[test]
    fn results_stand_in_the_order_of_batches() {
        let places: Vec<_> = batches()
            .iter()
            .map(|b| (b.topic.clone(), b.topic_id, b.partition))
            .collect();
        let shuffled = response(&[("t", 0, 20), ("orders", 0, 30), ("orders", 3, 10)]);
        let answer = align(shuffled, &places, 12).unwrap();
        let offsets: Vec<i64> = answer.partitions.iter().map(|p| p.base_offset).collect();
        assert_eq!(offsets, [10, 20, 30]);
    }

    #[test]
    fn answer_that_does_not_fit_the_request_is_unusable() {
        let places = [(Arc::from("a"), Uuid::nil(), 0)];
        let cases = [
            (vec![], "no result for topic a partition 0"),
            (vec![("a", 0, 1), ("a", 0, 2)], "answered twice"),
            (vec![("a", 0, 1), ("b", 0, 2)], "not sent"),
        ];
        for (results, expected) in cases {
            let error = align(response(&results), &places, 12).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
