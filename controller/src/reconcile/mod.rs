//! observe -> decide -> act, one loop per kind.
//!
//! # Guarantees
//! - An object is worked on by one task at a time; several objects concurrently.
//! - A look at an object ends: a request that is never answered holds up its object for [`LOOK_LIMIT`], and no others for longer.
//! - While an object fails it is tried again at least every two minutes, and each failure is counted.
//! - At shutdown what has begun is finished; nothing new begins.

mod act;
pub(crate) mod child;
mod conclude;
mod condition;
pub(crate) mod decide;
pub(crate) mod due;
mod error;
mod follow;
pub(crate) mod line;
mod observe;
mod outcome;
mod places;
pub(crate) mod queue;
pub(crate) mod tidy;
pub(crate) mod view;
pub(crate) mod watch;
pub(crate) mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::error::ReconcileError;
use self::line::{Limits, Place, Waiter};
use self::places::Places;
use self::queue::Key;
use self::view::Trouble;
use crate::exporter::Exporter;
use crate::gate::Gate;
use crate::health::Heartbeat;
use crate::job::WorkerSettings;
use crate::kind::Kind;
use crate::objects::Objects;
use crate::tls::PushCa;

/// Objects of one kind that are worked on at a time.
const CONCURRENT: usize = 16;
/// The longest time between two looks at an object.
const RESYNC: Duration = Duration::from_secs(300);
/// The longest time between two attempts at an object that fails.
const RETRY_MAX: Duration = Duration::from_secs(120);
/// The longest that a look may take. Given up in the middle it is what a crash there is, and the next look observes anew.
const LOOK_LIMIT: Duration = Duration::from_secs(90);
/// How long after the end of a run those are called who wait.
const CALL: Duration = Duration::from_millis(300);
const BEAT: Duration = Duration::from_secs(15);
/// How far the clock may be set at a time, by what keeps it right, without being noticed.
const JUMP: SignedDuration = SignedDuration::from_secs(2);

/// How long a controller waits for others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long a counter's value must have been exposed before it changes.
    pub(crate) hold: Duration,
    /// How long after its grace period a pod of a silent node is given up.
    pub(crate) lost_after: SignedDuration,
}

/// What Jobs are made with.
pub(crate) struct Workers {
    /// All of it but the CA.
    pub(crate) settings: WorkerSettings,
    /// The CA, which may change.
    pub(crate) push_ca: Option<Arc<PushCa>>,
}

/// What every look at an object needs.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) objects: Arc<Objects>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) exporter: Arc<Exporter>,
    worker: Workers,
    pub(crate) patience: Patience,
    pub(crate) limits: Limits,
    refusals: Mutex<HashMap<String, Trouble>>,
    places: Mutex<Places>,
}

impl Context {
    /// A context.
    pub(crate) fn new(
        client: Client,
        objects: Arc<Objects>,
        gate: Arc<Gate>,
        exporter: Arc<Exporter>,
        worker: Workers,
        patience: Patience,
        limits: Limits,
    ) -> Self {
        Self {
            client,
            objects,
            gate,
            exporter,
            worker,
            patience,
            limits,
            refusals: Mutex::default(),
            places: Mutex::default(),
        }
    }

    /// What a Job is made with that is made now.
    fn worker(&self) -> WorkerSettings {
        let Workers { settings, push_ca } = &self.worker;
        let ca = push_ca.as_ref().map(|ca| ca.current().to_string());
        WorkerSettings {
            push_ca: ca,
            ..settings.clone()
        }
    }

    fn store<K: Kind>(&self) -> &Store<K> {
        K::store(&self.objects)
    }

    /// Whether the object is there, as the cache has it.
    fn knows<K: Kind>(&self, key: &Key) -> bool {
        let object = ObjectRef::new(&key.name).within(&key.namespace);
        self.store::<K>().get(&object).is_some()
    }

    /// Why the API server refused the Job of the object with this UID, if it did at the last attempt.
    fn refusal(&self, uid: &str) -> Option<Trouble> {
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
    }

    /// Where the waiting run of an object stands. A place that is given is taken until the cache shows the run.
    fn place<K: Kind>(&self, object: &K) -> Option<Place> {
        let waiting = K::life(&object.status()).waiting_run.clone()?;
        let uid = object.meta().uid.clone().unwrap_or_default();
        let own = Waiter {
            due: waiting.due.0,
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
            kind: K::KIND,
            uid: uid.clone(),
        };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.place(self.limits, &self.objects, own)
    }

    /// Has those looked at who may start now that a run has ended.
    fn call_next(&self) {
        if !self.limits.are_set() {
            return;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        for waiter in places.next(self.limits, &self.objects) {
            let key = Key {
                namespace: waiter.namespace,
                name: waiter.name,
            };
            // By then the cache has seen the end of the run.
            let soon = Instant::now() + CALL;
            self.objects.queue(waiter.kind).add(key, soon);
        }
    }

    fn note_refusal(&self, uid: &str, refusal: Option<Trouble>) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Some(refusal) => refusals.insert(uid.into(), refusal),
            None => refusals.remove(uid),
        };
    }
}

