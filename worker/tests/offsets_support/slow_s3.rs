//! An S3 server that a test can hold up, or make refuse, where a snapshot is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tokio::sync::Semaphore;

/// What becomes of a snapshot that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writes {
    /// It is stored once the test lets it.
    Held,
    /// It is not stored: 403.
    Denied,
    /// It is stored, and the first answer is lost on the way: 500.
    Lost,
}

/// The server, which lives as long as its runtime.
pub struct SlowS3 {
    pub endpoint: String,
    state: Arc<Shared>,
}

struct Shared {
    writes: Writes,
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// One permit for each snapshot that has come.
    came: Semaphore,
    /// One permit for each snapshot that may be stored.
    may: Semaphore,
}

impl SlowS3 {
    pub async fn serve(writes: Writes) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Shared {
            writes,
            objects: Mutex::default(),
            came: Semaphore::new(0),
            may: Semaphore::new(0),
        });
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, state }
    }

    /// Waits until a snapshot is being written.
    pub async fn came(&self) {
        self.state.came.acquire().await.unwrap().forget();
    }

    /// Lets it be stored.
    pub fn store(&self) {
        self.state.may.add_permits(1);
    }

    /// The snapshots that are stored.
    pub fn snapshots(&self) -> Vec<Bytes> {
        let objects = self.state.objects.lock().unwrap();
        let snapshots = objects.iter().filter(|(key, _)| is_snapshot(key));
        snapshots.map(|(_, content)| content.clone()).collect()
    }
}

fn is_snapshot(key: &str) -> bool {
    key.contains("/_snapshots/")
}

async fn answer(State(state): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let key = head.uri.path().to_owned();
    match head.method {
        Method::GET if head.uri.query().is_some_and(|it| it.contains("list-type")) => {
            // What is listed is not looked at here.
            let none = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
            said(StatusCode::OK, none.into())
        }
        Method::GET | Method::HEAD => match state.objects.lock().unwrap().get(&key) {
            Some(content) => said(StatusCode::OK, content.clone()),
            None => failed(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        Method::PUT => {
            if is_snapshot(&key) && state.writes == Writes::Denied {
                return failed(StatusCode::FORBIDDEN, "AccessDenied");
            }
            if is_snapshot(&key) && state.writes == Writes::Held {
                state.came.add_permits(1);
                state.may.acquire().await.unwrap().forget();
            }
            let mut objects = state.objects.lock().unwrap();
            if objects.contains_key(&key) {
                return failed(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
            }
            let is_lost = is_snapshot(&key) && state.writes == Writes::Lost;
            objects.insert(key, body);
            match is_lost {
                true => failed(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
                false => said(StatusCode::OK, Bytes::new()),
            }
        }
        other => panic!("{other} {key}"),
    }
}

fn said(status: StatusCode, body: Bytes) -> Response {
    Response::builder()
        .status(status)
        .header("etag", "\"1\"")
        .header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        .body(Body::from(body))
        .unwrap()
}

fn failed(status: StatusCode, code: &str) -> Response {
    said(status, format!("<Error><Code>{code}</Code></Error>").into())
}
