//! An emulator of the part of Google Cloud Storage's XML API that the worker uses: no real server of that API can be had for
//! tests. What it does follows Google's reference, <https://cloud.google.com/storage/docs/xml-api/reference-methods>; that Google does
//! it too is not shown by it.
//!
//! Put with `x-goog-if-generation-match`, get with ranges, head, list (version 2, pages of 1,000), delete; one bucket. Tokens must be
//! JWTs of one service account, as Google takes them without a token server; their signature is not checked.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a module of a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;

/// The only bucket.
pub const BUCKET: &str = "backups";
/// Whose tokens are taken.
pub const ACCOUNT: &str = "backup@lab.iam.gserviceaccount.com";
/// The largest page of a listing, as Google has it.
const PAGE: usize = 1000;

#[derive(Default)]
struct Objects {
    by_key: BTreeMap<String, (Bytes, u64)>,
    generation: u64,
}

type Shared = Arc<Mutex<Objects>>;

/// Serves until the runtime ends; the answer is the endpoint.
pub async fn serve() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(Shared::default());
    tokio::spawn(async move { axum::serve(listener, router).await });
    endpoint
}

async fn answer(State(objects): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    if !is_known(&head.headers) {
        return error(StatusCode::UNAUTHORIZED, "AuthenticationRequired");
    }
    let url = reqwest::Url::parse(&format!("http://gcs{}", head.uri)).unwrap();
    let path = decoded(url.path().trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    if bucket != BUCKET {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    }
    let mut objects = objects.lock().unwrap();
    match (head.method, key) {
        (Method::GET, "") => list(&objects, &url),
        (Method::PUT, key) => put(&mut objects, key, &head.headers, body),
        (Method::GET | Method::HEAD, key) => get(&objects, key, &head.headers),
        (Method::DELETE, key) => match objects.by_key.remove(key) {
            Some(_) => response(StatusCode::NO_CONTENT)
                .body(Body::empty())
                .unwrap(),
            None => error(StatusCode::NOT_FOUND, "NoSuchKey"),
        },
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

/// Whether the token is one of [`ACCOUNT`].
fn is_known(headers: &HeaderMap) -> bool {
    let token = headers.get("authorization").and_then(|t| t.to_str().ok());
    let claims = token.and_then(|token| token.strip_prefix("Bearer ")?.split('.').nth(1));
    let claims = claims.map(|claims| serde_json::from_slice(&base64url(claims)).unwrap());
    claims.is_some_and(|claims: serde_json::Value| claims["iss"] == ACCOUNT)
}

fn base64url(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'-' => 62,
        _ => 63,
    };
    let mut bytes = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0u32, |bits, b| bits << 6 | u32::from(digit(*b)));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn put(objects: &mut Objects, key: &str, headers: &HeaderMap, content: Bytes) -> Response {
    let now = objects
        .by_key
        .get(key)
        .map_or(0, |(_, generation)| *generation);
    let wanted = headers.get("x-goog-if-generation-match");
    let wanted = wanted.map(|value| value.to_str().unwrap().parse::<u64>());
    match wanted {
        Some(Err(_)) => return error(StatusCode::BAD_REQUEST, "InvalidArgument"),
        Some(Ok(wanted)) if wanted != now => {
            return error(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        Some(Ok(_)) | None => {}
    }
    objects.generation += 1;
    let object = (content, objects.generation);
    let answer = described(StatusCode::OK, &object).body(Body::empty());
    objects.by_key.insert(key.to_owned(), object);
    answer.unwrap()
}

fn get(objects: &Objects, key: &str, headers: &HeaderMap) -> Response {
    let Some(object) = objects.by_key.get(key) else {
        return error(StatusCode::NOT_FOUND, "NoSuchKey");
    };
    let size = object.0.len();
    let Some(range) = headers.get("range") else {
        let answer = described(StatusCode::OK, object).header("content-length", size);
        return answer.body(Body::from(object.0.clone())).unwrap();
    };
    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (start, last) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    if start >= size {
        return error(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
    }
    let end = last.parse().map_or(size, |last: usize| size.min(last + 1));
    described(StatusCode::PARTIAL_CONTENT, object)
        .header("content-range", format!("bytes {start}-{}/{size}", end - 1))
        .body(Body::from(object.0.slice(start..end)))
        .unwrap()
}

/// Of two objects with the same content the tags are the same and the generations are not, as Google's are.
fn described(
    status: StatusCode,
    (content, generation): &(Bytes, u64),
) -> axum::http::response::Builder {
    response(status)
        .header("x-goog-generation", generation.to_string())
        .header("etag", format!("\"{:08x}\"", crc32c::crc32c(content)))
        .header("last-modified", "Fri, 02 Jan 2026 03:04:05 GMT")
}

fn list(objects: &Objects, url: &reqwest::Url) -> Response {
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let (prefix, delimiter) = (text("prefix"), text("delimiter"));
    let after = text("continuation-token").max(text("start-after"));
    let page = query.get("max-keys").map_or(PAGE, |n| n.parse().unwrap());
    let mut entries = BTreeMap::new();
    for (key, (content, _)) in &objects.by_key {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        let folder = match delimiter {
            "" => None,
            _ => rest.split_once(delimiter).map(|(folder, _)| folder),
        };
        match folder {
            Some(folder) => entries.insert(format!("{prefix}{folder}{delimiter}"), None),
            None => entries.insert(key.clone(), Some(content.len())),
        };
    }
    entries.retain(|entry, _| entry.as_str() > after);
    let mut xml = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
    for (entry, size) in entries.iter().take(page) {
        let entry = entry
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        xml += &match size {
            Some(size) => format!(
                "<Contents><Key>{entry}</Key><Size>{size}</Size><LastModified>2026-01-02T03:04:05Z</LastModified></Contents>"
            ),
            None => format!("<CommonPrefixes><Prefix>{entry}</Prefix></CommonPrefixes>"),
        };
    }
    if entries.len() > page {
        let last = entries.keys().nth(page - 1).unwrap();
        xml += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    xml += "</ListBucketResult>";
    response(StatusCode::OK).body(Body::from(xml)).unwrap()
}

fn response(status: StatusCode) -> axum::http::response::Builder {
    Response::builder().status(status)
}

fn error(status: StatusCode, code: &str) -> Response {
    let xml = format!(
        "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{status}</Message></Error>"
    );
    response(status).body(Body::from(xml)).unwrap()
}
