//! The label that makes a pod the one behind the metrics Service.
//!
//! # Guarantees
//! - A process takes its own label off before it serves anything, and a new leader takes it off all others before it puts it on
//!   itself: Prometheus never sees two leaders at a time but for the moments in which endpoints follow labels.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tracing::warn;

use super::Candidate;
use crate::reconcile::write::{FIELD_MANAGER, is_not_found};

/// The label; the value says of which controllers, see [`value`].
pub(crate) const LABEL: &str = "kafka-backup.dev/leader-of";

/// The label's value for those that watch `namespace`. No namespace is called `All`: their names have no capitals.
pub(crate) fn value(namespace: Option<&str>) -> &str {
    namespace.unwrap_or("All")
}

/// Puts the label on pods and takes it off.
pub(crate) struct Labels {
    pods: Api<Pod>,
    own: Option<String>,
    value: String,
}

impl Labels {
    /// Those of the candidates that `candidate` competes with. One that is not in a pod has no label to put on.
    pub(crate) fn new(client: Client, candidate: &Candidate) -> Self {
        Self {
            pods: Api::namespaced(client, &candidate.namespace),
            own: candidate.pod.clone(),
            value: value(candidate.watched.as_deref()).to_owned(),
        }
    }

    /// Takes the label off the own pod.
    pub(crate) async fn take_off(&self) -> Result<(), kube::Error> {
        match &self.own {
            Some(own) => self.set(own, Value::Null).await,
            None => Ok(()),
        }
    }

    /// Makes the own pod the only one with the label.
    pub(crate) async fn take_over(&self) -> Result<(), kube::Error> {
        let leaders = ListParams::default().labels(&format!("{LABEL}={}", self.value));
        for pod in self.pods.list(&leaders).await? {
            let name = pod.name_any();
            if self.own.as_ref() != Some(&name) {
                self.set(&name, Value::Null).await?;
            }
        }
        match &self.own {
            Some(own) => self.set(own, Value::from(self.value.as_str())).await,
            None => Ok(()),
        }
    }

    async fn set(&self, pod: &str, value: Value) -> Result<(), kube::Error> {
        let patch = json!({ "metadata": { "labels": { LABEL: value } } });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        match self
            .pods
            .patch_metadata(pod, &params, &Patch::Merge(&patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => {
                warn!(
                    pod,
                    "a pod that is to get or lose the leader's label does not exist"
                );
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
