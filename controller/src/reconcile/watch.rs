//! Keeps the caches up to date and the queues fed.
//!
//! # Guarantees
//! - An object that cannot be read stalls neither its kind nor its own metrics: it stays in the cache as it was last.
//! - Whatever a broken watch may have hidden is made up for: after each new listing every object is looked at.
//! - Caches hold no managed fields, no manifests as somebody applied them, and of Jobs and pods what is looked at.
//! - A kind whose CRD is missing, or goes, has no objects, and stalls no other: that is named, and asked again until it is there.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kafka_backup_shared::crd::{KafkaBackup, KafkaRestore};
use kafka_backup_shared::report::error_chain;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::child::{Child, View};
use super::queue::Key;
use super::view::{JobView, PodView};
use super::write::is_not_found;
use crate::health::Health;
use crate::job::{KIND_LABEL, NAME};
use crate::kind::{Kind, ObjectKind};
use crate::objects::Objects;

/// Objects of a kind that one request of a listing returns: a listing is decoded whole before its parts are dropped.
const PAGE: u32 = 100;

/// The annotation in which `kubectl apply` keeps the whole manifest.
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How long a watch that failed waits at most. The 30 s that kube has, and as much again by chance, would hide what becomes of runs
/// for a minute after the API server is back.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// kube's own, with that bound.
#[derive(Default)]
struct BackOff(DefaultBackoff);

impl Iterator for BackOff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next()?.min(BACK_OFF_MAX))
    }
}

impl Backoff for BackOff {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// How often a kind is asked for whose CRD is missing.
const UNKNOWN: Duration = Duration::from_secs(5);

/// What every watch needs.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) client: Client,
    /// All without one.
    pub(crate) namespace: Option<String>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) health: Arc<Health>,
    pub(crate) stop: CancellationToken,
}

impl Watch {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// The next event; errors are waited out by the stream's own back-off. `None` at shutdown.
    async fn next<C>(
        &self,
        events: &mut (impl futures::Stream<Item = watcher::Result<Event<C>>> + Unpin),
        kind: &'static str,
    ) -> Option<Told<C>> {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return None,
                event = events.next() => event?,
            };
            match event {
                Ok(event) => {
                    if let Event::InitDone = event {
                        self.health.note(kind, None);
                    }
                    return Some(Told::Event(event));
                }
                // A watch ends now and then; what it leads to is a new listing.
                Err(watcher::Error::WatchFailed(error)) => debug!(kind, %error, "watch ended"),
                Err(
                    watcher::Error::InitialListFailed(error)
                    | watcher::Error::WatchStartFailed(error),
                ) if is_not_found(&error) => {
                    warn!(
                        kind,
                        "the API server does not know this kind: its CRD is missing"
                    );
                    let trouble = "is not known to the API server: its CRD is missing";
                    self.health.note(kind, Some(trouble.into()));
                    return Some(Told::Unknown);
                }
                Err(error) => {
                    let is_list = matches!(error, watcher::Error::InitialListFailed(_));
                    let error = error_chain(&error);
                    warn!(kind, error, "watch failed");
                    if is_list {
                        self.health
                            .note(kind, Some(format!("cannot be listed: {error}")));
                    }
                }
            }
        }
    }
}

/// What a watch tells.
enum Told<C> {
    Event(Event<C>),
    /// There is no such kind.
    Unknown,
}

/// Watches the objects of kind `K`.
pub(crate) async fn objects<K: Kind>(watched: Watch, mut writer: Writer<K>) {
    let objects = &watched.objects;
    let reader = writer.as_reader();
    let queue = objects.queue(K::KIND);
    let config = watcher::Config::default().page_size(PAGE);
    let stream = || watch(watched.api::<DeserializeGuard<K>>(), config.clone());
    let mut events = stream().backoff(BackOff::default()).boxed();
    while let Some(told) = watched.next(&mut events, K::KIND.as_str()).await {
        let Told::Event(event) = told else {
            clear(&mut writer, objects);
            let wait = tokio::time::sleep(UNKNOWN);
            watched.stop.run_until_cancelled(wait).await;
            // From a new listing on: what was watched is of a kind that is gone.
            events = stream().backoff(BackOff::default()).boxed();
            continue;
        };
        let Some(event) = readable(event, &reader) else {
            continue;
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) => queue.add(Key::of(object), Instant::now()),
            Event::Delete(object) => objects.forget_object(object),
            Event::InitDone => objects.add_all::<K>(),
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// Without its kind an object is gone. The cache is complete then: it holds all that there is.
fn clear<K: Kind>(writer: &mut Writer<K>, objects: &Objects) {
    for object in writer.as_reader().state() {
        objects.forget_object(&*object);
    }
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
}

/// Watches the Jobs that this controller makes.
pub(crate) async fn jobs(watched: Watch, writer: Writer<Child<JobView>>) {
    let owner = |job: &Job| {
        let owner = job
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true))?;
        let kind = ObjectKind::parse(&owner.kind)?;
        Some((
            kind,
            Key {
                namespace: job.namespace()?,
                name: owner.name.clone(),
            },
        ))
    };
    children(watched, "Job", writer, owner).await;
}

