//! The pod of a run: the worker's container, and around it what the user has added.
//!
//! # Guarantees
//! - Without additions the pod passes Pod Security *restricted*, and the worker's container can write nowhere but to `/tmp` and
//!   the claim.
//! - No addition takes anything from the container: its program, arguments, plan, token and Secrets stay.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSecurityContext,
    PodSpec, ResourceRequirements, SeccompProfile, SecurityContext, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kafka_backup_shared::plan::Plan;
use kafka_backup_shared::pod;
use kafka_backup_shared::spec::{PodTemplate, PodVolume};

use crate::job::WorkerSettings;
use crate::volumes;

/// User and group of the worker's process.
const WORKER_ID: i64 = 10_001;

/// The pod of a run. The additions have been checked ([`PodTemplate::check`]): none of them has the name of what is here.
pub(crate) fn spec(
    plan: &Plan,
    additions: &PodTemplate,
    resources: Option<&ResourceRequirements>,
    settings: &WorkerSettings,
) -> PodSpec {
    let (mut volumes, mut mounts) = volumes::of(plan);
    volumes.extend(additions.volumes.iter().map(volume));
    mounts.extend(additions.volume_mounts.iter().cloned());
    let mut env = vec![job_uid()];
    env.extend(settings.push_ca.as_deref().map(push_ca));
    env.extend(additions.env.iter().cloned());
    PodSpec {
        node_selector: some(additions.node_selector.clone()),
        tolerations: some(additions.tolerations.clone()),
        affinity: additions.affinity.clone(),
        service_account_name: additions.service_account_name.clone(),
        image_pull_secrets: some(additions.image_pull_secrets.clone()),
        priority_class_name: additions.priority_class_name.clone(),
        host_aliases: some(additions.host_aliases.clone()),
        topology_spread_constraints: some(additions.topology_spread_constraints.clone()),
        runtime_class_name: additions.runtime_class_name.clone(),
        dns_config: additions.dns_config.clone(),
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(additions.termination_grace_period_seconds()),
        security_context: Some(security_context(additions.security_context.clone())),
        containers: vec![Container {
            name: pod::CONTAINER.into(),
            image: Some(settings.image.clone()),
            image_pull_policy: Some("IfNotPresent".into()),
            args: Some(
                [
                    "run",
                    "--plan",
                    pod::PLAN_FILE,
                    "--push-url",
                    &settings.push_url,
                ]
                .map(String::from)
                .into(),
            ),
            env: Some(env),
            resources: Some(resources.cloned().unwrap_or_else(default_resources)),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    add: None,
                    drop: Some(vec!["ALL".into()]),
                }),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(mounts),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

/// `RuntimeDefault`, as *restricted* wants it.
pub(crate) fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".into(),
        localhost_profile: None,
    }
}

/// Never BestEffort: such pods are the first to be evicted.
fn default_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities(&[("cpu", "100m"), ("memory", "128Mi")])),
        limits: Some(quantities(&[("memory", "256Mi")])),
        claims: None,
    }
}

/// The default of every field that the user has not written.
fn security_context(theirs: Option<PodSecurityContext>) -> PodSecurityContext {
    let theirs = theirs.unwrap_or_default();
    PodSecurityContext {
        run_as_non_root: theirs.run_as_non_root.or(Some(true)),
        run_as_user: theirs.run_as_user.or(Some(WORKER_ID)),
        run_as_group: theirs.run_as_group.or(Some(WORKER_ID)),
        fs_group: theirs.fs_group.or(Some(WORKER_ID)),
        // Volumes with millions of files would otherwise be walked at each start.
        fs_group_change_policy: theirs
            .fs_group_change_policy
            .or_else(|| Some("OnRootMismatch".into())),
        seccomp_profile: theirs.seccomp_profile.or_else(|| Some(runtime_default())),
        ..theirs
    }
}

fn job_uid() -> EnvVar {
    EnvVar {
        name: pod::JOB_UID_ENV.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.labels['batch.kubernetes.io/controller-uid']".into(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// As text: a ConfigMap of the controller's cannot be mounted in the namespaces of others, and certificates are no secret.
fn push_ca(pem: &str) -> EnvVar {
    EnvVar {
        name: pod::PUSH_CA_ENV.into(),
        value: Some(pem.into()),
        ..EnvVar::default()
    }
}

fn volume(added: &PodVolume) -> Volume {
    let PodVolume {
        name,
        config_map,
        secret,
        projected,
        empty_dir,
        persistent_volume_claim,
        csi,
    } = added.clone();
    Volume {
        name,
        config_map,
        secret,
        projected,
        empty_dir,
        persistent_volume_claim,
        csi,
        ..Volume::default()
    }
}

/// What is empty is left out.
fn some<C: IntoIterator + Clone>(list: C) -> Option<C> {
    let is_empty = list.clone().into_iter().next().is_none();
    (!is_empty).then_some(list)
}

/// Resource quantities from literals.
pub(crate) fn quantities(pairs: &[(&str, &str)]) -> BTreeMap<String, Quantity> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).into(), Quantity((*value).into())))
        .collect()
}

#[cfg(test)]
mod tests;
