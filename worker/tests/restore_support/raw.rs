//! Topics made of records with any bytes, where the batches of [`Source`] are too tame.

use super::*;

/// A record's bytes after its deltas.
pub fn bytes_of(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |bytes: Option<&[u8]>| {
        record::write_varint(&mut body, bytes.map_or(-1, |bytes| bytes.len() as i64));
        body.extend_from_slice(bytes.unwrap_or_default());
    };
    put(key);
    put(value);
    let mut rest = Vec::new();
    record::write_varint(&mut rest, headers.len() as i64);
    for (name, value) in headers {
        let value = value.as_ref();
        record::write_varint(&mut rest, name.len() as i64);
        rest.extend_from_slice(name);
        record::write_varint(&mut rest, value.map_or(-1, |value| value.len() as i64));
        rest.extend_from_slice(value.copied().unwrap_or_default());
    }
    body.extend_from_slice(&rest);
    body
}

/// One segment with one batch, and its name.
pub fn segment(start: i64, records: &[(i64, Vec<u8>)], codec: Codec) -> (SegmentName, Vec<u8>) {
    let records: Vec<Record> = (0..)
        .zip(records)
        .map(|(offset, (timestamp, body))| Record {
            offset,
            timestamp: *timestamp,
            body: body.clone(),
        })
        .collect();
    let mut bytes = record::encode(&records, codec).unwrap();
    batch::set_base_offset(&mut bytes, start);
    bytes[12..16].copy_from_slice(&4i32.to_be_bytes());
    let name = SegmentName {
        start,
        end: start + records.len() as i64,
        leader_epoch: 4,
        records: records.len() as u64,
        max_timestamp: records.iter().map(|r| r.timestamp).max().unwrap_or(-1),
        crc32c: crc32c::crc32c(&bytes),
    };
    (name, bytes)
}

impl Archive {
    /// A topic of one partition whose segments have these records (timestamp, body), from offset 0 on.
    pub async fn raw_topic(
        &mut self,
        topic: &str,
        configs: &[(&str, &str)],
        segments: &[Vec<(i64, Vec<u8>)>],
    ) {
        // A topic without records, whose partition is then replaced.
        self.topic(
            topic,
            configs,
            &[Partition {
                log_start: 0,
                segments: vec![],
            }],
        )
        .await;
        let summary = self.topics.get_mut(topic).unwrap();
        let chain = ChainKey {
            topic: topic.into(),
            topic_id: summary.topic_id,
            partition: 0,
            generation: RUN.into(),
        };
        let key = self.layout.topic_part(RUN, topic);
        let part = self.store.get(&key).await.unwrap().unwrap();
        let mut part: TopicPart = from_json_zst(&key, &part).unwrap();
        let pinned = &mut part.partitions[0];
        for (records, codec) in segments
            .iter()
            .zip([Codec::None, Codec::Lz4].iter().cycle())
        {
            let (name, bytes) = segment(pinned.end, records, *codec);
            let object = self.layout.segment(&chain, &name);
            self.store.create(&object, bytes.into()).await.unwrap();
            pinned.end = name.end;
            pinned.high_watermark = name.end;
            pinned.segments.push(name);
            summary.records += name.records;
        }
        std::fs::write(self.folder.path().join(&key), to_json_zst(&part)).unwrap();
    }
}
