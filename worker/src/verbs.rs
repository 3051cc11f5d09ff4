//! From the command line to an exit code.

use std::io::Write;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use indicatif::MultiProgress;
use jiff::Timestamp;
use kafka_backup_shared::archive::retention::Policy;
use kafka_backup_shared::object::Object;
use kafka_backup_shared::plan::{self, Plan, Retention};
use kafka_backup_shared::report::{Fault, Outcome};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::args::{
    At, Cli, Command, ConvertArgs, DescribeArgs, DoctorArgs, EngineArgs, InspectArgs, ListArgs,
    OffsetsCommand, OutputFormat, PruneArgs, ResetArgs, RunArgs, SnapshotsArgs, StorageArgs,
    VerifyArgs,
};
use crate::context::Progress;
use crate::input::{self, Found, InputError};
use crate::inspect::{self, State, show};
use crate::kafka::ClientConfig;
use crate::log::{self, Format};
use crate::outcome::{self, Failure};
use crate::retention::{self, Scope};
use crate::run::{self, Settings};
use crate::store::{self, Places, Store};
use crate::verify::{self, Which, against};
use crate::{convert, doctor, flags, offsets, progress, summary};

/// The source of messages about flags.
const COMMAND_LINE: &str = "the command line";

/// Somebody waits for the answer of `list` and `describe`.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Does what `cli` says; the answer is the exit code.
pub async fn execute(cli: Cli) -> u8 {
    let at = match &cli.command {
        Command::Run(RunArgs { plan: Some(_), .. }) => At::Pod,
        Command::Run(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::List(_)
        | Command::Describe(_)
        | Command::Verify(_)
        | Command::Prune(_)
        | Command::Offsets(_)
        | Command::Doctor(_)
        | Command::Convert(_)
        | Command::Completions(_) => At::Terminal,
    };
    let format = log::format(&cli.log, at);
    let level = log::level(&cli.log, at);
    let bars = match log::install(level, format) {
        Ok(bars) => bars,
        Err(error) => {
            eprintln!("error: --log-level {level}: {error}");
            return Fault::Spec.exit_code();
        }
    };
    let speaker = Speaker {
        output: cli.log.output,
        format,
        at,
        bars,
    };
    let done = match cli.command {
        Command::Run(args) => {
            let plan = match &args.plan {
                Some(path) => input::read_plan(path),
                None => plan_of_file(&args),
            };
            let places = args.secrets.places(args.volume_dir.as_ref(), at);
            let mut settings = settings(&args.engine, places, &speaker);
            settings.mapping_file = args.mapping_file;
            make(plan, settings, &speaker).await
        }
        Command::Backup(args) => {
            let plan = plan_of_flags(&flags::backup(&args), &args.engine);
            let places = args.secrets.places(args.storage.folder.as_ref(), at);
            make(plan, settings(&args.engine, places, &speaker), &speaker).await
        }
        Command::Restore(args) => {
            let plan = plan_of_flags(&flags::restore(&args), &args.engine);
            let places = args.secrets.places(args.storage.folder.as_ref(), at);
            let mut settings = settings(&args.engine, places, &speaker);
            if let Some(seconds) = args.lease_secs {
                settings.lease = Duration::from_secs(seconds);
            }
            make(plan, settings, &speaker).await
        }
        Command::List(args) => list(&args, &speaker).await,
        Command::Describe(args) => describe(&args, &speaker).await,
        Command::Verify(args) => match &args.restore {
            Some(restore) => compare(&args, restore, &speaker).await,
            None => verify(&args, &speaker).await,
        },
        Command::Prune(args) => prune(&args, &speaker).await,
        Command::Offsets(command) => change_offsets(&command, &speaker).await,
        Command::Doctor(args) => examine(&args, &speaker).await,
        Command::Convert(args) => take_over(&args, &speaker),
        Command::Completions(args) => {
            let mut script = Vec::new();
            let (mut cli, name) = (Cli::command(), "kafka-backup-worker");
            clap_complete::generate(args.shell, &mut cli, name, &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(0)
        }
    };
    match done {
        Ok(code) => code,
        Err(failure) => speaker.fail(&failure),
    }
}

/// How results are told.
struct Speaker {
    output: OutputFormat,
    format: Format,
    at: At,
    bars: MultiProgress,
}

impl Speaker {
    fn print_json<T: Serialize>(&self, value: &T) {
        let mut text = serde_json::to_string_pretty(value).expect("results have only string keys");
        text.push('\n');
        print(&text);
    }

    /// Tells why nothing was done.
    fn fail(&self, failure: &Failure) -> u8 {
        if self.output == OutputFormat::Json {
            // As in the report of a run that has failed.
            self.print_json(&Outcome::Failure {
                fault: failure.fault,
                message: failure.message.clone(),
            });
        }
        match self.format {
            Format::Text => eprintln!("error: {}", failure.message),
            Format::Json => tracing::error!(reason = failure.fault.reason(), "{}", failure.message),
        }
        failure.fault.exit_code()
    }
}

/// Writes to standard output. A reader that has gone (`| head`) has what it wanted, and is no reason to fail.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "failed to write to standard output");
    }
}

