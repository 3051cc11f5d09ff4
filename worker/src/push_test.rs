//! Against a real, small HTTP server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use kafka_backup_shared::report::{Fault, HeldBack, Outcome, RetentionHeld, TopicReport};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

/// A request as it came.
#[derive(Debug)]
struct Request {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Answers the n-th request with the n-th status, the rest with the last one.
async fn server(statuses: &'static [&'static str]) -> (String, mpsc::UnboundedReceiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::unbounded_channel();
    let count = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, statuses, count.clone(), sender.clone()));
        }
    });
    (url, receiver)
}

async fn serve(
    stream: TcpStream,
    statuses: &[&str],
    count: Arc<AtomicUsize>,
    sender: mpsc::UnboundedSender<Request>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let mut request = Request {
            line: lines.remove(0),
            headers: lines,
            body: String::new(),
        };
        let length = request
            .header("content-length")
            .map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        request.body = String::from_utf8(body).unwrap();
        let index = count.fetch_add(1, Ordering::SeqCst).min(statuses.len() - 1);
        let answer = format!(
            "HTTP/1.1 {}\r\ncontent-length: 2\r\n\r\nno",
            statuses[index]
        );
        sender.send(request).unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn limits() -> Limits {
    Limits {
        period: Duration::from_millis(20),
        attempt: Duration::from_secs(5),
        at_end: Duration::from_secs(10),
    }
}

fn push_to(url: &str, token_file: Option<PathBuf>, limits: Limits) -> Push {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    Push::new(
        url.into(),
        token_file,
        None,
        Some("job-uid".into()),
        RunRef::example(),
        limits,
    )
    .unwrap()
}

fn report(topics: usize) -> Report {
    Report {
        run: RunRef::example(),
        outcome: Outcome::Success,
        start_time: Timestamp::UNIX_EPOCH,
        completion_time: Timestamp::UNIX_EPOCH,
        records: 12,
        bytes: 345,
        gaps: 0,
        new_gaps: 0,
        lag: None,
        retention: None,
        held_back: HeldBack::default(),
        retention_held: RetentionHeld::default(),
        backup_id: None,
        dry_run: None,
        offsets: None,
        warnings: vec![],
        topics: (0..topics)
            .map(|i| TopicReport {
                topic: format!("topic-{i}"),
                partitions: 1,
                records: 1,
                bytes: 2,
            })
            .collect(),
    }
}

#[test]
fn exposition_is_prometheus_text_with_the_runs_labels() {
    let values = Values {
        records: 12,
        bytes: 345,
        ratio: Some(0.5),
        ..Values::default()
    };
    assert_eq!(
        exposition(&RunRef::example(), values),
        "# HELP kafka_backup_backup_records_total Records that are durable in the store, growing while a run goes on.\n\
         # TYPE kafka_backup_backup_records_total counter\n\
         kafka_backup_backup_records_total{backup_name=\"orders\",namespace=\"default\"} 12\n\
         # HELP kafka_backup_run_bytes Bytes of record batches that the run has made durable so far; pushed by the worker, shown in the object's status.\n\
         # TYPE kafka_backup_run_bytes gauge\n\
         kafka_backup_run_bytes{run=\"orders-20260102-030405\"} 345\n\
         # HELP kafka_backup_run_progress_ratio Part of the planned offsets that is done, 0 to 1; pushed by the worker, shown in the object's status.\n\
         # TYPE kafka_backup_run_progress_ratio gauge\n\
         kafka_backup_run_progress_ratio{run=\"orders-20260102-030405\"} 0.5\n"
    );
}

#[test]
fn a_restore_counts_in_its_own_family_and_an_unknown_ratio_is_left_out() {
    let run = RunRef {
        kind: "KafkaRestore".into(),
        ..RunRef::example()
    };
    let text = exposition(
        &run,
        Values {
            records: 1,
            bytes: 2,
            checked: Some(0.25),
            bytes_per_second: Some(1.5),
            left: Some(Duration::from_secs(9)),
            ..Values::default()
        },
    );
    for line in [
        "kafka_backup_run_checked_ratio{run=\"orders-20260102-030405\"} 0.25\n",
        "kafka_backup_run_bytes_per_second{run=\"orders-20260102-030405\"} 1.5\n",
        "kafka_backup_run_remaining_seconds{run=\"orders-20260102-030405\"} 9\n",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(
        text.contains(
            "kafka_backup_restore_records_total{restore_name=\"orders\",namespace=\"default\"} 1\n"
        ),
        "{text}"
    );
    assert!(!text.contains("progress_ratio"), "{text}");
}

#[test]
fn a_large_report_is_cut_to_whole_topics() {
    for max in [700, 3000, 20_000] {
        let body = report_body(&report(1000), max);
        assert!(
            body.len() <= max && body.len() + 100 > max,
            "{} of {max}",
            body.len()
        );
        let read: Report = serde_json::from_slice(&body).unwrap();
        assert_eq!(read.records, 12);
        let omitted = 1000 - read.topics.len();
        assert_eq!(
            read.warnings,
            [format!("{omitted} topics are left out of this report")]
        );
    }
    let mut failed = report(3);
    failed.outcome = Outcome::Failure {
        fault: Fault::Bug,
        message: "x".repeat(9000),
    };
    assert!(report_body(&failed, 3000).len() <= 3000);
}

#[tokio::test]
async fn values_are_pushed_while_a_run_goes_on_with_the_token_of_the_moment() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let (url, mut requests) = server(&["200 OK"]).await;
    let mut push = push_to(&url, Some(token.clone()), limits());
    let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
    let task = {
        let (progress, stop) = (progress.clone(), stop.clone());
        tokio::spawn(async move { push.while_running(&progress, &stop).await })
    };
    let request = requests.recv().await.unwrap();
    assert_eq!(
        request.line,
        "PUT /metrics/job/kafka-backup/kind/KafkaBackup/namespace/default/name/orders/run/orders-20260102-030405 HTTP/1.1"
    );
    assert_eq!(request.header("authorization"), Some("Bearer first"));
    assert_eq!(request.header("content-type"), Some(TEXT_FORMAT));
    progress.add(77, 0, 0);
    std::fs::write(&token, "second\n").unwrap();
    loop {
        let request = requests.recv().await.unwrap();
        if request.header("authorization") == Some("Bearer second")
            && request.body.contains("} 77\n")
        {
            break;
        }
    }
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn the_end_is_repeated_until_it_is_taken() {
    let (url, mut requests) = server(&[
        "503 Service Unavailable",
        "503 Service Unavailable",
        "401 Unauthorized",
        "200 OK",
    ])
    .await;
    push_to(&url, None, limits())
        .at_end(&report(2), &Progress::default())
        .await;
    let mut reports = Vec::new();
    let mut count = 0;
    while let Ok(request) = requests.try_recv() {
        count += 1;
        if request.line == "PUT /runs/job-uid/report HTTP/1.1" {
            reports.push(serde_json::from_str::<Report>(&request.body).unwrap());
        }
    }
    assert_eq!(count, 5, "three refused, two taken");
    assert_eq!(reports.last(), Some(&report(2)));
}

#[tokio::test]
async fn what_will_never_be_taken_is_not_repeated() {
    let (url, mut requests) = server(&["404 Not Found"]).await;
    push_to(&url, None, limits())
        .at_end(&report(0), &Progress::default())
        .await;
    let mut count = 0;
    while requests.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 2);
}

#[tokio::test]
async fn a_dead_controller_delays_the_end_by_the_limit_only() {
    // Takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let limits = Limits {
        at_end: Duration::from_millis(300),
        ..limits()
    };
    let started = Instant::now();
    push_to(&url, None, limits)
        .at_end(&report(0), &Progress::default())
        .await;
    assert!(
        started.elapsed() >= Duration::from_millis(300)
            && started.elapsed() < Duration::from_secs(4)
    );
}

