//! The Job of a run, as a pure function of the object, the run and the controller's settings.
//!
//! # Guarantees
//! - The Job holds everything that the run needs: the plan travels in the pod template's annotation and is mounted as a file, so
//!   that it is created with the Job in one request and frozen by the API server.
//! - A name is a DNS label of at most 50 characters (52 with the suffix of a repetition; the Job controller appends six more to
//!   pods), and differs for every object and every reason to run, however long the object's name is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kafka_backup_shared::plan::{Plan, Referenced, SpecError};
use kafka_backup_shared::pod;
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::status::{ActiveRun, RunReason};
use kube::ResourceExt;

use crate::digest::sha256_hex;
use crate::kind::Kind;
use crate::worker_pod;

/// Label with the kind of the owner; every Job and pod of ours has it, and watches select by it.
pub(crate) const KIND_LABEL: &str = "kafka-backup.dev/kind";
/// Label with the UID of the owner.
pub(crate) const UID_LABEL: &str = "kafka-backup.dev/uid";
/// Label, where it fits, and annotation with the name of the owner.
pub(crate) const NAME: &str = "kafka-backup.dev/name";
/// Label, where it fits, and annotation with the run id.
pub(crate) const RUN: &str = "kafka-backup.dev/run";
/// Annotation with the tick of a scheduled run.
pub(crate) const SCHEDULED_AT: &str = "kafka-backup.dev/scheduled-at";
/// Annotation with the time at which the run was counted; a Job that has it may be removed.
pub(crate) const ACCOUNTED_AT: &str = "kafka-backup.dev/accounted-at";
/// Suffix of the one repetition of a Job whose report was lost.
pub(crate) const REPETITION: &str = "-r";

/// What every Job has in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerSettings {
    /// Image of the worker.
    pub(crate) image: String,
    /// Where workers push progress and reports.
    pub(crate) push_url: String,
    /// The certificates, as PEM, by which they know who answers there; the machine's roots of trust where it is left out.
    pub(crate) push_ca: Option<String>,
}

const NAME_PART: usize = 24;
const LABEL_MAX: usize = 63;

/// The name of the Job for a reason to run: `<name>-<YYYYMMDD-HHMMSS>-<hash of uid and key>`.
pub(crate) fn name(object: &str, uid: &str, key: &str, at: Timestamp) -> String {
    let label: String = object
        .chars()
        .map(|c| if c == '.' { '-' } else { c })
        .take(NAME_PART)
        .collect();
    let hash = sha256_hex(format!("{uid}/{key}").as_bytes());
    format!(
        "{}-{}-{}",
        label.trim_end_matches('-'),
        at.strftime("%Y%m%d-%H%M%S"),
        &hash[..8]
    )
}