/// Works on the objects of kind `K` until `stop`.
pub(crate) async fn run<K: Kind>(
    context: Arc<Context>,
    heartbeat: Heartbeat,
    stop: CancellationToken,
) {
    let queue = context.objects.queue(K::KIND);
    let mut failures: HashMap<Key, u32> = HashMap::new();
    let mut tasks: JoinSet<(Key, Result<Option<Timestamp>, ReconcileError>)> = JoinSet::new();
    let mut clock = Clock::new(Timestamp::now(), Instant::now());
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !(stop.is_cancelled() && tasks.is_empty()) {
        tokio::select! {
            _ = beat.tick() => {
                heartbeat.beat();
                if clock.has_jumped(Timestamp::now(), Instant::now()) {
                    warn!(kind = K::KIND.as_str(), "the clock was set: every object is looked at");
                    context.objects.add_all::<K>();
                }
            }
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            key = queue.next(), if tasks.len() < CONCURRENT && !stop.is_cancelled() => {
                if !context.knows::<K>(&key) {
                    failures.remove(&key);
                    queue.done(key, None);
                    continue;
                }
                let context = context.clone();
                tasks.spawn(async move {
                    let result = look::<K>(&context, &key).await;
                    (key, result)
                });
            }
            Some(ended) = tasks.join_next() => {
                // A panic is a bug that must not pass as a healthy controller.
                let (key, result) = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                let again = if context.knows::<K>(&key) {
                    Some(next_look(&key, result, &mut failures))
                } else {
                    // Deleted: one of that name that comes later is queued by its watch.
                    failures.remove(&key);
                    None
                };
                queue.done(key, again);
            }
        }
    }
}

/// Tells when the wall clock was set. Ticks are due by that clock, and queues wait by another one, which nobody sets.
struct Clock {
    wall: Timestamp,
    steady: Instant,
}

impl Clock {
    fn new(wall: Timestamp, steady: Instant) -> Self {
        Self { wall, steady }
    }

    /// Whether the two have moved apart since the last call.
    fn has_jumped(&mut self, wall: Timestamp, steady: Instant) -> bool {
        let passed = steady.saturating_duration_since(self.steady).as_millis();
        let shown = wall.duration_since(self.wall).as_millis();
        let apart = i128::try_from(passed).map_or(i128::MAX, |passed| (shown - passed).abs());
        *self = Self { wall, steady };
        apart > JUMP.as_millis()
    }
}

async fn look<K: Kind>(context: &Context, key: &Key) -> Result<Option<Timestamp>, ReconcileError> {
    let started = Instant::now();
    let result = within(LOOK_LIMIT, act::reconcile::<K>(context, key)).await;
    let counted = result.as_ref().map(drop).map_err(drop);
    context.exporter.own().observe_reconcile(
        K::KIND.controller(),
        &key.namespace,
        &key.name,
        started.elapsed(),
        counted,
    );
    result
}

async fn within<T>(
    limit: Duration,
    look: impl Future<Output = Result<T, ReconcileError>>,
) -> Result<T, ReconcileError> {
    match timeout(limit, look).await {
        Ok(ended) => ended,
        Err(_) => Err(ReconcileError::Late { limit }),
    }
}

fn next_look(
    key: &Key,
    result: Result<Option<Timestamp>, ReconcileError>,
    failures: &mut HashMap<Key, u32>,
) -> Instant {
    let now = Instant::now();
    match result {
        Ok(wake) => {
            failures.remove(key);
            let wait = wake.map_or(RESYNC, |at| {
                Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
            });
            now + wait.min(RESYNC)
        }
        Err(error) => {
            warn!(
                namespace = key.namespace,
                name = key.name,
                error = error.chain(),
                "reconcile failed"
            );
            let failures = failures.entry(key.clone()).or_default();
            let delay = Duration::from_secs(1 << (*failures).min(7)).min(RETRY_MAX);
            *failures += 1;
            now + delay
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_in_both_directions() {
        let (wall, steady) = (Timestamp::now(), Instant::now());
        let after = |seconds| steady + Duration::from_secs(seconds);
        let shows = |seconds| wall + SignedDuration::from_secs(seconds);
        let mut clock = Clock::new(wall, steady);
        assert!(!clock.has_jumped(shows(15), after(15)));
        assert!(!clock.has_jumped(shows(31), after(30)));
        assert!(clock.has_jumped(shows(3600), after(45)));
        assert!(!clock.has_jumped(shows(3615), after(60)));
        assert!(clock.has_jumped(shows(75), after(75)));
    }

    #[tokio::test]
    async fn a_request_without_answer_ends_the_look() {
        let limit = Duration::from_millis(1);
        let ended = within(limit, std::future::pending::<Result<(), _>>()).await;
        assert!(
            matches!(ended, Err(ReconcileError::Late { .. })),
            "{ended:?}"
        );
        assert!(within(LOOK_LIMIT, async { Ok(1) }).await.is_ok());
    }
}
