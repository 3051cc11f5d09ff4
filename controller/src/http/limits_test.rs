//! Peers that are slow, that send too much, and that stop in the middle.

use super::tests::*;
use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::push::BODY_MAX;

/// Long enough for whoever is not slow, short enough to wait for.
const SOON: Duration = Duration::from_millis(300);

/// Every request with a body that a worker sends, without the line's version.
fn requests() -> [String; 3] {
    let run = kafka_backup_shared::plan::RunRef::example();
    [
        kafka_backup_shared::pod::push_path(&run),
        kafka_backup_shared::pod::report_path(JOB_UID),
        kafka_backup_shared::pod::snapshot_path(JOB_UID),
    ]
    .map(|path| format!("PUT {path}"))
}

fn head(request: &str, body: &str) -> String {
    let octets = "Content-Type: application/octet-stream";
    format!("{request} HTTP/1.1\r\nHost: test\r\n{GOOD}\r\n{octets}\r\n{body}\r\n\r\n")
}

/// The bytes of a body that is well so far.
const BEGUN: &str = "kafka_backup_backup_records_total 1\n";

fn assert_nothing_applied(rig: &Rig) {
    assert_eq!((rig.progress(), rig.reports()), (vec![], vec![]));
    assert!(rig.push.runs.snapshots.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_told_so_and_nothing_of_it_is_applied() {
    let rig = Rig::with(1, Times::default(), SOON).await;
    rig.push.health.arrived("caches");
    for request in requests() {
        for length in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            let stream = TcpStream::connect(rig.metrics).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let mut begun = head(&request, length);
            begun += &match length.starts_with('C') {
                true => BEGUN.to_owned(),
                false => format!("{:x}\r\n{BEGUN}\r\n", BEGUN.len()),
            };
            // It goes on with a byte now and then.
            let trickle = tokio::spawn(async move {
                let mut more = begun.as_bytes();
                while writer.write_all(more).await.is_ok() {
                    more = if length.starts_with('C') {
                        b"#"
                    } else {
                        b"1\r\n#\r\n"
                    };
                    tokio::time::sleep(SOON / 6).await;
                }
            });
            let mut answer = String::new();
            reader.read_to_string(&mut answer).await.unwrap();
            trickle.abort();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{request} {answer}");
            let reason = "the body did not arrive within 0.3 s\n";
            assert!(answer.ends_with(reason), "{request} {answer}");
        }
    }
    assert_nothing_applied(&rig);
    let count = "pushes_total{result=\"invalid\"} 6\n";
    assert!(rig.page().await.contains(count));
}

#[tokio::test]
async fn a_body_that_ends_early_is_told_so_and_nothing_of_it_is_applied() {
    let rig = Rig::ready().await;
    for request in requests() {
        for begun in [
            head(&request, "Content-Length: 100") + BEGUN,
            head(&request, "Transfer-Encoding: chunked")
                + &format!("{:x}\r\n{BEGUN}\r\n", BEGUN.len()),
        ] {
            let mut stream = TcpStream::connect(rig.metrics).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{request} {answer}");
            assert!(answer.ends_with("the body ended early\n"), "{answer}");
        }
    }
    assert_nothing_applied(&rig);
}

#[tokio::test]
async fn whoever_sends_too_much_can_send_it_all_and_reads_why_it_was_not_taken() {
    let rig = Rig::ready().await;
    let much = vec![b'#'; 16 * BODY_MAX];
    for request in requests() {
        let known = head(&request, &format!("Content-Length: {}", much.len()));
        let chunked = head(&request, "Transfer-Encoding: chunked");
        for begun in [known, chunked + &format!("{:x}\r\n", much.len())] {
            let mut stream = TcpStream::connect(rig.metrics).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            stream.write_all(&much).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 413 "), "{request} {answer}");
            let reason = "the body is longer than 1048576 bytes\n";
            assert!(answer.ends_with(reason), "{answer}");
        }
    }
    assert_nothing_applied(&rig);
}

#[tokio::test]
async fn headers_that_do_not_come_end_the_connection() {
    let times = Times {
        header: SOON,
        ..Times::default()
    };
    let rig = Rig::with(1, times, SOON).await;
    for begun in ["", "PUT /metrics/job/x HTTP/1.1\r\nHost: te"] {
        for port in [rig.metrics, rig.health] {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // The end of the connection, in order or not.
            drop(stream.read_to_string(&mut answer).await);
            assert_eq!(answer, "");
        }
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_loses_its_connection() {
    let (ours, _theirs) = tokio::io::duplex(8);
    let mut stream = connection::Unstalled::new(ours, Duration::from_millis(20));
    let error = stream.write_all(&[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
