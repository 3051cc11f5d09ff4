//! The controller is killed right before and right after every write of a run's life; its successor brings about the same objects, totals
//! and Events as one that nobody kills. The writes are those of the controller's own list. Needs the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster_support;

use std::sync::atomic::{AtomicU32, Ordering};

use cluster_support::node::SilentNode;
use cluster_support::{
    BACKUP, Controller, Kind, OFFSET_RESET, OFFSET_ROLLBACK, Place, RECORDS, Stage, admin, ended,
    play, push, request, running, token_of,
};
use futures::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kafka_backup_controller::{Failpoint, RunWrite, Side};
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::snapshot::{CONFIG_MAP_KEY, Snapshot, SnapshotHeader};
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::pod::snapshot_path;
use kafka_backup_tests::lab::Lab;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Lives that are led at a time, on two cores.
const AT_A_TIME: usize = 8;
/// Instead of five minutes.
const LOST_AFTER: &str = "3s";
/// The snapshot that a run keeps or deletes.
const SNAPSHOT: &str = "before";

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// Its worker makes progress and succeeds.
    Succeeds,
    /// The report of its worker is lost; the repetition tells.
    LosesReport,
    /// No pod of its run ever starts.
    NeverStarts,
    /// After a run it is edited, and somebody leaves a Job that no status knows.
    MeetsStray,
    /// The node of its first pod dies with it.
    LosesNode,
    /// Its worker has a snapshot kept before it resets offsets; a stray comes after.
    KeepsSnapshot,
    /// Its worker has a snapshot deleted; a stray comes after.
    DeletesSnapshot,
}

impl Life {
    const ALL: [Self; 7] = [
        Self::Succeeds,
        Self::LosesReport,
        Self::NeverStarts,
        Self::MeetsStray,
        Self::LosesNode,
        Self::KeepsSnapshot,
        Self::DeletesSnapshot,
    ];

    /// The kind of the object whose life it is.
    fn kind(self) -> Kind {
        match self {
            Self::Succeeds
            | Self::LosesReport
            | Self::NeverStarts
            | Self::MeetsStray
            | Self::LosesNode => BACKUP,
            Self::KeepsSnapshot => OFFSET_RESET,
            Self::DeletesSnapshot => OFFSET_ROLLBACK,
        }
    }

    /// The one in which `write` is made.
    fn with(write: RunWrite) -> Self {
        match write {
            RunWrite::Decide
            | RunWrite::CreateJob
            | RunWrite::TellStarted
            | RunWrite::RecordJob
            | RunWrite::Progress
            | RunWrite::TellEnded
            | RunWrite::Account
            | RunWrite::MarkJob
            | RunWrite::Release => Self::Succeeds,
            RunWrite::KeepSnapshot => Self::KeepsSnapshot,
            RunWrite::DeleteSnapshot => Self::DeletesSnapshot,
            RunWrite::RepeatJob | RunWrite::Tell => Self::LosesReport,
            RunWrite::DeleteJob => Self::NeverStarts,
            RunWrite::TellStray | RunWrite::DeleteStray | RunWrite::Show => Self::MeetsStray,
            RunWrite::TellLost | RunWrite::DeletePod | RunWrite::MarkPod => Self::LosesNode,
        }
    }
}

/// What is left of a life, without times and names that differ from life to life.
#[derive(Debug, PartialEq)]
struct Left {
    status: Value,
    jobs: Vec<Value>,
    events: Vec<(String, String)>,
    /// Names of ConfigMaps with snapshots.
    snapshots: Vec<String>,
}

/// A life under a controller that may die.
struct Led<'a> {
    place: Place,
    node: &'a SilentNode<'a>,
    pod: Pod,
    controller: tokio::sync::Mutex<Controller>,
    deaths: AtomicU32,
}

