//! Kafka's own clients as the independent witnesses of tests and demo: small Java programs (tests/assets/java) on Kafka's jars,
//! compiled once, and the tools that Kafka ships. Nothing here uses a client of ours.
//!
//! Our programs run in one JVM of the lab that starts with the first call (a new one costs a second) and ends with `down`.
//! Callers may be inside or outside of the lab's network namespace.

mod acls;
mod compare;
mod groups;
mod leaders;
mod nasty;
mod users;

pub use acls::{change_acls, clear_acls};
pub use compare::{
    ComparedTopic, Comparison, Reading, View, compare, compare_view, compare_with_archive,
};
pub use groups::{Committed, GroupPlace, commit_offsets, committed_offsets, described};
pub use leaders::{Replicas, create_with_replicas, move_replicas, replicas};
pub use nasty::{nasty, seeded};
pub use users::{Stayed, read_with, remove_scram, set_scram, stay_with, write_with};

use super::{Doing, Lab, LabError, kafka, packages, parts, process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCES: &[(&str, &str)] = &[
    ("Acls.java", include_str!("../../assets/java/Acls.java")),
    ("Args.java", include_str!("../../assets/java/Args.java")),
    (
        "Produce.java",
        include_str!("../../assets/java/Produce.java"),
    ),
    (
        "Compare.java",
        include_str!("../../assets/java/Compare.java"),
    ),
    ("Side.java", include_str!("../../assets/java/Side.java")),
    ("View.java", include_str!("../../assets/java/View.java")),
    (
        "Cluster.java",
        include_str!("../../assets/java/Cluster.java"),
    ),
    (
        "Archive.java",
        include_str!("../../assets/java/Archive.java"),
    ),
    ("Topics.java", include_str!("../../assets/java/Topics.java")),
    ("Raw.java", include_str!("../../assets/java/Raw.java")),
    ("Nasty.java", include_str!("../../assets/java/Nasty.java")),
    ("Seeded.java", include_str!("../../assets/java/Seeded.java")),
    (
        "Leaders.java",
        include_str!("../../assets/java/Leaders.java"),
    ),
    ("Groups.java", include_str!("../../assets/java/Groups.java")),
    ("Users.java", include_str!("../../assets/java/Users.java")),
    ("Client.java", include_str!("../../assets/java/Client.java")),
    ("Server.java", include_str!("../../assets/java/Server.java")),
];

/// The process in which our programs run.
const SERVER: &str = "java-tools";

fn version() -> String {
    let mut inputs: Vec<&[u8]> = SOURCES.iter().map(|(_, text)| text.as_bytes()).collect();
    inputs.push(kafka::VERSION.as_bytes());
    parts::key(&inputs)
}

/// The folder of our compiled Java classes.
pub fn classes(lab: &Lab) -> Result<PathBuf, LabError> {
    parts::part(lab, SERVER, &version(), |folder| {
        let javac = packages::toolchain(
            "javac",
            "a JDK 17 or later (Debian: openjdk-17-jdk-headless)",
        )?;
        let mut command = Command::new(javac);
        command
            .args([
                "-Xlint:all,-processing,-classfile,-path",
                "-Werror",
                "-encoding",
                "UTF-8",
                "-cp",
            ])
            .arg(format!("{}/*", kafka::libs(lab)?.display()));
        command.arg("-d").arg(folder);
        for (name, text) in SOURCES {
            let file = folder.join(name);
            fs::write(&file, text).doing(|| format!("write {}", file.display()))?;
            command.arg(file);
        }
        process::run(&mut command).map(drop)
    })
}

/// A command that runs a Java class in a JVM of its own inside the namespace: `Produce`, `Compare` or `Topics`, or one of Kafka's by its
/// full name, such as `org.apache.kafka.tools.consumer.group.ConsumerGroupCommand`.
pub fn tool(lab: &Lab, class: &str, args: &[&str]) -> Result<Command, LabError> {
    // Short runs: the first compiler tier is enough, and better, except where a million records go through.
    let options: &[&str] = if ["Produce", "Compare"].contains(&class) {
        &["-Xmx512m"]
    } else {
        &["-Xmx256m", "-XX:TieredStopAtLevel=1"]
    };
    let mut command = kafka::java(lab, options, Some(&classes(lab)?), class)?;
    command.args(args);
    Ok(command)
}

/// A connection to the JVM that runs our programs; starts it if it does not run.
fn connect(lab: &Lab) -> Result<UnixStream, LabError> {
    // The version is in the name: a JVM with older programs is not asked.
    let socket = lab.run.join(format!("{SERVER}-{}.sock", version()));
    if process::is_running(lab, SERVER)
        && let Ok(stream) = UnixStream::connect(&socket)
    {
        return Ok(stream);
    }
    let _lock = parts::lock(&lab.run.join("locks").join(SERVER))?;
    if let Ok(stream) = UnixStream::connect(&socket) {
        return Ok(stream);
    }
    process::kill_now(lab, SERVER)?;
    let mut command = kafka::java(lab, &["-Xmx768m"], Some(&classes(lab)?), "Server")?;
    process::spawn(lab, SERVER, command.arg(&socket))?;
    let mut stream = None;
    process::wait_ready(lab, SERVER, Duration::from_secs(30), || {
        stream = UnixStream::connect(&socket).ok();
        stream.is_some()
    })?;
    stream.ok_or_else(|| process::died(lab, SERVER))
}

/// Ends the JVM that runs our programs, if it runs.
pub fn stop(lab: &Lab) -> Result<(), LabError> {
    process::stop(lab, SERVER, Duration::from_secs(5))
}

/// How a program of ours ended.
#[derive(Deserialize)]
struct Answer {
    code: i32,
    out: String,
    error: String,
}

/// Runs one of our programs; an error when it failed (exit status 2), other statuses are answers.
fn call<T: DeserializeOwned>(lab: &Lab, program: &str, args: &[String]) -> Result<T, LabError> {
    let mut stream = connect(lab)?;
    let request = serde_json::json!({"program": program, "args": args}).to_string();
    let mut text = String::new();
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
        .and_then(|()| stream.read_to_string(&mut text))
        .doing(|| {
            format!(
                "run {program} in the JVM of the lab (log: {})",
                lab.log(SERVER).display()
            )
        })?;
    let unexpected = |error: serde_json::Error, text: &str| {
        LabError::State(format!(
            "{program} printed what is not expected ({error}): {text:?}"
        ))
    };
    let answer: Answer = serde_json::from_str(&text).map_err(|error| unexpected(error, &text))?;
    if answer.code > 1 {
        return Err(LabError::Program {
            program: format!("{program} {}", args.join(" ")),
            status: format!("exit status: {}", answer.code),
            output: answer.error,
        });
    }
    // Nothing printed stands for no value.
    let out = if answer.out.trim().is_empty() {
        "null"
    } else {
        answer.out.trim()
    };
    serde_json::from_str(out).map_err(|error| unexpected(error, out))
}

/// What [`produce`] writes: records that depend on `seed` and their index only, record i into partition i % partitions.
#[derive(Debug, Clone)]
pub struct Produce<'a> {
    pub topic: &'a str,
    pub partitions: u32,
    pub records: u64,
    /// Index of the first record: a second call with `first` = records of the first one goes on where that ended.
    pub first: u64,
    /// Bytes of a value, give or take an eighth.
    pub size: u32,
    /// none, gzip, snappy, lz4 or zstd.
    pub compression: &'a str,
    pub seed: u64,
    /// At most this many headers a record, among them repeated names, and null and empty values.
    pub headers: u32,
    /// Every n-th key is null; 0 for none.
    pub null_keys_every: u64,
    /// Every n-th value is null; 0 for none.
    pub null_values_every: u64,
    /// First CreateTime and the step from record to record, in milliseconds; the time of sending without it.
    /// Times older than a week need `retention.ms=-1`: the broker deletes them within a second otherwise.
    pub timestamps: Option<(i64, i64)>,
    /// Write in transactions.
    pub transactions: Option<Transactions<'a>>,
    /// Create the topic with these settings; without it the topic must exist.
    pub create: Option<&'a [(&'a str, &'a str)]>,
    /// Replication factor of a created topic; the cluster's default without it.
    pub replication: Option<u16>,
    /// Further settings of the producer, such as `batch.size`.
    pub producer_config: &'a [(&'a str, &'a str)],
}

