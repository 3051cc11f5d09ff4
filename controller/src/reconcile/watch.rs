//! Keeps the caches up to date and the queues fed.
//!
//! # Guarantees
//! - An object that cannot be read stalls neither its kind nor its own metrics: it stays in the cache as it was last.
//! - Whatever a broken watch may have hidden is made up for: after each new listing every object is looked at.
//! - Caches hold no managed fields, no pod specs and no plans.

use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::queue::{Key, Queue};
use crate::job::{KIND_LABEL, NAME};
use crate::kind::{Kind, ObjectKind};
use crate::objects::Objects;

/// An `Api` over one namespace, or all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Watches the objects of kind `K`.
pub(crate) async fn objects<K: Kind>(
    client: Client,
    namespace: Option<String>,
    mut writer: Writer<K>,
    objects: &Objects,
    stop: CancellationToken,
) {
    let reader = writer.as_reader();
    let queue = objects.queue(K::KIND);
    let api = api::<DeserializeGuard<K>>(&client, namespace.as_deref());
    let mut events = watch(api, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = next(&mut events, &stop, K::KIND.as_str()).await {
        let Some(event) = readable(event, &reader) else {
            continue;
        };
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(object) => queue.add(Key::of(object), Instant::now()),
            Event::Delete(object) => objects.forget_object(object),
            Event::InitDone => add_all(&reader, queue),
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// Watches the Jobs that this controller makes.
pub(crate) async fn jobs(
    client: Client,
    namespace: Option<String>,
    writer: Writer<Job>,
    objects: &Objects,
    stop: CancellationToken,
) {
    let slim = |job: &mut Job| {
        job.metadata.managed_fields = None;
        job.spec = None;
    };
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
    children(
        api(&client, namespace.as_deref()),
        "Job",
        writer,
        objects,
        stop,
        slim,
        owner,
    )
    .await;
}

/// Watches the pods of those Jobs.
pub(crate) async fn pods(
    client: Client,
    namespace: Option<String>,
    writer: Writer<Pod>,
    objects: &Objects,
    stop: CancellationToken,
) {
    let slim = |pod: &mut Pod| {
        pod.metadata.managed_fields = None;
        if let Some(annotations) = pod.metadata.annotations.as_mut() {
            annotations.retain(|name, _| name == NAME);
        }
        pod.spec = None;
    };
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
    children(
        api(&client, namespace.as_deref()),
        "Pod",
        writer,
        objects,
        stop,
        slim,
        owner,
    )
    .await;
}

async fn children<C>(
    api: Api<C>,
    kind: &'static str,
    mut writer: Writer<C>,
    objects: &Objects,
    stop: CancellationToken,
    slim: impl Fn(&mut C) + Send,
    owner: impl Fn(&C) -> Option<(ObjectKind, Key)>,
) where
    C: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let ours = watcher::Config::default().labels(KIND_LABEL);
    let mut events = watch(api, ours).default_backoff().boxed();
    while let Some(event) = next(&mut events, &stop, kind).await {
        let event = event.modify(&slim);
        writer.apply_watcher_event(&event);
        match &event {
            Event::Apply(child) | Event::Delete(child) => {
                if let Some((kind, key)) = owner(child) {
                    objects.queue(kind).add(key, Instant::now());
                }
            }
            Event::InitDone => {
                add_all(&objects.backups, &objects.backup_queue);
                add_all(&objects.restores, &objects.restore_queue);
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }
}

/// The next event; errors are waited out by the stream's own back-off. `None` at shutdown.
async fn next<C>(
    events: &mut (impl futures::Stream<Item = watcher::Result<Event<C>>> + Unpin),
    stop: &CancellationToken,
    kind: &str,
) -> Option<Event<C>> {
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return None,
            event = events.next() => event?,
        };
        match event {
            Ok(event) => return Some(event),
            // A watch ends now and then; what it leads to is a new listing.
            Err(watcher::Error::WatchFailed(error)) => debug!(kind, %error, "watch ended"),
            Err(error) => {
                warn!(kind, error = %kafka_backup_shared::report::error_chain(&error), "watch failed")
            }
        }
    }
}

fn add_all<K: Kind>(store: &Store<K>, queue: &Queue) {
    for object in store.state() {
        queue.add(Key::of(&*object), Instant::now());
    }
}

/// The event with the object in it; the last readable version where this one cannot be read.
fn readable<K: Kind>(event: Event<DeserializeGuard<K>>, known: &Store<K>) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(mut object) => {
            object.meta_mut().managed_fields = None;
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
