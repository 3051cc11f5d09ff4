//! Restores into a topic that somebody else writes to as well: they end as corrupt and say where, and write nothing behind it. Needs
//! `KAFKA_BACKUP_LAB_TARGET` (bootstrap addresses), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod restore_support;

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::record::{self, Record};
use kafka_backup_shared::plan::RestorePlan;
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::RateLimit;
use kafka_backup_worker::kafka::{OffsetSpec, ProduceBatch};
use kafka_backup_worker::restore::RestoreError;
use restore_support::*;

const PARTITIONS: i32 = 3;
/// Records of each batch. Each is a segment of its own, so that none is joined with another.
const RECORDS: i64 = 20;
/// Batches of a partition that may be on their way when the first answer tells of somebody else.
const WINDOW: usize = 5;
/// The partition that somebody else writes to.
const SHARED: i32 = 1;

struct Place {
    archive: Archive,
    plan: RestorePlan,
}

impl Place {
    /// A restore that takes some seconds.
    async fn new() -> Self {
        let mut archive = Archive::new();
        let partition = |_| Partition {
            log_start: 0,
            segments: (0..60)
                .map(|n| vec![Source::dense(n * RECORDS, RECORDS, Codec::None, 20)])
                .collect(),
        };
        let partitions: Vec<Partition> = (0..PARTITIONS).map(partition).collect();
        archive.topic("shared", &[], &partitions).await;
        archive.commit().await;
        let mut plan = archive.plan();
        plan.rate_limit = Some(RateLimit {
            bytes_per_second: None,
            records_per_second: Some(1500),
        });
        Self { archive, plan }
    }

    fn target(&self) -> &str {
        &self.plan.request.topic_mapping["shared"]
    }

    /// The log end of the partition; 0 while there is no topic.
    async fn end(&self) -> i64 {
        let client = client().await;
        let Ok(led) = metadata(&client, self.target()).await.led_partitions() else {
            return 0;
        };
        let led = led[SHARED as usize].clone();
        let listed = client.list_offsets(&[led], OffsetSpec::LogEnd).await;
        listed[0].as_ref().map_or(0, |listed| listed.offset)
    }

    /// Appends one batch of so many records, and tells the offset of the first.
    async fn intrude(&self, records: i64) -> i64 {
        let client = client().await;
        let metadata = metadata(&client, self.target()).await;
        let led = metadata.led_partitions().unwrap()[SHARED as usize].clone();
        let record = |offset| Record {
            offset,
            timestamp: LONG_AGO,
            body: foreign(),
        };
        let records: Vec<Record> = (0..records).map(record).collect();
        let batch = ProduceBatch {
            topic: Arc::from(self.target()),
            topic_id: metadata.id,
            partition: SHARED,
            pieces: vec![record::encode(&records, Codec::None).unwrap().into()],
        };
        let connection = client.open(led.leader).await.unwrap();
        let answer = connection.produce(&[batch], Duration::from_secs(10));
        let answer = answer.unwrap().await.unwrap().partitions.remove(0);
        assert_eq!(answer.error, None);
        answer.base_offset
    }

    /// An attempt in whose middle `meanwhile` happens, and which is cancelled then where `cancelled`.
    async fn attempt<T>(
        &self,
        cancelled: bool,
        meanwhile: impl Future<Output = T>,
    ) -> (T, RestoreError) {
        let context = context();
        let happening = async {
            // Somewhere in the middle of the partition.
            while self.end().await < 5 * RECORDS {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let happened = meanwhile.await;
            if cancelled {
                context.cancel.cancel();
            }
            happened
        };
        let (happened, outcome) =
            tokio::join!(happening, self.archive.restore(&self.plan, &context));
        (happened, outcome.unwrap_err())
    }

    /// Ends as corrupt, and names the place.
    fn assert_corrupt(&self, error: &RestoreError) {
        let text = error_chain(error);
        assert_eq!(error.fault(), Fault::Corrupt, "{text}");
        let place = format!("target topic {} partition {SHARED}:", self.target());
        assert!(text.contains(&place), "{text}");
        assert!(text.contains("something else writes there"), "{text}");
    }

    /// All partitions hold a beginning of the source in order, each record once, and `intruders` others at `at`; tells how many records
    /// stand behind these.
    async fn assert_beginnings(&self, at: i64, intruders: i64) -> usize {
        let client = client().await;
        let mut behind = 0;
        for partition in 0..PARTITIONS {
            let found = read(&client, self.target(), partition).await;
            let own: Vec<&[u8]> = found
                .iter()
                .filter(|record| record.body != foreign())
                .map(|record| &record.body[..])
                .collect();
            let seen = &self.archive.seen[&("shared".to_owned(), partition)];
            assert!(own.len() <= seen.len(), "{partition}");
            let seen = seen.iter().map(|record| &record.body[..]);
            let seen: Vec<&[u8]> = seen.take(own.len()).collect();
            assert!(own == seen, "partition {partition}");
            if partition == SHARED {
                assert_eq!((found.len() - own.len()) as i64, intruders);
                assert_eq!(found[at as usize].body, foreign());
                behind = found.len() - (at + intruders) as usize;
            }
        }
        behind
    }
}

fn foreign() -> Vec<u8> {
    body(Some("foreign"), "not of the archive")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_in_the_middle_ends_the_restore_as_corrupt() {
    let place = Place::new().await;
    let (at, error) = place.attempt(false, place.intrude(1)).await;
    place.assert_corrupt(&error);
    // The first of our batches that stands elsewhere than planned is the one behind the intruder.
    let text = error_chain(&error);
    let told = format!(
        "expected the next batch at offset {at}, found offset {}",
        at + 1
    );
    assert!(text.contains(&told), "{text}");
    // What was on its way when the answer came is there, and nothing else.
    let behind = place.assert_beginnings(at, 1).await;
    assert!(behind <= WINDOW * RECORDS as usize, "{behind} records");
    // Nor does another attempt write behind it.
    let error = place.archive.restore(&place.plan, &context()).await;
    place.assert_corrupt(&error.unwrap_err());
    assert_eq!(place.assert_beginnings(at, 1).await, behind);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_between_two_attempts_ends_the_next_one_as_corrupt() {
    intruded_between_attempts(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_batch_as_large_as_one_of_ours_is_not_taken_for_ours() {
    intruded_between_attempts(RECORDS).await;
}

/// Somebody else appends one batch of so many records after an attempt: the next one sees it, and writes nothing behind it.
async fn intruded_between_attempts(records: i64) {
    let place = Place::new().await;
    let ((), error) = place.attempt(true, async {}).await;
    assert_eq!(error.fault(), Fault::Interrupted, "{}", error_chain(&error));
    let at = place.intrude(records).await;
    let error = place.archive.restore(&place.plan, &context()).await;
    let error = error.unwrap_err();
    place.assert_corrupt(&error);
    let text = error_chain(&error);
    assert!(
        text.contains(&format!("found another one at offset {at};")),
        "{text}"
    );
    assert_eq!(place.assert_beginnings(at, records).await, 0);
}
