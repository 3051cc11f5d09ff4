//! `doctor`: what would keep a run from succeeding, found before there is one.
//!
//! # Guarantees
//! - Everything is reached as a run reaches it: by the object's own settings, Secrets and stores.
//! - Nothing is changed but the store's probe, an object of some bytes that every run leaves there too.
//! - What one check finds does not keep the others from being made.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafka_backup_shared::plan::{BackupPlan, OffsetsPlan, Plan, RestorePlan};
use kafka_backup_shared::report::{Fault, error_chain};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::backup;
use crate::context::{Context, DEFAULT_LEASE, DEFAULT_MEMORY_BUDGET};
use crate::human;
use crate::kafka::{Client, ClientConfig};
use crate::offsets::{self, CarryOver};
use crate::restore;
use crate::store::{Places, Store, StoreError};

/// What our client is called in brokers' logs.
const CLIENT_ID: &str = "kafka-backup-doctor";

/// What was found about one thing.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// `cluster`, `broker`, `topics`, `groups`, `store`, `archive`, `backup` or `target`.
    pub about: &'static str,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
    /// In words.
    pub message: String,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum State {
    /// As a run needs it.
    Good,
    /// A run succeeds, and may do other than is thought.
    Doubtful,
    /// A run fails.
    Bad {
        /// As its report would call it.
        fault: Fault,
    },
}

