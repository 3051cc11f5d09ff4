//! The Lease of `coordination.k8s.io`: who may take it, as a pure function of what was seen, and the loop that asks.
//!
//! # Guarantees
//! - Every write carries the resourceVersion that was looked at: of two that take a lease at once, one is refused.
//! - At shutdown a held lease is given back, so that the next leader need not wait.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kafka_backup_shared::report::error_chain;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ACTS, Candidate, LEASE, Leadership, PATIENCE, PERIOD};
use crate::health::Health;
use crate::reconcile::write::{FIELD_MANAGER, is_conflict};

/// What is named on `/readyz` while the API server does not answer.
const API_SERVER: &str = "the API server";

/// What a candidate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// There is no lease yet.
    Create,
    /// It is free, or over.
    Take,
    /// It is ours.
    Renew,
    /// It is another's.
    Wait,
}

/// The lease as it was when it changed last, by the clock of this process.
#[derive(Debug, Default)]
struct Seen(Option<(String, Instant)>);

impl Seen {
    /// What `identity` may do about `lease`, which was seen at `now`.
    fn look(&mut self, lease: Option<&Lease>, identity: &str, now: Instant) -> Move {
        let Some(lease) = lease else {
            return Move::Create;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder == identity {
            return Move::Renew;
        }
        if holder.is_empty() {
            return Move::Take;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.0 {
            Some((seen, since)) if *seen == version => *since,
            Some(_) | None => {
                self.0 = Some((version, now));
                now
            }
        };
        let seconds = spec.lease_duration_seconds.unwrap_or(0);
        let lasts = u64::try_from(seconds).map_or(LEASE, std::time::Duration::from_secs);
        if now.saturating_duration_since(since) >= lasts {
            Move::Take
        } else {
            Move::Wait
        }
    }
}

/// The lease as `identity` writes it over `before`.
fn held(before: Option<&Lease>, name: &str, identity: &str, now: Timestamp) -> Lease {
    let old = before.and_then(|lease| lease.spec.clone());
    let is_ours = old
        .as_ref()
        .is_some_and(|old| old.holder_identity.as_deref() == Some(identity));
    let transitions = old
        .as_ref()
        .and_then(|old| old.lease_transitions)
        .unwrap_or(0);
    let acquired = old
        .as_ref()
        .and_then(|old| old.acquire_time.clone())
        .filter(|_| is_ours);
    Lease {
        metadata: before.map_or_else(
            || ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            |before| before.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.to_owned()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: acquired.or(Some(MicroTime(now))),
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if is_ours || before.is_none() {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        }),
    }
}

/// The lease without a holder.
fn free(before: &Lease, now: Timestamp) -> Lease {
    let spec = before.spec.clone().unwrap_or_default();
    Lease {
        metadata: before.metadata.clone(),
        spec: Some(LeaseSpec {
            holder_identity: None,
            acquire_time: None,
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(now)),
            ..spec
        }),
    }
}

/// Takes and renews the lease until `stop`, and gives it back then.
pub(crate) async fn hold(
    client: Client,
    candidate: Candidate,
    leadership: Arc<Leadership>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let mut loop_ = Loop {
        api: Api::namespaced(client, &candidate.namespace),
        name: candidate.lease(),
        identity: candidate.identity,
        seen: Seen::default(),
        ours: None,
        leadership,
    };
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = period.tick() => {}
        }
        match timeout(PATIENCE, loop_.turn()).await {
            Ok(Ok(())) => health.note(API_SERVER, None),
            Ok(Err(error)) => {
                let error = error_chain(&error);
                health.note(
                    API_SERVER,
                    Some(format!("does not serve the lease: {error}")),
                );
                warn!(lease = loop_.name, error, "lease not looked at");
            }
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                health.note(
                    API_SERVER,
                    Some(format!("has not answered within {seconds} s")),
                );
                warn!(lease = loop_.name, "the API server does not answer");
            }
        }
    }
    loop_.give_back().await;
}

struct Loop {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Seen,
    /// The lease as this process wrote it last; none after a write of which it is not known whether it arrived.
    ours: Option<Lease>,
    leadership: Arc<Leadership>,
}

