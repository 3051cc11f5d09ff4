//! What was found, for people.

use super::{Verification, Which};
use crate::human::{self, Align, table};
use crate::inspect::State;

/// A table of topics; what is damaged stands below it.
pub fn verification(found: &Verification, which: &Which) -> String {
    let mut text = String::new();
    let rows: Vec<[String; 5]> = found
        .topics
        .iter()
        .map(|topic| {
            [
                topic.topic.clone(),
                human::count(topic.segments),
                human::count(topic.records),
                human::bytes(topic.bytes),
                if topic.problems == 0 {
                    "whole".into()
                } else {
                    "damaged".into()
                },
            ]
        })
        .collect();
    let columns = [
        ("TOPIC", Align::Left),
        ("SEGMENTS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("STATE", Align::Left),
    ];
    text.push_str(&table(columns, &rows));
    text.push('\n');
    for run in found
        .runs
        .iter()
        .filter(|run| run.state == State::Unfinished)
    {
        text.push_str(&format!(
            "{} is unfinished: it cannot be restored.\n",
            run.run
        ));
    }
    for key in &found.foreign {
        text.push_str(&format!("not an archive's: {key}\n"));
    }
    for problem in &found.problems {
        text.push_str(&format!(
            "damaged: {}: {}\n",
            problem.object, problem.problem
        ));
    }
    let what = match (which, &found.runs[..]) {
        (Which::All, runs) => format!(
            "{} of archive {}",
            human::counted(runs.len() as u64, "run", "runs"),
            found.archive
        ),
        (Which::Latest | Which::Run(_), runs) => {
            let ids: Vec<&str> = runs.iter().map(|run| &*run.run).collect();
            format!("{} of archive {}", ids.join(", "), found.archive)
        }
    };
    let segments = found.topics.iter().map(|topic| topic.segments).sum();
    let bytes = found.topics.iter().map(|topic| topic.bytes).sum();
    let read = format!(
        "{what}: read {}, {}",
        human::counted(segments, "segment", "segments"),
        human::bytes(bytes)
    );
    if found.problems.is_empty() {
        text.push_str(&format!("{read}: everything is as it was written.\n"));
        return text;
    }
    let problems = found.problems.len() as u64;
    let objects = human::counted(problems, "object is", "objects are");
    text.push_str(&format!("{read}: {objects} damaged or missing.\n"));
    let whole = found
        .topics
        .iter()
        .filter(|topic| topic.problems == 0)
        .count() as u64;
    if whole > 0 && found.problems.iter().all(|problem| problem.topic.is_some()) {
        let topics = human::counted(whole, "topic that is", "topics that are");
        text.push_str(&format!("The {topics} whole can be restored: leave the damaged ones out with --exclude-topics.\n"));
    }
    text
}
