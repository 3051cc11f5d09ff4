//! Controllers as processes beside the lab's API server, and a kubelet that a test plays: pods are never placed, because the scheduler is held;
//! everything else (API server, Job controller, tokens, garbage collection) is real. The controllers are the installed operator's
//! account, with its permissions: the namespace of a test is to them what its own one is to it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each program uses its part, and fails by panicking"
)]

pub mod node;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kafka_backup_controller::Failpoint;
use kafka_backup_tests::lab::kubernetes::{self, Component};
use kafka_backup_tests::lab::{Lab, wait_for};
use kafka_backup_tests::operator;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long anything may take that a test waits for.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Before a controller has told its addresses.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// The label of the namespaces that are made here.
const OURS: &str = "kafka-backup.dev/lab=controllers";
const LOOK: Duration = Duration::from_millis(100);
/// The records that a played worker reports.
pub const RECORDS: u64 = 7;

/// The cluster for controllers of a test: until it is dropped no pod is placed, and the installed operator does not run.
pub struct Stage<'a> {
    lab: &'a Lab,
    operators: u64,
}

impl<'a> Stage<'a> {
    pub fn set(lab: &'a Lab) -> Self {
        let installed = operator::get(lab, operator::NAMESPACE, "deployment", operator::NAME);
        let operators = installed
            .unwrap()
            .map_or(0, |found| found["spec"]["replicas"].as_u64().unwrap());
        let stage = Self { lab, operators };
        if operators > 0 {
            stage.scale(0);
            wait_for("the operator to end", LIMIT, || {
                let pods = operator::list(lab, operator::NAMESPACE, "pods");
                pods.unwrap().is_empty()
            })
            .unwrap();
        }
        kubernetes::hold(lab, Component::Scheduler).unwrap();
        if kubernetes::pid(lab, Component::Scheduler).is_some() {
            kubernetes::restart(lab, Component::Scheduler, Signal::SIGKILL).unwrap();
        }
        wait_for("the scheduler to end", LIMIT, || {
            kubernetes::pid(lab, Component::Scheduler).is_none()
        })
        .unwrap();
        stage
    }

    fn scale(&self, replicas: u64) {
        let (name, replicas) = (operator::NAME, format!("--replicas={replicas}"));
        let args = [
            "--namespace",
            operator::NAMESPACE,
            "scale",
            "deployment",
            name,
            &replicas,
        ];
        operator::kubectl(self.lab, &args).unwrap();
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Before pods are placed again: a test that has failed may have left a thousand of them.
        let args = ["delete", "namespaces", "--selector", OURS, "--timeout=120s"];
        operator::kubectl(self.lab, &args).unwrap();
        kubernetes::release(self.lab, Component::Scheduler).unwrap();
        if self.operators > 0 {
            self.scale(self.operators);
            operator::rolled_out(self.lab, operator::NAMESPACE).unwrap();
        }
    }
}

/// A client as administrator.
pub async fn admin() -> Client {
    // Fails where another test of the program was faster.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::try_default().await.unwrap()
}

/// A kind, as any client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    plural: &'static str,
    /// Where its status lists the runs that have ended.
    pub history: &'static str,
}

pub const BACKUP: Kind = Kind {
    name: "KafkaBackup",
    plural: "kafkabackups",
    history: "backupHistory",
};
pub const OFFSET_RESET: Kind = Kind {
    name: "KafkaOffsetReset",
    plural: "kafkaoffsetresets",
    history: "runHistory",
};
pub const OFFSET_ROLLBACK: Kind = Kind {
    name: "KafkaOffsetRollback",
    plural: "kafkaoffsetrollbacks",
    history: "runHistory",
};

/// The objects of a kind.
fn objects(client: &Client, namespace: &str, kind: Kind) -> Api<DynamicObject> {
    let kind = ApiResource {
        group: "kafka-backup.dev".into(),
        version: "v1alpha1".into(),
        api_version: "kafka-backup.dev/v1alpha1".into(),
        kind: kind.name.into(),
        plural: kind.plural.into(),
    };
    Api::namespaced_with(client.clone(), namespace, &kind)
}

