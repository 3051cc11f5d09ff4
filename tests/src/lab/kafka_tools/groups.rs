//! What consumer groups have committed (`Groups.java`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{call, tool};
use crate::lab::{Lab, LabError, process};

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    /// The next record to read.
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
}

/// Commits offsets as one who is no member of the groups.
pub fn commit_offsets(lab: &Lab, bootstrap: &str, offsets: &[Committed]) -> Result<(), LabError> {
    let as_json = |one: &Committed| serde_json::to_string(one).expect("it has string keys only");
    let offsets = offsets.iter().map(as_json);
    let offsets: Vec<String> = offsets.collect();
    groups(lab, bootstrap, "commit", "--offset", &offsets).map(|_: Option<()>| ())
}

/// All that groups have committed.
pub fn committed_offsets(
    lab: &Lab,
    bootstrap: &str,
    of: &[String],
) -> Result<Vec<Committed>, LabError> {
    groups(lab, bootstrap, "show", "--group", of)
}

/// A group, a topic and a partition.
pub type GroupPlace = (String, String, i32);

/// What all groups have committed, with the end of each partition, as Kafka's own `kafka-consumer-groups` tells it.
pub fn described(lab: &Lab, bootstrap: &str) -> Result<BTreeMap<GroupPlace, (i64, i64)>, LabError> {
    let args = [
        "--bootstrap-server",
        bootstrap,
        "--describe",
        "--all-groups",
        "--offsets",
        "--timeout",
        "60000",
    ];
    let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    let said = process::run(&mut tool(lab, class, &args)?)?;
    let rows = said.lines().filter_map(|line| {
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [group, topic, partition, offset, end, ..] = fields[..] else {
            return None;
        };
        let place = (group.to_owned(), topic.to_owned(), partition.parse().ok()?);
        Some((place, (offset.parse().ok()?, end.parse().ok()?)))
    });
    Ok(rows.collect())
}

fn groups<T: serde::de::DeserializeOwned>(
    lab: &Lab,
    bootstrap: &str,
    verb: &str,
    option: &str,
    values: &[String],
) -> Result<T, LabError> {
    let mut args = [verb, "--bootstrap", bootstrap].map(str::to_owned).to_vec();
    for value in values {
        args.extend([option.to_owned(), value.clone()]);
    }
    call(lab, "Groups", &args)
}
