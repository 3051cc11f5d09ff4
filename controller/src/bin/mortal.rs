//! The controller for tests that end it in the middle: `KAFKA_BACKUP_CONTROLLER_DIES=Before:CreateJob`, or `After:`.

use std::process::ExitCode;

use kafka_backup_controller::Failpoint;

fn main() -> ExitCode {
    let failpoint = match std::env::var("KAFKA_BACKUP_CONTROLLER_DIES") {
        Ok(text) => match text.parse::<Failpoint>() {
            Ok(failpoint) => Some(failpoint),
            Err(error) => {
                eprintln!("error: KAFKA_BACKUP_CONTROLLER_DIES: {error}");
                return ExitCode::FAILURE;
            }
        },
        Err(_) => None,
    };
    kafka_backup_controller::main(failpoint)
}