/// The Job of `run`, with the plan that the object asks for now.
///
/// # Errors
/// The field that cannot be obeyed.
pub(crate) fn build<K: Kind>(
    object: &K,
    run: &ActiveRun,
    referenced: &Referenced,
    settings: &WorkerSettings,
) -> Result<Job, SpecError> {
    let plan = object.plan(&run.id, referenced)?;
    let plan_json = plan.to_json()?;
    let labels = labels(object, run);
    let annotations = annotations(object, run);
    let additions = object.pod_template();
    let mut pod_annotations = additions.annotations.clone();
    pod_annotations.extend(annotations.clone());
    pod_annotations.insert(pod::PLAN_ANNOTATION.into(), plan_json);
    let mut pod_labels = additions.labels.clone();
    pod_labels.extend(labels.clone());
    pod_labels.extend(identity_labels(&plan));
    let job = object.job_settings();
    let backoff_limit = job.backoff_limit.unwrap_or(K::KIND.backoff_limit());
    Ok(Job {
        metadata: ObjectMeta {
            name: Some(run.job.clone()),
            namespace: object.namespace(),
            labels: Some(labels.clone()),
            annotations: Some(annotations),
            // An object from a file has no UID, and a Job without an owner can be created by hand.
            owner_references: object.uid().map(|uid| vec![owner(object, uid)]),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(backoff_limit),
            active_deadline_seconds: job.active_deadline_seconds,
            pod_failure_policy: Some(failure_policy()),
            // A pod that is still shutting down works on the archive or the target; its successor waits for its end.
            pod_replacement_policy: Some("Failed".into()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    annotations: Some(pod_annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(worker_pod::spec(
                    &plan,
                    additions,
                    object.resources(),
                    settings,
                )),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn owner<K: Kind>(object: &K, uid: String) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.name_any(),
        uid,
        controller: Some(true),
        // Blocking the deletion of an owner needs the permission to change its finalizers; the pods go anyway.
        block_owner_deletion: None,
    }
}

fn labels<K: Kind>(object: &K, run: &ActiveRun) -> BTreeMap<String, String> {
    let mut labels = strings(&[
        ("app.kubernetes.io/name", "kafka-backup-worker"),
        ("app.kubernetes.io/component", "worker"),
        ("app.kubernetes.io/managed-by", "kafka-backup-operator"),
        (KIND_LABEL, K::KIND.as_str()),
    ]);
    labels.insert(UID_LABEL.into(), object.uid().unwrap_or_default());
    for (label, value) in [(NAME, object.name_any()), (RUN, run.id.clone())] {
        // Object names of up to 253 characters are no label values; the annotations have them in full.
        if value.len() <= LABEL_MAX {
            labels.insert(label.into(), value);
        }
    }
    labels
}

/// What Microsoft's workload identity webhook looks for, to give a pod the variables and the token that the worker reads.
fn identity_labels(plan: &Plan) -> Option<(String, String)> {
    let storages = plan.storages().into_iter();
    let mut azure = storages.filter_map(|storage| storage.azure.as_ref());
    azure
        .any(|azure| azure.use_workload_identity)
        .then(|| ("azure.workload.identity/use".into(), "true".into()))
}

fn annotations<K: Kind>(object: &K, run: &ActiveRun) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([
        (NAME.into(), object.name_any()),
        (RUN.into(), run.id.clone()),
    ]);
    match run.reason {
        RunReason::Schedule | RunReason::CatchUp => {
            annotations.insert(SCHEDULED_AT.into(), run.key.clone());
        }
        RunReason::OneShot | RunReason::SpecChanged | RunReason::Trigger | RunReason::Retry => {}
    }
    annotations
}

/// Disruptions do not count, final faults end the Job at once, everything else counts against `backoffLimit`.
fn failure_policy() -> PodFailurePolicy {
    let final_codes = Fault::ALL
        .into_iter()
        .filter(|fault| !fault.is_retried())
        .map(|fault| i32::from(fault.exit_code()));
    let mut values: Vec<i32> = final_codes.collect();
    values.sort_unstable();
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".into(),
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".into(),
                    status: "True".into(),
                }]),
                on_exit_codes: None,
            },
            PodFailurePolicyRule {
                action: "FailJob".into(),
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: Some(pod::CONTAINER.into()),
                    operator: "In".into(),
                    values,
                }),
                on_pod_conditions: None,
            },
        ],
    }
}

