//! Jobs, pods and Events as plain data: what `decide` needs of them, and nothing that a test would have to make up.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kafka_backup_shared::pod::CONTAINER;
use kube::ResourceExt;

use crate::job::{ACCOUNTED_AT, RUN, SCHEDULED_AT};
use crate::kind::created_at;

/// How a Job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobState {
    /// It may still make or run pods.
    Running,
    /// Condition Complete.
    Complete {
        /// When.
        at: Timestamp,
    },
    /// Condition Failed.
    Failed {
        /// When.
        at: Timestamp,
        /// `BackoffLimitExceeded`, `PodFailurePolicy`, `DeadlineExceeded`...
        reason: String,
        /// The Job controller's words.
        message: String,
    },
}

/// A Job of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobView {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// `metadata.resourceVersion`.
    pub(crate) version: Option<String>,
    /// UID of the object that controls it.
    pub(crate) owner_uid: Option<String>,
    pub(crate) run: Option<String>,
    pub(crate) created: Timestamp,
    /// `status.startTime`, else the creation.
    pub(crate) started: Timestamp,
    pub(crate) state: JobState,
    /// Pods that ended.
    pub(crate) ended_pods: u32,
    pub(crate) accounted: Option<Timestamp>,
    pub(crate) scheduled_at: Option<Timestamp>,
    /// It has a deletionTimestamp.
    pub(crate) is_going: bool,
    /// Condition FailureTarget: it will fail when its pods have ended.
    pub(crate) failing: Option<Trouble>,
}

impl JobView {
    /// Whether it will run no more pods.
    pub(crate) fn is_finished(&self) -> bool {
        match self.state {
            JobState::Running => false,
            JobState::Complete { .. } | JobState::Failed { .. } => true,
        }
    }

    /// When it finished.
    pub(crate) fn finished_at(&self) -> Option<Timestamp> {
        match self.state {
            JobState::Running => None,
            JobState::Complete { at } | JobState::Failed { at, .. } => Some(at),
        }
    }
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let annotations = job.annotations();
        let timestamp = |key: &str| annotations.get(key).and_then(|at| at.parse().ok());
        let status = job.status.clone().unwrap_or_default();
        let created = created_at(&job.metadata);
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let condition = |type_: &str| {
            conditions
                .iter()
                .find(|c| c.type_ == type_ && c.status == "True")
        };
        let moved = |c: &JobCondition| c.last_transition_time.as_ref().map_or(created, |at| at.0);
        let state = match (condition("Complete"), condition("Failed")) {
            (Some(complete), _) => JobState::Complete {
                at: status
                    .completion_time
                    .as_ref()
                    .map_or_else(|| moved(complete), |at| at.0),
            },
            (None, Some(failed)) => JobState::Failed {
                at: moved(failed),
                reason: failed.reason.clone().unwrap_or_default(),
                message: failed.message.clone().unwrap_or_default(),
            },
            (None, None) => JobState::Running,
        };
        let failing = condition("FailureTarget").map(|target| Trouble {
            reason: target.reason.clone().unwrap_or_default(),
            message: target.message.clone().unwrap_or_default(),
        });
        let owners = job.owner_references();
        let ended = status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0);
        Self {
            name: job.name_any(),
            uid: job.uid().unwrap_or_default(),
            version: job.resource_version(),
            owner_uid: owners
                .iter()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone()),
            run: annotations.get(RUN).cloned(),
            created,
            started: status.start_time.as_ref().map_or(created, |at| at.0),
            state,
            ended_pods: ended.unsigned_abs(),
            accounted: timestamp(ACCOUNTED_AT),
            scheduled_at: timestamp(SCHEDULED_AT),
            is_going: job.metadata.deletion_timestamp.is_some(),
            failing,
        }
    }
}

/// How the worker's container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terminated {
    pub(crate) exit_code: i32,
    /// The kubelet's word: `Completed`, `Error`, `OOMKilled`...
    pub(crate) reason: String,
    /// The termination message.
    pub(crate) message: String,
    pub(crate) at: Option<Timestamp>,
}

/// Something that keeps a run from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// CamelCase, as Kubernetes calls it.
    pub(crate) reason: String,
    /// Its words.
    pub(crate) message: String,
}

