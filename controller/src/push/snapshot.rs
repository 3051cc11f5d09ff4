//! Snapshots of committed offsets that are kept in ConfigMaps. Workers have no permissions in the cluster: they have the controller
//! make and delete them.
//!
//! # Guarantees
//! - Namespace and name come from the object, nothing that the worker says; what its run has not been asked for is refused.
//! - A ConfigMap is made once and is immutable. What is there already is never overwritten: only a snapshot that the same run has
//!   had made before is given back, for that is what the groups had before anything changed.
//! - It has no owner: who deletes an object keeps its undo.
//! - Nothing is deleted but a snapshot of the id that the object names.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::snapshot::{CONFIG_MAP_KEY, CONFIG_MAP_MAX, SnapshotHeader};
use kafka_backup_shared::crd::{KafkaOffsetReset, KafkaOffsetRollback};
use kafka_backup_shared::plan::{
    RunRef, SnapshotRef, SpecError, reset_snapshot, rollback_snapshot,
};
use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::spec::{SnapshotOperation, SnapshotPlace};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use super::{Refusal, object_of};
use crate::failpoint::Write;
use crate::gate::Gate;
use crate::identity::Worker;
use crate::job::{KIND_LABEL, NAME, RUN, UID_LABEL, strings};
use crate::kind::{Kind, ObjectKind};
use crate::objects::Objects;
use crate::reconcile::write::{FIELD_MANAGER, is_conflict, is_not_found};

/// Label with the id of the snapshot that a ConfigMap holds.
const SNAPSHOT: &str = "kafka-backup.dev/snapshot";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const OPERATOR: &str = "kafka-backup-operator";

/// A snapshot that a worker has taken, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewSnapshot {
    /// What it says of itself.
    pub(crate) header: SnapshotHeader,
    /// All of it.
    pub(crate) bytes: Vec<u8>,
}

/// What is kept now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The snapshot.
    New,
    /// One that the same run has had kept before.
    Before(Vec<u8>),
}

/// Why a snapshot was not kept or deleted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The object is gone, or another one.
    #[error("the object of the run is gone")]
    NotActive,
    /// 400.
    #[error("the run has no snapshot to {step} in a ConfigMap: {why}")]
    NotAsked {
        /// To keep, to delete.
        step: &'static str,
        why: String,
    },
    /// 400.
    #[error("expected the snapshot {expected}, found {found}")]
    OtherId { expected: String, found: String },
    /// 404.
    #[error("ConfigMap {0} does not exist")]
    Missing(String),
    /// 409.
    #[error("ConfigMap {0} exists, and is not the snapshot of this run")]
    Taken(String),
    /// 409.
    #[error("ConfigMap {config_map} is not the snapshot {id}, and is not deleted")]
    OtherContent { config_map: String, id: String },
    /// 413.
    #[error(
        "the snapshot has {found} bytes, and a ConfigMap holds {CONFIG_MAP_MAX} at most; spec.storage can name an object store or a volume"
    )]
    TooLarge { found: usize },
    /// 422: another attempt is answered the same, until somebody changes something.
    #[error("the API server does not let the controller {step} ConfigMap {config_map}: {message}")]
    Refused {
        step: &'static str,
        config_map: String,
        message: String,
    },
    /// 503.
    #[error("failed to {step} ConfigMap {config_map}")]
    Api {
        step: &'static str,
        config_map: String,
        source: Box<kube::Error>,
    },
    /// 503.
    #[error("ConfigMap {0} changes at this moment")]
    Changes(String),
}

impl SnapshotError {
    fn api(step: &'static str, config_map: &str, error: kube::Error) -> Self {
        let config_map = config_map.to_owned();
        if let kube::Error::Api(answer) = &error {
            // 401 is about the controller's own token, 409 about a quota that is being counted.
            let may_pass = matches!(answer.code, 401 | 409 | 429 | 500..);
            if !may_pass {
                return Self::Refused {
                    step,
                    config_map,
                    message: answer.message.clone(),
                };
            }
        }
        Self::Api {
            step,
            config_map,
            source: Box::new(error),
        }
    }

