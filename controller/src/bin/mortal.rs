//! The controller for tests that end it in the middle: `KAFKA_BACKUP_CONTROLLER_DIES=Before:CreateJob`, or `After:`; and for those
//! that do not wait minutes for a node: `KAFKA_BACKUP_CONTROLLER_LOST_AFTER=5s`.

use std::fmt::Display;
use std::process::ExitCode;
use std::str::FromStr;

use kafka_backup_controller::Trial;

fn main() -> ExitCode {
    match trial() {
        Ok(trial) => kafka_backup_controller::main(trial),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trial() -> Result<Trial, String> {
    Ok(Trial {
        dies: variable("KAFKA_BACKUP_CONTROLLER_DIES")?,
        lost_after: variable("KAFKA_BACKUP_CONTROLLER_LOST_AFTER")?,
    })
}

fn variable<T: FromStr<Err: Display>>(name: &str) -> Result<Option<T>, String> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let value = text.parse().map_err(|error| format!("{name}: {error}"))?;
    Ok(Some(value))
}
