//! Which of several controllers acts.
//!
//! # Guarantees
//! - At most one acts, as far as clocks can promise it: the holder of the Lease acts for [`ACTS`] after the moment at which it
//!   sent its last renewal, by its own monotonic clock; others wait for [`LEASE`] after they saw it. The difference is for
//!   requests under way.
//! - No wall clock of another machine is believed: a Lease is over when it has not *changed* for its duration. (The crates for
//!   leases that there are compare `renewTime` with their own clock.)
//! - Correctness does not hang on it: what a paused leader sends too late is refused by the API server (resourceVersion, UID) or
//!   found as a stray.
//!
//! # Assumptions
//! Monotonic clocks of two machines run equally fast, within a third. One that stands still while a machine sleeps is such a
//! pause.

mod label;
mod lease;

use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use label::Labels;
#[cfg(test)]
pub(crate) use label::{LABEL, value};
pub(crate) use lease::hold;

/// How long a Lease lasts from its last change.
pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// How long its holder acts without another renewal.
pub(crate) const ACTS: Duration = Duration::from_secs(10);
/// How often it is renewed, and looked at by those who wait.
const PERIOD: Duration = Duration::from_secs(2);
/// How long the API server may take for one request about it.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where this process stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Another one leads, or none yet.
    Following { leader: Option<String> },
    /// It leads, and acts until then.
    Leading { until: Instant },
    /// It leads without a Lease.
    Alone,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLeading {
    /// Another one does it.
    #[error("this controller does not lead; {} does", leader.as_deref().unwrap_or("none known to it"))]
    Following {
        /// Its identity.
        leader: Option<String>,
    },
    /// Nobody knows.
    #[error("this controller has not been able to renew its lease for {} s", ACTS.as_secs())]
    Over,
}

/// Whether this process acts.
pub(crate) struct Leadership {
    standing: watch::Sender<Standing>,
}

impl Leadership {
    /// A process that has not led yet.
    pub(crate) fn following() -> Self {
        let (standing, _) = watch::channel(Standing::Following { leader: None });
        Self { standing }
    }

    /// Whether this process may act now.
    pub(crate) fn check(&self) -> Result<(), NotLeading> {
        match &*self.standing.borrow() {
            Standing::Alone => Ok(()),
            Standing::Leading { until } if Instant::now() < *until => Ok(()),
            Standing::Leading { .. } => Err(NotLeading::Over),
            Standing::Following { leader } => Err(NotLeading::Following {
                leader: leader.clone(),
            }),
        }
    }

    /// Whether no other one leads, as far as this process knows: also while its own lease is over and nobody has taken it.
    pub(crate) fn is_leading(&self) -> bool {
        is_leading(&self.standing.borrow())
    }

    /// Waits until this process leads.
    pub(crate) async fn won(&self) {
        self.wait(is_leading).await;
    }

    /// Waits until another one leads.
    pub(crate) async fn lost(&self) {
        self.wait(|standing| !is_leading(standing)).await;
    }

    async fn wait(&self, is_so: impl FnMut(&Standing) -> bool) {
        let mut standing = self.standing.subscribe();
        let waited = standing.wait_for(is_so).await;
        debug_assert!(waited.is_ok(), "the sender is borrowed from self");
    }

    /// It leads, and may act until `until`.
    pub(crate) fn lead_until(&self, until: Instant) {
        self.standing.send_replace(Standing::Leading { until });
    }

    /// It leads for good, because it is never beside another one.
    pub(crate) fn lead_alone(&self) {
        self.standing.send_replace(Standing::Alone);
    }

    fn follow(&self, leader: Option<String>) {
        self.standing.send_replace(Standing::Following { leader });
    }
}

fn is_leading(standing: &Standing) -> bool {
    match standing {
        Standing::Leading { .. } | Standing::Alone => true,
        Standing::Following { .. } => false,
    }
}

/// Who this process is among the controllers, and which of them it competes with.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// Unlike that of any other process.
    pub(crate) identity: String,
    /// The own pod, in a cluster.
    pub(crate) pod: Option<String>,
    /// Where the Lease and the own pod are.
    pub(crate) namespace: String,
    /// The namespace that is watched; all without one.
    pub(crate) watched: Option<String>,
}

impl Candidate {
    /// This process, by what `variable` tells of its environment: `POD_NAME` and `POD_UID`, as the downward API gives them.
    ///
    /// A container that is started again in the same pod is the same candidate, so that it need not wait for the end of its own
    /// lease; two containers of one pod and name never run at a time.
    pub(crate) fn new(
        client: &Client,
        watched: Option<String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        Self::named(client.default_namespace(), watched, variable)
    }

    fn named(
        namespace: &str,
        watched: Option<String>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let pod = variable("POD_NAME").filter(|name| !name.is_empty());
        let uid = variable("POD_UID").filter(|uid| pod.is_some() && !uid.is_empty());
        let uid = uid.unwrap_or_else(|| Uuid::new_v4().to_string());
        let name = pod.as_deref().unwrap_or("process");
        Self {
            identity: format!("{name}_{uid}"),
            pod,
            namespace: namespace.to_owned(),
            watched,
        }
    }

    /// The Lease's name: controllers that watch different namespaces do not compete.
    pub(crate) fn lease(&self) -> String {
        lease_name(self.watched.as_deref())
    }
}

/// The name of the Lease of those that watch `namespace`, or all.
pub(crate) fn lease_name(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{}.{namespace}", crate::NAME),
        None => crate::NAME.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_stops_before_others_may_start() {
        assert!(ACTS + PATIENCE < LEASE);
        assert!(PERIOD + PATIENCE < ACTS);
    }

    #[test]
    fn a_lease_that_is_over_stops_writes_but_is_not_lost_to_anybody() {
        let leadership = Leadership::following();
        assert_eq!(
            leadership.check(),
            Err(NotLeading::Following { leader: None })
        );
        leadership.lead_until(Instant::now());
        assert_eq!(leadership.check(), Err(NotLeading::Over));
        assert!(leadership.is_leading());
        leadership.follow(Some("other".into()));
        assert!(!leadership.is_leading());
        let error = leadership.check().unwrap_err().to_string();
        assert_eq!(error, "this controller does not lead; other does");
    }

    #[tokio::test]
    async fn one_that_is_alone_leads_for_good() {
        let leadership = Leadership::following();
        leadership.lead_alone();
        leadership.won().await;
        assert_eq!(leadership.check(), Ok(()));
    }

    #[tokio::test]
    async fn winning_and_losing_wake_those_who_wait() {
        let leadership = Leadership::following();
        tokio::join!(leadership.won(), async {
            leadership.lead_until(Instant::now());
        });
        tokio::join!(leadership.lost(), async {
            leadership.follow(None);
        });
    }

    #[test]
    fn a_container_that_starts_again_in_its_pod_is_the_same_candidate() {
        let variable = |name: &str| match name {
            "POD_NAME" => Some("pod-1".to_owned()),
            "POD_UID" => Some("u-1".to_owned()),
            _ => None,
        };
        let candidate = || Candidate::named("ops", Some("shop".into()), variable);
        assert_eq!(candidate().identity, "pod-1_u-1");
        assert_eq!(candidate().lease(), "kafka-backup-operator.shop");
        let outside = || Candidate::named("ops", None, |_| None).identity;
        assert_ne!(outside(), outside());
    }
}