impl<'a> Led<'a> {
    async fn begin(
        lab: &Lab,
        client: &kube::Client,
        node: &'a SilentNode<'a>,
        number: usize,
        (life, dies): (Life, Option<Failpoint>),
    ) -> Self {
        let place = Place::new(lab, client, &format!("t-kills-{number}")).await;
        let place = place.of(life.kind());
        let pod = place.controller_pod("controller").await;
        let controller = Controller::mortal(&place, &pod, dies, LOST_AFTER).await;
        Self {
            place,
            node,
            pod,
            controller: controller.into(),
            deaths: 0.into(),
        }
    }

    /// What `life` leaves behind, with a successor for a controller that dies.
    async fn lead(&self, life: Life, deaths: u32) -> Left {
        let whole = async {
            let left = self.live(life).await;
            if self.deaths.load(Ordering::Relaxed) == deaths {
                return left;
            }
            // The last write of a life was seen before the death that follows it: what counts is what the successor makes of it.
            let died = async || (self.deaths.load(Ordering::Relaxed) == deaths).then_some(());
            self.place.until("death of the controller", died).await;
            drop(self.controller.lock().await);
            self.left(life).await
        };
        tokio::select! {
            left = whole => left,
            () = self.succeed() => unreachable!("it goes on for ever"),
        }
    }