/// Watches the pods of those Jobs.
pub(crate) async fn pods(watched: Watch, writer: Writer<Child<PodView>>) {
    let owner = |pod: &Pod| {
        let kind = ObjectKind::parse(pod.labels().get(KIND_LABEL)?)?;
        let name = pod.annotations().get(NAME)?.clone();
        Some((
            kind,
            Key {
                namespace: pod.namespace()?,
                name,
            },
        ))
    };
    children(watched, "Pod", writer, owner).await;
}

async fn children<V>(
    watched: Watch,
    kind: &'static str,
    mut writer: Writer<Child<V>>,
    owner: impl Fn(&V::Child) -> Option<(ObjectKind, Key)>,
) where
    V: View + 'static,
    V::Child: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let objects = &watched.objects;
    let ours = watcher::Config::default()
        .labels(KIND_LABEL)
        .page_size(PAGE);
    let mut events = watch(watched.api::<V::Child>(), ours)
        .backoff(BackOff::default())
        .boxed();
    while let Some(told) = watched.next(&mut events, kind).await {
        let Told::Event(event) = told else {
            // Jobs and pods are kinds of every cluster.
            continue;
        };
        writer.apply_watcher_event(&of_view(&event));
        match &event {
            Event::Apply(child) | Event::Delete(child) => {
                if let Some((kind, key)) = owner(child) {
                    objects.queue(kind).add(key, Instant::now());
                }
            }
            Event::InitDone => {
                objects.add_all::<KafkaBackup>();
                objects.add_all::<KafkaRestore>();
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// The event with what is kept of the child.
fn of_view<V: View>(event: &Event<V::Child>) -> Event<Child<V>> {
    match event {
        Event::Apply(child) => Event::Apply(Child::of(child)),
        Event::Delete(child) => Event::Delete(Child::of(child)),
        Event::InitApply(child) => Event::InitApply(Child::of(child)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// The event with the object in it; the last readable version where this one cannot be read.
fn readable<K: Kind>(event: Event<DeserializeGuard<K>>, known: &Store<K>) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
            // Statuses are all that is written of an object: what is left out here stays where it is.
            if let Some(annotations) = object.meta_mut().annotations.as_mut() {
                annotations.remove(APPLIED);
            }
            Some(object)
        }
        Err(invalid) => {
            let name = invalid.metadata.name.unwrap_or_default();
            let namespace = invalid.metadata.namespace.unwrap_or_default();
            warn!(
                kind = K::KIND.as_str(),
                namespace,
                name,
                error = invalid.error,
                "an object cannot be read"
            );
            known
                .get(&ObjectRef::new(&name).within(&namespace))
                .map(|object| K::clone(&object))
        }
    };
    Some(match event {
        Event::Apply(object) => Event::Apply(read(object)?),
        Event::Delete(object) => Event::Delete(read(object)?),
        Event::InitApply(object) => Event::InitApply(read(object)?),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    })
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store;

    use super::*;
    use crate::fixtures;
    use crate::reconcile::due::TRIGGER;

    #[test]
    fn a_watch_that_fails_is_tried_again_soon() {
        let mut waits: Vec<Duration> = BackOff::default().take(20).collect();
        assert!(waits[0] >= Duration::from_millis(800), "{waits:?}");
        assert_eq!(waits.pop(), Some(BACK_OFF_MAX));
        assert!(waits.iter().all(|wait| *wait <= BACK_OFF_MAX), "{waits:?}");
    }

    #[test]
    fn the_manifest_that_somebody_applied_is_not_cached() {
        let mut object = fixtures::backup();
        let annotations = object.annotations_mut();
        annotations.insert(APPLIED.into(), "{}".into());
        annotations.insert(TRIGGER.into(), "1".into());
        let read = readable(Event::Apply(DeserializeGuard(Ok(object))), &store().0);
        let Some(Event::Apply(kept)) = read else {
            panic!("not an object: {read:?}");
        };
        let kept: Vec<&str> = kept.annotations().keys().map(String::as_str).collect();
        assert_eq!(kept, [TRIGGER]);
    }
}
