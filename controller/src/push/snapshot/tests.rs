//! Against an API server of a few lines, which knows one ConfigMap.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::snapshot::Snapshot;
use kube::runtime::reflector::store;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::fixtures;
use crate::leadership::Leadership;
use crate::objects::Caches;

/// What the API server has, and how it answers whoever creates something.
#[derive(Default)]
struct Server {
    found: Option<ConfigMap>,
    refuses: Option<(u16, &'static str, &'static str)>,
    deleted: Vec<Value>,
}

type Shared = Arc<Mutex<Server>>;

fn status(code: u16, reason: &str, message: &str) -> Response {
    let number = StatusCode::from_u16(code).unwrap();
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (number, body.to_string()).into_response()
}

fn json(value: &impl serde::Serialize) -> Response {
    serde_json::to_string(value).unwrap().into_response()
}

async fn create(State(server): State<Shared>, new: Bytes) -> Response {
    let mut server = server.lock().unwrap();
    if let Some((code, reason, message)) = server.refuses {
        return status(code, reason, message);
    }
    if server.found.is_some() {
        return status(409, "AlreadyExists", "it exists");
    }
    let mut new: ConfigMap = serde_json::from_slice(&new).unwrap();
    new.metadata.uid = Some("cm-uid".into());
    new.metadata.resource_version = Some("7".into());
    server.found = Some(new.clone());
    json(&new)
}

async fn get(State(server): State<Shared>, Path(name): Path<String>) -> Response {
    match &server.lock().unwrap().found {
        Some(found) if found.name_any() == name => json(found),
        Some(_) | None => status(404, "NotFound", "no such ConfigMap"),
    }
}