/// The KafkaBackups of a namespace.
pub fn backups(client: &Client, namespace: &str) -> Api<DynamicObject> {
    objects(client, namespace, BACKUP)
}

/// A namespace with the CRDs' cluster around it.
#[derive(Clone)]
pub struct Place {
    pub lab: Lab,
    pub client: Client,
    pub namespace: String,
    /// Of its controllers.
    kubeconfig: PathBuf,
    /// The kind of its object `orders`.
    pub kind: Kind,
}

impl Place {
    /// A new namespace whose name begins with `name`.
    pub async fn new(lab: &Lab, client: &Client, name: &str) -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() % 100_000_000;
        let name = format!("{name}-{since}");
        let (key, value) = OURS.split_once('=').unwrap();
        let namespace = json!({ "metadata": { "name": name, "labels": { key: value } } });
        let namespace: Namespace = serde_json::from_value(namespace).unwrap();
        let namespaces = Api::<Namespace>::all(client.clone());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        let token = employ(client, &name).await;
        let place = Self {
            lab: lab.clone(),
            client: client.clone(),
            kubeconfig: kubernetes::kubeconfig_in(lab, &name, Some(&token)).unwrap(),
            namespace: name,
            kind: BACKUP,
        };
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &place.namespace);
        place
            .until("the namespace's service account", async || {
                accounts.get_opt("default").await.unwrap()
            })
            .await;
        place
    }

    /// The same where `orders` is of another kind.
    pub fn of(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    pub async fn leave(self) {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        let params = DeleteParams::default();
        namespaces.delete(&self.namespace, &params).await.unwrap();
    }

    /// What `look` finds, as soon as it does.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if start.elapsed() > LIMIT {
                let status = self.status().await;
                panic!(
                    "{}: no {what} within {LIMIT:?}; status: {status}",
                    self.namespace
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub fn backups(&self) -> Api<DynamicObject> {
        backups(&self.client, &self.namespace)
    }

    /// The objects of the kind that `orders` is of.
    pub fn objects(&self) -> Api<DynamicObject> {
        objects(&self.client, &self.namespace, self.kind)
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates the KafkaBackup `orders`, which runs once.
    pub async fn create_backup(&self, more: Value) {
        let object = backup("orders", more);
        self.backups()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// Creates `orders` with this spec, and a cluster in it.
    pub async fn create(&self, mut spec: Value) {
        spec["kafkaCluster"] = json!({ "bootstrapServers": ["kafka.invalid:9092"] });
        let object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": self.kind.name, "metadata": { "name": "orders" },
            "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.objects()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    /// Changes its spec or metadata.
    pub async fn edit(&self, patch: Value) {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        self.objects()
            .patch("orders", &params, &patch)
            .await
            .unwrap();
    }

    /// Its status.
    pub async fn status(&self) -> Value {
        let object = self.objects().get_opt("orders").await.unwrap();
        object.map_or(Value::Null, |object| object.data["status"].clone())
    }

    /// Waits until its status is as `is` wants it.
    pub async fn status_that(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(what, async || {
            Some(self.status().await).filter(|status| is(status))
        })
        .await
    }

    /// Waits until the run has a Job that the status names; its name and UID.
    pub async fn job_of_run(&self) -> (String, String) {
        let status = self
            .status_that("Job of the run", |status| {
                status["activeRun"]["jobUid"].is_string()
            })
            .await;
        let text = |key: &str| status["activeRun"][key].as_str().unwrap().to_owned();
        (text("job"), text("jobUid"))
    }

    /// Waits for a pod of the Job.
    pub async fn pod_of(&self, job_uid: &str) -> Pod {
        let of_job = format!("batch.kubernetes.io/controller-uid={job_uid}");
        let of_job = ListParams::default().labels(&of_job);
        let pods = self.pods();
        self.until("pod of the Job", async || {
            let list = pods.list(&of_job).await.unwrap();
            list.items.into_iter().next()
        })
        .await
    }

    /// Waits until the Job of that UID is marked as accounted.
    pub async fn marked(&self, job: &str) -> Job {
        let jobs = self.jobs();
        self.until("mark on the Job", async || {
            let found = jobs.get_opt(job).await.unwrap()?;
            let is_marked = found
                .annotations()
                .contains_key("kafka-backup.dev/accounted-at");
            is_marked.then_some(found)
        })
        .await
    }

    /// Reason and message of every Event about the object, sorted; an Event that was repeated is one.
    pub async fn events(&self) -> Vec<(String, String)> {
        let kind = format!("involvedObject.kind={}", self.kind.name);
        let about = ListParams::default().fields(&kind);
        let events = Api::<Event>::namespaced(self.client.clone(), &self.namespace);
        let events = events.list(&about).await.unwrap().items.into_iter();
        let mut told: Vec<_> = events
            .map(|event| {
                (
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default(),
                )
            })
            .collect();
        told.sort();
        told
    }

    /// What the worker of the run says when it has done its work.
    pub async fn success(&self, id: &str) -> Value {
        let object = self.objects().get("orders").await.unwrap();
        success(&object, id)
    }

    /// A pod for a controller to be, which nobody starts.
    pub async fn controller_pod(&self, name: &str) -> Pod {
        self.pod_with(name, json!({})).await
    }

    /// The same with the label of a leader, as a container leaves it that was killed.
    pub async fn leaders_pod(&self, name: &str) -> Pod {
        self.pod_with(
            name,
            json!({ "kafka-backup.dev/leader-of": self.namespace }),
        )
        .await
    }

    async fn pod_with(&self, name: &str, labels: Value) -> Pod {
        let pod = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": { "containers": [{ "name": "controller", "image": "none" }] },
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap()
    }

    /// Names of the pods that carry the leader's label.
    pub async fn leaders(&self) -> Vec<String> {
        let labelled = ListParams::default().labels("kafka-backup.dev/leader-of");
        let pods = self.pods().list(&labelled).await.unwrap();
        pods.iter().map(|pod| pod.name_any()).collect()
    }
}

/// Grants the operator's account in a namespace what the chart grants it in the operator's own; a token of the account.
async fn employ(client: &Client, namespace: &str) -> String {
    let params = PostParams::default();
    let leader = format!("{}-leader", operator::NAME);
    let own = Api::<Role>::namespaced(client.clone(), operator::NAMESPACE);
    let mut rules = own.get(&leader).await.unwrap().rules.unwrap();
    let names = rules
        .iter_mut()
        .filter_map(|rule| rule.resource_names.as_mut());
    for name in names.flatten() {
        // The Lease of a controller that watches one namespace.
        *name = format!("{name}.{namespace}");
    }
    let role = json!({ "metadata": { "name": leader }, "rules": rules });
    let role: Role = serde_json::from_value(role).unwrap();
    let roles = Api::<Role>::namespaced(client.clone(), namespace);
    roles.create(&params, &role).await.unwrap();
    let binding = json!({
        "metadata": { "name": leader },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": leader },
        "subjects": [{ "kind": "ServiceAccount", "name": operator::NAME, "namespace": operator::NAMESPACE }],
    });
    let binding: RoleBinding = serde_json::from_value(binding).unwrap();
    let bindings = Api::<RoleBinding>::namespaced(client.clone(), namespace);
    bindings.create(&params, &binding).await.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), operator::NAMESPACE);
    let granted = accounts
        .create_token_request(operator::NAME, &params, &TokenRequest::default())
        .await
        .unwrap();
    granted.status.unwrap().token
}

/// A KafkaBackup with `more` in its spec.
pub fn backup(name: &str, more: Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup", "metadata": { "name": name },
        "spec": {
            "kafkaCluster": { "bootstrapServers": ["kafka.invalid:9092"] },
            "topics": ["orders*"],
            "storage": { "storageType": "s3", "s3": { "bucket": "backups" } },
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// The report of a run that has done its work.
pub fn success(object: &DynamicObject, id: &str) -> Value {
    let now = jiff::Timestamp::now().to_string();
    let kind = object.types.as_ref().map(|types| &types.kind);
    json!({
        "run": {
            "kind": kind, "namespace": object.namespace(), "name": object.name_any(),
            "uid": object.uid(), "run": id,
        },
        "outcome": "success", "startTime": now, "completionTime": now, "records": RECORDS, "bytes": 700,
    })
}

/// What a kubelet would tell of a pod.
pub async fn play(pods: &Api<Pod>, pod: &Pod, phase: &str, state: Value) {
    let status = json!({ "status": {
        "phase": phase,
        "containerStatuses": [{
            "name": "worker", "image": "w", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }],
    }});
    let (params, patch) = (PatchParams::default(), Patch::Strategic(status));
    let name = pod.name_any();
    pods.patch_status(&name, &params, &patch).await.unwrap();
}

/// The state of a container that ended with exit code 0 and this termination message.
pub fn ended(message: &str) -> Value {
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    json!({ "terminated": {
        "exitCode": 0, "reason": "Completed", "message": message, "startedAt": now, "finishedAt": now,
    }})
}

/// The state of a container that ended with an exit code that is not 0.
pub fn failed(exit_code: i32) -> Value {
    let mut state = ended("");
    state["terminated"]["exitCode"] = exit_code.into();
    state["terminated"]["reason"] = "Error".into();
    state
}

/// The state of a container that runs.
pub fn running() -> Value {
    json!({ "running": { "startedAt": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string() } })
}

/// A controller that watches the place's namespace.
pub struct Controller {
    pub metrics: SocketAddr,
    pub health: SocketAddr,
    child: Child,
}

impl Controller {
    /// The one that is shipped, with `pod` as its own.
    pub async fn shipped(place: &Place, name: &str, pod: &Pod) -> Self {
        Self::shipped_with(place, name, pod, &[]).await
    }

    /// The same with more arguments of `run`.
    pub async fn shipped_with(place: &Place, name: &str, pod: &Pod, more: &[&str]) -> Self {
        let command = program(place, "kafka-backup-controller");
        Self::start(place, name, pod, command, more).await
    }

    /// The one that obeys tests: it dies at `dies`, and waits for a lost node as long as `lost_after`, instead of five minutes.
    pub async fn mortal(
        place: &Place,
        pod: &Pod,
        dies: Option<Failpoint>,
        lost_after: &str,
    ) -> Self {
        let mut command = program(place, "kafka-backup-controller-mortal");
        command.env("KAFKA_BACKUP_CONTROLLER_LOST_AFTER", lost_after);
        if let Some(failpoint) = dies {
            command.env("KAFKA_BACKUP_CONTROLLER_DIES", failpoint.to_string());
        }
        Self::start(place, "controller", pod, command, &[]).await
    }

    async fn start(
        place: &Place,
        name: &str,
        pod: &Pod,
        mut command: Command,
        more: &[&str],
    ) -> Self {
        let folder = place.lab.run.join("controllers");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{}-{name}.log", place.namespace));
        let mut options = File::options();
        let log = options.create(true).append(true).open(&path).unwrap();
        let before = usize::try_from(log.metadata().unwrap().len()).unwrap();
        command
            .arg("run")
            .args(["--worker-image=none", "--hold=1s"])
            .args(more)
            // A port that was free a moment ago may be another one's when it is taken.
            .args(["--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0"])
            .arg(format!("--watch-namespace={}", place.namespace))
            .env("KUBECONFIG", &place.kubeconfig)
            .env("POD_NAME", pod.name_any())
            .env("POD_UID", pod.uid().unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut controller = Self {
            metrics: NOWHERE,
            health: NOWHERE,
            child: command.spawn().unwrap(),
        };
        let began = Instant::now();
        while controller.metrics == NOWHERE {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let lines = std::fs::read_to_string(&path).unwrap();
            let lines = &lines[before..];
            let address = |name: &str| {
                let (_, rest) = lines.split_once(&format!(" {name}="))?;
                rest.split_once(char::is_whitespace)?.0.parse().ok()
            };
            if let (Some(metrics), Some(health)) = (address("metrics_addr"), address("health_addr"))
            {
                (controller.metrics, controller.health) = (metrics, health);
            }
            let fails = controller
                .ended()
                .is_some_and(|status| status.code().is_some());
            assert!(!fails && began.elapsed() < LIMIT, "{lines}");
        }
        controller
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// The pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Whether it has ended at its failpoint.
    pub fn has_died(&mut self) -> bool {
        let ended = self.ended();
        if let Some(status) = ended {
            let signal = status
                .signal()
                .and_then(|signal| Signal::try_from(signal).ok());
            assert_eq!(signal, Some(Signal::SIGABRT), "{status}");
        }
        ended.is_some()
    }

    /// Status and body of a GET.
    pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
        request(address, &format!("GET {path}"), &[], "").await
    }

    /// The page of metrics, in the format that `accept` asks for.
    pub async fn page(&self, accept: &str) -> String {
        let accept = format!("Accept: {accept}");
        let answer = request(self.metrics, "GET /metrics", &[&accept], "").await;
        let (status, page) = answer.unwrap();
        assert_eq!(status, 200, "{page}");
        page
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // One that has died already is only reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn program(place: &Place, name: &str) -> Command {
    Command::new(place.lab.target().join("release").join(name))
}

/// A token as the worker's pod has it.
pub async fn token_of(place: &Place, pod: &Pod) -> String {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec!["kafka-backup-push".into()],
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            expiration_seconds: Some(600),
        },
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(place.client.clone(), &place.namespace);
    let params = PostParams::default();
    let granted = accounts
        .create_token_request("default", &params, &request)
        .await
        .unwrap();
    granted.status.unwrap().token
}

/// Pushes what the worker of the run `id` of `orders` has done so far; the answer's status and text, `None` if nobody answers.
pub async fn push(
    address: SocketAddr,
    namespace: &str,
    id: &str,
    token: &str,
) -> Option<(u16, String)> {
    let body = format!("kafka_backup_backup_records_total {RECORDS}\n");
    push_of(address, namespace, ("orders", id), token, &body).await
}

/// Pushes `body` as the worker of a run, given as its object and its id.
pub async fn push_of(
    address: SocketAddr,
    namespace: &str,
    (object, id): (&str, &str),
    token: &str,
    body: &str,
) -> Option<(u16, String)> {
    let line = format!(
        "PUT /metrics/job/kafka-backup/kind/KafkaBackup/namespace/{namespace}/name/{object}/run/{id}"
    );
    let authorization = format!("Authorization: Bearer {token}");
    request(address, &line, &[&authorization], body).await
}

/// Sends a request; the answer's status and body, `None` if nobody answers.
pub async fn request(
    address: SocketAddr,
    line: &str,
    headers: &[&str],
    body: impl AsRef<[u8]>,
) -> Option<(u16, String)> {
    let body = body.as_ref();
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let mut head = format!(
            "{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for header in headers {
            head += &format!("{header}\r\n");
        }
        let bytes = [head.as_bytes(), b"\r\n", body].concat();
        stream.write_all(&bytes).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.get(9..12)?.parse().ok()?, body.to_owned()))
    };
    let answered = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    answered.ok().flatten()
}
