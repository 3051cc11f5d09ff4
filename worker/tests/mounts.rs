//! The worker's program on file systems, and with host names, that only a mount namespace of its own can have. Needs
//! `KAFKA_BACKUP_LAB_SOURCE`, `KAFKA_BACKUP_LAB_TARGET`, `KAFKA_BACKUP_LAB_S3` and `KAFKA_BACKUP_LAB_S3_DOMAIN`, which
//! `cargo lab test` sets, and root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use backup_support::{blocking, bootstrap, create_topic, name, producer};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

const RUN: &str = "orders-20260101-000000";
const PARTITIONS: i32 = 2;

/// Runs a shell script in a mount namespace of its own; `$WORKER` is the program. Mounts go with its last process.
fn in_mounts(script: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--", "sh", "-euc"])
        .arg(script)
        .env("WORKER", env!("CARGO_BIN_EXE_kafka-backup-worker"))
        .envs(variables.iter().copied());
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn lab(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run these tests by `cargo lab test`"))
}

/// All that a consumer sees of a record.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    partition: i32,
    offset: i64,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Records of about 1 KiB that no codec makes smaller.
async fn fill(topic: &str, count: usize) {
    // The records are older than what brokers keep by default.
    create_topic(topic, PARTITIONS, &[("retention.ms", "-1")]).await;
    let topic = topic.to_owned();
    blocking(move || {
        let producer = producer(&[]);
        for index in 0..count {
            let mut noise = index as u64 + 1;
            let value: Vec<u8> = (0..1024)
                .map(|_| {
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    noise as u8
                })
                .collect();
            let key = format!("key-{index}");
            let header = Header {
                key: "index",
                value: Some(key.as_bytes()),
            };
            let record = BaseRecord::to(&topic)
                .partition(index as i32 % PARTITIONS)
                .timestamp(1_700_000_000_000 + index as i64)
                .headers(OwnedHeaders::new().insert(header))
                .key(&key)
                .payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
    })
    .await;
}

/// Everything in a topic, by a client that is not ours.
async fn consume(servers: String, topic: &str, count: usize) -> Vec<Seen> {
    let topic = topic.to_owned();
    blocking(move || {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", "mounts-test")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let added = assignment.add_partition_offset(&topic, partition, Offset::Beginning);
            added.unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        while seen.len() < count && Instant::now() < deadline {
            let Some(message) = consumer.poll(Duration::from_secs(1)) else {
                continue;
            };
            let message = message.unwrap();
            let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let headers = message.headers().into_iter().flat_map(Headers::iter);
            seen.push(Seen {
                partition: message.partition(),
                offset: message.offset(),
                timestamp: message.timestamp().to_millis(),
                key: own(message.key()),
                value: own(message.payload()),
                headers: headers
                    .map(|header| (header.key.to_owned(), own(header.value)))
                    .collect(),
            });
        }
        for partition in 0..PARTITIONS {
            let wait = Duration::from_secs(10);
            let (_, end) = consumer.fetch_watermarks(&topic, partition, wait).unwrap();
            let read = seen.iter().filter(|seen| seen.partition == partition);
            assert_eq!(read.count() as i64, end, "records of {topic}-{partition}");
        }
        seen.sort_by_key(|seen| (seen.partition, seen.offset));
        seen
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_fails_the_attempt_and_the_next_one_goes_on() {
    const COUNT: usize = 6000;
    let (topic, restored) = (name("full"), name("full-restored"));
    fill(&topic, COUNT).await;
    let object = |kind: &str, name: &str, spec: Value| {
        let mut spec = spec;
        spec["storage"] = json!({"storageType": "pvc", "pvc": {"claimName": "archive"}});
        json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind,
            "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        })
        .to_string()
    };
    let backup = json!({
        "kafkaCluster": {"bootstrapServers": [bootstrap()]}, "topics": [topic],
        "segmentMaxBytes": 256 << 10,
    });
    let restore = json!({
        "targetCluster": {"bootstrapServers": [lab("KAFKA_BACKUP_LAB_TARGET")]},
        "backupId": RUN, "topics": ["*"], "topicMapping": {topic.clone(): restored},
    });
    let folder = tempfile::tempdir().unwrap();
    // 6 MB of records do not fit into 3 MB.
    let script = r#"
        mount -t tmpfs -o size=3m none "$DIR"
        attempt() { echo "$BACKUP" | "$WORKER" run -f - --run "$RUN" --volume-dir "$DIR" --output json; }
        segments() { (cd "$DIR" && find . -name '*.log' -printf '%p %s %i\n' | sort); }
        if attempt > "$OUT/first"; then echo 0; else echo $?; fi > "$OUT/first-code"
        segments > "$OUT/first-segments"
        mount -o remount,size=64m "$DIR"
        attempt > "$OUT/second"
        segments > "$OUT/second-segments"
        echo "$RESTORE" | "$WORKER" run -f - --volume-dir "$DIR"
    "#;
    let out = tempfile::tempdir().unwrap();
    let variables = [
        ("DIR", folder.path().to_str().unwrap()),
        ("OUT", out.path().to_str().unwrap()),
        ("RUN", RUN),
        ("BACKUP", &object("KafkaBackup", "orders", backup)),
        ("RESTORE", &object("KafkaRestore", "back", restore)),
    ];
    let done = in_mounts(script, &variables);
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();

    assert_eq!(read("first-code").trim(), "69", "{said}");
    let first: Value = serde_json::from_str(&read("first")).unwrap();
    let message = first.to_string();
    assert!(message.contains("no space is left"), "{message}");
    // The same files, not others with the same content, are among those of the second attempt.
    let (before, after) = (read("first-segments"), read("second-segments"));
    assert!(!before.is_empty(), "nothing was stored before it was full");
    for segment in before.lines() {
        assert!(after.lines().any(|line| line == segment), "{segment}");
    }
    let second: Value = serde_json::from_str(&read("second")).unwrap();
    assert_eq!(second["records"], COUNT, "{second}");

    let source = consume(bootstrap(), &topic, COUNT).await;
    let target = consume(lab("KAFKA_BACKUP_LAB_TARGET"), &restored, COUNT).await;
    assert!(source == target, "the restored records are not the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_mounted_read_only_is_read() {
    let topic = name("read-only");
    fill(&topic, 100).await;
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        backup() { "$WORKER" backup --name orders --bootstrap-servers "$SOURCE" --topics "$TOPIC" --folder "$DIR" --output json; }
        backup
        mount --bind "$DIR" "$DIR"
        mount -o remount,bind,ro "$DIR"
        "$WORKER" list --folder "$DIR"
        run=$(basename "$DIR"/default/orders/runs/*)
        "$WORKER" describe "$run" --folder "$DIR"
        if backup; then echo 0; else echo $?; fi
    "#;
    let variables = [
        ("DIR", folder.path().to_str().unwrap()),
        ("SOURCE", &bootstrap()),
        ("TOPIC", &topic),
    ];
    let done = in_mounts(script, &variables);
    let (told, said) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{said}");
    assert!(told.contains(&topic), "{told}");
    assert!(told.trim().ends_with("77"), "{told} {said}");
    let all = format!("{told} {said}");
    assert!(all.contains("Read-only file system"), "{all}");
}

/// The bucket in the host name, as Amazon has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_the_host_name_is_the_same_bucket() {
    let s3 = lab("KAFKA_BACKUP_LAB_S3");
    let [endpoint, bucket, access_key, secret_key] =
        s3.split(',').collect::<Vec<_>>().try_into().unwrap();
    let address = endpoint.trim_start_matches("http://");
    let (ip, port) = address.split_once(':').unwrap();
    let domain = lab("KAFKA_BACKUP_LAB_S3_DOMAIN");
    let topic = name("virtual-host");
    fill(&topic, 100).await;
    let script = r#"
        echo "$IP $BUCKET.$DOMAIN" > "$OUT/hosts"
        mount --bind "$OUT/hosts" /etc/hosts
        "$WORKER" backup --name orders --bootstrap-servers "$SOURCE" --topics "$TOPIC" --s3-bucket "$BUCKET" \
            --s3-prefix "$TOPIC" --s3-endpoint "http://$DOMAIN:$PORT" --s3-allow-http
        "$WORKER" list --s3-bucket "$BUCKET" --s3-prefix "$TOPIC" --s3-endpoint "http://$IP:$PORT" --s3-allow-http \
            --s3-path-style --output json
    "#;
    let out = tempfile::tempdir().unwrap();
    let variables = [
        ("OUT", out.path().to_str().unwrap()),
        ("IP", ip),
        ("PORT", port),
        ("DOMAIN", &domain),
        ("BUCKET", bucket),
        ("SOURCE", &bootstrap()),
        ("TOPIC", &topic),
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
    ];
    let done = in_mounts(script, &variables);
    let (told, said) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{said}");
    assert!(told.contains("orders-"), "{told}");
}
