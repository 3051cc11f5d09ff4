//! How this controller writes statuses: the whole status at once, guarded by the resourceVersion that it was decided upon.
//!
//! # Guarantees
//! - A status that was decided from an older object is refused with 409, also where it would be applied with force: the
//!   resourceVersion in the body is compared by the API server.

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::kind::Kind;

/// The one field manager of every write.
pub(crate) const FIELD_MANAGER: &str = "kafka-backup-controller";

/// Writes `status` on top of exactly `object`, and returns the object as it is then.
///
/// # Errors
/// What the API server answered; a conflict ([`is_conflict`]) says that `object` is not the newest.
pub(crate) async fn write_status<K: Kind>(
    client: &Client,
    object: &K,
    status: &K::Status,
) -> Result<K, kube::Error> {
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": object.uid(),
            "resourceVersion": object.resource_version(),
        },
        "status": status,
    });
    Api::<K>::namespaced(client.clone(), &namespace)
        .patch_status(
            &name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&body),
        )
        .await
}

/// Whether the API server refused a write because somebody else was faster.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    status_code(error) == Some(409)
}

/// Whether what was asked for does not exist.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    status_code(error) == Some(404)
}

/// Whether a Job was refused because its namespace is being deleted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let details = status.details.as_ref();
    details.is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    })
}

fn status_code(error: &kube::Error) -> Option<u16> {
    let kube::Error::Api(status) = error else {
        return None;
    };
    Some(status.code)
}