fn plan_of_file(args: &RunArgs) -> Result<Plan, InputError> {
    // clap asks for one of the two.
    let path = args.file.as_deref().unwrap_or(Path::new("-"));
    let found = input::read_file(path, args.name.as_deref())?;
    input::plan(&found, &run_id(&found.object, &args.engine))
}

fn plan_of_flags(object: &serde_json::Value, engine: &EngineArgs) -> Result<Plan, InputError> {
    plan_of_objects(object, None, engine)
}

/// The plan of an object that flags describe, and of what it refers to.
fn plan_of_objects(
    object: &serde_json::Value,
    beside: Option<&serde_json::Value>,
    engine: &EngineArgs,
) -> Result<Plan, InputError> {
    let found = Found::new(object, beside, COMMAND_LINE)?;
    input::plan(&found, &run_id(&found.object, engine))
}

fn run_id(object: &Object, engine: &EngineArgs) -> String {
    engine
        .run
        .clone()
        .unwrap_or_else(|| plan::run_id(&object.name(), Timestamp::now()))
}

fn settings(engine: &EngineArgs, places: Places, speaker: &Speaker) -> Settings {
    Settings::new(
        engine,
        places,
        speaker.at,
        speaker.format,
        speaker.bars.clone(),
    )
}

async fn make(
    plan: Result<Plan, InputError>,
    settings: Settings,
    speaker: &Speaker,
) -> Result<u8, Failure> {
    let plan =
        match plan.and_then(|plan| input::check_places(&plan, &settings.places).map(|()| plan)) {
            Ok(plan) => plan,
            Err(error) => {
                // Without a plan there is no run to report on; the kubelet still shows the reason.
                let failure = Failure::new(error.fault(), &error);
                outcome::leave_text(settings.termination_log.as_deref(), &failure.message);
                return Err(failure);
            }
        };
    let report = run::run(&plan, settings).await;
    if speaker.output == OutputFormat::Json {
        speaker.print_json(&report);
    }
    // In a pod the log has said it.
    if speaker.format == Format::Text {
        match report.fault() {
            None if speaker.output == OutputFormat::Json => {}
            None => print(&summary::of(&plan, &report)),
            Some(_) => eprint!("{}", summary::of(&plan, &report)),
        }
    }
    Ok(report.exit_code())
}

/// `doctor`.
async fn examine(args: &DoctorArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let places = args.secrets.places(args.volume_dir.as_ref(), At::Terminal);
    let plan = plan_to_look_at(&args.file, args.name.as_deref(), &places)?;
    let found = doctor::examine(&plan, &places, args.mapping_file.as_deref()).await;
    match speaker.output {
        OutputFormat::Text => print(&doctor::show(&found)),
        OutputFormat::Json => speaker.print_json(&found),
    }
    Ok(doctor::fault(&found).map_or(0, Fault::exit_code))
}

/// `convert`.
fn take_over(args: &ConvertArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let text = input::read_text(&args.file).map_err(|error| Failure::new(error.fault(), &error))?;
    let (converted, others) =
        convert::convert(&text).map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&convert::show(&converted)),
        OutputFormat::Json => speaker.print_json(&converted),
    }
    let notes: usize = converted.iter().map(|one| one.notes.len()).sum();
    if notes > 0 && speaker.output == OutputFormat::Text {
        eprintln!(
            "{notes} notes stand as comments above the objects: read them before you apply these"
        );
    }
    if others > 0 {
        eprintln!("{others} objects of other kinds were left out");
    }
    Ok(0)
}

