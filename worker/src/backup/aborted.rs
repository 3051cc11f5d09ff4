//! Which batches of a Fetch answer a `read_committed` consumer gets to see.
//!
//! As the Java consumer does it (`CompletedFetch`): a producer id becomes aborted on reaching the first offset that the answer
//! lists for it, and stops being so at its ABORT marker. Only transactional batches are dropped: the same producer id may write
//! others.
//!
//! # Assumptions
//! - A filter serves one answer, from its first batch on: the list belongs to the answer.

use std::collections::HashSet;

use kafka_backup_shared::archive::batch::Batch;
use kafka_backup_shared::archive::record;

use crate::kafka::AbortedTransaction;

/// Kafka's number of an ABORT marker (`ControlRecordType`); COMMIT is 1.
const ABORT: i16 = 0;

/// Decides batch by batch, in order.
#[derive(Debug)]
pub(super) struct AbortedFilter {
    /// Transactions not reached yet, the next one last.
    ahead: Vec<AbortedTransaction>,
    aborted: HashSet<i64>,
}

impl AbortedFilter {
    pub(super) fn new(mut aborted: Vec<AbortedTransaction>) -> Self {
        aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
        Self {
            ahead: aborted,
            aborted: HashSet::new(),
        }
    }

    /// Whether the batch holds records for a consumer: neither control nor aborted.
    pub(super) fn keeps(&mut self, batch: &Batch<'_>) -> bool {
        while let Some(next) = self
            .ahead
            .last()
            .filter(|next| next.first_offset < batch.end_offset())
        {
            self.aborted.insert(next.producer_id);
            self.ahead.pop();
        }
        if batch.is_control() {
            if is_abort_marker(batch) {
                self.aborted.remove(&batch.producer_id());
            }
            return false;
        }
        !(batch.is_transactional() && self.aborted.contains(&batch.producer_id()))
    }
}

/// A control batch has one record; its key is a version and a type, both i16.
fn is_abort_marker(batch: &Batch<'_>) -> bool {
    let Ok(records) = record::decode(batch) else {
        return false;
    };
    let Some(mut body) = records.first().map(|record| &record.body[..]) else {
        return false;
    };
    record::read_varint(&mut body) == Some(4) && body.get(2..4) == Some(&ABORT.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::batch;

    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;

    fn batch(offset: i64, producer: i64, attributes: i16, kind: Option<i16>) -> Vec<u8> {
        let mut body = Vec::new();
        match kind {
            Some(kind) => {
                record::write_varint(&mut body, 4);
                body.extend_from_slice(&0i16.to_be_bytes());
                body.extend_from_slice(&kind.to_be_bytes());
            }
            None => record::write_varint(&mut body, -1),
        }
        record::write_varint(&mut body, -1);
        record::write_varint(&mut body, 0);
        let mut payload = Vec::new();
        record::write_record(&mut payload, 0, 0, &body);
        let mut bytes = batch::build(0, 0, 0, 1, &payload);
        batch::set_base_offset(&mut bytes, offset);
        batch::set_attributes(&mut bytes, attributes);
        batch::set_producer(&mut bytes, producer, 0, 0);
        batch::seal(&mut bytes);
        bytes
    }

    /// `t1` transactional data of producer 1, `p1` plain data, `A1` and `C1` markers.
    fn kept(answer: &str, aborted: &[(i64, i64)]) -> Vec<i64> {
        let aborted = aborted
            .iter()
            .map(|(producer_id, first_offset)| AbortedTransaction {
                producer_id: *producer_id,
                first_offset: *first_offset,
            });
        let mut filter = AbortedFilter::new(aborted.collect());
        let mut offsets = Vec::new();
        for (offset, word) in answer.split_whitespace().enumerate() {
            let producer = word[1..].parse().unwrap();
            let bytes = match &word[..1] {
                "t" => batch(offset as i64, producer, TRANSACTIONAL, None),
                "p" => batch(offset as i64, producer, 0, None),
                "A" => batch(offset as i64, producer, TRANSACTIONAL | CONTROL, Some(0)),
                "C" => batch(offset as i64, producer, TRANSACTIONAL | CONTROL, Some(1)),
                other => panic!("{other}"),
            };
            let batch = Batch::first(&bytes).unwrap().unwrap();
            if filter.keeps(&batch) {
                offsets.push(offset as i64);
            }
        }
        offsets
    }

    /// An answer, its aborted transactions, the offsets that are kept.
    type Case<'a> = (&'a str, &'a [(i64, i64)], &'a [i64]);

    #[test]
    fn a_consumer_sees_what_is_committed() {
        let cases: &[Case<'_>] = &[
            ("p1 p1 p2", &[], &[0, 1, 2]),
            ("t1 t1 C1 p1", &[], &[0, 1, 3]),
            ("t1 t1 A1 t1 C1", &[(1, 0)], &[3]),
            // two producers interleaved, one aborts
            ("t1 t2 t1 t2 A1 C2", &[(1, 0)], &[1, 3]),
            // the producer id of an aborted transaction writes plain batches too
            ("t1 p1 t1 A1", &[(1, 0)], &[1]),
            // the transaction began before the answer
            ("t1 t1 A1 p1", &[(1, -50)], &[3]),
            // a COMMIT of another producer ends nothing
            ("t1 C2 t1 A1", &[(1, 0)], &[]),
            // two aborted transactions of one producer; between them a committed one
            ("t1 A1 t1 C1 t1 A1", &[(1, 0), (1, 4)], &[2]),
            // the list is not in order
            ("t1 t2 A2 A1 t2 C2", &[(2, 1), (1, 0)], &[4]),
            // committed data before the first aborted offset
            ("t1 C1 t1 A1", &[(1, 2)], &[0]),
        ];
        for (answer, aborted, expected) in cases {
            assert_eq!(&kept(answer, aborted), expected, "{answer} {aborted:?}");
        }
    }
}