    async fn succeed(&self) {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let mut controller = self.controller.lock().await;
            if controller.has_died() {
                self.deaths.fetch_add(1, Ordering::Relaxed);
                *controller = Controller::mortal(&self.place, &self.pod, None, LOST_AFTER).await;
            }
        }
    }

    async fn live(&self, life: Life) -> Left {
        let place = &self.place;
        match life {
            Life::Succeeds => {
                place.create_backup(json!({})).await;
                self.work(Some(RECORDS)).await;
            }
            Life::LosesReport => {
                place.create_backup(json!({})).await;
                let (first, _) = self.work(None).await;
                place
                    .status_that("repetition", |status| {
                        status["activeRun"]["job"] == format!("{first}-r")
                            && status["activeRun"]["jobUid"].is_string()
                    })
                    .await;
                self.work(Some(RECORDS)).await;
            }
            Life::NeverStarts => {
                place
                    .create_backup(json!({ "job": { "startDeadlineSeconds": 1 } }))
                    .await;
            }
            Life::MeetsStray => {
                place.create_backup(json!({})).await;
                let (job, _) = self.work(Some(RECORDS)).await;
                let job = place.marked(&job).await;
                place.edit(json!({ "spec": { "suspend": true } })).await;
                place
                    .status_that("Suspended", |status| {
                        condition(status, "Suspended") == "True"
                    })
                    .await;
                self.meet_stray(&job).await;
            }
            Life::LosesNode => {
                self.node.death().await;
                // Gone from a dead node after two seconds, where six minutes are usual.
                let tolerations = ["not-ready", "unreachable"].map(|key| {
                    json!({
                        "key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
                        "tolerationSeconds": 1,
                    })
                });
                let template =
                    json!({ "terminationGracePeriodSeconds": 1, "tolerations": tolerations });
                place
                    .create_backup(json!({ "podTemplate": template }))
                    .await;
                self.lose_node().await;
                self.work(Some(RECORDS)).await;
            }
            Life::KeepsSnapshot => {
                let spec = json!({ "consumerGroups": ["shop"], "strategy": "earliest", "snapshotId": SNAPSHOT });
                place.create(spec).await;
                self.meet_stray(&self.ask_for_snapshot("PUT").await).await;
            }
            Life::DeletesSnapshot => {
                self.make_snapshot().await;
                place
                    .create(json!({ "operation": "delete", "snapshotId": SNAPSHOT }))
                    .await;
                self.meet_stray(&self.ask_for_snapshot("DELETE").await)
                    .await;
            }
        }
        self.left(life).await
    }

    /// Has the pod of the active run on the silent node, until it is given up and the Job has another one.
    async fn lose_node(&self) {
        let place = &self.place;
        let (_, uid) = place.job_of_run().await;
        let pod = place.pod_of(&uid).await;
        let pods = place.pods();
        play(&pods, &pod, "Running", running()).await;
        let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
        let (params, patch) = (PatchParams::default(), Patch::Strategic(ready));
        pods.patch_status(&pod.name_any(), &params, &patch)
            .await
            .unwrap();
        // That pod is ready when the node controller finds it there, which says of it that it is not.
        self.node.take(&pods, &pod).await;
        // The taint's eviction deletes it, and no kubelet confirms that.
        place
            .until("end of the lost pod", async || {
                let found = pods.get_opt(&pod.name_any()).await.unwrap();
                found.is_none().then_some(())
            })
            .await;
        let next = place.pod_of(&uid).await;
        assert_ne!(next.name_any(), pod.name_any());
    }

    /// Plays kubelet and worker of the active run; a report says how many records, or there is none. The Job's name and UID.
    async fn work(&self, records: Option<u64>) -> (String, String) {
        let place = &self.place;
        let (job, uid) = place.job_of_run().await;
        let pod = place.pod_of(&uid).await;
        let id = pod.annotations()["kafka-backup.dev/run"].clone();
        play(&place.pods(), &pod, "Running", running()).await;
        let token = token_of(place, &pod).await;
        place
            .until("push that is taken", async || {
                let address = self.controller.lock().await.metrics;
                let (status, text) = push(address, &place.namespace, &id, &token).await?;
                assert!(matches!(status, 200 | 202 | 503), "{status} {text}");
                (status == 200).then_some(())
            })
            .await;
        let seen = place.status().await;
        assert_eq!(seen["activeRun"]["records"], RECORDS, "{seen}");
        let message = match records {
            Some(_) => place.success(&id).await.to_string(),
            None => String::new(),
        };
        play(&place.pods(), &pod, "Succeeded", ended(&message)).await;
        if records.is_none() {
            // The Job controller holds it until it has counted it; then nobody can read what it said.
            let now = DeleteParams::default().grace_period(0);
            place.pods().delete(&pod.name_any(), &now).await.unwrap();
        }
        (job, uid)
    }

    /// Plays kubelet and worker of the active run, which has its snapshot kept or deleted until that is answered. Its Job, when the
    /// run is counted.
    async fn ask_for_snapshot(&self, method: &str) -> Job {
        let place = &self.place;
        let (job, uid) = place.job_of_run().await;
        let pod = place.pod_of(&uid).await;
        let id = pod.annotations()["kafka-backup.dev/run"].clone();
        play(&place.pods(), &pod, "Running", running()).await;
        let token = token_of(place, &pod).await;
        let object = place.objects().get("orders").await.unwrap();
        let bytes = snapshot_of(RunRef {
            kind: place.kind.name.into(),
            namespace: place.namespace.clone(),
            name: "orders".into(),
            uid: object.uid().unwrap(),
            run: id.clone(),
        });
        let body = if method == "PUT" { &*bytes } else { b"" };
        let line = format!("{method} {}", snapshot_path(&uid));
        let authorization = format!("Authorization: Bearer {token}");
        let headers = [&*authorization, "Content-Type: application/octet-stream"];
        place
            .until("snapshot that is kept or gone", async || {
                let address = self.controller.lock().await.metrics;
                let (status, text) = request(address, &line, &headers, body).await?;
                // Who asks again, because no answer came, finds what was done.
                let done = if method == "PUT" {
                    [201, 200]
                } else {
                    [200, 404]
                };
                assert!(done.contains(&status) || status == 503, "{status} {text}");
                let is_first = text == String::from_utf8_lossy(&bytes);
                assert!(method != "PUT" || status != 200 || is_first, "{text}");
                done.contains(&status).then_some(())
            })
            .await;
        let message = place.success(&id).await.to_string();
        play(&place.pods(), &pod, "Succeeded", ended(&message)).await;
        place.marked(&job).await
    }

    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.place.client.clone(), &self.place.namespace)
    }

    /// A snapshot as an earlier run has left it.
    async fn make_snapshot(&self) {
        let config_map = json!({
            "metadata": { "name": SNAPSHOT, "labels": {
                "app.kubernetes.io/managed-by": "kafka-backup-operator", "kafka-backup.dev/snapshot": SNAPSHOT,
            }},
            "immutable": true,
        });
        let mut config_map: ConfigMap = serde_json::from_value(config_map).unwrap();
        let bytes = ByteString(snapshot_of(RunRef::example()));
        config_map.binary_data = Some([(CONFIG_MAP_KEY.to_owned(), bytes)].into());
        let params = PostParams::default();
        self.config_maps()
            .create(&params, &config_map)
            .await
            .unwrap();
    }

    /// A Job that an old leader might have left: ours by owner and labels, of a run that was never decided.
    async fn meet_stray(&self, job: &Job) {
        let metadata = &job.metadata;
        let stray = json!({
            "metadata": {
                "name": "stray", "ownerReferences": metadata.owner_references,
                "labels": {
                    "kafka-backup.dev/kind": job.labels()["kafka-backup.dev/kind"],
                    "kafka-backup.dev/uid": job.labels()["kafka-backup.dev/uid"],
                },
                "annotations": { "kafka-backup.dev/run": "orders-20200101-000000" },
            },
            "spec": { "template": { "spec": {
                "restartPolicy": "Never", "containers": [{ "name": "worker", "image": "none" }],
            }}},
        });
        let stray: Job = serde_json::from_value(stray).unwrap();
        let jobs = self.place.jobs();
        jobs.create(&PostParams::default(), &stray).await.unwrap();
        self.place
            .until("end of the stray", async || {
                let found = jobs.get_opt("stray").await.unwrap();
                found.is_none().then_some(())
            })
            .await;
    }

    /// Waits until nothing is left to do, and tells what is there.
    async fn left(&self, life: Life) -> Left {
        let place = &self.place;
        let status = place
            .status_that("counted run", |status| {
                let totals = &status["totals"];
                let runs = |outcome: &str| totals[outcome]["runs"].as_u64().unwrap_or(0);
                runs("success") + runs("failure") >= 1 && totals["held"].is_null()
            })
            .await;
        let run = &status[place.kind.history][0];
        let job = run["job"].as_str().unwrap();
        let first = job.trim_end_matches("-r");
        match life {
            Life::NeverStarts => {
                place
                    .until("end of the Job", async || {
                        let found = place.jobs().get_opt(job).await.unwrap();
                        found.is_none().then_some(())
                    })
                    .await;
            }
            Life::Succeeds
            | Life::LosesReport
            | Life::MeetsStray
            | Life::LosesNode
            | Life::KeepsSnapshot
            | Life::DeletesSnapshot => {
                // Of a run that was repeated, both Jobs.
                place.marked(first).await;
                place.marked(job).await;
            }
        }
        let id = run["backupId"].as_str().unwrap();
        let nameless = |text: &str| {
            let text = text.replace(first, "JOB").replace(id, "RUN");
            text.split(' ').map(word_left).collect::<Vec<_>>().join(" ")
        };
        let jobs = place.jobs().list(&ListParams::default()).await.unwrap();
        let mut jobs: Vec<Value> = jobs.iter().map(|job| job_left(job, nameless)).collect();
        jobs.sort_by_key(Value::to_string);
        let events = place.events().await.into_iter();
        let events = events.map(|(reason, message)| (reason, nameless(&message)));
        let snapshots = ListParams::default().labels("kafka-backup.dev/snapshot");
        let snapshots = self.config_maps().list(&snapshots).await.unwrap();
        Left {
            snapshots: snapshots.iter().map(ResourceExt::name_any).collect(),
            status: status_left(&status, place.kind, nameless),
            jobs,
            events: events.collect(),
        }
    }
}