/// `offsets`.
async fn change_offsets(command: &OffsetsCommand, speaker: &Speaker) -> Result<u8, Failure> {
    let (plan, engine, places, mapping_file) = match command {
        OffsetsCommand::List(args) => return snapshots(args, speaker).await,
        OffsetsCommand::Reset(args) => {
            let places = args
                .secrets
                .places(args.storage.folder.as_ref(), speaker.at);
            (
                plan_of_reset(args),
                &args.engine,
                places,
                args.mapping_file.clone(),
            )
        }
        OffsetsCommand::Snapshot(_)
        | OffsetsCommand::Diff(_)
        | OffsetsCommand::Rollback(_)
        | OffsetsCommand::Verify(_)
        | OffsetsCommand::Delete(_) => {
            let (Some(args), Some(object)) = (command.snapshot(), flags::offset_rollback(command))
            else {
                unreachable!("each of them is about a snapshot");
            };
            let places = args
                .secrets
                .places(args.storage.folder.as_ref(), speaker.at);
            (
                plan_of_flags(&object, &args.engine),
                &args.engine,
                places,
                None,
            )
        }
    };
    let mut settings = settings(engine, places, speaker);
    settings.mapping_file = mapping_file;
    make(plan, settings, speaker).await
}

fn plan_of_reset(args: &ResetArgs) -> Result<Plan, InputError> {
    let restore = flags::restore_of(args);
    plan_of_objects(&flags::offset_reset(args), restore.as_ref(), &args.engine)
}

/// `offsets list`.
async fn snapshots(args: &SnapshotsArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let places = args
        .secrets
        .places(args.storage.folder.as_ref(), At::Terminal);
    let store = store_of(&args.storage, &places)?;
    let found = offsets::list(&store, args.namespace.as_deref()).await;
    let found = found.map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&offsets::show(&found, store.place())),
        OutputFormat::Json => speaker.print_json(&found),
    }
    let damaged = found.iter().any(|listed| listed.damage.is_some());
    Ok(if damaged {
        Fault::Corrupt.exit_code()
    } else {
        0
    })
}

fn store_of(args: &StorageArgs, places: &Places) -> Result<Store, Failure> {
    let found = Found::new(&flags::store(args), None, COMMAND_LINE);
    let plan = found.and_then(|found| input::plan(&found, "none"));
    let plan = plan.and_then(|plan| input::check_places(&plan, places).map(|()| plan));
    let plan = plan.map_err(|error| Failure::new(error.fault(), &error))?;
    let [storage] = plan.storages()[..] else {
        unreachable!("a backup has one store");
    };
    let store =
        Store::open(storage, places).map_err(|error| Failure::new(error.fault(), &error))?;
    Ok(store.with_patience(LOOK_PATIENCE))
}

async fn list(args: &ListArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let store = open(&args.source)?;
    let entries = inspect::list(&store, args.archive.as_ref())
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&show::list(&entries, store.place())),
        OutputFormat::Json => speaker.print_json(&entries),
    }
    let damaged = entries.iter().any(|entry| entry.state == State::Unreadable);
    Ok(if damaged {
        Fault::Corrupt.exit_code()
    } else {
        0
    })
}

async fn describe(args: &DescribeArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let store = open(&args.source)?;
    let described = inspect::describe(&store, &args.run, args.archive.as_ref())
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&show::description(&described)),
        OutputFormat::Json => speaker.print_json(&described),
    }
    Ok(0)
}

async fn verify(args: &VerifyArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let store = open(&args.source)?;
    let which = match &*args.run {
        "latest" => Which::Latest,
        "all" => Which::All,
        run => Which::Run(run.to_owned()),
    };
    let archive = match &which {
        Which::Run(run) => inspect::archive_of(&store, run, args.archive.as_ref()).await,
        Which::Latest | Which::All => inspect::only_archive(&store, args.archive.as_ref()).await,
    };
    let archive = archive.map_err(|error| Failure::new(error.fault(), &error))?;
    let progress = Arc::new(Progress::default());
    let reading = verify::verify(&store, &archive, &which, &progress);
    let found = showing(&progress, speaker, reading)
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&verify::show::verification(&found, &which)),
        OutputFormat::Json => speaker.print_json(&found),
    }
    Ok(if found.problems.is_empty() {
        0
    } else {
        Fault::Corrupt.exit_code()
    })
}