impl Loop {
    async fn turn(&mut self) -> Result<(), kube::Error> {
        let found = match self.ours.take() {
            Some(ours) => Some(ours),
            None => self.api.get_opt(&self.name).await?,
        };
        let found = found.as_ref();
        let now = Instant::now();
        let next = self.seen.look(found, &self.identity, now);
        let wanted = held(found, &self.name, &self.identity, Timestamp::now());
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        let written = match next {
            Move::Wait => {
                let leader = found.and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
                self.follow(leader);
                return Ok(());
            }
            Move::Create => self.api.create(&params, &wanted).await,
            Move::Take | Move::Renew => self.api.replace(&self.name, &params, &wanted).await,
        };
        match written {
            Ok(lease) => {
                self.ours = Some(lease);
                if !self.leadership.is_leading() {
                    info!(lease = self.name, identity = self.identity, "leading");
                }
                // From before the request: whoever sees it saw it later.
                self.leadership.lead_until(now + ACTS);
                Ok(())
            }
            // Somebody else was faster; the next turn sees who.
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn follow(&self, leader: Option<String>) {
        if self.leadership.is_leading() {
            warn!(lease = self.name, leader, "another controller leads now");
        }
        self.leadership.follow(leader);
    }

    async fn give_back(mut self) {
        let is_leading = self.leadership.is_leading();
        self.leadership.follow(None);
        let Some(ours) = self.ours.take().filter(|_| is_leading) else {
            return;
        };
        let free = free(&ours, Timestamp::now());
        let params = PostParams::default();
        let given = timeout(PATIENCE, self.api.replace(&self.name, &params, &free)).await;
        match given {
            Ok(Ok(_)) => info!(lease = self.name, "lease given back"),
            // It ends by itself.
            Ok(Err(error)) => {
                warn!(
                    lease = self.name,
                    error = error_chain(&error),
                    "lease not given back"
                )
            }
            Err(_) => warn!(lease = self.name, "lease not given back in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = held(None, "l", holder, Timestamp::UNIX_EPOCH);
        lease.metadata.resource_version = Some(version.into());
        lease
    }

    #[test]
    fn a_lease_is_over_when_it_has_not_changed_for_its_duration() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        assert_eq!(seen.look(None, "me", start), Move::Create);
        let table = [
            ("other", "1", 0, Move::Wait),
            ("other", "1", 14, Move::Wait),
            // Renewed just in time: its 15 s begin anew, whatever its renewTime says.
            ("other", "2", 14, Move::Wait),
            ("other", "2", 28, Move::Wait),
            ("other", "2", 29, Move::Take),
            ("me", "3", 30, Move::Renew),
            ("", "4", 31, Move::Take),
            ("other", "5", 32, Move::Wait),
        ];
        for (holder, version, seconds, expected) in table {
            let found = seen.look(Some(&lease(holder, version)), "me", after(seconds));
            assert_eq!(found, expected, "{holder} {version} at {seconds} s");
        }
    }

    #[test]
    fn a_renewal_keeps_the_time_of_acquisition_and_a_new_holder_counts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = held(None, "l", "a", at(10));
        let renewed = held(Some(&first), "l", "a", at(12)).spec.unwrap();
        assert_eq!(renewed.acquire_time, Some(MicroTime(at(10))));
        assert_eq!(renewed.renew_time, Some(MicroTime(at(12))));
        assert_eq!(renewed.lease_transitions, Some(0));
        let taken = held(Some(&first), "l", "b", at(30)).spec.unwrap();
        assert_eq!(taken.acquire_time, Some(MicroTime(at(30))));
        assert_eq!(taken.lease_transitions, Some(1));
    }

    #[test]
    fn a_lease_that_is_given_back_can_be_taken_at_once() {
        let mut given = free(&lease("other", "7"), Timestamp::UNIX_EPOCH);
        given.metadata.resource_version = Some("8".into());
        let mut seen = Seen::default();
        assert_eq!(seen.look(Some(&given), "me", Instant::now()), Move::Take);
    }
}