    /// The answer to the worker of this run.
    pub(super) fn refusal(&self, worker: &Worker) -> Refusal {
        let status = match self {
            Self::NotActive => return Refusal::not_active(worker),
            Self::NotAsked { .. } | Self::OtherId { .. } => StatusCode::BAD_REQUEST,
            Self::Missing(_) => StatusCode::NOT_FOUND,
            Self::Taken(_) | Self::OtherContent { .. } => StatusCode::CONFLICT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Api { .. } | Self::Changes(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let run = &worker.run.run;
        warn!(run, error = error_chain(self), "snapshot not changed");
        // What stands behind a failed request is for the log.
        Refusal::new(status, self.to_string())
    }
}

/// A ConfigMap, and the snapshot in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    namespace: String,
    config_map: String,
    id: String,
}

/// Where the worker's run may have its snapshot kept.
pub(super) fn place_to_keep(objects: &Objects, worker: &Worker) -> Result<Place, SnapshotError> {
    let refuse = |why: &str| Err(not_asked("keep", why));
    let snapshot = match ObjectKind::parse(&worker.run.kind) {
        Some(ObjectKind::OffsetReset) => {
            let reset = own::<KafkaOffsetReset>(objects, worker)?;
            if reset.spec.dry_run {
                return refuse("spec.dryRun is true");
            }
            let snapshot = reset_snapshot(&reset, &worker.run.run);
            match snapshot.map_err(|error| invalid("keep", &error))? {
                Some(snapshot) => snapshot,
                None => return refuse("spec.createSnapshot is false"),
            }
        }
        Some(ObjectKind::OffsetRollback) => {
            let rollback = own::<KafkaOffsetRollback>(objects, worker)?;
            if rollback.spec.dry_run {
                return refuse("spec.dryRun is true");
            }
            if rollback.spec.operation != SnapshotOperation::Snapshot {
                return refuse("spec.operation is not snapshot");
            }
            rollback_snapshot(&rollback).map_err(|error| invalid("keep", &error))?
        }
        Some(ObjectKind::Backup | ObjectKind::Restore) | None => {
            return refuse("its kind keeps none there");
        }
    };
    place("keep", worker, snapshot)
}

/// Where the worker's run may have the snapshot deleted that its object names.
pub(super) fn place_to_delete(objects: &Objects, worker: &Worker) -> Result<Place, SnapshotError> {
    let refuse = |why: &str| Err(not_asked("delete", why));
    match ObjectKind::parse(&worker.run.kind) {
        Some(ObjectKind::OffsetRollback) => {}
        Some(ObjectKind::Backup | ObjectKind::Restore | ObjectKind::OffsetReset) | None => {
            return refuse("its kind deletes none");
        }
    }
    let rollback = own::<KafkaOffsetRollback>(objects, worker)?;
    if rollback.spec.operation != SnapshotOperation::Delete {
        return refuse("spec.operation is not delete");
    }
    if rollback.spec.dry_run {
        return refuse("spec.dryRun is true");
    }
    let snapshot = rollback_snapshot(&rollback).map_err(|error| invalid("delete", &error))?;
    place("delete", worker, snapshot)
}

fn not_asked(step: &'static str, why: impl Into<String>) -> SnapshotError {
    let why = why.into();
    SnapshotError::NotAsked { step, why }
}

fn invalid(step: &'static str, error: &SpecError) -> SnapshotError {
    not_asked(step, error.to_string())
}

fn place(
    step: &'static str,
    worker: &Worker,
    snapshot: SnapshotRef,
) -> Result<Place, SnapshotError> {
    match snapshot.place {
        SnapshotPlace::ConfigMap { name } => Ok(Place {
            namespace: worker.run.namespace.clone(),
            config_map: name,
            id: snapshot.id,
        }),
        SnapshotPlace::Store { .. } => Err(not_asked(
            step,
            "spec.storage names an object store or a volume",
        )),
    }
}

/// The object whose run it is; not another one that has its name by now.
fn own<K: Kind>(objects: &Objects, worker: &Worker) -> Result<Arc<K>, SnapshotError> {
    object_of::<K>(objects, worker)
        .filter(|object| object.meta().uid.as_ref() == Some(&worker.run.uid))
        .ok_or(SnapshotError::NotActive)
}

/// Reads what a snapshot says of itself, and checks all of it, without holding up other requests.
pub(super) async fn header(
    object: String,
    bytes: Vec<u8>,
) -> (Vec<u8>, Result<SnapshotHeader, FormatError>) {
    let read = move || {
        let header = SnapshotHeader::of(&object, &bytes);
        (bytes, header)
    };
    tokio::task::spawn_blocking(read)
        .await
        .expect("reading does not panic and is not aborted")
}

/// Makes the ConfigMap.
pub(super) async fn keep(
    client: &Client,
    gate: &Gate,
    place: &Place,
    run: &RunRef,
    snapshot: NewSnapshot,
) -> Result<Kept, SnapshotError> {
    if snapshot.header.snapshot_id != place.id {
        return Err(SnapshotError::OtherId {
            expected: place.id.clone(),
            found: snapshot.header.snapshot_id,
        });
    }
    let found = snapshot.bytes.len();
    if found > CONFIG_MAP_MAX {
        return Err(SnapshotError::TooLarge { found });
    }
    let name = &place.config_map;
    let api = Api::<ConfigMap>::namespaced(client.clone(), &place.namespace);
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let config_map = config_map(place, run, snapshot.bytes);
    let create = api.create(&params, &config_map);
    match gate.pass(Write::KeepSnapshot, create).await {
        Ok(_) => return Ok(Kept::New),
        Err(kube::Error::Api(answer)) if answer.reason == "AlreadyExists" => {}
        Err(error) => return Err(SnapshotError::api("create", name, error)),
    }
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| SnapshotError::api("read", name, error))?;
    // Deleted between the two requests: the next attempt makes it.
    let found = found.ok_or_else(|| SnapshotError::Changes(name.clone()))?;
    match content(place, found).await {
        Some((header, bytes)) if header.run == *run => Ok(Kept::Before(bytes)),
        Some(_) | None => Err(SnapshotError::Taken(name.clone())),
    }
}