/// How [`produce`] divides its records into transactions.
#[derive(Debug, Clone, Copy)]
pub struct Transactions<'a> {
    pub id: &'a str,
    pub records: u64,
    /// Every n-th transaction is aborted; 0 for none.
    pub abort_every: u64,
}

impl Default for Produce<'_> {
    fn default() -> Self {
        Self {
            topic: "",
            partitions: 1,
            records: 1000,
            first: 0,
            size: 1024,
            compression: "none",
            seed: 1,
            headers: 3,
            null_keys_every: 17,
            null_values_every: 101,
            timestamps: None,
            transactions: None,
            create: Some(&[]),
            replication: None,
            producer_config: &[],
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Produced {
    /// Records outside of aborted transactions.
    pub records: u64,
    /// Records of aborted transactions.
    pub aborted: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    pub seconds: f64,
}

impl Produce<'_> {
    fn args(&self, bootstrap: &str) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        option("bootstrap", bootstrap.to_owned());
        option("topic", self.topic.to_owned());
        option("partitions", self.partitions.to_string());
        option("records", self.records.to_string());
        option("first", self.first.to_string());
        option("size", self.size.to_string());
        option("compression", self.compression.to_owned());
        option("seed", self.seed.to_string());
        option("headers", self.headers.to_string());
        option("null-keys-every", self.null_keys_every.to_string());
        option("null-values-every", self.null_values_every.to_string());
        if let Some((base, step)) = self.timestamps {
            option("timestamps", format!("{base}+{step}"));
        }
        if let Some(transactions) = self.transactions {
            option("transactional", transactions.id.to_owned());
            option("transaction-records", transactions.records.to_string());
            option("abort-every", transactions.abort_every.to_string());
        }
        for (name, value) in self.producer_config {
            option("producer-config", format!("{name}={value}"));
        }
        if let Some(replication) = self.replication {
            option("replication", replication.to_string());
        }
        for (name, value) in self.create.unwrap_or_default() {
            option("config", format!("{name}={value}"));
        }
        if self.create.is_some() {
            args.push("--create".to_owned());
        }
        args
    }
}

