//! The yardstick of the restores in `cargo lab bench data`: a producer by librdkafka that writes what `rdkafka_reader` stored, each
//! record with its key, value and timestamp to the partition that it came from.
//!
//! Arguments: bootstrap servers, topic (which exists), codec, the folder. Prints the number of records and bytes.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

/// Counts what the broker has acknowledged.
#[derive(Default)]
struct Delivered(AtomicU64);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Record {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

fn number<const N: usize>(file: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn part(file: &mut impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let Ok(length) = usize::try_from(i32::from_be_bytes(number(file)?)) else {
        return Ok(None);
    };
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

fn next(file: &mut impl Read) -> std::io::Result<Option<Record>> {
    match number::<8>(file) {
        Ok(_offset) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    Ok(Some(Record {
        timestamp: i64::from_be_bytes(number(file)?),
        key: part(file)?,
        value: part(file)?,
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, bootstrap, topic, codec, folder] = &args[..] else {
        return Err("arguments: BOOTSTRAP TOPIC CODEC FOLDER".into());
    };
    let producer: BaseProducer<Delivered> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("compression.codec", codec)
        .set("enable.idempotence", "true")
        .set("batch.size", "1000000")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "100000")
        .set("queue.buffering.max.kbytes", "65536")
        .create_with_context(Delivered::default())?;
    let mut files = Vec::new();
    for entry in Path::new(folder).read_dir()? {
        let entry = entry?;
        let partition: i32 = entry.file_name().to_string_lossy().parse()?;
        let file = BufReader::with_capacity(1 << 20, File::open(entry.path())?);
        files.push((partition, file));
    }
    let (mut records, mut bytes) = (0u64, 0u64);
    while !files.is_empty() {
        let mut ended = Vec::new();
        for (at, (partition, file)) in files.iter_mut().enumerate() {
            let Some(found) = next(file)? else {
                ended.push(at);
                continue;
            };
            let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic)
                .partition(*partition)
                .timestamp(found.timestamp);
            if let Some(key) = &found.key {
                record = record.key(key);
            }
            if let Some(value) = &found.value {
                record = record.payload(value);
            }
            while let Err((error, again)) = producer.send(record) {
                let full = RDKafkaErrorCode::QueueFull;
                if !matches!(error, KafkaError::MessageProduction(code) if code == full) {
                    return Err(error.into());
                }
                producer.poll(Duration::from_millis(5));
                record = again;
            }
            records += 1;
            bytes += [&found.key, &found.value]
                .into_iter()
                .flatten()
                .map(|part| part.len() as u64)
                .sum::<u64>();
        }
        for at in ended.into_iter().rev() {
            files.remove(at);
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(60))?;
    let delivered = producer.context().0.load(Ordering::Relaxed);
    if delivered != records {
        return Err(format!("{records} records sent, {delivered} acknowledged").into());
    }
    println!("{records} records, {bytes} bytes");
    Ok(())
}