#[tokio::test]
async fn failures_are_told_once() {
    let mut push = push_to("http://127.0.0.1:1", None, limits());
    for _ in 0..3 {
        let result = push.metrics(Values::default()).await;
        assert!(result.is_err());
        push.note(result);
        assert!(push.failing);
    }
    push.note(Ok(()));
    assert!(!push.failing);
}

#[test]
fn a_ca_that_cannot_be_used_is_told_before_anything_is_pushed() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    let pem = |body: &str| {
        let section = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
        PushCa::Pem(section)
    };
    let none = "the CA of the push holds no certificate in PEM";
    let cases = [
        (
            "https://c",
            PushCa::File(missing.clone()),
            format!("failed to read the CA of the push in {}", missing.display()),
        ),
        ("https://c", PushCa::Pem("ca".into()), none.to_owned()),
        (
            "https://c",
            pem("%"),
            "failed to use the CA of the push".to_owned(),
        ),
        (
            "https://c",
            pem("AAAA"),
            "failed to make a client".to_owned(),
        ),
        (
            "http://c",
            pem("AAAA"),
            "the push has a CA, and http://c does not begin with https://".to_owned(),
        ),
    ];
    for (url, ca, expected) in cases {
        let opened = Push::new(
            url.into(),
            None,
            Some(&ca),
            None,
            RunRef::example(),
            limits(),
        );
        let error = error_chain(&opened.unwrap_err());
        assert!(error.starts_with(&expected), "{error}");
    }
}
