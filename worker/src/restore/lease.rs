//! Who is at work on a restore: one worker at a time.
//!
//! # Guarantees
//! - A worker that finds another one's lease waits until the lease has not changed for [`Times::duration`]; a holder that has
//!   not renewed for [`Times::stop`] sends nothing ([`Lease::is_held`]). Both are measured by each worker's own clock, so that
//!   clocks need not agree.
//! - A lease that was given back is taken at once.
//!
//! # Assumptions
//! - The lease keeps honest workers apart; it does not stop a process that is frozen between its look at the lease and the
//!   send. That is caught by the base offset of every answer and the log end at every start.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::manifest::{from_json, to_json};
use kafka_backup_shared::archive::restore::Lease as Object;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::RestoreError;
use crate::store::{Created, Store, Updated, Version};

/// How a lease lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// Without a change for so long it has run out.
    pub(super) duration: Duration,
    /// It is renewed so often.
    pub(super) renew: Duration,
    /// Without a renewal for so long its holder stops.
    pub(super) stop: Duration,
}

impl Times {
    /// Those of a lease that runs out after `duration`.
    pub(super) fn of(duration: Duration) -> Self {
        Self {
            duration,
            renew: duration / 6,
            stop: duration / 2,
        }
    }
}

/// How often another one's lease is looked at.
const POLL: Duration = Duration::from_secs(2);

/// A lease that is held and renewed until it is dropped or released.
#[derive(Debug)]
pub(super) struct Lease {
    store: Store,
    key: String,
    times: Times,
    holder: String,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
    renewal: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    version: Version,
    renewed: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn content(holder: &str, duration: Duration) -> Bytes {
    let lease = Object {
        format_version: FORMAT_VERSION,
        holder: holder.to_owned(),
        renewed: Timestamp::now(),
        duration_secs: u32::try_from(duration.as_secs()).unwrap_or(u32::MAX),
    };
    to_json(&lease).into()
}

impl Lease {
    /// Takes the lease, once nobody else holds it.
    pub(super) async fn acquire(
        store: &Store,
        key: &str,
        times: Times,
    ) -> Result<Self, RestoreError> {
        let holder = uuid::Uuid::new_v4().to_string();
        let (asked, version) = loop {
            let found = wait_until_free(store, key).await?;
            let asked = Instant::now();
            let ours = content(&holder, times.duration);
            let taken = match &found {
                Some(version) => match store.update(key, ours, version).await? {
                    Updated::Done(version) => Some(version),
                    Updated::Changed => None,
                },
                None => match store.create(key, ours).await? {
                    Created::New | Created::Same => version_of(store, key, &holder).await?,
                    Created::Exists(_) => None,
                },
            };
            if let Some(version) = taken {
                break (asked, version);
            }
        };
        let state = Arc::new(Mutex::new(State {
            version,
            renewed: asked,
        }));
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(
            store.clone(),
            key.to_owned(),
            holder.clone(),
            times,
            state.clone(),
            lost.clone(),
        ));
        Ok(Self {
            store: store.clone(),
            key: key.to_owned(),
            times,
            holder,
            state,
            lost,
            renewal,
        })
    }

    /// Whether records may be sent.
    pub(super) fn is_held(&self) -> bool {
        let renewed = lock(&self.state).renewed;
        !self.lost.is_cancelled() && renewed.elapsed() < self.times.stop
    }

