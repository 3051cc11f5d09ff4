//! Restores into a real cluster, compared with their archive as rdkafka reads them; then changed, and compared again. Needs
//! `KAFKA_BACKUP_LAB_TARGET` and `KAFKA_BACKUP_LAB_SOURCE`, which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod restore_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::layout::ChainKey;
use kafka_backup_shared::archive::manifest::{from_json, to_json};
use kafka_backup_shared::archive::restore::RestoreDecision;
use kafka_backup_shared::plan::{PartitionMove, RestorePlan};
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::{IfTopicNotEmpty, Repartition, TimeRange};
use kafka_backup_worker::context::Progress;
use kafka_backup_worker::kafka::{ClientConfig, NewTopic, TopicFilter};
use kafka_backup_worker::verify::against::{
    AgainstError, ComparedTopic, Comparisons, Difference, Field, against,
};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use restore_support::raw::{bytes_of, segment};
use restore_support::*;

fn dense(segments: i64, count: i64, codec: Codec) -> Partition {
    let source = |base| Source::dense(base, count, codec, 20);
    Partition {
        log_start: 0,
        segments: (0..segments)
            .map(|number| vec![source(number * 2 * count), source((number * 2 + 1) * count)])
            .collect(),
    }
}

fn config() -> ClientConfig {
    ClientConfig::new(&cluster(), Path::new(""), "verify-test")
}

async fn compare(archive: &Archive, plan: &RestorePlan) -> Result<Comparisons, AgainstError> {
    let progress = Arc::new(Progress::default());
    let compared = against(&archive.store, None, &plan.run.uid, config(), &progress).await;
    if let Ok(compared) = &compared
        && compared.problems.is_empty()
    {
        let (done, planned) = progress.done_of_planned();
        assert_eq!(done, planned, "progress");
    }
    compared
}

/// Restores and compares: equal, with as many records as the restore says.
async fn restored_and_equal(archive: &Archive, plan: &RestorePlan) -> Comparisons {
    let completed = archive.restore(plan, &context()).await.unwrap();
    let compared = compare(archive, plan).await.unwrap();
    assert_eq!(compared.problems, [], "{compared:?}");
    assert!(compared.complete);
    let sum = |of: fn(&ComparedTopic) -> u64| compared.topics.iter().map(of).sum::<u64>();
    assert_eq!(sum(|t| t.records) + sum(|t| t.compacted), completed.records);
    assert!(completed.records > 0);
    compared
}

/// `verify --against` as it is called at a terminal: standard output, standard error and exit code.
fn call(archive: &Archive, uid: &str, servers: &str, more: &[&str]) -> (String, String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_kafka-backup-worker"))
        .args(["verify", "--against", servers, "--restore", uid])
        .arg("--folder")
        .arg(archive.folder.path())
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    (text, errors, output.status.code().unwrap())
}

