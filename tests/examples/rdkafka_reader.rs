//! The yardstick of `cargo lab bench data`: a consumer by librdkafka that reads a topic from start to end and keeps nothing, or
//! stores what it reads: offset, timestamp, key and value, one plain file for each partition.
//!
//! Arguments: bootstrap servers, topic, and where it is to store, a folder. Prints the number of records and bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

const ANSWER: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let (bootstrap, topic, folder) = match &args[..] {
        [_, bootstrap, topic] => (bootstrap, topic, None),
        [_, bootstrap, topic, folder] => (bootstrap, topic, Some(Path::new(folder))),
        _ => return Err("arguments: BOOTSTRAP TOPIC [FOLDER]".into()),
    };
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "rdkafka-reader")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.message.max.bytes", "4194304")
        .set("fetch.queue.backoff.ms", "2")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let mut assignment = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let (start, end) = consumer.fetch_watermarks(topic, partition.id(), ANSWER)?;
        assignment.add_partition_offset(topic, partition.id(), Offset::Offset(start))?;
        left += end - start;
    }
    consumer.assign(&assignment)?;
    let (mut records, mut bytes) = (0u64, 0u64);
    let mut files: BTreeMap<i32, BufWriter<File>> = BTreeMap::new();
    while left > 0 {
        let message = consumer.poll(ANSWER).ok_or("no record within 30 s")??;
        records += 1;
        bytes += (message.key_len() + message.payload_len()) as u64;
        left -= 1;
        let Some(folder) = folder else { continue };
        let file = match files.entry(message.partition()) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let file = File::create(folder.join(place.key().to_string()))?;
                place.insert(BufWriter::with_capacity(1 << 20, file))
            }
        };
        file.write_all(&message.offset().to_be_bytes())?;
        file.write_all(&message.timestamp().to_millis().unwrap_or(-1).to_be_bytes())?;
        for part in [message.key(), message.payload()] {
            let length = part.map_or(-1, |part| part.len() as i32);
            file.write_all(&length.to_be_bytes())?;
            file.write_all(part.unwrap_or_default())?;
        }
    }
    for file in files.values_mut() {
        file.flush()?;
        file.get_ref().sync_all()?;
    }
    println!("{records} records, {bytes} bytes");
    Ok(())
}
