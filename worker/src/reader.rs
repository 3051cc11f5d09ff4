//! Reads partitions of a topic by rdkafka: a client that has no line of code in common with the one that restores.
//!
//! # Guarantees
//! - Nothing is written, no offset is committed, no group is joined, no topic is created by asking for it.
//! - An offset that the log does not have is told, and never jumped over (`auto.offset.reset=error`).
//! - Nothing that a record holds ends the process: rdkafka panics at a header key that is not UTF-8, and that one alone is left out.
//! - Memory is what rdkafka reads ahead (4 MiB).
//!
//! # Assumptions
//! - librdkafka keeps header keys as C strings: what follows a NUL in one is not seen.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::report::Fault;
use rdkafka::Message;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError as RdKafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use crate::kafka::{ClientConfig, IsolationLevel, RdKafkaContext, SecurityError};

/// Kilobytes that librdkafka reads ahead.
const AHEAD_KB: &str = "4096";
/// The largest answer that is taken, far above what one batch may have.
const ANSWER_MAX: &str = "2000000000";

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// rdkafka.
    #[error("failed to {step} by rdkafka")]
    Failed {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: RdKafkaError,
    },
    /// There are no credentials.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// A broker does not take us for who we say we are, or is not who it should be.
    #[error("refused, as rdkafka says: {reason}")]
    Denied {
        /// rdkafka's words.
        reason: String,
    },
    /// No record came for long.
    #[error("nothing came from topic {topic} partition {partition} for {seconds} s: {reason}")]
    Stalled {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// For how long.
        seconds: u64,
        /// The last thing that went wrong.
        reason: String,
    },
}

impl ReaderError {
    /// What it means for the exit code.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Failed { source, .. } => fault(source),
            Self::Security(source) => source.fault(),
            Self::Denied { .. } => Fault::Denied,
            Self::Stalled { .. } => Fault::Unavailable,
        }
    }
}

/// The key and the value of a header; `None` is null.
pub(crate) type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// A reader of the partitions of one topic, one after another.
///
/// One topic, since the end of a partition is told without the topic's name.
pub struct Reader {
    consumer: StreamConsumer<RdKafkaContext>,
    topic: Arc<str>,
    partition: i32,
    isolation: IsolationLevel,
    patience: Duration,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} {})", self.topic, self.partition)
    }
}

/// What comes next.
#[derive(Debug)]
pub enum Event<'a> {
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
#[derive(Debug)]
pub struct Read<'a>(BorrowedMessage<'a>);

impl Reader {
    /// A reader for a topic of the cluster of `config`, which gives up when nothing comes for `patience`.
    ///
    /// # Errors
    /// There are no credentials, or rdkafka refuses the settings.
    pub async fn new(
        config: &ClientConfig,
        topic: &Arc<str>,
        isolation: IsolationLevel,
        patience: Duration,
    ) -> Result<Self, ReaderError> {
        let isolation_level = match isolation {
            IsolationLevel::ReadUncommitted => "read_uncommitted",
            IsolationLevel::ReadCommitted => "read_committed",
        };
        let mut settings = rdkafka::ClientConfig::new();
        settings
            .set("bootstrap.servers", config.bootstrap_servers.join(","))
            .set("client.id", &config.client_id)
            // Needed to be assigned anything; it is never joined.
            .set("group.id", &config.client_id)
            .set("allow.auto.create.topics", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.queue.backoff.ms", "2")
            .set("isolation.level", isolation_level)
            .set("queued.max.messages.kbytes", AHEAD_KB)
            .set("receive.message.max.bytes", ANSWER_MAX);
        let context = config.security.configure(&mut settings).await?;
        let consumer = settings
            .create_with_context(context)
            .map_err(failed("make a consumer"))?;
        Ok(Self {
            consumer,
            topic: topic.clone(),
            partition: -1,
            isolation,
            patience,
        })
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// Which records it gives.
    pub(crate) fn isolation(&self) -> IsolationLevel {
        self.isolation
    }

    /// Reads `partition` from `offset` on.
    ///
    /// # Errors
    /// rdkafka refuses.
    pub fn assign(&mut self, partition: i32, offset: i64) -> Result<(), ReaderError> {
        self.partition = partition;
        self.seek(offset)
    }

    /// Reads the same partition from `offset` on.
    pub(crate) fn seek(&self, offset: i64) -> Result<(), ReaderError> {
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
    /// Nothing came for as long as the reader is patient, or the broker refuses to give anything.
    pub async fn next(&self) -> Result<Event<'_>, ReaderError> {
        let deadline = Instant::now() + self.patience;
        let mut reason = "no answer".to_owned();
        loop {
            let received = tokio::select! {
                biased;
                received = timeout_at(deadline, self.consumer.recv()) => received,
                reason = self.consumer.context().refused() => {
                    return Err(ReaderError::Denied { reason });
                }
            };
            let Ok(received) = received else {
                return Err(ReaderError::Stalled {
                    topic: self.topic.to_string(),
                    partition: self.partition,
                    seconds: self.patience.as_secs(),
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

fn fault(error: &RdKafkaError) -> Fault {
    match meaning(error) {
        Meaning::Refused => match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) | None => Fault::Unavailable,
            Some(_) => Fault::Denied,
        },
        Meaning::OutOfRange | Meaning::Damaged | Meaning::MayPass => Fault::Unavailable,
    }
}

fn failed(step: &'static str) -> impl Fn(RdKafkaError) -> ReaderError {
    move |source| ReaderError::Failed { step, source }
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

impl Read<'_> {
    /// Its offset.
    pub(crate) fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// Milliseconds; -1 for none.
    pub(crate) fn timestamp(&self) -> i64 {
        self.0.timestamp().to_millis().unwrap_or(-1)
    }

    /// `None` is null.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// `None` is null.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// In order, each read when it is asked for; `None`: its key is not UTF-8.
    pub(crate) fn headers(&self) -> impl DoubleEndedIterator<Item = Option<Header<'_>>> {
        let headers = self.0.headers();
        let count = headers.map_or(0, Headers::count);
        (0..count).map(move |index| {
            let read = || headers.and_then(|headers| headers.try_get(index));
            let header = unless_it_panics(read).flatten()?;
            Some((header.key.as_bytes(), header.value))
        })
    }
}

thread_local! {
    /// Whether this thread is in a call of rdkafka whose panic says no more than that a key is not UTF-8.
    static PANIC_IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread, of which a panic hook is told, will be caught and is no bug.
pub(crate) fn panic_is_expected() -> bool {
    PANIC_IS_EXPECTED.get()
}

fn unless_it_panics<T>(read: impl FnOnce() -> T) -> Option<T> {
    PANIC_IS_EXPECTED.set(true);
    let done = catch_unwind(AssertUnwindSafe(read)).ok();
    PANIC_IS_EXPECTED.set(false);
    done
}

/// Gives a reader up. librdkafka's threads are waited for, which must not hold up a thread of the runtime.
///
/// # Errors
/// librdkafka panicked.
pub(crate) async fn close(reader: Option<Reader>) -> Result<(), JoinError> {
    match reader {
        Some(reader) => tokio::task::spawn_blocking(move || drop(reader)).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_only_within_the_call_that_may_panic() {
        let mut told = false;
        let read = || {
            told = panic_is_expected();
            String::from_utf8(vec![0xff]).unwrap()
        };
        assert_eq!(unless_it_panics(read), None);
        assert!(told && !panic_is_expected());
        assert_eq!(unless_it_panics(|| 7), Some(7));
        assert!(!panic_is_expected());
    }

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