/// How the cluster of `verify --against` is reached.
fn target(args: &VerifyArgs) -> Result<ClientConfig, InputError> {
    let found = Found::new(&flags::against(args), None, COMMAND_LINE)?;
    let plan = input::plan(&found, "none")?;
    let places = args.source.secrets.places(None, At::Terminal);
    input::check_secrets(&plan, &places)?;
    let secrets_dir = &places.secrets_dir;
    Ok(ClientConfig::new(
        plan.cluster(),
        secrets_dir,
        against::CLIENT_ID,
    ))
}

/// `verify --against`.
async fn compare(args: &VerifyArgs, restore: &str, speaker: &Speaker) -> Result<u8, Failure> {
    let store = open(&args.source)?;
    let config = target(args).map_err(|error| Failure::new(error.fault(), &error))?;
    let progress = Arc::new(Progress::default());
    let archive = args.archive.as_ref();
    let reading = against::against(&store, archive, restore, config, &progress);
    let found = showing(&progress, speaker, reading)
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&against::show::comparisons(&found)),
        OutputFormat::Json => speaker.print_json(&found),
    }
    Ok(if found.problems.is_empty() {
        0
    } else {
        Fault::Corrupt.exit_code()
    })
}

/// Shows the progress of `work` until it is done.
async fn showing<T>(
    progress: &Arc<Progress>,
    speaker: &Speaker,
    work: impl Future<Output = T>,
) -> T {
    let stop = CancellationToken::new();
    let bars = speaker.bars.clone();
    let showing = progress::show(progress.clone(), speaker.format, bars, stop.clone());
    let working = async {
        let done = work.await;
        stop.cancel();
        done
    };
    tokio::join!(showing, working).1
}

async fn prune(args: &PruneArgs, speaker: &Speaker) -> Result<u8, Failure> {
    let store = open(&args.source)?.with_patience(store::PATIENCE);
    let archive = inspect::only_archive(&store, args.archive.as_ref())
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    if !args.dry_run {
        store
            .check()
            .await
            .map_err(|error| Failure::new(error.fault(), &error))?;
    }
    let retention = Retention {
        policy: Policy {
            backups: args.backups.map(NonZeroU32::get),
            max_age_hours: args.max_age,
        },
        dry_run: args.dry_run,
    };
    let done = retention::run(&store, &archive, &retention, Scope::All, Timestamp::now())
        .await
        .map_err(|error| Failure::new(error.fault(), &error))?;
    match speaker.output {
        OutputFormat::Text => print(&summary::of_prune(&archive, &done)),
        OutputFormat::Json => speaker.print_json(&done),
    }
    Ok(if done.warnings.is_empty() {
        0
    } else {
        Fault::Corrupt.exit_code()
    })
}

/// The plan of a file's object, for what is looked at and not run.
fn plan_to_look_at(path: &Path, name: Option<&str>, places: &Places) -> Result<Plan, Failure> {
    input::read_file(path, name)
        .and_then(|found| input::plan(&found, "none"))
        .and_then(|plan| input::check_places(&plan, places).map(|()| plan))
        .map_err(|error| Failure::new(error.fault(), &error))
}

fn open(args: &InspectArgs) -> Result<Store, Failure> {
    let volume = args.storage.folder.as_ref().or(args.volume_dir.as_ref());
    let places = args.secrets.places(volume, At::Terminal);
    let Some(path) = &args.file else {
        return store_of(&args.storage, &places);
    };
    // Through a whole object, so that storage is checked as everywhere else.
    let plan = plan_to_look_at(path, args.name.as_deref(), &places)?;
    let Some(storage) = plan.storages().first().copied().cloned() else {
        return Err(Failure {
            fault: Fault::Spec,
            message: format!(
                "{}: expected an object with a store, found none",
                path.display()
            ),
            offsets: None,
        });
    };
    let store =
        Store::open(&storage, &places).map_err(|error| Failure::new(error.fault(), &error))?;
    Ok(store.with_patience(LOOK_PATIENCE))
}