/// A pod of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) created: Timestamp,
    /// The worker's container runs or ran.
    pub(crate) has_started: bool,
    pub(crate) terminated: Option<Terminated>,
    /// What the pod's own status says against its start.
    pub(crate) trouble: Option<Trouble>,
    /// Why the pod as a whole failed: `Evicted`, `NodeLost`...
    pub(crate) failed: Option<Trouble>,
    /// The memory limit of the worker's container.
    pub(crate) memory_limit: Option<String>,
    /// When it was to be gone: it was told to end a grace period earlier.
    pub(crate) gone_by: Option<Timestamp>,
    /// Condition Ready is False or Unknown; the node controller says so of every pod of a node that does not report.
    pub(crate) is_unready: bool,
}

impl PodView {
    /// Since when its node owes the report of its end; a kubelet that is alive kills and reports at the end of the grace period.
    pub(crate) fn overdue_since(&self) -> Option<Timestamp> {
        let is_silent = self.is_unready && self.terminated.is_none() && self.failed.is_none();
        self.gone_by.filter(|_| is_silent)
    }
}

/// Waiting reasons that only say that the kubelet is at it.
const USUAL_WAITING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

impl From<&Pod> for PodView {
    fn from(pod: &Pod) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let worker = containers
            .iter()
            .find(|container| container.name == CONTAINER);
        let state = worker.and_then(|worker| worker.state.as_ref());
        let terminated = state
            .and_then(|state| state.terminated.as_ref())
            .map(|ended| Terminated {
                exit_code: ended.exit_code,
                reason: ended.reason.clone().unwrap_or_default(),
                message: ended.message.clone().unwrap_or_default(),
                at: ended.finished_at.as_ref().map(|at| at.0),
            });
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let unschedulable = conditions
            .iter()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .map(|c| Trouble {
                reason: c.reason.clone().unwrap_or_else(|| "Unschedulable".into()),
                message: c.message.clone().unwrap_or_default(),
            });
        let failed = status
            .reason
            .as_ref()
            .filter(|_| status.phase.as_deref() == Some("Failed"))
            .map(|reason| Trouble {
                reason: reason.clone(),
                message: status.message.clone().unwrap_or_default(),
            });
        Self {
            failed,
            memory_limit: memory_limit(pod),
            gone_by: pod.metadata.deletion_timestamp.as_ref().map(|at| at.0),
            is_unready: conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status != "True"),
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            created: created_at(&pod.metadata),
            has_started: terminated.is_some() || state.is_some_and(|state| state.running.is_some()),
            terminated,
            trouble: worker.and_then(waiting_trouble).or(unschedulable),
        }
    }
}

fn memory_limit(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let worker = containers.iter().find(|worker| worker.name == CONTAINER)?;
    let limits = worker.resources.as_ref()?.limits.as_ref()?;
    Some(limits.get("memory")?.0.clone())
}

fn waiting_trouble(worker: &ContainerStatus) -> Option<Trouble> {
    let waiting = worker.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting
        .reason
        .as_deref()
        .filter(|reason| !USUAL_WAITING.contains(reason))?;
    let message = waiting.message.as_deref().unwrap_or_default();
    // The kubelet alternates between these two words for one trouble; the status must not.
    if !matches!(reason, "ErrImagePull" | "ImagePullBackOff") {
        return Some(Trouble {
            reason: reason.into(),
            message: message.into(),
        });
    }
    let cause = message
        .split_once("ErrImagePull: ")
        .map_or(message, |(_, cause)| cause);
    Some(Trouble {
        reason: "ImagePullFailed".into(),
        message: format!("image {}: {cause}", worker.image),
    })
}

