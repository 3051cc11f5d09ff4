//! The yardstick of `cargo lab bench data`: a consumer by librdkafka that reads a topic from start to end and keeps nothing.
//!
//! Arguments: bootstrap servers, topic. Prints the number of records and bytes.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

const ANSWER: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, bootstrap, topic] = &args[..] else {
        return Err("arguments: BOOTSTRAP TOPIC".into());
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
    while left > 0 {
        let message = consumer.poll(ANSWER).ok_or("no record within 30 s")??;
        records += 1;
        bytes += (message.key_len() + message.payload_len()) as u64;
        left -= 1;
    }
    println!("{records} records, {bytes} bytes");
    Ok(())
}
