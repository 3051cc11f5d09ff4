//! What a user may add to a worker's pod. Part of [`crate::spec`].
//!
//! # Guarantees
//! - Nothing that can be written here takes away what the worker's container needs: its plan, Secrets, token and folders, its
//!   labels and environment.
//! - No folder of the node is mounted: the volumes that are known here are those that Pod Security *restricted* takes.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Affinity, CSIVolumeSource, ConfigMapVolumeSource, EmptyDirVolumeSource, EnvVar, HostAlias,
    LocalObjectReference, PersistentVolumeClaimVolumeSource, PodDNSConfig, PodSecurityContext,
    ProjectedVolumeSource, SecretVolumeSource, Toleration, TopologySpreadConstraint, VolumeMount,
};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::plan::SpecError;
use crate::pod;

/// Additions to the pod of each run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Annotations of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('kafka-backup.dev/'))").message("annotations under kafka-backup.dev/ are the controller's own"))]
    #[schemars(extend("maxProperties" = 100))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('kafka-backup.dev/') && !k.startsWith('batch.kubernetes.io/') && !(k in ['controller-uid', 'job-name', 'app.kubernetes.io/name', 'app.kubernetes.io/component', 'app.kubernetes.io/managed-by']))").message("labels under kafka-backup.dev/ and batch.kubernetes.io/, controller-uid, job-name and app.kubernetes.io/name, component and managed-by are set already"))]
    #[schemars(extend("maxProperties" = 100))]
    pub labels: BTreeMap<String, String>,
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pod tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Where the pod is to be scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// ServiceAccount of the pod: whose cloud identity it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Secrets with which the worker's image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Priority of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Security settings of the pod; each field takes the place of the default (user, group and fsGroup 10001, non-root,
    /// seccomp RuntimeDefault).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Environment variables of the worker's container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(v, !v.name.startsWith('KAFKA_BACKUP_'))").message("environment variables that begin with KAFKA_BACKUP_ are the controller's own"))]
    #[schemars(length(max = 100))]
    pub env: Vec<EnvVar>,
    /// Volumes of the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new("self.all(v, !(v.name in ['plan', 'push-token', 'tmp', 'storage']) && !v.name.startsWith('secret-'))").message("volumes plan, push-token, tmp, storage and secret-* are the controller's own"))]
    #[schemars(length(max = 32))]
    pub volumes: Vec<PodVolume>,
    /// Where the worker's container mounts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Lines of the pod's hosts file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_aliases: Vec<HostAlias>,
    /// How pods are spread over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Seconds that a worker has to store what it holds when its pod is told to end; 60 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub termination_grace_period_seconds: Option<i64>,
    /// The container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Name resolution of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_config: Option<PodDNSConfig>,
}

/// A volume of the pod, of exactly one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.configMap), has(self.secret), has(self.projected), has(self.emptyDir), has(self.persistentVolumeClaim), has(self.csi)].exists_one(x, x)").message("a volume has exactly one of configMap, secret, projected, emptyDir, persistentVolumeClaim and csi; hostPath is refused")
)]
pub struct PodVolume {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Files from a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolumeSource>,
    /// Files from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolumeSource>,
    /// Files from several of these, and ServiceAccount tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<ProjectedVolumeSource>,
    /// An empty folder that lasts as long as the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
    /// A claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    /// What a CSI driver makes for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CSIVolumeSource>,
}

impl PodVolume {
    fn sources(&self) -> usize {
        [
            self.config_map.is_some(),
            self.secret.is_some(),
            self.projected.is_some(),
            self.empty_dir.is_some(),
            self.persistent_volume_claim.is_some(),
            self.csi.is_some(),
        ]
        .into_iter()
        .filter(|is_there| *is_there)
        .count()
    }
}

/// Prefix of the labels and annotations that the controller finds its Jobs and pods by.
const OWN_KEYS: &str = "kafka-backup.dev/";
const OWN_LABELS: [&str; 5] = [
    "controller-uid",
    "job-name",
    "app.kubernetes.io/name",
    "app.kubernetes.io/component",
    "app.kubernetes.io/managed-by",
];
const OWN_ENV: &str = "KAFKA_BACKUP_";
/// Folders that the worker's container has or needs.
const OWN_FOLDERS: [&str; 12] = [
    "/etc/kafka-backup",
    "/var/lib/kafka-backup",
    pod::PUSH_TOKEN_DIR,
    "/tmp",
    "/dev",
    "/proc",
    "/sys",
    "/bin",
    "/lib",
    "/usr/bin",
    "/usr/lib",
    "/usr/local/bin",
];

impl PodTemplate {
    /// Seconds between SIGTERM and SIGKILL.
    pub fn termination_grace_period_seconds(&self) -> i64 {
        self.termination_grace_period_seconds.unwrap_or(60)
    }