/// A snapshot without groups.
fn snapshot_of(run: RunRef) -> Vec<u8> {
    let header = SnapshotHeader {
        format_version: FORMAT_VERSION,
        snapshot_id: SNAPSHOT.into(),
        run,
        time: jiff::Timestamp::UNIX_EPOCH,
        cluster_id: "c".into(),
        groups: vec!["*".into()],
        topics: None,
        topic_ids: std::collections::BTreeMap::new(),
        group_count: 0,
        offset_count: 0,
    };
    let groups = Vec::new();
    Snapshot { header, groups }.to_bytes()
}

/// A word of a message, without the name of the pod that it may be.
fn word_left(word: &str) -> &str {
    let is_pod = word
        .strip_prefix("JOB-")
        .is_some_and(|random| random.len() == 5);
    if is_pod { "POD" } else { word }
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a str {
    let conditions = status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == name);
    found
        .and_then(|found| found["status"].as_str())
        .unwrap_or_default()
}

fn status_left(status: &Value, kind: Kind, nameless: impl Fn(&str) -> String) -> Value {
    let history = status[kind.history].as_array().unwrap();
    let run = |run: &Value| {
        json!([
            run["outcome"],
            run["reason"],
            run["records"],
            run["size"],
            run["attempts"],
            nameless(run["message"].as_str().unwrap_or_default()),
        ])
    };
    let totals = &status["totals"];
    let conditions = status["conditions"].as_array().unwrap().iter();
    let conditions = conditions.map(|c| json!([c["type"], c["status"], c["reason"]]));
    json!({
        "phase": status["phase"], "active": status["activeRun"],
        "runs": [totals["success"]["runs"], totals["failure"]["runs"]],
        "records": [totals["records"], totals["uncommitted"], status["lastBackupRecords"]],
        "history": history.iter().map(run).collect::<Vec<_>>(),
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

fn job_left(job: &Job, nameless: impl Fn(&str) -> String) -> Value {
    let ttl = job.spec.as_ref().unwrap().ttl_seconds_after_finished;
    json!({
        "name": nameless(&job.name_any()),
        "accounted": job.annotations().contains_key("kafka-backup.dev/accounted-at"),
        "expires": ttl.is_some(),
    })
}

#[tokio::test]
async fn killed_at_any_write_it_leaves_what_it_would_have_left() {
    let lab = Lab::open().unwrap();
    let client = admin().await;
    let stage = Stage::set(&lab);
    let node = SilentNode::join(&lab, &client, "t-kills").await;
    let unharmed = Life::ALL.map(|life| (life, None));
    let killed = Failpoint::all().map(|point| (Life::with(point.write), Some(point)));
    let lives = unharmed.into_iter().chain(killed).enumerate();
    let lives: Vec<_> = stream::iter(lives)
        .map(async |(number, (life, dies))| {
            let led = Led::begin(&lab, &client, &node, number, (life, dies)).await;
            let meant = u32::from(dies.is_some());
            let left = led.lead(life, meant).await;
            assert_eq!(led.deaths.into_inner(), meant, "{life:?} {dies:?}");
            led.place.leave().await;
            (life, dies, left)
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    drop(node);
    drop(stage);

    let failpoints = RunWrite::ALL.len() * Side::ALL.len();
    assert_eq!(lives.len(), Life::ALL.len() + failpoints);
    for life in Life::ALL {
        let of = |harmed: bool| {
            let lives = lives.iter();
            lives.filter(move |(other, dies, _)| *other == life && dies.is_some() == harmed)
        };
        let (_, _, expected) = of(false).next().unwrap();
        let counted = expected.status["runs"].as_array().unwrap().iter();
        assert_eq!(
            counted.filter_map(Value::as_u64).sum::<u64>(),
            1,
            "{expected:?}"
        );
        if life == Life::LosesNode {
            let told = |reason: &str| expected.events.iter().any(|(found, _)| found == reason);
            assert!(told("NodeLost") && told("BackupCompleted"), "{expected:?}");
            assert_eq!(expected.status["runs"], json!([1, 0]), "{expected:?}");
        }
        let snapshots = if life == Life::KeepsSnapshot {
            vec![SNAPSHOT.to_owned()]
        } else {
            vec![]
        };
        assert_eq!(expected.snapshots, snapshots, "{life:?}");
        for (_, dies, left) in of(true) {
            assert_eq!(left, expected, "{life:?}, killed {}", dies.unwrap());
        }
    }
}