async fn create(name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let client = client().await;
    let new = NewTopic {
        name: Arc::from(name),
        partitions,
        replication_factor: 1,
        configs: configs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let name = new.name.clone();
    let created = client.create_topics(&[new]).await.unwrap().remove(0);
    created.unwrap();
    client.topics_with_leaders(&[name]).await.unwrap();
}

/// Codecs, a partition with holes of compaction, an empty one, append times, and records with every odd field.
async fn odd_archive() -> Archive {
    let mut archive = Archive::new();
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let mut partitions: Vec<Partition> = codecs.iter().map(|codec| dense(3, 11, *codec)).collect();
    partitions[1].log_start = 5;
    partitions[3]
        .segments
        .iter_mut()
        .flatten()
        .for_each(|source| source.append_time = true);
    archive.topic("codecs", &[], &partitions).await;
    let holes = |base: i64, end: i64, offsets: &[i64], codec| Source {
        base,
        end,
        offsets: offsets.to_vec(),
        codec,
        append_time: false,
        size: 3,
    };
    let cleaned = Partition {
        log_start: 0,
        segments: vec![
            vec![
                holes(0, 10, &[3, 4, 9], Codec::None),
                holes(10, 12, &[], Codec::None),
            ],
            vec![holes(12, 40, &[39], Codec::Zstd)],
        ],
    };
    let empty = Partition {
        log_start: 7,
        segments: vec![],
    };
    archive.topic("cleaned", &[], &[cleaned, empty]).await;
    let now = LONG_AGO;
    let fields = vec![
        (now, bytes_of(None, Some(b"v"), &[])),
        (now, bytes_of(Some(b""), Some(b""), &[])),
        (now - 5000, bytes_of(Some(b"k"), None, &[])),
        (-1, bytes_of(None, None, &[])),
        (0, bytes_of(Some(b"\xff\0"), Some(&[0; 300]), &[])),
    ];
    let headers = vec![
        (
            now,
            bytes_of(
                None,
                Some(b"v"),
                &[
                    (b"a", None),
                    (b"a", Some(b"")),
                    (b"a", Some(b"1")),
                    (b"", Some(b"\xff\0")),
                    ("\u{fc}".as_bytes(), Some(b"2")),
                ],
            ),
        ),
        (now, bytes_of(None, Some(b"v"), &[(b"\xff", Some(b"1"))])),
        (now, bytes_of(None, Some(b"v"), &[(b"a\0b", Some(b"1"))])),
    ];
    archive.raw_topic("fields", &[], &[fields, headers]).await;
    archive.commit().await;
    archive
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_restored_is_equal_however_it_was_restored() {
    let archive = odd_archive().await;
    let plain = archive.plan();
    let compared = restored_and_equal(&archive, &plain).await;
    let topics: Vec<(&str, u64, u64)> = compared
        .topics
        .iter()
        .map(|topic| (&*topic.source, topic.partitions, topic.headers_not_compared))
        .collect();
    // A key that is not UTF-8, and one with a NUL.
    assert_eq!(
        topics,
        [("cleaned", 2, 0), ("codecs", 5, 0), ("fields", 1, 2)]
    );
    let (text, _, code) = call(&archive, &plain.run.uid, &bootstrap(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the target has what was restored"), "{text}");
    assert!(
        text.contains("\n2 records were compared without headers"),
        "{text}"
    );

    let mut in_time = archive.plan();
    in_time.request.time = TimeRange {
        start_ms: Some(LONG_AGO + 40),
        end_ms: Some(LONG_AGO + 300),
    };
    in_time.request.topics.exclude = vec!["fields".into()];
    in_time.request.topic_mapping.remove("fields");
    restored_and_equal(&archive, &in_time).await;

    let mut moved = archive.plan();
    let moves = [(0, 6), (4, 0)].map(|(source, target)| PartitionMove { source, target });
    let moves = [("codecs".to_owned(), moves.to_vec())];
    moved.request.partition_mapping = moves.into();
    moved.request.include_original_offset_header = Some(true);
    let compared = restored_and_equal(&archive, &moved).await;
    // Two that no source partition goes to are looked at as well.
    assert_eq!(compared.topics[1].partitions, 7);

    let mut dealt = archive.plan();
    dealt.request.repartition = Repartition::ByKey;
    create(
        &dealt.request.topic_mapping["codecs"],
        3,
        &[
            ("retention.ms", "-1"),
            ("message.timestamp.type", "CreateTime"),
        ],
    )
    .await;
    let compared = restored_and_equal(&archive, &dealt).await;
    assert_eq!(compared.topics[1].partitions, 3);

    let mut appended = archive.plan();
    appended.request.topic_mapping = moved.request.topic_mapping.clone();
    appended.request.partition_mapping = moved.request.partition_mapping.clone();
    appended.request.if_topic_not_empty = IfTopicNotEmpty::Append;
    restored_and_equal(&archive, &appended).await;
    // What was appended stands behind what the first one wrote.
    let compared = compare(&archive, &moved).await.unwrap();
    assert!(!compared.problems.is_empty());
    for problem in &compared.problems {
        assert_eq!(problem.field, Field::LogEnd, "{problem:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_compacted_is_equal() {
    let mut archive = Archive::new();
    let round = |number: i64| -> Vec<(i64, Vec<u8>)> {
        let records = (0..1000).map(|key| {
            // The last round deletes some.
            let value = [b'0' + number as u8; 600];
            let value = (number < 3 || key % 7 > 0).then_some(&value[..]);
            let key = format!("key-{key}");
            (LONG_AGO, bytes_of(Some(key.as_bytes()), value, &[]))
        });
        records.collect()
    };
    let rounds: Vec<_> = (0..4).map(round).collect();
    let compact = [("cleanup.policy", "compact")];
    archive.raw_topic("latest", &compact, &rounds).await;
    archive.commit().await;
    let plan = archive.plan();
    let target = &plan.request.topic_mapping["latest"];
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.bytes", "1048576"),
        ("max.compaction.lag.ms", "1000"),
        ("compression.type", "producer"),
        ("message.timestamp.before.max.ms", "9223372036854775807"),
    ];
    create(target, 1, &configs).await;
    archive.restore(&plan, &context()).await.unwrap();
    let client = client().await;
    let deadline = Instant::now() + Duration::from_secs(90);
    while read(&client, target, 0).await.len() == 4000 {
        assert!(Instant::now() < deadline, "the broker did not compact");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let compared = compare(&archive, &plan).await.unwrap();
    assert_eq!(compared.problems, [], "{compared:?}");
    let topic = &compared.topics[0];
    assert!(topic.compacted > 0, "{topic:?}");
    assert_eq!(topic.records + topic.compacted, 4000);
}

/// Where the archive's objects of a topic are, in the order of their offsets.
async fn segments(archive: &Archive, topic: &str) -> Vec<PathBuf> {
    let folder = archive.layout.topic(topic);
    let keys = archive.store.list(&folder, |key, _| Some(key.to_owned()));
    let mut keys = keys.await.unwrap();
    keys.sort();
    let path = |key: &String| archive.folder.path().join(key);
    keys.iter().map(path).collect()
}

fn flip_last_byte(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Makes the archive say that `topic` was restored from other records than it was.
async fn pretend(archive: &Archive, plan: &RestorePlan, topic: &str, records: &[(i64, Vec<u8>)]) {
    let key = archive.layout.restore_plan(&plan.run.uid);
    let bytes = archive.store.get(&key).await.unwrap().unwrap();
    let mut decision: RestoreDecision = from_json(&key, &bytes).unwrap();
    let of_topic = decision.topics.get_mut(topic).unwrap();
    let source = &mut of_topic.sources[0];
    let (name, bytes) = segment(0, records, Codec::Zstd);
    let chain = ChainKey {
        topic: topic.into(),
        topic_id: of_topic.source_topic_id,
        partition: 0,
        generation: source.generation.clone(),
    };
    source.segments = vec![name];
    let object = archive.layout.segment(&chain, &name);
    archive.store.create(&object, bytes.into()).await.unwrap();
    std::fs::write(archive.folder.path().join(&key), to_json(&decision)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_changed_is_told_at_its_place() {
    let mut archive = Archive::new();
    for topic in ["appended", "cut", "damaged", "equal", "replaced"] {
        archive.topic(topic, &[], &[dense(3, 5, Codec::Lz4)]).await;
    }
    let records = |last: &[u8], header: &[u8]| {
        vec![
            (LONG_AGO, bytes_of(None, Some(b"v"), &[])),
            (LONG_AGO, bytes_of(Some(b"k"), Some(last), &[])),
            (LONG_AGO, bytes_of(None, None, &[(header, None)])),
        ]
    };
    archive
        .raw_topic("another", &[], &[records(b"was", b"\xff")])
        .await;
    archive.commit().await;
    let plan = archive.plan();
    restored_and_equal(&archive, &plan).await;
    let target = |topic: &str| plan.request.topic_mapping[topic].clone();

    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", bootstrap());
    let producer: FutureProducer = config.create().unwrap();
    let appended = target("appended");
    let extra = FutureRecord::to(&appended)
        .key("k")
        .payload("v")
        .partition(0);
    producer.send(extra, Duration::from_secs(30)).await.unwrap();
    let client = client().await;
    let cut = TopicFilter::Named(vec![Arc::from(target("cut"))]);
    let cut = client.topics(&cut).await.unwrap()[0]
        .led_partitions()
        .unwrap();
    let deleted = client.delete_records(&[(cut[0].clone(), 4)]).await;
    assert_eq!(*deleted[0].as_ref().unwrap(), 4);
    flip_last_byte(&segments(&archive, "damaged").await[1]);
    pretend(&archive, &plan, "another", &records(b"is", b"b")).await;
    let deleting: AdminClient<DefaultClientContext> = config.create().unwrap();
    let replaced = target("replaced");
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let deleted = deleting
        .delete_topics(&[&replaced], &options)
        .await
        .unwrap();
    deleted[0].as_ref().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while metadata(&client, &replaced).await.error.is_none() {
        assert!(Instant::now() < deadline, "the topic was not deleted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    create(&replaced, 1, &[]).await;

    let compared = compare(&archive, &plan).await.unwrap();
    let of = |topic: &str| -> Vec<(Field, Option<i64>, &Difference)> {
        let target = target(topic);
        let own = compared.problems.iter().filter(|one| one.topic == target);
        own.map(|one| (one.field, one.offset, one)).collect()
    };
    let records = |source: &str| -> u64 {
        let topic = compared.topics.iter().find(|topic| topic.source == source);
        topic.unwrap().records
    };
    assert_eq!((of("equal").len(), records("equal")), (0, 30));
    let [(Field::LogEnd, Some(30), told)] = of("appended")[..] else {
        panic!("{compared:?}");
    };
    assert_eq!((told.expected.as_deref(), &*told.found), (Some("30"), "31"));
    assert_eq!(records("appended"), 30);
    let [(Field::LogStart, Some(0), told)] = of("cut")[..] else {
        panic!("{compared:?}");
    };
    let gone = "records at offsets 0 to 4";
    assert_eq!(told.expected.as_deref(), Some(gone));
    assert_eq!(records("cut"), 26);
    let [(Field::Segment, Some(10), told)] = of("damaged")[..] else {
        panic!("{compared:?}");
    };
    let damaged = &segments(&archive, "damaged").await[1];
    assert!(damaged.ends_with(told.object.as_ref().unwrap()), "{told:?}");
    assert!(
        told.found.contains("CRC-32C") && told.found.contains("10 to 20"),
        "{told:?}"
    );
    assert_eq!(records("damaged"), 20);
    let [(Field::TopicId, None, told)] = of("replaced")[..] else {
        panic!("{compared:?}");
    };
    assert!(
        told.found.contains("another topic of the same name"),
        "{told:?}"
    );
    let [
        (Field::Value, Some(1), value),
        (Field::Headers, Some(2), header),
    ] = of("another")[..]
    else {
        panic!("{compared:?}");
    };
    assert_eq!(
        (value.expected.as_deref(), &*value.found),
        (Some("\"is\""), "\"was\"")
    );
    assert_eq!(header.found, "a header key that is not UTF-8");

    let (text, _, code) = call(&archive, &plan.run.uid, &bootstrap(), &["--output", "json"]);
    assert_eq!(code, 65, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let problems = json["problems"].as_array().unwrap();
    assert_eq!(problems.len(), compared.problems.len());
    assert_eq!(problems.len(), 6);
    let (text, _, code) = call(&archive, &plan.run.uid, &bootstrap(), &[]);
    assert_eq!(code, 65, "{text}");
    assert!(text.ends_with(": 6 problems.\n"), "{text}");

    let source = std::env::var("KAFKA_BACKUP_LAB_SOURCE").unwrap();
    let (_, text, code) = call(&archive, &plan.run.uid, &source, &[]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains("which the restore wrote to"), "{text}");
    let (_, text, code) = call(&archive, "unknown", &bootstrap(), &[]);
    assert_eq!(code, 64, "{text}");
    assert!(text.contains(&plan.run.uid), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_lost_segment_of_unknown_length_the_rest_is_compared() {
    let mut archive = Archive::new();
    archive.topic("t", &[], &[dense(5, 7, Codec::None)]).await;
    archive.commit().await;
    let mut plan = archive.plan();
    // Timestamps go back and forth, so that the bound cuts within segments.
    plan.request.time.start_ms = Some(LONG_AGO - 1500);
    restored_and_equal(&archive, &plan).await;
    let mut cut = archive.plan();
    cut.request.time.end_ms = Some(LONG_AGO + 690 - 500);
    restored_and_equal(&archive, &cut).await;
    let segments = segments(&archive, "t").await;
    // The name of the first one tells that all of it is before the bound of `cut`, so that the second has its place there.
    for (lost, not_in_plan, not_in_cut) in [
        (&[2][..], [0..0, 28..42], [0..0, 28..42]),
        (&[0, 2], [0..28, 28..42], [0..14, 28..42]),
    ] {
        for number in lost {
            std::fs::remove_file(&segments[*number]).unwrap_or_default();
        }
        for (plan, left_out) in [(&plan, not_in_plan), (&cut, not_in_cut)] {
            let compared = compare(&archive, plan).await.unwrap();
            let told = compared.problems.iter().zip(lost);
            for (told, number) in told {
                assert_eq!(told.field, Field::Segment);
                assert!(told.found.contains("it is missing"), "{told:?}");
                assert!(segments[*number].ends_with(told.object.as_ref().unwrap()));
            }
            assert_eq!(compared.problems.len(), lost.len(), "{compared:?}");
            let seen = archive.seen[&("t".to_owned(), 0)].iter();
            let expected = seen
                .filter(|record| plan.request.time.contains(record.timestamp))
                .filter(|record| !left_out.iter().any(|range| range.contains(&record.offset)))
                .count();
            assert_eq!(compared.topics[0].records, expected as u64);
        }
    }
    let progress = Arc::new(Progress::default());
    let unknown = against(
        &archive.store,
        Some(&archive.name),
        "nothing",
        config(),
        &progress,
    );
    let error = unknown.await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec, "{}", error_chain(&error));
    assert!(error.to_string().contains(&cut.run.uid), "{error}");
}
