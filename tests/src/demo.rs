//! The demo: one thin line through every real part, from an object to restored records.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::lab::components::{self, Options};
use crate::lab::kafka_tools::{self, Comparison, Produce, Reading};
use crate::lab::{Lab, LabError, parts, prometheus, step};
use crate::operator;

/// How large the demo is and where its objects live.
#[derive(Debug, Clone)]
pub struct Demo {
    /// Namespace of the objects; emptied first.
    pub namespace: String,
    /// Records over all topics.
    pub records: u64,
    /// Bytes of a value.
    pub size: u32,
}

impl Default for Demo {
    fn default() -> Self {
        Self {
            namespace: "demo".into(),
            records: 1_000_000,
            size: 1024,
        }
    }
}

/// A topic of the demo: its name, partitions, share of the records in percent, codec, and topic configs.
struct Topic {
    name: &'static str,
    partitions: u32,
    percent: u64,
    compression: &'static str,
    config: &'static [(&'static str, &'static str)],
}

const TOPICS: [Topic; 3] = [
    Topic {
        name: "orders",
        partitions: 4,
        percent: 50,
        compression: "lz4",
        config: &[],
    },
    Topic {
        name: "payments",
        partitions: 3,
        percent: 40,
        compression: "none",
        config: &[],
    },
    Topic {
        name: "audit",
        partitions: 1,
        percent: 10,
        compression: "none",
        config: &[("message.timestamp.type", "LogAppendTime")],
    },
];

/// What the demo showed.
#[derive(Debug)]
pub struct Shown {
    /// The comparison of both sides, record by record.
    pub comparison: Comparison,
    /// The KafkaBackup at its end.
    pub backup: Value,
    /// The KafkaRestore at its end.
    pub restore: Value,
    /// Prefix of the archive in the store's bucket.
    pub prefix: String,
}

/// Brings everything up, installs the operator and runs the demo.
///
/// # Errors
/// Whatever failed, also when source and restored topics differ in anything.
pub fn main(lab: &Lab, demo: &Demo) -> Result<(), LabError> {
    let start = Instant::now();
    println!("Starting Kafka (two clusters), the object store, Kubernetes and Prometheus");
    components::up(lab, &[], Options { brokers: 1 })?;
    operator::install(lab)?;
    let shown = run(lab, demo)?;
    show_metrics(lab, demo)?;
    conclude(&shown, start);
    println!(
        "The lab is still up: `cargo lab kubectl get kafkabackups,jobs,pods --namespace {}`, `cargo lab status`; `cargo lab down` ends it.",
        demo.namespace
    );
    Ok(())
}

/// Runs the demo on given parts.
///
/// # Errors
/// As [`main`], and when it would have to change what it did not make.
pub fn with_given(lab: &Lab, demo: &Demo) -> Result<(), LabError> {
    let done = on_given(lab, demo);
    // What was applied has the bucket's keys in it.
    parts::remove(&lab.run.join("applied"))?;
    kafka_tools::stop(lab)?;
    done
}

fn on_given(lab: &Lab, demo: &Demo) -> Result<(), LabError> {
    let start = Instant::now();
    let bucket = lab.bucket();
    println!(
        "Using the given cluster, the brokers {} and {}, and the bucket {}",
        lab.source(),
        lab.restore_target(),
        bucket.name
    );
    let images = lab.given.as_ref().and_then(|given| given.images.as_ref());
    let operator = operator::installed(lab, images)?;
    let shown = run(lab, demo)?;
    show_page(lab, demo, &operator)?;
    conclude(&shown, start);
    let namespace = &demo.namespace;
    println!(
        "What it made is still there: namespace {namespace}, topics {namespace}.* and restored.{namespace}.*, and {}/ in bucket {}.",
        shown.prefix, bucket.name
    );
    Ok(())
}

fn conclude(shown: &Shown, start: Instant) {
    let topics = shown.comparison.topics.iter();
    let records: u64 = topics.map(|topic| topic.records).sum();
    println!(
        "\n{records} records went from cluster to archive to cluster and are equal, one by one. {:.0} s in all.",
        start.elapsed().as_secs_f64()
    );
}

