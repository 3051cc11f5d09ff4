//! Where the replicas of a topic are, and which of them leads (`Leaders.java`).

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::lab::{Lab, LabError};

use super::{call, pairs};

/// The replicas of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replicas {
    /// -1 where there is none.
    pub leader: i32,
    pub in_sync: Vec<i32>,
}

/// Creates a topic with one partition for each list of brokers, such as `1:2`, the preferred leader first.
pub fn create_with_replicas(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    partitions: &[&str],
    config: &[(&str, &str)],
) -> Result<(), LabError> {
    let config = pairs(config);
    let config: Vec<&str> = config.iter().map(String::as_str).collect();
    let options = [("--replicas", partitions), ("--config", &config)];
    leaders(lab, bootstrap, "create", topic, &options)
}

/// Moves the replicas of each partition and makes the preferred ones lead; returns when that is so.
pub fn move_replicas(
    lab: &Lab,
    bootstrap: &str,
    topic: &str,
    partitions: &[&str],
) -> Result<(), LabError> {
    let options = [("--replicas", partitions)];
    leaders(lab, bootstrap, "move", topic, &options)
}

/// The replicas of each partition.
pub fn replicas(lab: &Lab, bootstrap: &str, topic: &str) -> Result<Vec<Replicas>, LabError> {
    leaders(lab, bootstrap, "show", topic, &[])
}

fn leaders<T: DeserializeOwned>(
    lab: &Lab,
    bootstrap: &str,
    verb: &str,
    topic: &str,
    options: &[(&str, &[&str])],
) -> Result<T, LabError> {
    let mut args = vec![verb, "--bootstrap", bootstrap, "--topic", topic];
    for (name, values) in options {
        args.extend(values.iter().flat_map(|value| [*name, *value]));
    }
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    call(lab, "Leaders", &args)
}
