//! The one comparer of data: record by record, by Kafka's own consumer and classes (`Compare.java`).

use std::path::Path;

use serde::Deserialize;

use crate::lab::{Lab, LabError};

use super::call;

/// How [`compare`] reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Leave out aborted and open transactions (read_committed).
    pub committed_only: bool,
    /// Where the source has append times, the target must have the same times as create times.
    pub append_time_as_create: bool,
}

/// What [`compare`] found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Comparison {
    pub equal: bool,
    pub topics: Vec<ComparedTopic>,
}

/// One pair of topics.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ComparedTopic {
    /// The source's name.
    pub topic: String,
    pub target: String,
    pub partitions: u32,
    /// Records of the source.
    pub records: u64,
    pub target_records: u64,
    /// Bytes of the source's keys and values.
    pub bytes: u64,
    pub equal: bool,
    /// The first differences, for people.
    pub differences: Vec<String>,
}

/// Compares topics `(source, target)` of two clusters record by record with Kafka's own consumer.
pub fn compare(
    lab: &Lab,
    source: &str,
    target: &str,
    topics: &[(&str, &str)],
    reading: Reading,
) -> Result<Comparison, LabError> {
    let target = ["--target".to_owned(), target.to_owned()];
    run(lab, source, &target, topics, reading)
}

/// Compares topics of a cluster with what the complete run `run` pinned in an archive, offsets included. `archive` is the folder in
/// which `archive.json` is. The source must not have been written to, trimmed or compacted since the run.
pub fn compare_with_archive(
    lab: &Lab,
    source: &str,
    archive: &Path,
    run_id: &str,
    topics: &[&str],
    reading: Reading,
) -> Result<Comparison, LabError> {
    let archive = archive.display().to_string();
    let target = ["--archive", &archive, "--run", run_id].map(str::to_owned);
    let topics: Vec<_> = topics.iter().map(|topic| (*topic, *topic)).collect();
    run(lab, source, &target, &topics, reading)
}

fn run(
    lab: &Lab,
    source: &str,
    target: &[String],
    topics: &[(&str, &str)],
    reading: Reading,
) -> Result<Comparison, LabError> {
    let isolation = if reading.committed_only {
        "read_committed"
    } else {
        "read_uncommitted"
    };
    let mut args: Vec<String> = ["--json", "--source", source, "--isolation", isolation]
        .map(str::to_owned)
        .into();
    args.extend_from_slice(target);
    if reading.append_time_as_create {
        args.push("--append-time-as-create".to_owned());
    }
    for (source, target) in topics {
        args.extend(["--map".to_owned(), format!("{source}={target}")]);
    }
    call(lab, "Compare", &args)
}

impl Comparison {
    /// Panics, for a test, with what differs, unless all topics are equal.
    ///
    /// # Panics
    /// As said.
    pub fn assert_equal(&self) {
        let different: Vec<_> = self.topics.iter().filter(|topic| !topic.equal).collect();
        assert!(self.equal, "{different:#?}");
    }
}