async fn remove(State(server): State<Shared>, options: Bytes) -> Response {
    let mut server = server.lock().unwrap();
    let options: Value = serde_json::from_slice(&options).unwrap();
    server.deleted.push(options["preconditions"].clone());
    server.found = None;
    json(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
}

/// A client of it, and a gate that is open.
fn cluster() -> (Shared, Client, Gate) {
    let server = Shared::default();
    let router = Router::new()
        .route("/api/v1/namespaces/shop/configmaps", post(create))
        .route(
            "/api/v1/namespaces/shop/configmaps/{name}",
            axum::routing::get(get).delete(remove),
        )
        .with_state(server.clone());
    let leadership = Arc::new(Leadership::following());
    leadership.lead_until(Instant::now() + Duration::from_secs(600));
    let client = Client::new(router, "default");
    (server, client, Gate::new(leadership, None))
}

fn run(id: &str) -> RunRef {
    RunRef {
        kind: "KafkaOffsetReset".into(),
        namespace: "shop".into(),
        name: "replay".into(),
        uid: "uid-3".into(),
        run: id.into(),
    }
}

fn before() -> Place {
    Place {
        namespace: "shop".into(),
        config_map: "map".into(),
        id: "before".into(),
    }
}

/// Two snapshots of a run differ by their time.
fn snapshot(id: &str, run: RunRef, at: Timestamp) -> NewSnapshot {
    let header = SnapshotHeader {
        format_version: FORMAT_VERSION,
        snapshot_id: id.into(),
        run,
        time: at,
        cluster_id: "c".into(),
        groups: vec!["*".into()],
        topics: None,
        topic_ids: BTreeMap::new(),
        group_count: 0,
        offset_count: 0,
    };
    let groups = Vec::new();
    let snapshot = Snapshot { header, groups };
    NewSnapshot {
        bytes: snapshot.to_bytes(),
        header: snapshot.header,
    }
}

#[tokio::test]
async fn a_snapshot_is_kept_once_and_its_run_gets_the_first_one_back() {
    let (server, client, gate) = cluster();
    let keep = |run: RunRef, snapshot: NewSnapshot| {
        let (client, gate) = (&client, &gate);
        async move { keep(client, gate, &before(), &run, snapshot).await }
    };
    let first = snapshot("before", run("r-1"), Timestamp::UNIX_EPOCH);
    let later = snapshot("before", run("r-1"), Timestamp::MAX);
    let kept = keep(run("r-1"), first.clone()).await;
    assert_eq!(kept.unwrap(), Kept::New);
    let found = server.lock().unwrap().found.clone().unwrap();
    assert_eq!(found.immutable, Some(true));
    assert_eq!(found.owner_references(), [], "it outlives the object");
    assert_eq!(found.labels()["kafka-backup.dev/snapshot"], "before");
    assert_eq!(found.annotations()["kafka-backup.dev/run"], "r-1");
    assert_eq!(found.annotations()["kafka-backup.dev/name"], "replay");
    let bytes = &found.binary_data.unwrap()[CONFIG_MAP_KEY].0;
    assert_eq!(*bytes, first.bytes);

    let kept = keep(run("r-1"), later).await;
    assert_eq!(kept.unwrap(), Kept::Before(first.bytes));
    let other = snapshot("before", run("r-2"), Timestamp::MAX);
    let taken = keep(run("r-2"), other).await.unwrap_err();
    assert!(matches!(taken, SnapshotError::Taken(_)), "{taken}");
    let other = keep(run("r-1"), snapshot("x", run("r-1"), Timestamp::MAX)).await;
    assert!(matches!(other, Err(SnapshotError::OtherId { .. })));
    let mut large = snapshot("before", run("r-1"), Timestamp::MAX);
    large.bytes = vec![0; CONFIG_MAP_MAX + 1];
    let large = keep(run("r-1"), large).await;
    assert!(matches!(large, Err(SnapshotError::TooLarge { .. })));
}

#[tokio::test]
async fn what_is_something_else_is_neither_given_back_nor_deleted() {
    let (server, client, gate) = cluster();
    let own = snapshot("before", run("r-1"), Timestamp::MAX);
    let whole = config_map(&before(), &run("r-1"), own.bytes.clone());
    let mut unlabelled = whole.clone();
    unlabelled.metadata.labels = None;
    let mut empty = whole.clone();
    empty.binary_data = None;
    let mut damaged = whole.clone();
    let bytes = damaged.binary_data.as_mut().unwrap();
    bytes.get_mut(CONFIG_MAP_KEY).unwrap().0.pop();
    let mut other = whole.clone();
    let elsewhere = snapshot("x", run("r-1"), Timestamp::MAX).bytes;
    let bytes = other.binary_data.as_mut().unwrap();
    bytes.insert(CONFIG_MAP_KEY.into(), ByteString(elsewhere));
    for found in [unlabelled, empty, damaged, other] {
        server.lock().unwrap().found = Some(found.clone());
        let kept = keep(&client, &gate, &before(), &run("r-1"), own.clone()).await;
        assert!(matches!(kept, Err(SnapshotError::Taken(_))), "{found:?}");
        let deleted = delete(&client, &gate, &before()).await;
        assert!(matches!(deleted, Err(SnapshotError::OtherContent { .. })));
    }
    assert!(server.lock().unwrap().deleted.is_empty());

    server.lock().unwrap().found = None;
    keep(&client, &gate, &before(), &run("r-1"), own)
        .await
        .unwrap();
    delete(&client, &gate, &before()).await.unwrap();
    let only_this = json!({"uid": "cm-uid", "resourceVersion": "7"});
    assert_eq!(server.lock().unwrap().deleted, [only_this]);
    let missing = delete(&client, &gate, &before()).await;
    assert!(matches!(missing, Err(SnapshotError::Missing(_))));
}

#[tokio::test]
async fn what_the_api_server_answers_decides_whether_to_ask_again() {
    let (server, client, gate) = cluster();
    let worker = worker(run("r-1"));
    let table = [
        (403, "Forbidden", "exceeded quota: objects", 422),
        (404, "NotFound", "namespaces \"shop\" not found", 422),
        (422, "Invalid", "a bad name", 422),
        (409, "Conflict", "the quota is being counted", 503),
        (429, "TooManyRequests", "later", 503),
        (500, "InternalError", "no leader", 503),
    ];
    for (code, reason, message, expected) in table {
        server.lock().unwrap().refuses = Some((code, reason, message));
        let own = snapshot("before", run("r-1"), Timestamp::MAX);
        let kept = keep(&client, &gate, &before(), &run("r-1"), own).await;
        let refusal = kept.unwrap_err().refusal(&worker);
        assert_eq!(refusal.status.as_u16(), expected, "{reason}");
        let is_told = refusal.reason.contains(message);
        assert_eq!(is_told, expected == 422, "{}", refusal.reason);
    }
    server.lock().unwrap().refuses = None;
    let closed = Gate::new(Arc::new(Leadership::following()), None);
    let own = snapshot("before", run("r-1"), Timestamp::MAX);
    let kept = keep(&client, &closed, &before(), &run("r-1"), own).await;
    let refusal = kept.unwrap_err().refusal(&worker);
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.lock().unwrap().found, None);
}