    /// Checks that the worker's container stays whole.
    ///
    /// # Errors
    /// The field at `spec.podTemplate` that cannot be obeyed.
    pub fn check(&self) -> Result<(), SpecError> {
        let refuse = |field: String, expected: &str, found: &str| {
            Err(SpecError::new(
                format!("spec.podTemplate.{field}"),
                expected,
                format!("{found:?}"),
            ))
        };
        if let Some(key) = self
            .annotations
            .keys()
            .find(|key| key.starts_with(OWN_KEYS))
        {
            return refuse(
                "annotations".into(),
                "no annotation of the controller's own",
                key,
            );
        }
        if let Some(key) = self.labels.keys().find(|key| is_own_label(key)) {
            return refuse("labels".into(), "no label that is set already", key);
        }
        if let Some(variable) = self.env.iter().find(|env| env.name.starts_with(OWN_ENV)) {
            let expected = "no variable of the controller's own";
            return refuse("env".into(), expected, &variable.name);
        }
        let mut names = BTreeSet::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let name = &volume.name;
            if is_own_volume(name) || !names.insert(name.as_str()) {
                let expected = "a name that no other volume of the pod has";
                return refuse(format!("volumes[{index}].name"), expected, name);
            }
            if volume.sources() != 1 {
                let expected = "exactly one of configMap, secret, projected, emptyDir, persistentVolumeClaim and csi";
                let found = format!("{} of them in {name}", volume.sources());
                return refuse(format!("volumes[{index}]"), expected, &found);
            }
        }
        let mut paths = BTreeSet::new();
        for (index, mount) in self.volume_mounts.iter().enumerate() {
            if !names.contains(mount.name.as_str()) {
                let expected = "the name of a volume of spec.podTemplate.volumes";
                return refuse(format!("volumeMounts[{index}].name"), expected, &mount.name);
            }
            let path = mount.mount_path.trim_end_matches('/');
            if !is_free_folder(path) || !paths.insert(path) {
                let expected =
                    "an absolute path, once, beside what the worker's container has there itself";
                return refuse(
                    format!("volumeMounts[{index}].mountPath"),
                    expected,
                    &mount.mount_path,
                );
            }
        }
        Ok(())
    }
}

fn is_own_label(key: &str) -> bool {
    key.starts_with(OWN_KEYS)
        || key.starts_with("batch.kubernetes.io/")
        || OWN_LABELS.contains(&key)
}

fn is_own_volume(name: &str) -> bool {
    matches!(name, "plan" | "push-token" | "tmp" | "storage") || name.starts_with("secret-")
}

/// Whether a volume at `path` (without a slash at its end) hides nothing of the worker's.
fn is_free_folder(path: &str) -> bool {
    let is_plain = path.starts_with('/')
        && !path.contains(':')
        && path[1..]
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
    let is_in = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_plain
        && !OWN_FOLDERS
            .iter()
            .any(|own| is_in(path, own) || is_in(own, path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn template(value: Value) -> PodTemplate {
        serde_json::from_value(value).unwrap()
    }

    fn mounted_at(path: &str) -> PodTemplate {
        template(json!({
            "volumes": [{"name": "extra", "emptyDir": {}}],
            "volumeMounts": [{"name": "extra", "mountPath": path}]
        }))
    }

    #[test]
    fn what_would_break_the_worker_is_refused_by_field() {
        let two = json!({"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}});
        let cases = [
            (
                json!({"annotations": {"kafka-backup.dev/plan": "{}"}}),
                "annotations",
            ),
            (json!({"labels": {"kafka-backup.dev/uid": "x"}}), "labels"),
            (
                json!({"labels": {"batch.kubernetes.io/controller-uid": "x"}}),
                "labels",
            ),
            (json!({"labels": {"app.kubernetes.io/name": "x"}}), "labels"),
            (
                json!({"env": [{"name": "KAFKA_BACKUP_JOB_UID", "value": "x"}]}),
                "env",
            ),
            (
                json!({"volumes": [{"name": "plan", "emptyDir": {}}]}),
                "volumes[0].name",
            ),
            (
                json!({"volumes": [{"name": "secret-0", "emptyDir": {}}]}),
                "volumes[0].name",
            ),
            (
                json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]}),
                "volumes[1].name",
            ),
            (json!({"volumes": [{"name": "a"}]}), "volumes[0]"),
            // Pruned by an API server, and by serde: a volume without a source is left.
            (
                json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}),
                "volumes[0]",
            ),
            (json!({"volumes": [two]}), "volumes[0]"),
            (
                json!({"volumeMounts": [{"name": "plan", "mountPath": "/x"}]}),
                "volumeMounts[0].name",
            ),
        ];
        for (value, field) in cases {
            let error = template(value.clone())
                .check()
                .expect_err(&value.to_string());
            assert_eq!(error.field, format!("spec.podTemplate.{field}"));
        }
    }

    #[test]
    fn mounts_lie_beside_what_the_worker_has() {
        for path in [
            "/certs",
            "/etc/ssl/certs/",
            "/usr/share/zoneinfo",
            "/var/lib/kafka",
            "/tmpfs",
        ] {
            assert_eq!(mounted_at(path).check(), Ok(()), "{path}");
        }
        for path in [
            "",
            "/",
            "certs",
            "/etc",
            "/etc/kafka-backup",
            "/etc/kafka-backup/plan",
            "/etc/kafka-backup/secrets/keys",
            "/var",
            "/var/run/secrets",
            "/var/run/secrets/kafka-backup",
            "/var/lib/kafka-backup/volume",
            "/tmp",
            "/tmp/",
            "/dev/termination-log",
            "/usr",
            "/a/../etc",
            "/a//b",
            "/a:b",
        ] {
            let error = mounted_at(path).check().expect_err(path);
            assert_eq!(error.field, "spec.podTemplate.volumeMounts[0].mountPath");
        }
    }
}
