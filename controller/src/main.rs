//! `kafka-backup-controller`.

use std::process::ExitCode;

use kafka_backup_controller::Trial;

fn main() -> ExitCode {
    kafka_backup_controller::main(Trial::default())
}