/// Writes records with Kafka's own producer, and returns when all are acknowledged.
pub fn produce(lab: &Lab, bootstrap: &str, what: &Produce<'_>) -> Result<Produced, LabError> {
    call(lab, "Produce", &what.args(bootstrap))
}

/// Offsets of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Offsets {
    pub partition: u32,
    /// The log start offset.
    pub start: i64,
    /// The high watermark.
    pub end: i64,
}

/// Calls `Topics VERB`; every option may be repeated.
fn topics<T: DeserializeOwned>(
    lab: &Lab,
    bootstrap: &str,
    verb: &str,
    options: &[(&str, &[String])],
) -> Result<T, LabError> {
    let mut args = vec![
        verb.to_owned(),
        "--bootstrap".to_owned(),
        bootstrap.to_owned(),
    ];
    for (name, values) in options {
        args.extend(
            values
                .iter()
                .flat_map(|value| [format!("--{name}"), value.clone()]),
        );
    }
    call(lab, "Topics", &args)
}

fn pairs(config: &[(&str, &str)]) -> Vec<String> {
    config
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// Creates a topic with the cluster's default replication factor.
pub fn create_topic(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    partitions: u32,
    config: &[(&str, &str)],
) -> Result<(), LabError> {
    topics(
        lab,
        bootstrap,
        "create",
        &[
            ("topic", &[topic.to_owned()]),
            ("partitions", &[partitions.to_string()]),
            ("config", &pairs(config)),
        ],
    )
}

/// Deletes topics and waits until they are gone.
pub fn delete_topics(lab: &Lab, bootstrap: &str, names: &[&str]) -> Result<(), LabError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    topics(lab, bootstrap, "delete", &[("topic", &names)])
}

