//! A node without a kubelet: pods are bound to it by hand, and as nothing ever renews its lease, the cluster gives it up.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::operator;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

/// The node controller waits for 50 s.
const DEATH: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);

/// The node, until it is dropped.
pub struct SilentNode<'a> {
    lab: &'a Lab,
    client: Client,
    name: String,
}

impl<'a> SilentNode<'a> {
    /// A node that has said once that it is ready.
    pub async fn join(lab: &'a Lab, client: &Client, name: &str) -> Self {
        let node = Self {
            lab,
            client: client.clone(),
            name: name.to_owned(),
        };
        node.remove();
        let object: Node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let nodes = node.nodes();
        nodes.create(&PostParams::default(), &object).await.unwrap();
        let now = jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string();
        let status = json!({ "status": { "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "it is not",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}});
        let (params, patch) = (PatchParams::default(), Patch::Strategic(status));
        nodes.patch_status(name, &params, &patch).await.unwrap();
        node
    }

    /// Waits until the node controller says that nobody knows how it is.
    pub async fn death(&self) {
        let start = Instant::now();
        while self.ready().await != "Unknown" {
            assert!(start.elapsed() < DEATH, "node {} lives on", self.name);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Places a pod on it, as the scheduler would.
    pub async fn take(&self, pods: &Api<Pod>, pod: &Pod) {
        let name = pod.name_any();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
            "target": { "apiVersion": "v1", "kind": "Node", "name": self.name },
        });
        let params = PostParams::default();
        let bound = pods
            .create_subresource::<Value, Value>("binding", &name, &params, &binding)
            .await
            .unwrap();
        assert_eq!(bound["status"], "Success", "{bound}");
    }

    async fn ready(&self) -> String {
        let node = self.nodes().get(&self.name).await.unwrap();
        let conditions = node.status.and_then(|status| status.conditions);
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.find(|condition| condition.type_ == "Ready");
        ready.map(|ready| ready.status).unwrap_or_default()
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn remove(&self) {
        let args = ["delete", "node", &self.name, "--ignore-not-found"];
        operator::kubectl(self.lab, &args).unwrap();
    }
}

impl Drop for SilentNode<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}
