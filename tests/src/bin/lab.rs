//! `cargo lab`: starts and stops the real parts, and runs commands among them.

use clap::{Parser, Subcommand};
use kafka_backup_tests::demo::{self, Demo};
use kafka_backup_tests::lab::components::{self, Options};
use kafka_backup_tests::lab::given::Flags;
use kafka_backup_tests::lab::secure::tokens;
use kafka_backup_tests::lab::{Doing, Lab, LabError, images, kafka, kubernetes, net};
use kafka_backup_tests::{alerts, bench, restore_soak, soak, suite};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// The lab: real Kafka, a real object store, real Kubernetes and Prometheus on this machine.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start components and what they need; if none is named, all but those for special tests
    Up {
        /// kafka (both clusters), kafka-target, store, kubernetes, prometheus, net; for special tests versitygw, azurite, kafka-secure,
        /// kafka-secure3, tokens
        names: Vec<String>,
        /// Brokers of each Kafka cluster
        #[arg(long, default_value_t = 1, value_parser = brokers)]
        brokers: u16,
    },
    /// Stop components (all if none is named) and what needs them, and remove their data
    Down { names: Vec<String> },
    /// Show what runs, where, and how much memory it takes
    Status,
    /// Print the log of a process that `status` names
    Logs {
        name: String,
        /// Go on printing what is added
        #[arg(short, long)]
        follow: bool,
    },
    /// Kill a broker with SIGKILL and start it again on its data
    KillBroker {
        /// A broker that `status` names, such as kafka-target-1
        name: String,
    },
    /// Run kubectl as the cluster's administrator
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Compile worker and controller, write their image archives and print references and paths
    Images,
    /// Start everything and show the whole way: records, backup, restore, comparison, metrics
    #[command(after_help = GIVEN_HELP)]
    Demo {
        /// Records to produce, over three topics
        #[arg(long, default_value_t = Demo::default().records)]
        records: u64,
        #[command(flatten)]
        given: Flags,
    },
    /// Run every test; the last line says how many passed and failed
    Test {
        /// Only test programs whose path contains this, such as `faults` or `shared/`
        filter: Option<String>,
    },
    /// Back up, and then restore, with workers that are killed, stopped, frozen and replaced at random points while (in restores)
    /// brokers die, stop and freeze and leaders move, and compare what is left; and let alerts fire that wait for minutes
    Soak {
        /// Only one of them; all without
        #[arg(long, value_enum)]
        only: Option<Soaked>,
        #[arg(long, default_value_t = 1000)]
        rounds: u64,
        /// Decides what happens when; printed at the start
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Brokers of the cluster, which is the soak's own
        #[arg(long, default_value_t = 3, value_parser = brokers)]
        brokers: u16,
        /// Labs beside each other that share the rounds of backups and restores
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
        labs: u16,
    },
    /// Measure what worker and controller cost
    #[command(subcommand)]
    Bench(Bench),
    /// The first process of the Kubernetes node
    #[command(hide = true)]
    NodeInit,
    /// The process of the token server
    #[command(hide = true)]
    TokenServer,
    /// Run a command inside the lab's network namespace
    Exec {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

const GIVEN_HELP: &str = "\
With parts of your own the lab starts nothing but Kafka's clients, on this machine, which must reach the brokers as pods do. \
It makes the namespace `demo`, the topics demo.* and restored.demo.* and keys below demo-<time>/ in the bucket, and leaves them \
for you to look at. It stops before it would change anything that it did not make: topics of these names, a namespace `demo` \
without its label, an operator that is installed (that one is used).";

#[derive(Subcommand)]
enum Bench {
    /// Backup to a folder in memory and to S3, and restore: wall, CPU seconds and memory per GB
    Data {
        /// Records of about 1 KB in the main cases; the others have a quarter of the bytes
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
        /// How often the main cases are measured; the median counts
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
        /// Only cases whose name contains one of these, such as `1KB zstd 16p` or `idle`; `20GB` is measured only when it is
        /// named: it takes long, and 40 GB of disk
        #[arg(long)]
        only: Vec<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Many KafkaBackups at the real API server: from tick to Job, pods that end together, idle looks, memory
    Controller {
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
        objects: u32,
    },
    /// Pushes and scrapes with few and with many series in the store, beside other push gateways
    Exporter {
        /// Series in the store, in whole sources of 56
        #[arg(long, value_delimiter = ',', default_values_t = [1_000, 11_000, 112_000, 280_000, 500_000], value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
        sizes: Vec<u64>,
        /// Only these servers
        #[arg(long, value_enum)]
        only: Vec<bench::Server>,
        /// How often each is measured; the median by CPU counts, and --json prints all
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
        repeat: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// What a soak plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Soaked {
    Backups,
    Restores,
    Alerts,
}

fn brokers(text: &str) -> Result<u16, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("a cluster has 1 or 3 brokers".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            components::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode, LabError> {
    let lab = Lab::open()?;
    match verb {
        Verb::Up {
            names: wanted,
            brokers,
        } => {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            components::up(&lab, &wanted, Options { brokers })?;
            show(&components::status(&lab))?;
        }
        Verb::Down { names: wanted } => {
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            components::down(&lab, &wanted)?;
        }
        Verb::Status => show(&components::status(&lab))?,
        Verb::Logs { name, follow } => {
            let log = lab.log(&name);
            if !log.exists() {
                return Err(LabError::State(format!(
                    "there is no log {}",
                    log.display()
                )));
            }
            let (program, args) = if follow {
                ("tail", &["-n", "100", "-f"][..])
            } else {
                ("cat", &[][..])
            };
            return Err(become_command(Command::new(program).args(args).arg(log)));
        }
        Verb::KillBroker { name } => {
            let (cluster, id) = kafka::by_name(&name).ok_or_else(|| {
                LabError::State(format!("{name} is not a broker, such as kafka-source-1"))
            })?;
            cluster.kill_broker(&lab, id)?;
            cluster.start_broker(&lab, id)?;
        }
        Verb::Kubectl { args } => {
            return Err(become_command(kubernetes::kubectl(&lab)?.args(args)));
        }
        Verb::Images => {
            let built = images::worker_and_controller(&lab)?;
            for image in [built.worker, built.controller] {
                println!("{}  {}", image.reference, image.archive.display());
            }
        }
        Verb::Demo { records, given } => {
            let demo = Demo {
                records,
                ..Demo::default()
            };
            match given.given(|name| std::env::var(name).ok())? {
                Some(given) => demo::with_given(&lab.with_given(given)?, &demo)?,
                None => demo::main(&lab, &demo)?,
            }
        }
        Verb::Test { filter } => {
            if !suite::run(&lab, filter.as_deref())? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Verb::Soak {
            only,
            rounds,
            seed,
            brokers,
            labs,
        } => {
            if only.is_none_or(|only| only == Soaked::Alerts) {
                alerts::soak(&lab)?;
            }
            if only == Some(Soaked::Alerts) {
                return Ok(ExitCode::SUCCESS);
            }
            images::compile(&lab)?;
            if labs > 1 {
                for (soaked, kind) in [(Soaked::Backups, "backups"), (Soaked::Restores, "restores")]
                {
                    if only.is_none_or(|only| only == soaked) {
                        let all = soak::beside::Share {
                            kind,
                            rounds,
                            seed,
                            brokers,
                        };
                        soak::beside::play(&lab, labs, all)?;
                    }
                }
                return Ok(ExitCode::SUCCESS);
            }
            components::up(&lab, &["net"], Options::default())?;
            let cluster = kafka::Cluster {
                name: "soak",
                port: 9592,
                extra: restore_soak::FORGETFUL,
            };
            cluster.up(&lab, brokers)?;
            if only != Some(Soaked::Restores) {
                soak::run(&lab, &cluster, seed, rounds)?;
            }
            if only != Some(Soaked::Backups) {
                restore_soak::run(&lab, &cluster, seed, rounds)?;
            }
            cluster.down(&lab)?;
        }
        Verb::Bench(Bench::Data {
            records,
            repeat,
            only,
            json,
        }) => {
            let data = bench::Data {
                records,
                repeat,
                only,
                json,
            };
            bench::data(&lab, &data)?;
        }
        Verb::Bench(Bench::Controller { objects }) => bench::controller(&lab, objects)?,
        Verb::Bench(Bench::Exporter {
            sizes,
            only,
            repeat,
            json,
        }) => {
            let exporter = bench::Exporter {
                sizes,
                only,
                repeat,
                json,
            };
            bench::exporter(&lab, &exporter)?;
        }
        Verb::NodeInit => match kubernetes::init::main(&lab)? {},
        Verb::TokenServer => match tokens::main(&lab)? {},
        Verb::Exec { command } => {
            let mut inside = net::command(&lab, &command[0])?;
            let kubeconfig = kubernetes::kubeconfig(&lab);
            if kubeconfig.exists() {
                inside.env("KUBECONFIG", kubeconfig);
            }
            return Err(become_command(inside.args(&command[1..])));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints `text`; that nobody reads it to its end (`| head`) is fine.
fn show(text: &str) -> Result<(), LabError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.doing(|| "write to standard output".to_owned()),
    }
}

/// Replaces this process by the command; only returns when that fails.
fn become_command(command: &mut Command) -> LabError {
    LabError::Io {
        what: format!("run {:?}", command.get_program()),
        source: command.exec(),
    }
}