/// Runs the demo where everything is up and the operator is installed.
///
/// # Errors
/// As [`main`].
pub fn run(lab: &Lab, demo: &Demo) -> Result<Shown, LabError> {
    let (source, target) = (lab.source(), lab.restore_target());
    let namespace = demo.namespace.as_str();
    let source_names: Vec<String> = TOPICS
        .iter()
        .map(|topic| format!("{namespace}.{}", topic.name))
        .collect();
    let target_names: Vec<String> = TOPICS
        .iter()
        .map(|topic| format!("restored.{namespace}.{}", topic.name))
        .collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs();
    // A prefix of its own each time: an archive belongs to the topics of one cluster.
    let prefix = format!("{namespace}-{now}");

    remove_topics(lab, &source, &source_names)?;
    remove_topics(lab, &target, &target_names)?;
    step("prepared the namespace", || {
        operator::fresh_namespace(lab, namespace)
    })?;
    println!("\nSource records, by Kafka's own producer");
    for (topic, name) in TOPICS.iter().zip(&source_names) {
        let records = demo.records * topic.percent / 100;
        step(
            &format!(
                "produced {records} records of about {} bytes to {name} ({} partitions, {})",
                demo.size, topic.partitions, topic.compression
            ),
            || {
                kafka_tools::produce(
                    lab,
                    &source,
                    &Produce {
                        topic: name,
                        partitions: topic.partitions,
                        records,
                        size: demo.size,
                        compression: topic.compression,
                        create: Some(topic.config),
                        ..Produce::default()
                    },
                )
            },
        )?;
    }
    let topic_list = source_names
        .iter()
        .map(|name| format!("    - {name}\n"))
        .collect::<String>();
    let storage = operator::storage_of(&lab.bucket(), &prefix);
    let backup = format!(
        "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata:\n  name: shop\n  namespace: {namespace}\nspec:\n  \
         kafkaCluster:\n    bootstrapServers: {}\n  topics:\n{topic_list}{storage}",
        servers(&source)
    );
    let backup = carry_out(lab, namespace, "kafkabackup", "shop", &backup)?;
    let run = backup["status"]["lastBackupId"]
        .as_str()
        .unwrap_or_default();
    let mapping: String = source_names
        .iter()
        .zip(&target_names)
        .map(|(from, to)| format!("    {from}: {to}\n"))
        .collect();
    let restore = format!(
        "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaRestore\nmetadata:\n  name: shop\n  namespace: {namespace}\nspec:\n  \
         backupId: {run}\n  targetCluster:\n    bootstrapServers: {}\n  topics: [\"*\"]\n  topicMapping:\n{mapping}{storage}",
        servers(&target)
    );
    let restore = carry_out(lab, namespace, "kafkarestore", "shop", &restore)?;

    println!("\nComparison, by Kafka's own consumer");
    let pairs: Vec<(&str, &str)> = source_names
        .iter()
        .map(String::as_str)
        .zip(target_names.iter().map(String::as_str))
        .collect();
    let comparison = step("compared both clusters record by record", || {
        kafka_tools::compare(
            lab,
            &source,
            &target,
            &pairs,
            Reading {
                committed_only: true,
                append_time_as_create: true,
            },
        )
    })?;
    for topic in &comparison.topics {
        let verdict = if topic.equal { "equal" } else { "DIFFERENT" };
        println!(
            "            {} and {}: {} partitions, {} records, {verdict}",
            topic.topic, topic.target, topic.partitions, topic.records
        );
        for difference in &topic.differences {
            println!("              {difference}");
        }
    }
    let expected: u64 = TOPICS
        .iter()
        .map(|topic| demo.records * topic.percent / 100)
        .sum();
    let compared: u64 = comparison.topics.iter().map(|topic| topic.records).sum();
    if !comparison.equal || compared != expected {
        return Err(LabError::State(format!(
            "the restored topics are not the source's: {expected} records were produced, {compared} compared, equal: {}",
            comparison.equal
        )));
    }
    Ok(Shown {
        comparison,
        backup,
        restore,
        prefix,
    })
}

/// The bootstrap servers of a client's setting as a list in YAML.
fn servers(bootstrap: &str) -> Value {
    bootstrap.split(',').collect()
}

/// Deletes those of the topics that an earlier demo left; in a given cluster, where nothing tells whose they are, it is an error to find any.
fn remove_topics(lab: &Lab, bootstrap: &str, names: &[String]) -> Result<(), LabError> {
    let existing = kafka_tools::list_topics(lab, bootstrap)?;
    let leftover: Vec<&str> = names
        .iter()
        .filter(|name| existing.contains(name))
        .map(String::as_str)
        .collect();
    if leftover.is_empty() {
        return Ok(());
    }
    if lab.given.is_some() {
        return Err(LabError::State(format!(
            "the cluster {bootstrap} has topics of these names, which are left alone: {}; delete them if an earlier demo made them",
            leftover.join(", ")
        )));
    }
    kafka_tools::delete_topics(lab, bootstrap, &leftover)
}