fn worker(run: RunRef) -> Worker {
    Worker {
        run,
        job_uid: "job-1".into(),
        pod: "pod".into(),
    }
}

fn place_of(
    reset: Option<KafkaOffsetReset>,
    rollback: Option<KafkaOffsetRollback>,
    step: fn(&Objects, &Worker) -> Result<Place, SnapshotError>,
    worker: &Worker,
) -> Result<Place, SnapshotError> {
    let (offset_resets, mut resets) = store();
    let (offset_rollbacks, mut rollbacks) = store();
    let objects = Objects::new(Caches {
        offset_resets,
        offset_rollbacks,
        ..Caches::empty()
    });
    if let Some(reset) = reset {
        resets.apply_watcher_event(&Event::Apply(reset));
    }
    if let Some(rollback) = rollback {
        rollbacks.apply_watcher_event(&Event::Apply(rollback));
    }
    step(&objects, worker)
}

#[test]
fn only_what_the_object_asks_for_is_kept_and_under_the_name_that_it_gives() {
    let reset_worker = worker(run("replay-1"));
    let kept = |change: fn(&mut KafkaOffsetReset)| {
        let mut reset = fixtures::offset_reset();
        change(&mut reset);
        place_of(Some(reset), None, place_to_keep, &reset_worker)
    };
    let place = kept(|_| {}).unwrap();
    assert_eq!((&*place.config_map, &*place.id), ("replay-1", "replay-1"));
    assert_eq!(place.namespace, "shop");
    let named = kept(|reset| {
        reset.spec.snapshot_id = Some("s".into());
        let storage = json!({"storageType": "configMap", "configMap": {"name": "map"}});
        reset.spec.storage = serde_json::from_value(storage).unwrap();
    });
    let named = named.unwrap();
    assert_eq!((&*named.config_map, &*named.id), ("map", "s"));
    let refused: [fn(&mut KafkaOffsetReset); 3] = [
        |reset| reset.spec.create_snapshot = false,
        |reset| reset.spec.dry_run = true,
        |reset| {
            let storage = json!({"storageType": "s3", "s3": {"bucket": "b"}});
            reset.spec.storage = serde_json::from_value(storage).unwrap();
        },
    ];
    for change in refused {
        let refusal = kept(change).unwrap_err().refusal(&reset_worker);
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
    let recreated = kept(|reset| reset.metadata.uid = Some("uid-9".into()));
    assert!(matches!(recreated, Err(SnapshotError::NotActive)));
}

#[test]
fn a_rollback_keeps_or_deletes_only_by_its_operation() {
    let of = RunRef {
        kind: "KafkaOffsetRollback".into(),
        name: "undo".into(),
        uid: "uid-4".into(),
        ..run("undo-1")
    };
    let worker = worker(of);
    for operation in ["snapshot", "rollback", "verify", "delete"] {
        let place = |step, dry_run| {
            let mut rollback = fixtures::offset_rollback(operation);
            rollback.spec.dry_run = dry_run;
            place_of(None, Some(rollback), step, &worker).is_ok()
        };
        let keeps = place(place_to_keep, false);
        assert_eq!(keeps, operation == "snapshot", "{operation}");
        let deletes = place(place_to_delete, false);
        assert_eq!(deletes, operation == "delete", "{operation}");
        assert!(!place(place_to_keep, true) && !place(place_to_delete, true));
    }
    let backup = Worker {
        run: RunRef::example(),
        ..worker
    };
    for step in [place_to_keep, place_to_delete] {
        let refused = place_of(None, None, step, &backup).unwrap_err();
        assert!(matches!(refused, SnapshotError::NotAsked { .. }));
    }
}
