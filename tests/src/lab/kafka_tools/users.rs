//! Passwords of users, and Kafka's own clients with any settings (`Users.java`, `Client.java`).

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::call;
use crate::lab::{Lab, LabError};

fn users(
    lab: &Lab,
    verb: &str,
    bootstrap: &str,
    options: &[(&str, &str)],
    logins: &[String],
) -> Result<(), LabError> {
    let mut args = vec![verb, "--bootstrap", bootstrap];
    args.extend(options.iter().flat_map(|(name, value)| [*name, *value]));
    args.extend(logins.iter().flat_map(|login| ["--login", login.as_str()]));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    call(lab, "Users", &args)
}

/// Sets a user's password for a SCRAM mechanism. Returns when each of these SASL listeners without TLS takes it.
pub fn set_scram(
    lab: &Lab,
    bootstrap: &str,
    (user, mechanism, password): (&str, &str, &str),
    logins: &[String],
) -> Result<(), LabError> {
    let options = [
        ("--user", user),
        ("--mechanism", mechanism),
        ("--password", password),
    ];
    users(lab, "scram", bootstrap, &options, logins)
}

/// Removes a user's password for a SCRAM mechanism. Returns when each of these SASL listeners without TLS refuses the user.
pub fn remove_scram(
    lab: &Lab,
    bootstrap: &str,
    (user, mechanism): (&str, &str),
    logins: &[String],
) -> Result<(), LabError> {
    let options = [("--user", user), ("--mechanism", mechanism)];
    users(lab, "unscram", bootstrap, &options, logins)
}

/// What a client got, or the words of its error with all causes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    Error { error: String },
    Value(T),
}

fn client<T: DeserializeOwned>(
    lab: &Lab,
    verb: &str,
    config: &[(String, String)],
    options: &[(&str, String)],
) -> Result<Result<T, String>, LabError> {
    let mut args = vec![verb.to_owned()];
    for (name, value) in config {
        args.extend(["--config".to_owned(), format!("{name}={value}")]);
    }
    for (name, value) in options {
        args.extend([(*name).to_owned(), value.clone()]);
    }
    Ok(match call(lab, "Client", &args)? {
        Answer::Error { error } => Err(error),
        Answer::Value(value) => Ok(value),
    })
}

/// Writes a record into partition 0 by a producer with these settings: its offset, or what the producer said.
///
/// # Errors
/// The tool itself fails.
pub fn write_with(
    lab: &Lab,
    config: &[(String, String)],
    topic: &str,
    value: &str,
) -> Result<Result<i64, String>, LabError> {
    #[derive(Deserialize)]
    struct Written {
        offset: i64,
    }
    let options = [("--topic", topic.to_owned()), ("--value", value.to_owned())];
    let written: Result<Written, String> = client(lab, "write", config, &options)?;
    Ok(written.map(|written| written.offset))
}

/// Reads a record of partition 0 by a consumer with these settings: its value, or what the consumer said.
///
/// # Errors
/// The tool itself fails.
pub fn read_with(
    lab: &Lab,
    config: &[(String, String)],
    topic: &str,
    offset: i64,
) -> Result<Result<String, String>, LabError> {
    #[derive(Deserialize)]
    struct Read {
        value: String,
    }
    let options = [
        ("--topic", topic.to_owned()),
        ("--offset", offset.to_string()),
    ];
    let read: Result<Read, String> = client(lab, "read", config, &options)?;
    Ok(read.map(|read| read.value))
}

/// What a consumer did meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stayed {
    pub records: u64,
    /// Connections that it opened.
    pub connections: u64,
    /// How often it proved again who it is, on a connection that was open.
    pub reauthentications: u64,
}

/// Reads partition 0 from offset 0 for some seconds by a consumer with these settings.
///
/// # Errors
/// The tool itself fails.
pub fn stay_with(
    lab: &Lab,
    config: &[(String, String)],
    topic: &str,
    seconds: u64,
) -> Result<Result<Stayed, String>, LabError> {
    let options = [
        ("--topic", topic.to_owned()),
        ("--seconds", seconds.to_string()),
    ];
    client(lab, "stay", config, &options)
}