/// Deletes the ConfigMap, if it is what the object names.
pub(super) async fn delete(
    client: &Client,
    gate: &Gate,
    place: &Place,
) -> Result<(), SnapshotError> {
    let name = &place.config_map;
    let api = Api::<ConfigMap>::namespaced(client.clone(), &place.namespace);
    let found = api.get_opt(name).await;
    let found = found.map_err(|error| SnapshotError::api("read", name, error))?;
    let found = found.ok_or_else(|| SnapshotError::Missing(name.clone()))?;
    let only_this = Preconditions {
        uid: found.uid(),
        resource_version: found.resource_version(),
    };
    if content(place, found).await.is_none() {
        return Err(SnapshotError::OtherContent {
            config_map: name.clone(),
            id: place.id.clone(),
        });
    }
    let params = DeleteParams {
        preconditions: Some(only_this),
        ..DeleteParams::default()
    };
    let delete = api.delete(name, &params);
    match gate.pass(Write::DeleteSnapshot, delete).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Err(SnapshotError::Missing(name.clone())),
        Err(error) if is_conflict(&error) => Err(SnapshotError::Changes(name.clone())),
        Err(error) => Err(SnapshotError::api("delete", name, error)),
    }
}

fn config_map(place: &Place, run: &RunRef, bytes: Vec<u8>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(place.config_map.clone()),
            namespace: Some(place.namespace.clone()),
            labels: Some(strings(&[(MANAGED_BY, OPERATOR), (SNAPSHOT, &place.id)])),
            // Names of up to 253 characters are no label values.
            annotations: Some(strings(&[
                (KIND_LABEL, &run.kind),
                (NAME, &run.name),
                (UID_LABEL, &run.uid),
                (RUN, &run.run),
            ])),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        binary_data: Some(BTreeMap::from([(
            CONFIG_MAP_KEY.to_owned(),
            ByteString(bytes),
        )])),
        data: None,
    }
}

/// The snapshot in a ConfigMap, where that is ours and holds the one of this id, whole.
async fn content(place: &Place, found: ConfigMap) -> Option<(SnapshotHeader, Vec<u8>)> {
    let labels = found.labels();
    let says = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    if !says(MANAGED_BY, OPERATOR) || !says(SNAPSHOT, &place.id) {
        return None;
    }
    let ByteString(bytes) = found.binary_data?.remove(CONFIG_MAP_KEY)?;
    let (bytes, header) = header(format!("ConfigMap {}", place.config_map), bytes).await;
    let header = header.ok()?;
    (header.snapshot_id == place.id).then_some((header, bytes))
}

#[cfg(test)]
mod tests;
