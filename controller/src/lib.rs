//! The controller: objects of its four kinds become Jobs, and their statuses metrics.
//!
//! A library, so that there are two programs of it: the one that is shipped, and one for tests, which can be told of a
//! [`Trial`]. The shipped one has no way to be told of one.

mod aggregate;
mod args;
mod check;
mod crds;
mod digest;
mod events;
mod exporter;
mod exposition;
mod failpoint;
#[cfg(test)]
mod fixtures;
mod gate;
mod grouping;
mod health;
mod http;
mod identity;
#[cfg(test)]
mod installed;
mod job;
mod kind;
mod leadership;
mod objects;
mod push;
mod reconcile;
mod render;
mod run;
mod tls;
mod volumes;
mod worker_pod;

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use jiff::Timestamp;
use kafka_backup_shared::report::error_chain;
use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command, LogFormat, RunArguments};
use crate::job::WorkerSettings;
use crate::tls::PushCa;

pub use crate::failpoint::{Failpoint, Side, Trial, Write as RunWrite};

/// The release's name where nobody chooses another one: of the metrics Service and the Lease.
const NAME: &str = "kafka-backup-operator";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Obeys the command line, under what a test changes.
pub fn main(trial: Trial) -> ExitCode {
    match obey(Arguments::parse().command, trial) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command, trial: Trial) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Crds => print(&crds::crds()),
        Command::Check(arguments) => print(&check::check(&arguments)?),
        Command::Render(arguments) => {
            let ca = arguments.push_ca_file.map(PushCa::open).transpose()?;
            let settings = WorkerSettings {
                image: arguments.worker_image,
                push_url: arguments.push_url,
                push_ca: ca.map(|ca| ca.current().to_string()),
            };
            print(&render::render(
                &arguments.file,
                &settings,
                Timestamp::now(),
            )?)
        }
        Command::Run(arguments) => start(*arguments, trial),
    }
}

fn print(text: &str) -> Result<(), Box<dyn Error>> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn start(arguments: RunArguments, trial: Trial) -> Result<(), Box<dyn Error>> {
    log_to_stderr(arguments.log_format);
    // Fails only when a provider is installed already, and nobody else installs one.
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run::run(arguments, trial))?;
    Ok(())
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
