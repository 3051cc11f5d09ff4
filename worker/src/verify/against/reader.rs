//! Reads partitions of a topic by rdkafka: a client that has no line of code in common with the one that restores.
//!
//! # Guarantees
//! - Nothing is written, no offset is committed, no group is joined, no topic is created by asking for it.
//! - An offset that the log does not have is told, and never jumped over (`auto.offset.reset=error`).
//! - Records of open and aborted transactions are read too (`read_uncommitted`): a restore writes none, so that those in its place are
//!   a difference, and one that is open before it does not hold the reader up.
//!
//! # Assumptions
//! - librdkafka keeps header keys as C strings: what follows a NUL in one is not seen.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::SecurityProtocol;
use rdkafka::Message;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError as RdKafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Instant, timeout_at};

use super::AgainstError;
use super::compare::FoundRecord;
use super::fields::Header;
use crate::kafka::ClientConfig;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Kilobytes that librdkafka reads ahead.
const AHEAD_KB: &str = "4096";
/// The largest answer that is taken, far above what one batch may have.
const ANSWER_MAX: &str = "2000000000";

/// A reader of the partitions of one topic, one after another.
///
/// One topic, since the end of a partition is told without the topic's name.
pub(super) struct Reader {
    consumer: StreamConsumer,
    topic: Arc<str>,
    partition: i32,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} {})", self.topic, self.partition)
    }
}

/// What comes next.
pub(super) enum Event<'a> {
    /// A record.
    Record(Read<'a>),
    /// The end of the log.
    End,
    /// The log does not have the offset that is read next.
    OutOfRange,
    /// A batch cannot be read. librdkafka asks for it again and again, and never gets behind it.
    Damaged(String),
}

/// A record that was read.
pub(super) struct Read<'a>(BorrowedMessage<'a>);

impl Reader {
    /// A reader for a topic of the cluster of `config`.
    pub(super) fn new(config: &ClientConfig, topic: &Arc<str>) -> Result<Self, AgainstError> {
        let protocol = match config.security_protocol {
            SecurityProtocol::Plaintext => "plaintext",
        };
        let consumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", config.bootstrap_servers.join(","))
            .set("client.id", &config.client_id)
            .set("security.protocol", protocol)
            // Needed to be assigned anything; it is never joined.
            .set("group.id", &config.client_id)
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "2")
            .set("isolation.level", "read_uncommitted")
            .set("queued.max.messages.kbytes", AHEAD_KB)
            .set("receive.message.max.bytes", ANSWER_MAX)
            .create()
            .map_err(failed("make a consumer"))?;
        Ok(Self {
            consumer,
            topic: topic.clone(),
            partition: -1,
        })
    }

    /// The topic.
    pub(super) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Reads `partition` from `offset` on.
    pub(super) fn assign(&mut self, partition: i32, offset: i64) -> Result<(), AgainstError> {
        self.partition = partition;
        self.seek(offset)
    }

    /// Reads the same partition from `offset` on.
    pub(super) fn seek(&self, offset: i64) -> Result<(), AgainstError> {
        let mut assigned = TopicPartitionList::new();
        assigned
            .add_partition_offset(&self.topic, self.partition, Offset::Offset(offset))
            .map_err(failed("name an offset"))?;
        self.consumer
            .assign(&assigned)
            .map_err(failed("assign a partition"))
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// Nothing came for [`PATIENCE`], or the broker refuses to give anything.
    pub(super) async fn next(&self) -> Result<Event<'_>, AgainstError> {
        let deadline = Instant::now() + PATIENCE;
        let mut reason = "no answer".to_owned();
        loop {
            let Ok(received) = timeout_at(deadline, self.consumer.recv()).await else {
                return Err(AgainstError::Stalled {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    seconds: PATIENCE.as_secs(),
                    reason,
                });
            };
            let error = match received {
                Ok(message) if message.partition() == self.partition => {
                    return Ok(Event::Record(Read(message)));
                }
                Err(RdKafkaError::PartitionEOF(partition)) if partition == self.partition => {
                    return Ok(Event::End);
                }
                // Of the partition before.
                Ok(_) | Err(RdKafkaError::PartitionEOF(_)) => continue,
                Err(error) => error,
            };
            match meaning(&error) {
                Meaning::OutOfRange => return Ok(Event::OutOfRange),
                Meaning::Damaged => return Ok(Event::Damaged(error.to_string())),
                Meaning::Refused => return Err(failed("read records")(error)),
                Meaning::MayPass => reason = error.to_string(),
            }
        }
    }
}

/// What an error of rdkafka means for the exit code.
pub(super) fn fault(error: &RdKafkaError) -> Fault {
    match meaning(error) {
        Meaning::Refused => match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) | None => Fault::Unavailable,
            Some(_) => Fault::Denied,
        },
        Meaning::OutOfRange | Meaning::Damaged | Meaning::MayPass => Fault::Unavailable,
    }
}

fn failed(step: &'static str) -> impl Fn(RdKafkaError) -> AgainstError {
    move |source| AgainstError::Reader { step, source }
}

/// What an error of a consumer means for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    OutOfRange,
    Damaged,
    Refused,
    /// librdkafka tries again by itself.
    MayPass,
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "librdkafka tries again after whatever it does not call fatal, and our patience ends"
)]
fn meaning(error: &RdKafkaError) -> Meaning {
    if matches!(error, RdKafkaError::MessageConsumptionFatal(_)) {
        return Meaning::Refused;
    }
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Meaning::OutOfRange
        }
        Some(RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::BadCompression) => Meaning::Damaged,
        Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::Authentication) => {
            Meaning::Refused
        }
        _ => Meaning::MayPass,
    }
}

impl FoundRecord for Read<'_> {
    fn offset(&self) -> i64 {
        self.0.offset()
    }

    fn timestamp(&self) -> i64 {
        self.0.timestamp().to_millis().unwrap_or(-1)
    }

    fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    fn headers(&self) -> Option<Vec<Header<'_>>> {
        let Some(headers) = self.0.headers() else {
            return Some(Vec::new());
        };
        // rdkafka panics at a key that is not UTF-8. One is met here only where the target has another record than the
        // archive, which must be told and not end everything.
        let read = || {
            let headers = headers.iter();
            headers
                .map(|header| (header.key.as_bytes(), header.value))
                .collect()
        };
        catch_unwind(AssertUnwindSafe(read)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pass_are_told_from_those_that_do_not() {
        let consumption = RdKafkaError::MessageConsumption;
        for (error, expected) in [
            (
                consumption(RDKafkaErrorCode::AutoOffsetReset),
                Meaning::OutOfRange,
            ),
            (consumption(RDKafkaErrorCode::BadMessage), Meaning::Damaged),
            (
                consumption(RDKafkaErrorCode::TopicAuthorizationFailed),
                Meaning::Refused,
            ),
            (
                consumption(RDKafkaErrorCode::AllBrokersDown),
                Meaning::MayPass,
            ),
            (
                RdKafkaError::MessageConsumptionFatal(RDKafkaErrorCode::Fatal),
                Meaning::Refused,
            ),
        ] {
            assert_eq!(meaning(&error), expected, "{error}");
        }
    }
}