/// Looks at all that a run of `plan` needs; `mapping` is the file in place of a reset's ConfigMap.
pub async fn examine(plan: &Plan, places: &Places, mapping: Option<&Path>) -> Vec<Finding> {
    let mut found = Findings::default();
    let client = found.cluster(plan, places).await;
    let usable = found.stores(plan, places).await;
    match (plan, client) {
        (_, None) => {}
        (Plan::Backup(plan), Some(client)) => {
            if let Some(store) = usable.first() {
                found.archive(plan, store, &client).await;
            }
            found.source(plan, &client).await;
        }
        (Plan::Restore(plan), Some(client)) => {
            if let Some(store) = usable.first() {
                found.target(plan, store, &client).await;
                found.carried(plan, store, places).await;
            }
        }
        (Plan::Offsets(plan), Some(_)) => found.offsets(plan, places, mapping).await,
    }
    found.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, about: &'static str, state: State, message: String) {
        self.0.push(Finding {
            about,
            state,
            message,
        });
    }

    fn good(&mut self, about: &'static str, message: String) {
        self.add(about, State::Good, message);
    }

    fn doubt(&mut self, about: &'static str, messages: impl IntoIterator<Item = String>) {
        for message in messages {
            self.add(about, State::Doubtful, message);
        }
    }

    fn bad(&mut self, about: &'static str, fault: Fault, error: &dyn std::error::Error) {
        self.add(about, State::Bad { fault }, error_chain(error));
    }

    /// Whether each broker can be reached where it says that it is: leaders are, and only some are named in the object.
    async fn cluster(&mut self, plan: &Plan, places: &Places) -> Option<Client> {
        let config = ClientConfig::new(plan.cluster(), &places.secrets_dir, CLIENT_ID);
        let client = match Client::connect(config).await {
            Ok(client) => client,
            Err(error) => {
                self.bad("cluster", error.fault(), &error);
                return None;
            }
        };
        let brokers = client.brokers();
        let number = human::counted(brokers.len() as u64, "broker", "brokers");
        self.good(
            "cluster",
            format!("{} answers: {number}", client.cluster_id()),
        );
        for broker in brokers {
            if let Err(error) = client.connection(broker.id).await {
                let at = &broker.address;
                let message = format!(
                    "broker {} says that it is at {at} (advertised.listeners), and cannot be reached there: {}",
                    broker.id,
                    error_chain(&error)
                );
                let fault = error.fault();
                self.add("broker", State::Bad { fault }, message);
            }
        }
        Some(client)
    }

    /// The stores that can be used as the run would.
    async fn stores(&mut self, plan: &Plan, places: &Places) -> Vec<Store> {
        let only_read = matches!(plan, Plan::Restore(plan) if plan.dry_run);
        let able = match only_read {
            true => "read",
            false => "read and written",
        };
        let mut usable = Vec::new();
        for storage in plan.storages() {
            let checked = async {
                let store = Store::open(storage, places)?;
                match only_read {
                    true => store.check_readable().await?,
                    false => store.check().await?,
                }
                Ok::<_, StoreError>(store)
            };
            match checked.await {
                Ok(store) => {
                    self.good("store", format!("{} can be {able}", store.place()));
                    usable.push(store);
                }
                Err(error) => self.bad("store", error.fault(), &error),
            }
        }
        usable
    }

    /// Whether the archive is that of this cluster, if there is one.
    async fn archive(&mut self, plan: &BackupPlan, store: &Store, client: &Client) {
        match backup::belongs(plan, store, client.cluster_id()).await {
            Ok(true) => self.good(
                "archive",
                format!("{} holds backups of this cluster", plan.archive),
            ),
            Ok(false) => self.good(
                "archive",
                format!(
                    "{} is empty: the first backup copies everything",
                    plan.archive
                ),
            ),
            Err(error) => self.bad("archive", error.fault(), &error),
        }
    }

    async fn source(&mut self, plan: &BackupPlan, client: &Client) {
        let survey = match backup::survey(plan, client).await {
            Ok(survey) => survey,
            Err(error) => return self.bad("topics", error.fault(), &error),
        };
        let topics = human::counted(survey.topics, "topic", "topics");
        let partitions = human::counted(survey.partitions, "partition", "partitions");
        self.good("topics", format!("{topics} with {partitions} can be read"));
        for (topic, failure) in survey.refused {
            let state = State::Bad {
                fault: failure.fault,
            };
            self.add("topics", state, format!("{topic}: {}", failure.message));
        }
        if let Some(groups) = survey.groups {
            let groups = human::counted(groups, "consumer group", "consumer groups");
            self.good("groups", format!("{groups} with offsets on the topics"));
        }
        self.doubt("topics", survey.warnings);
    }

    async fn target(&mut self, plan: &RestorePlan, store: &Store, client: &Client) {
        let survey = match restore::survey(plan, store, client).await {
            Ok(survey) => survey,
            Err(error) => return self.bad("target", error.fault(), &error),
        };
        let topics = human::counted(survey.topics, "topic", "topics");
        self.good(
            "backup",
            format!("{} has {topics} to restore", survey.backup_id),
        );
        let created = human::counted(survey.created, "is", "are");
        self.good(
            "target",
            format!("of these {created} created by the restore, the others are fit"),
        );
        for (topic, message) in survey.failed {
            let fault = Fault::Corrupt;
            self.add(
                "backup",
                State::Bad { fault },
                format!("{topic}: {message}"),
            );
        }
        self.doubt("target", survey.warnings);
    }

    /// Which groups of the backup would go on, and whether they can.
    async fn carried(&mut self, plan: &RestorePlan, store: &Store, places: &Places) {
        let Some(groups) = &plan.groups else {
            return;
        };
        // A dry run looks at all and takes no snapshot.
        let plan = RestorePlan {
            dry_run: true,
            ..plan.clone()
        };
        match CarryOver::prepare(&plan, groups, store, &places.secrets_dir).await {
            Ok(carried) => {
                let groups = human::counted(carried.count(), "consumer group", "consumer groups");
                self.good("groups", format!("{groups} of the backup can go on"));
            }
            Err(error) => self.bad("groups", error.fault(), &error),
        }
    }

    /// A dry run does all that a run does, but for the changes.
    async fn offsets(&mut self, plan: &OffsetsPlan, places: &Places, mapping: Option<&Path>) {
        let plan = OffsetsPlan {
            dry_run: true,
            ..plan.clone()
        };
        let ports = offsets::Ports {
            places: places.clone(),
            snapshot_dir: PathBuf::new(),
            mapping_file: mapping.map(Path::to_owned),
            push: None,
        };
        let context = Context {
            progress: Arc::default(),
            cancel: CancellationToken::new(),
            memory_budget: DEFAULT_MEMORY_BUDGET,
            lease: DEFAULT_LEASE,
            secrets_dir: places.secrets_dir.clone(),
        };
        match offsets::run(&plan, &ports, &context).await {
            Ok(done) => {
                let groups = done.offsets.map_or(0, |report| report.groups_done);
                let groups = human::counted(groups, "consumer group", "consumer groups");
                self.good("groups", format!("a dry run has ended well: {groups}"));
                self.doubt("groups", done.warnings);
            }
            Err(unfinished) => self.bad("groups", unfinished.error.fault(), &unfinished.error),
        }
    }
}

/// The worst of what was found; `None` where a run can succeed.
pub fn fault(found: &[Finding]) -> Option<Fault> {
    let faults = found.iter().filter_map(|finding| match finding.state {
        State::Bad { fault } => Some(fault),
        State::Good | State::Doubtful => None,
    });
    faults.max()
}

/// For people.
pub fn show(found: &[Finding]) -> String {
    let mut text = String::new();
    for finding in found {
        let state = match finding.state {
            State::Good => "ok",
            State::Doubtful => "look",
            State::Bad { .. } => "FAILS",
        };
        // A line each: messages of brokers may have several.
        let message = finding.message.replace('\n', " ");
        writeln!(text, "{state:<6}{:<9}{message}", finding.about)
            .expect("a String takes all that is written");
    }
    text
}
