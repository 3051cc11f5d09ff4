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

/// What a restore chose, moved or changed, so that a target is not to have just what the source has.
#[derive(Debug, Clone, Default)]
pub struct View<'a> {
    /// Only timestamps from here on.
    pub from_ms: Option<i64>,
    /// Only timestamps up to here.
    pub until_ms: Option<i64>,
    /// Source partitions with another number in the target.
    pub moves: &'a [(i32, i32)],
    /// Records are dealt out by their keys among the partitions that the target has.
    pub by_key: bool,
    /// Name of the source in the headers that each record has got.
    pub provenance: Option<&'a str>,
    /// The records stand so many times one after another; 0 is once.
    pub times: u32,
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
    compare_view(lab, source, target, topics, reading, &View::default())
}

/// The same where the target is to have something else.
pub fn compare_view(
    lab: &Lab,
    source: &str,
    target: &str,
    topics: &[(&str, &str)],
    reading: Reading,
    view: &View<'_>,
) -> Result<Comparison, LabError> {
    let mut args = vec!["--target".to_owned(), target.to_owned()];
    let bounds = [("--from-ms", view.from_ms), ("--until-ms", view.until_ms)];
    for (name, bound) in bounds {
        args.extend(
            bound
                .map(|ms| [name.to_owned(), ms.to_string()])
                .into_iter()
                .flatten(),
        );
    }
    for (from, to) in view.moves {
        args.extend(["--move".to_owned(), format!("{from}={to}")]);
    }
    if view.by_key {
        args.push("--by-key".to_owned());
    }
    if let Some(cluster) = view.provenance {
        args.extend(["--provenance", cluster].map(str::to_owned));
    }
    args.extend(["--times".to_owned(), view.times.max(1).to_string()]);
    run(lab, source, &args, topics, reading)
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