    /// Cancelled when another worker has taken the lease.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease back, so that a successor need not wait.
    pub(super) async fn release(self) {
        self.renewal.abort();
        let version = lock(&self.state).version.clone();
        let released =
            self.store
                .update(&self.key, content(&self.holder, Duration::ZERO), &version);
        // A successor then waits for it to run out: slower, not wrong.
        match timeout(Duration::from_secs(5), released).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(error = %error, "lease not given back"),
            Err(_) => tracing::warn!("lease not given back in time"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// The version of our own lease just after it was created; `None` when somebody was quicker.
async fn version_of(
    store: &Store,
    key: &str,
    holder: &str,
) -> Result<Option<Version>, RestoreError> {
    let Some((bytes, version)) = store.get_versioned(key).await? else {
        return Ok(None);
    };
    let lease: Object = from_json(key, &bytes)?;
    Ok((lease.holder == holder).then_some(version))
}

/// Waits until the lease may be taken; `None`: there is none yet.
async fn wait_until_free(store: &Store, key: &str) -> Result<Option<Version>, RestoreError> {
    let mut seen: Option<(Version, Instant)> = None;
    loop {
        let Some((bytes, version)) = store.get_versioned(key).await? else {
            return Ok(None);
        };
        let lease: Object = from_json(key, &bytes)?;
        let duration = Duration::from_secs(lease.duration_secs.into());
        let since = match &seen {
            Some((same, since)) if *same == version => *since,
            Some(_) | None => {
                if duration > Duration::ZERO {
                    let holder = &lease.holder;
                    tracing::info!(holder, "another worker holds this restore, waiting for it");
                }
                Instant::now()
            }
        };
        if since.elapsed() >= duration {
            return Ok(Some(version));
        }
        seen = Some((version, since));
        sleep(POLL.min(duration)).await;
    }
}

async fn renew(
    store: Store,
    key: String,
    holder: String,
    times: Times,
    state: Arc<Mutex<State>>,
    lost: CancellationToken,
) {
    loop {
        sleep(times.renew).await;
        let version = lock(&state).version.clone();
        let asked = Instant::now();
        let update = store.update(&key, content(&holder, times.duration), &version);
        match timeout(times.stop, update).await {
            Ok(Ok(Updated::Done(version))) => {
                *lock(&state) = State {
                    version,
                    renewed: asked,
                };
            }
            Ok(Ok(Updated::Changed)) => {
                // Ours, when an earlier update's answer was lost; else somebody else's.
                match version_of(&store, &key, &holder).await {
                    Ok(Some(version)) => lock(&state).version = version,
                    Ok(None) => {
                        lost.cancel();
                        return;
                    }
                    Err(error) => tracing::warn!(error = %error, "lease not renewed"),
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %error, "lease not renewed"),
            Err(_) => tracing::warn!("lease not renewed in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Times = Times {
        duration: Duration::from_secs(1),
        renew: Duration::from_millis(100),
        stop: Duration::from_millis(500),
    };

    async fn store(folder: &tempfile::TempDir) -> Store {
        Store::open_folder(folder.path()).unwrap()
    }

    #[tokio::test]
    async fn a_second_worker_waits_until_the_first_gives_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let first = Lease::acquire(&store, "r/lease.json", SHORT).await.unwrap();
        assert!(first.is_held());
        let mut second = Box::pin(Lease::acquire(&store, "r/lease.json", SHORT));
        // Renewed all the time, it never runs out.
        let waiting = timeout(3 * SHORT.duration, &mut second).await;
        assert!(waiting.is_err(), "taken while it was held");
        assert!(first.is_held());
        first.release().await;
        let second = timeout(Duration::from_secs(10), second)
            .await
            .unwrap()
            .unwrap();
        assert!(second.is_held());
    }

    #[tokio::test]
    async fn a_lease_runs_out_and_its_old_holder_learns_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let frozen = Times {
            renew: Duration::from_secs(3),
            ..SHORT
        };
        let first = Lease::acquire(&store, "r/lease.json", frozen)
            .await
            .unwrap();
        let second = Lease::acquire(&store, "r/lease.json", SHORT).await.unwrap();
        // On a machine that is busy it may be that only a renewal comes in time.
        let held = async {
            while !second.is_held() {
                sleep(SHORT.renew).await;
            }
        };
        timeout(Duration::from_secs(10), held).await.unwrap();
        assert!(!first.is_held(), "it has not renewed");
        timeout(Duration::from_secs(10), first.lost().cancelled())
            .await
            .unwrap();
        assert!(!second.lost().is_cancelled());
    }
}
