//! `kafka-backup-controller`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kafka_backup_controller::main(None)
}
