//! What the controller puts into a worker's pod and the worker expects there: paths, names, environment, push URLs.
//!
//! The container runs `kafka-backup-worker run --plan <PLAN_FILE> --push-url <controller>`. A Secret is not resolved by
//! anybody: the kubelet mounts it at `<SECRETS_DIR>/<secret name>/<key>`, and at a terminal a folder of that shape stands in.

/// Name of the worker's container; the pod failure rules name it.
pub const CONTAINER: &str = "worker";
/// Annotation of the pod template that holds the plan, mounted as [`PLAN_FILE`] by a downward API volume.
pub const PLAN_ANNOTATION: &str = "kafka-backup.dev/plan";
/// Folder of the plan's volume.
pub const PLAN_DIR: &str = "/etc/kafka-backup/plan";
/// The plan.
pub const PLAN_FILE: &str = "/etc/kafka-backup/plan/plan.json";
/// Secrets, one folder each.
pub const SECRETS_DIR: &str = "/etc/kafka-backup/secrets";
/// The ConfigMap of a snapshot that a run reads, mounted as a folder of its keys.
pub const SNAPSHOT_DIR: &str = "/etc/kafka-backup/snapshot";
/// The ConfigMap with the offsets of strategy `fromMapping`, mounted as a folder of its keys.
pub const MAPPING_DIR: &str = "/etc/kafka-backup/mapping";
/// Where the claim of a `pvc` storage is mounted.
pub const VOLUME_DIR: &str = "/var/lib/kafka-backup/volume";
/// Where the kubelet reads the short form of the report.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Folder of the projected ServiceAccount token.
pub const PUSH_TOKEN_DIR: &str = "/var/run/secrets/kafka-backup";
/// The projected ServiceAccount token that identifies the pod at the push endpoint; read anew at each push, since it rotates.
pub const PUSH_TOKEN_FILE: &str = "/var/run/secrets/kafka-backup/token";
/// Audience of that token.
pub const PUSH_AUDIENCE: &str = "kafka-backup-push";
/// Environment variable with the certificates, as PEM, by which a worker knows the push endpoint; without it, the image's roots of
/// trust.
pub const PUSH_CA_ENV: &str = "KAFKA_BACKUP_PUSH_CA";
/// What a worker calls itself when it pushes, before its version.
pub const WORKER_AGENT: &str = "kafka-backup-worker/";
/// Environment variable with the UID of the pod's Job.
pub const JOB_UID_ENV: &str = "KAFKA_BACKUP_JOB_UID";

/// Path of a push of metrics, as Pushgateway's clients build it: cumulative values of one run.
pub fn push_path(run: &crate::plan::RunRef) -> String {
    format!(
        "/metrics/job/kafka-backup/kind/{}/namespace/{}/name/{}/run/{}",
        run.kind, run.namespace, run.name, run.run
    )
}

/// Path of a push of the full report.
pub fn report_path(job_uid: &str) -> String {
    format!("/runs/{job_uid}/report")
}

/// Path at which a worker has a snapshot of committed offsets kept in a ConfigMap (`PUT`), or one deleted (`DELETE`).
///
/// The controller takes the ConfigMap's name from the object, and makes it once. 201: it is there now. 200: the same run has had
/// it made before; the body is that snapshot. 404 to a `DELETE`: there is none. 409: there is a ConfigMap of that name which is
/// something else.
pub fn snapshot_path(job_uid: &str) -> String {
    format!("/runs/{job_uid}/snapshot")
}
