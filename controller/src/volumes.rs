//! What a worker's pod mounts, and where: plan, push token, Secrets, ConfigMaps, claim.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    KeyToPath, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, ProjectedVolumeSource,
    SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use kafka_backup_shared::archive::snapshot::CONFIG_MAP_KEY;
use kafka_backup_shared::plan::{OffsetsTask, Plan};
use kafka_backup_shared::pod;
use kafka_backup_shared::spec::SnapshotPlace;

/// How long a push token is valid; the kubelet renews it before.
const TOKEN_SECONDS: i64 = 3600;

/// The volumes of a pod, and the mounts of its worker.
pub(crate) fn of(plan: &Plan) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = vec![plan_volume(), token_volume(), tmp_volume()];
    let mut mounts = vec![
        read_only("plan", pod::PLAN_DIR),
        read_only("push-token", pod::PUSH_TOKEN_DIR),
        writable("tmp", "/tmp"),
    ];
    let storages = plan.storages();
    for (index, secret) in plan.secret_names().into_iter().enumerate() {
        let volume = format!("secret-{index}");
        mounts.push(read_only(
            &volume,
            &format!("{}/{secret}", pod::SECRETS_DIR),
        ));
        volumes.push(Volume {
            name: volume,
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.into()),
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    // A plan has no two that differ.
    if let Some(pvc) = storages.iter().find_map(|storage| storage.pvc.as_ref()) {
        mounts.push(writable("storage", pod::VOLUME_DIR));
        volumes.push(Volume {
            name: "storage".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: pvc.claim_name.clone(),
                read_only: None,
            }),
            ..Volume::default()
        });
    }
    for (name, config_map, key, path) in config_maps(plan) {
        mounts.push(read_only(name, path));
        volumes.push(config_map_volume(name, config_map, key));
    }
    (volumes, mounts)
}

/// What is read from ConfigMaps: name of the volume, the ConfigMap, its key, and the folder in which that is a file.
fn config_maps(plan: &Plan) -> Vec<(&'static str, &str, &str, &'static str)> {
    let Plan::Offsets(plan) = plan else {
        return Vec::new();
    };
    let snapshot = snapshot_config_map(&plan.task)
        .map(|name| ("snapshot", name, CONFIG_MAP_KEY, pod::SNAPSHOT_DIR));
    let mapping = plan.task.mapping();
    let mapping = mapping.map(|(name, key)| ("mapping", name, key, pod::MAPPING_DIR));
    snapshot.into_iter().chain(mapping).collect()
}

/// The ConfigMap of the snapshot that a run needs to be there.
fn snapshot_config_map(task: &OffsetsTask) -> Option<&str> {
    let snapshot = task.snapshot().filter(|_| task.reads_snapshot())?;
    match &snapshot.place {
        SnapshotPlace::ConfigMap { name } => Some(name),
        SnapshotPlace::Store { .. } => None,
    }
}

fn config_map_volume(volume: &str, config_map: &str, key: &str) -> Volume {
    Volume {
        name: volume.into(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.into(),
            default_mode: Some(0o444),
            items: Some(vec![KeyToPath {
                key: key.into(),
                path: key.into(),
                mode: None,
            }]),
            optional: None,
        }),
        ..Volume::default()
    }
}

fn plan_volume() -> Volume {
    let file = pod::PLAN_FILE.rsplit('/').next().unwrap_or(pod::PLAN_FILE);
    Volume {
        name: "plan".into(),
        downward_api: Some(DownwardAPIVolumeSource {
            default_mode: Some(0o444),
            items: Some(vec![DownwardAPIVolumeFile {
                path: file.into(),
                field_ref: Some(ObjectFieldSelector {
                    field_path: format!("metadata.annotations['{}']", pod::PLAN_ANNOTATION),
                    api_version: None,
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..Volume::default()
    }
}

fn token_volume() -> Volume {
    let file = pod::PUSH_TOKEN_FILE
        .rsplit('/')
        .next()
        .unwrap_or(pod::PUSH_TOKEN_FILE);
    Volume {
        name: "push-token".into(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(ServiceAccountTokenProjection {
                    audience: Some(pod::PUSH_AUDIENCE.into()),
                    expiration_seconds: Some(TOKEN_SECONDS),
                    path: file.into(),
                }),
                ..VolumeProjection::default()
            }]),
        }),
        ..Volume::default()
    }
}

fn tmp_volume() -> Volume {
    Volume {
        name: "tmp".into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

fn read_only(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        read_only: Some(true),
        ..writable(volume, path)
    }
}

fn writable(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.into(),
        mount_path: path.into(),
        ..VolumeMount::default()
    }
}
