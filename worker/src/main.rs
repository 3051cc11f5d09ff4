//! `kafka-backup-worker`: see `--help`.

use std::process::ExitCode;

use clap::Parser;
use kafka_backup_shared::report::Fault;
use kafka_backup_worker::{args::Cli, verbs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        unreachable!("nothing has run yet that could have installed another TLS provider");
    }
    // A pod's usual share of a machine; records are moved, not computed with.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: failed to start threads: {error}");
            return ExitCode::from(Fault::Unavailable.exit_code());
        }
    };
    let code = runtime.block_on(verbs::execute(cli));
    // Blocking calls of libraries may still hang; the report is out, so nothing is waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}