/// Applies an object, shows its progress and what kubectl shows of it; an error unless it is Completed.
fn carry_out(
    lab: &Lab,
    namespace: &str,
    kind: &str,
    name: &str,
    yaml: &str,
) -> Result<Value, LabError> {
    println!("\nkubectl apply -f -\n{}", indented(yaml));
    operator::apply(lab, &format!("{namespace}-{kind}"), yaml)?;
    let start = Instant::now();
    let mut shown_jobs = false;
    let object = operator::wait_finished(
        lab,
        namespace,
        kind,
        name,
        Duration::from_secs(600),
        |object| {
            let status = &object["status"];
            let active = &status["activeRun"];
            let mut line = format!(
                "{:>8.1} s  {}",
                start.elapsed().as_secs_f64(),
                status["phase"].as_str().unwrap_or("-")
            );
            if active.is_object() {
                line += &format!("  {} records, {} bytes", active["records"], active["bytes"]);
                if let Some(percent) = active["percent"].as_u64() {
                    line += &format!(", {percent} %");
                }
            }
            println!("{line}");
            if !shown_jobs && active["jobUid"].is_string() {
                shown_jobs = true;
                if let Ok(text) =
                    operator::kubectl(lab, &["--namespace", namespace, "get", "jobs,pods"])
                {
                    println!("\nkubectl get jobs,pods\n{}", indented(&text));
                }
            }
        },
    )?;
    let text = operator::kubectl(
        lab,
        &[
            "--namespace",
            namespace,
            "get",
            "kafkabackups,kafkarestores,jobs,pods",
        ],
    )?;
    println!(
        "\nkubectl get kafkabackups,kafkarestores,jobs,pods\n{}",
        indented(&text)
    );
    if object["status"]["phase"] != "Completed" {
        return Err(LabError::State(format!(
            "{kind} {namespace}/{name} ended as {}: {}",
            object["status"]["phase"], object["status"]["conditions"]
        )));
    }
    Ok(object)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// Shows what Prometheus has scraped, once the finished runs are in the counters.
fn show_metrics(lab: &Lab, demo: &Demo) -> Result<(), LabError> {
    println!("\nMetrics, as Prometheus scraped them");
    let namespace = &demo.namespace;
    let counted = |query: &str| {
        let found = prometheus::query(lab, query);
        found.is_ok_and(|found| matches!(found.as_slice(), [(_, 1.0)]))
    };
    let backups =
        format!("kafka_backup_backups_total{{namespace=\"{namespace}\",outcome=\"success\"}}");
    let restores =
        format!("kafka_backup_restores_total{{namespace=\"{namespace}\",outcome=\"success\"}}");
    step("Prometheus has counted both runs", || {
        crate::lab::wait_for(
            "Prometheus to show both runs as counted",
            Duration::from_secs(90),
            || counted(&backups) && counted(&restores),
        )
    })?;
    for query in [
        backups.as_str(),
        &restores,
        &format!("kafka_backup_backup_records_total{{namespace=\"{namespace}\"}}"),
        &format!("kafka_backup_backup_size_bytes{{namespace=\"{namespace}\"}}"),
        &format!("kafka_backup_restore_records_total{{namespace=\"{namespace}\"}}"),
        &format!(
            "time() - kafka_backup_last_successful_backup_timestamp{{namespace=\"{namespace}\"}}"
        ),
    ] {
        let found = prometheus::query(lab, query)?;
        let value = found.first().map(|(_, value)| value.to_string());
        let value = value.unwrap_or_else(|| "no data".to_owned());
        println!("    {query}  =>  {value}");
    }
    Ok(())
}

/// Shows the controller's own page, once the finished runs are in the counters. Who scrapes it is not known here.
fn show_page(lab: &Lab, demo: &Demo, operator: &str) -> Result<(), LabError> {
    println!("\nMetrics, as the controller serves them (read through the API server)");
    let label = format!("namespace=\"{}\"", demo.namespace);
    let counted = |page: &str, family: &str| {
        page.lines().any(|line| {
            line.starts_with(family)
                && line.contains(&label)
                && line.contains("outcome=\"success\"")
                && !line.ends_with(" 0")
        })
    };
    // Now, so that what forbids it is said at once.
    let mut page = operator::metrics_by_proxy(lab, operator)?;
    step("the controller has counted both runs", || {
        crate::lab::wait_for(
            "the controller to show both runs as counted",
            // Longer than an operator holds a run back by default.
            Duration::from_secs(180),
            || {
                if counted(&page, "kafka_backup_backups_total{")
                    && counted(&page, "kafka_backup_restores_total{")
                {
                    return true;
                }
                std::thread::sleep(Duration::from_secs(1));
                // A single answer may be missing while the controller is replaced.
                if let Ok(newer) = operator::metrics_by_proxy(lab, operator) {
                    page = newer;
                }
                false
            },
        )
    })?;
    for line in page
        .lines()
        .filter(|line| line.contains(&label) && !line.ends_with(" 0"))
        .filter(|line| {
            ["backup", "restore", "last"]
                .iter()
                .any(|what| line.starts_with(&format!("kafka_backup_{what}")))
        })
        .filter(|line| !line.contains("_bucket{"))
    {
        println!("    {line}");
    }
    Ok(())
}