/// Deletes the topics whose names are `of` an earlier run, if there are any, and waits until they are gone.
pub fn delete_topics_where(
    lab: &Lab,
    bootstrap: &str,
    of: impl Fn(&str) -> bool,
) -> Result<(), LabError> {
    let mut left = list_topics(lab, bootstrap)?;
    left.retain(|name| of(name));
    if left.is_empty() {
        return Ok(());
    }
    let left: Vec<&str> = left.iter().map(String::as_str).collect();
    delete_topics(lab, bootstrap, &left)
}

/// The topics of a cluster, without internal ones.
pub fn list_topics(lab: &Lab, bootstrap: &str) -> Result<Vec<String>, LabError> {
    topics(lab, bootstrap, "list", &[])
}

/// Log start offset and high watermark of each partition.
pub fn offsets(lab: &Lab, bootstrap: &str, topic: &str) -> Result<Vec<Offsets>, LabError> {
    topics(lab, bootstrap, "offsets", &[("topic", &[topic.to_owned()])])
}

/// The settings that are set on the topic itself.
pub fn topic_config(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
) -> Result<BTreeMap<String, String>, LabError> {
    topics(lab, bootstrap, "configs", &[("topic", &[topic.to_owned()])])
}

/// Sets settings of a topic; others stay.
pub fn alter_topic(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    config: &[(&str, &str)],
) -> Result<(), LabError> {
    topics(
        lab,
        bootstrap,
        "alter",
        &[("topic", &[topic.to_owned()]), ("config", &pairs(config))],
    )
}

/// Adds partitions to a topic, up to `partitions`.
pub fn grow_topic(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    partitions: u32,
) -> Result<(), LabError> {
    topics(
        lab,
        bootstrap,
        "grow",
        &[
            ("topic", &[topic.to_owned()]),
            ("partitions", &[partitions.to_string()]),
        ],
    )
}

/// Deletes the records before an offset, by `(partition, offset)`.
pub fn delete_records(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    before: &[(u32, i64)],
) -> Result<(), LabError> {
    let before: Vec<String> = before
        .iter()
        .map(|(partition, offset)| format!("{partition}={offset}"))
        .collect();
    topics(
        lab,
        bootstrap,
        "delete-records",
        &[("topic", &[topic.to_owned()]), ("before", &before)],
    )
}

/// Reads segment files with Kafka's own DumpLogSegments, every record of every batch, and returns what it prints.
///
/// Kafka takes the part of the file name before the first dot as a number and wants the suffix `.log`.
pub fn dump_log_segments(lab: &Lab, files: &[&Path], print_data: bool) -> Result<String, LabError> {
    let list: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let mut command = tool(
        lab,
        "kafka.tools.DumpLogSegments",
        &["--deep-iteration", "--files", &list.join(",")],
    )?;
    if print_data {
        command.arg("--print-data-log");
    }
    process::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn produce_arguments_name_only_what_is_asked() {
        let what = Produce {
            topic: "t",
            create: None,
            ..Produce::default()
        };
        let args = what.args("b:1");
        assert!(!args.iter().any(|arg| {
            ["--create", "--transactional", "--timestamps", "--config"].contains(&arg.as_str())
        }));
        let what = Produce {
            create: Some(&[("a", "b")]),
            timestamps: Some((5, 2)),
            ..what
        };
        let args = what.args("b:1");
        assert!(args.windows(2).any(|pair| pair == ["--config", "a=b"]));
        assert!(args.windows(2).any(|pair| pair == ["--timestamps", "5+2"]));
        assert_eq!(args.last().map(String::as_str), Some("--create"));
    }
}