/// The newest warning of `events`, with the time that orders it.
pub(crate) fn newest_warning(events: &[Event]) -> Option<Trouble> {
    events
        .iter()
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .max_by_key(|event| {
            let last = event.last_timestamp.as_ref().map(|at| at.0);
            last.or(event.event_time.as_ref().map(|at| at.0))
        })
        .map(|event| Trouble {
            reason: event.reason.clone().unwrap_or_default(),
            message: event.message.clone().unwrap_or_default(),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::at;

    fn job(status: serde_json::Value) -> JobView {
        let job: Job = serde_json::from_value(json!({
            "metadata": {
                "name": "j", "uid": "job-1", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {RUN: "orders-1", ACCOUNTED_AT: "2026-01-01T01:00:00Z"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "uid-1", "controller": true}]
            },
            "status": status
        }))
        .unwrap();
        JobView::from(&job)
    }

    #[test]
    fn a_job_ends_at_its_completion_or_at_the_failed_condition() {
        let complete = job(json!({
            "startTime": "2026-01-01T00:00:01Z", "completionTime": "2026-01-01T00:00:09Z", "succeeded": 1, "failed": 2,
            "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]
        }));
        assert_eq!(
            complete.state,
            JobState::Complete {
                at: at("2026-01-01T00:00:09Z")
            }
        );
        assert_eq!(complete.started, at("2026-01-01T00:00:01Z"));
        assert_eq!(complete.ended_pods, 3);
        assert_eq!(complete.owner_uid.as_deref(), Some("uid-1"));
        let failed = job(json!({
            "conditions": [
                {"type": "FailureTarget", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
                {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "m", "lastTransitionTime": "2026-01-01T00:00:06Z"}
            ]
        }));
        assert_eq!(failed.finished_at(), Some(at("2026-01-01T00:00:06Z")));
    }

    #[test]
    fn a_job_that_is_only_about_to_fail_has_not_finished() {
        let view = job(
            json!({"conditions": [{"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}]}),
        );
        assert!(!view.is_finished());
        assert_eq!(view.failing.unwrap().reason, "BackoffLimitExceeded");
    }

    fn pod(status: serde_json::Value) -> PodView {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "uid": "pod-1"}, "status": status}),
        )
        .unwrap();
        PodView::from(&pod)
    }

    fn waiting(reason: &str, message: &str) -> Option<Trouble> {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        pod(json!({"containerStatuses": [{
            "name": "worker", "image": "w:1", "imageID": "", "ready": false, "restartCount": 0, "state": state
        }]}))
        .trouble
    }

    #[test]
    fn both_words_for_a_missing_image_are_one_trouble() {
        let first = waiting("ErrImagePull", "not found").unwrap();
        let later = waiting(
            "ImagePullBackOff",
            "Back-off pulling image \"w:1\": ErrImagePull: not found",
        )
        .unwrap();
        assert_eq!(first, later);
        assert_eq!(first.message, "image w:1: not found");
    }

    #[test]
    fn a_kubelet_at_work_is_no_trouble() {
        assert_eq!(waiting("ContainerCreating", ""), None);
        assert!(waiting("CreateContainerConfigError", "x").is_some());
    }

    #[test]
    fn an_evicted_pod_has_failed_with_the_words_of_the_kubelet() {
        let view = pod(
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
        );
        let failed = view.failed.unwrap();
        assert_eq!(
            (&*failed.reason, &*failed.message),
            ("Evicted", "The node was low on resource: memory.")
        );
    }

    #[test]
    fn a_pod_is_overdue_when_its_node_does_not_report_its_end() {
        let going = |ready: &str, state: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p", "uid": "pod-1", "deletionTimestamp": "2026-01-01T00:01:00Z"},
                "status": {
                    "phase": "Running",
                    "conditions": [{"type": "Ready", "status": ready}],
                    "containerStatuses": [{
                        "name": "worker", "image": "w:1", "imageID": "", "ready": false, "restartCount": 0, "state": state
                    }]
                }
            }))
            .unwrap();
            PodView::from(&pod).overdue_since()
        };
        let running = || json!({"running": {}});
        assert_eq!(going("False", running()), Some(at("2026-01-01T00:01:00Z")));
        assert_eq!(
            going("Unknown", running()),
            Some(at("2026-01-01T00:01:00Z"))
        );
        assert_eq!(going("True", running()), None, "its kubelet is alive");
        let ended = json!({"terminated": {"exitCode": 143}});
        assert_eq!(going("False", ended), None);
        assert_eq!(
            pod(json!({"conditions": [{"type": "Ready", "status": "False"}]})).overdue_since(),
            None
        );
    }

    #[test]
    fn a_pod_that_fits_nowhere_says_why() {
        let view = pod(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "persistentvolumeclaim \"a\" not found"}
        ]}));
        assert_eq!(
            view.trouble.unwrap().message,
            "persistentvolumeclaim \"a\" not found"
        );
        assert!(!view.has_started);
    }
}