/// A map of strings from literals.
pub(crate) fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
    use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset};
    use kafka_backup_shared::spec::{OffsetStrategy, RestoreRef};
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::{self, at};
    use crate::worker_pod::quantities;

    fn settings() -> WorkerSettings {
        WorkerSettings {
            image: "worker:1".into(),
            push_url: "http://controller:8080".into(),
            push_ca: None,
        }
    }

    fn built(object: &KafkaBackup) -> Job {
        build(
            object,
            &fixtures::active_run(object),
            &Referenced::default(),
            &settings(),
        )
        .unwrap()
    }

    fn pod_of(job: &Job) -> &PodSpec {
        job.spec.as_ref().unwrap().template.spec.as_ref().unwrap()
    }

    proptest! {
        #[test]
        fn a_job_name_is_a_dns_label_of_at_most_50_characters(object in "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", key in ".*") {
            let name = name(&object, "uid", &key, at("2026-01-02T03:04:05Z"));
            prop_assert!(name.len() <= 50, "{name}");
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
            prop_assert!(!name.starts_with('-') && !name.ends_with('-'), "{name}");
        }
    }

    #[test]
    fn long_names_that_begin_alike_get_different_jobs() {
        let tick = at("2026-01-02T03:04:05Z");
        let long = "x".repeat(250);
        let names: BTreeSet<String> = [
            name(&format!("{long}-a"), "uid-a", "k", tick),
            name(&format!("{long}-b"), "uid-b", "k", tick),
            name(&format!("{long}-a"), "uid-a", "another key", tick),
        ]
        .into();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_name_tells_object_and_time() {
        let name = name("shop.orders", "uid", "k", at("2026-01-02T03:04:05Z"));
        assert!(name.starts_with("shop-orders-20260102-030405-"), "{name}");
    }

    #[test]
    fn names_that_are_no_label_values_are_annotations() {
        let mut object = fixtures::backup();
        object.metadata.name = Some("x".repeat(253));
        let job = built(&object);
        assert_eq!(job.labels().get(NAME), None);
        assert_eq!(job.annotations()[NAME].len(), 253);
        assert!(job.labels().values().all(|value| value.len() <= LABEL_MAX));
    }

    #[test]
    fn the_worker_finds_its_plan_in_its_own_annotation() {
        let object = fixtures::backup();
        let job = built(&object);
        let template = job
            .spec
            .as_ref()
            .unwrap()
            .template
            .metadata
            .as_ref()
            .unwrap();
        let json = &template.annotations.as_ref().unwrap()[pod::PLAN_ANNOTATION];
        let plan: Plan = serde_json::from_str(json).unwrap();
        assert_eq!(
            plan,
            object
                .plan(&fixtures::active_run(&object).id, &Referenced::default())
                .unwrap()
        );
        assert!(
            !job.annotations().contains_key(pod::PLAN_ANNOTATION),
            "the plan would be stored twice"
        );
    }

    #[test]
    fn each_secret_is_mounted_once_under_its_name() {
        let job = built(&fixtures::backup());
        let mounts = pod_of(&job).containers[0].volume_mounts.as_ref().unwrap();
        let secrets: Vec<&str> = mounts
            .iter()
            .map(|mount| mount.mount_path.as_str())
            .filter(|path| path.starts_with(pod::SECRETS_DIR))
            .collect();
        assert_eq!(secrets, ["/etc/kafka-backup/secrets/s3-keys"]);
    }

    #[test]
    fn a_workload_identity_is_asked_for_by_its_label() {
        let labelled = |workload: bool| {
            let mut object = fixtures::backup();
            object.spec.storage = serde_json::from_value(serde_json::json!({
                "storageType": "azure",
                "azure": {"accountName": "acc", "container": "con", "useWorkloadIdentity": workload}
            }))
            .unwrap();
            let template = built(&object).spec.unwrap().template;
            let labels = template.metadata.unwrap().labels.unwrap();
            labels.get("azure.workload.identity/use").cloned()
        };
        assert_eq!(labelled(true).as_deref(), Some("true"));
        assert_eq!(labelled(false), None);
    }

    #[test]
    fn what_is_done_to_offsets_is_not_tried_again_unless_that_is_asked_for() {
        let limit = |object: &KafkaOffsetReset| {
            let run = fixtures::active_run(object);
            let job = build(object, &run, &Referenced::default(), &settings()).unwrap();
            job.spec.unwrap().backoff_limit
        };
        let mut reset = fixtures::offset_reset();
        assert_eq!(limit(&reset), Some(0));
        reset.spec.job.backoff_limit = Some(2);
        assert_eq!(limit(&reset), Some(2));
        assert_eq!(
            built(&fixtures::backup()).spec.unwrap().backoff_limit,
            Some(3)
        );
    }

    /// ConfigMap, its keys and the path of each ConfigMap in the pod.
    fn config_maps<K: Kind>(object: &K) -> Vec<(String, Vec<String>, String)> {
        let run = fixtures::active_run(object);
        let job = build(object, &run, &Referenced::default(), &settings()).unwrap();
        let pod = pod_of(&job);
        let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
        let volumes = pod.volumes.iter().flatten();
        let mounted = volumes.filter_map(|volume| {
            let found = volume.config_map.as_ref()?;
            let mount = mounts.iter().find(|mount| mount.name == volume.name)?;
            assert_eq!(mount.read_only, Some(true));
            let keys = found.items.iter().flatten().map(|item| item.key.clone());
            Some((found.name.clone(), keys.collect(), mount.mount_path.clone()))
        });
        mounted.collect()
    }

    #[test]
    fn a_config_map_is_mounted_with_its_one_key_where_a_run_reads_it() {
        let snapshot = (
            "before".to_owned(),
            vec!["snapshot.jsonl.zst".to_owned()],
            pod::SNAPSHOT_DIR.to_owned(),
        );
        for (operation, mounted) in [
            ("rollback", vec![snapshot.clone()]),
            ("verify", vec![snapshot]),
            ("delete", vec![]),
        ] {
            let rollback = fixtures::offset_rollback(operation);
            assert_eq!(config_maps(&rollback), mounted, "{operation}");
        }
        let mut stored = fixtures::offset_rollback("verify");
        stored.spec.storage = serde_json::from_value(serde_json::json!({
            "storageType": "s3", "s3": {"bucket": "b", "credentialsSecret": {"name": "s3-keys"}}
        }))
        .unwrap();
        assert_eq!(config_maps(&stored), []);
        let mut reset = fixtures::offset_reset();
        assert_eq!(
            config_maps(&reset),
            [],
            "its own snapshot does not exist yet"
        );
        reset.spec.strategy = OffsetStrategy::FromMapping;
        let map = serde_json::json!({"name": "map", "key": "k.json"});
        reset.spec.mapping_config_map = serde_json::from_value(map).unwrap();
        let mapping = (
            "map".to_owned(),
            vec!["k.json".to_owned()],
            pod::MAPPING_DIR.to_owned(),
        );
        assert_eq!(config_maps(&reset), [mapping]);
    }

    #[test]
    fn a_secret_of_two_stores_is_mounted_once() {
        let mut reset = fixtures::offset_reset();
        reset.spec.strategy = OffsetStrategy::FromRestore;
        reset.spec.restore_ref = Some(RestoreRef {
            name: "orders-back".into(),
        });
        let s3 = serde_json::json!({
            "storageType": "s3", "s3": {"bucket": "b", "credentialsSecret": {"name": "s3-keys"}}
        });
        reset.spec.storage = serde_json::from_value(s3.clone()).unwrap();
        let mut restore = fixtures::restore();
        restore.spec.storage = serde_json::from_value(s3).unwrap();
        let referenced = Referenced {
            backup: None,
            restore: Some(restore),
        };
        let run = fixtures::active_run(&reset);
        let job = build(&reset, &run, &referenced, &settings()).unwrap();
        let mounts = pod_of(&job).containers[0].volume_mounts.as_ref().unwrap();
        let secrets = mounts
            .iter()
            .filter(|mount| mount.mount_path.starts_with(pod::SECRETS_DIR));
        assert_eq!(secrets.count(), 1);
    }

    #[test]
    fn a_claim_is_mounted_writable() {
        let mut object = fixtures::backup();
        object.spec.storage = serde_json::from_value(serde_json::json!({
            "storageType": "pvc", "pvc": {"claimName": "archive"}
        }))
        .unwrap();
        let job = built(&object);
        let mounts = pod_of(&job).containers[0].volume_mounts.as_ref().unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount.mount_path == pod::VOLUME_DIR)
            .unwrap();
        assert_eq!(mount.read_only, None);
    }

    #[test]
    fn job_settings_and_resources_reach_the_job() {
        let mut object = fixtures::backup();
        object.spec.job.backoff_limit = Some(7);
        object.spec.job.active_deadline_seconds = Some(99);
        object.spec.resources = Some(ResourceRequirements {
            limits: Some(quantities(&[("memory", "1Gi")])),
            ..ResourceRequirements::default()
        });
        let job = built(&object);
        let spec = job.spec.as_ref().unwrap();
        assert_eq!(spec.backoff_limit, Some(7));
        assert_eq!(spec.active_deadline_seconds, Some(99));
        assert_eq!(
            spec.ttl_seconds_after_finished, None,
            "only an accounted Job may vanish"
        );
        assert_eq!(pod_of(&job).containers[0].resources, object.spec.resources);
    }

    #[test]
    fn disruptions_are_judged_before_exit_codes() {
        let rules = failure_policy().rules;
        assert_eq!(rules[0].action, "Ignore");
        assert_eq!(
            rules[1].on_exit_codes.as_ref().unwrap().values,
            [64, 65, 70, 77]
        );
    }
}
