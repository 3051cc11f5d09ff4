//! The ports over loopback, with a list of tokens in the place of the API server.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::time::Duration;

use flate2::read::GzDecoder;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::snapshot::{Snapshot, SnapshotHeader};
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::pod::{push_path, report_path, snapshot_path};
use kafka_backup_shared::report::Report;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::exporter::{self, fixtures::backup};
use crate::fixtures::success_report;
use crate::identity::{Identities, StaticToken, Worker};
use crate::leadership::NotLeading;
use crate::objects::{Progress, Recorded};
use crate::push::{Kept, NewSnapshot, SnapshotError, Standing};

pub(super) const JOB_UID: &str = "job-uid-1";

/// Remembers what it was given.
pub(super) struct Recorder {
    /// Another controller.
    leader: Mutex<Option<String>>,
    standing: Mutex<Standing>,
    taken: Mutex<(Vec<Progress>, Vec<Report>)>,
    pub(super) snapshots: Mutex<Vec<NewSnapshot>>,
}

impl Runs for Recorder {
    fn check(&self) -> Result<(), NotLeading> {
        let leader = self.leader.lock().unwrap().clone();
        match leader {
            None => Ok(()),
            leader => Err(NotLeading::Following { leader }),
        }
    }

    fn standing(&self, _: &Worker) -> Standing {
        *self.standing.lock().unwrap()
    }

    async fn progress(&self, _: &Worker, progress: Progress) -> Result<Recorded, kube::Error> {
        self.taken.lock().unwrap().0.push(progress);
        Ok(Recorded::Yes)
    }

    fn report(&self, _: &Worker, report: Report) -> bool {
        self.taken.lock().unwrap().1.push(report);
        true
    }

    async fn keep_snapshot(
        &self,
        _: &Worker,
        snapshot: NewSnapshot,
    ) -> Result<Kept, SnapshotError> {
        let mut snapshots = self.snapshots.lock().unwrap();
        if let Some(first) = snapshots.first() {
            return Ok(Kept::Before(first.bytes.clone()));
        }
        snapshots.push(snapshot);
        Ok(Kept::New)
    }

    async fn delete_snapshot(&self, _: &Worker) -> Result<(), SnapshotError> {
        let deleted = self.snapshots.lock().unwrap().pop();
        deleted
            .map(drop)
            .ok_or_else(|| SnapshotError::Missing("before".into()))
    }
}

/// A server on loopback.
pub(super) struct Rig {
    pub(super) metrics: SocketAddr,
    pub(super) health: SocketAddr,
    /// With TLS.
    pub(super) pushes: Option<SocketAddr>,
    pub(super) push: Arc<Push<Recorder>>,
    cancel: CancellationToken,
    server: JoinHandle<()>,
}

impl Rig {
    async fn start(objects: usize) -> Self {
        Self::start_at(Some("/metrics"), objects).await
    }

    async fn start_at(page: Option<&str>, objects: usize) -> Self {
        let ports = Ports::bind(ANY, ANY).await.unwrap();
        Self::serving(ports, page, objects, Times::default(), push::BODY_TIME)
    }

    /// One with other limits.
    pub(super) async fn with(objects: usize, times: Times, body_time: Duration) -> Self {
        let ports = Ports::bind(ANY, ANY).await.unwrap();
        Self::serving(ports, Some("/metrics"), objects, times, body_time)
    }

    /// One that takes pushes at a port of their own, which it calls `url`.
    pub(super) async fn with_tls(
        certificate: Arc<PushCertificate>,
        url: String,
        times: Times,
        body_time: Duration,
    ) -> Self {
        let ports = Ports::bind(ANY, ANY).await.unwrap();
        let ports = ports.with_push(ANY, certificate, url).await.unwrap();
        Self::serving(ports, Some("/metrics"), 1, times, body_time)
    }

    fn serving(
        ports: Ports,
        page: Option<&str>,
        objects: usize,
        times: Times,
        body_time: Duration,
    ) -> Self {
        let page = page.map(str::to_owned);
        let backups = (0..objects).map(|i| backup("ns", &format!("backup-{i}")).into());
        let mut backups: Vec<_> = backups.collect();
        let worker = RunRef::example();
        backups.push(backup(&worker.namespace, &worker.name).into());
        let snapshot = move || exporter::Snapshot {
            backups: backups.clone(),
            ..exporter::Snapshot::default()
        };
        let worker = Worker {
            run: RunRef::example(),
            job_uid: JOB_UID.into(),
            pod: "pod".into(),
        };
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{TOKEN}").unwrap();
        let holder = StaticToken::open(file.path().to_owned()).unwrap();
        let push = Arc::new(Push {
            identities: Identities::listed(HashMap::from([("good", worker)]), Some(holder)),
            runs: Recorder {
                leader: Mutex::default(),
                standing: Mutex::new(Standing::Active),
                taken: Mutex::default(),
                snapshots: Mutex::default(),
            },
            exporter: Exporter::new(Box::new(snapshot), 1000),
            health: Health::awaiting(&["caches"]),
            body_time,
        });
        let cancel = CancellationToken::new();
        let addresses = ports.addresses().unwrap();
        Self {
            metrics: addresses.metrics,
            health: addresses.health,
            pushes: addresses.push,
            server: tokio::spawn(serve(ports, push.clone(), page, times, cancel.clone())),
            push,
            cancel,
        }
    }

    pub(super) async fn ready() -> Self {
        let rig = Self::start(1).await;
        rig.push.health.arrived("caches");
        rig
    }

    pub(super) async fn metrics(&self, request: &str, headers: &[&str], body: &[u8]) -> Answer {
        ask(self.metrics, request, headers, body).await
    }

    async fn push(&self, body: &str) -> Answer {
        let request = format!("PUT {}", push_path(&RunRef::example()));
        self.metrics(&request, &[GOOD], body.as_bytes()).await
    }

    pub(super) async fn page(&self) -> String {
        // No page that is still handed out from before.
        tokio::time::sleep(exporter::PAGE_AGE).await;
        self.metrics("GET /metrics", &[], b"").await.text()
    }

    pub(super) fn progress(&self) -> Vec<Progress> {
        self.push.runs.taken.lock().unwrap().0.clone()
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        self.push.runs.taken.lock().unwrap().1.clone()
    }
}

/// Any port of loopback that is free.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
pub(super) const GOOD: &str = "Authorization: Bearer good";
/// Of people's own jobs.
const TOKEN: &str = "a-static-token-of-some-length";

pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(super) fn both(&self) -> (u16, String) {
        (self.status, self.text())
    }
}

async fn ask(address: SocketAddr, request: &str, headers: &[&str], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!(
        "{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        head += &format!("{header}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
    // A server that has refused may have closed already.
    drop(stream.write_all(body).await);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Answer {
        status: head[9..12].parse().unwrap(),
        head: head.to_lowercase(),
        body: answer[end + 4..].to_vec(),
    }
}

#[tokio::test]
async fn the_page_is_where_it_is_wanted_and_pushes_are_taken_all_the_same() {
    for page in [Some("/kafka/metrics"), None] {
        let rig = Rig::start_at(page, 1).await;
        rig.push.health.arrived("caches");
        assert_eq!(rig.metrics("GET /metrics", &[], b"").await.status, 404);
        if let Some(page) = page {
            let answer = rig.metrics(&format!("GET {page}"), &[], b"").await;
            assert_eq!(answer.status, 200);
        }
        assert_ne!(rig.push("").await.status, 404);
    }
}

#[tokio::test]
async fn not_ready_before_the_caches_are_synced() {
    let rig = Rig::start(1).await;
    let waiting = (503, "waiting for caches\n".to_owned());
    assert_eq!(
        ask(rig.health, "GET /readyz", &[], b"").await.both(),
        waiting
    );
    assert_eq!(rig.metrics("GET /metrics", &[], b"").await.both(), waiting);
    let push = rig.push("").await;
    assert_eq!(push.both(), waiting);
    assert!(push.head.contains("retry-after: 5"), "{}", push.head);
    assert_eq!(ask(rig.health, "GET /healthz", &[], b"").await.status, 200);

    rig.push.health.arrived("caches");
    assert_eq!(ask(rig.health, "GET /readyz", &[], b"").await.status, 200);
    assert_eq!(rig.metrics("GET /metrics", &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_follower_is_ready_and_serves_the_page_and_takes_no_push() {
    let rig = Rig::ready().await;
    let led = rig.metrics("GET /metrics", &[], b"").await.text();
    *rig.push.runs.leader.lock().unwrap() = Some("other".into());
    let push = rig.push("").await;
    let refused = "this controller does not lead; other does\n";
    assert_eq!(push.both(), (503, refused.to_owned()));
    assert!(push.head.contains("retry-after: 5"), "{}", push.head);
    let json = serde_json::to_vec(&success_report(5)).unwrap();
    let report = format!("PUT {}", report_path(JOB_UID));
    assert_eq!(rig.metrics(&report, &[GOOD], &json).await.status, 503);
    assert_eq!((rig.progress(), rig.reports()), (vec![], vec![]));

    assert_eq!(ask(rig.health, "GET /readyz", &[], b"").await.status, 200);
    let objects = |page: &str| {
        let lines = page.lines().filter(|line| line.contains("backup-0"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let followed = rig.metrics("GET /metrics", &[], b"").await.text();
    assert!(!objects(&led).is_empty());
    assert_eq!(objects(&followed), objects(&led));
}

#[tokio::test]
async fn a_missing_crd_is_named_and_does_not_make_unready() {
    let rig = Rig::ready().await;
    rig.push
        .health
        .note("KafkaRestore", Some("has no CRD".into()));
    let named = (200, "ok\nKafkaRestore has no CRD\n".to_owned());
    assert_eq!(ask(rig.health, "GET /readyz", &[], b"").await.both(), named);
}

#[tokio::test]
async fn the_page_comes_plain_or_gzipped() {
    let rig = Rig::ready().await;
    let plain = rig.metrics("GET /metrics", &[], b"").await;
    let content_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(plain.head.contains(content_type), "{}", plain.head);
    assert!(!plain.head.contains("content-encoding"));
    assert!(
        plain
            .text()
            .contains("kafka_backup_backups_total{backup_name=\"backup-0\"")
    );

    for accepted in ["gzip", "deflate, gzip;q=0.5", "GZIP"] {
        let header = format!("Accept-Encoding: {accepted}");
        let zipped = rig.metrics("GET /metrics", &[&header], b"").await;
        assert!(zipped.head.contains("content-encoding: gzip"), "{accepted}");
        let mut text = String::new();
        GzDecoder::new(zipped.body.as_slice())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, plain.text());
    }
    let refused = rig
        .metrics("GET /metrics", &["Accept-Encoding: gzip;q=0"], b"")
        .await;
    assert!(!refused.head.contains("content-encoding"));
}

#[tokio::test]
async fn a_push_reaches_the_run_that_its_token_belongs_to() {
    let rig = Rig::ready().await;
    let body = concat!(
        "# TYPE kafka_backup_backup_records_total counter\n",
        "kafka_backup_backup_records_total{backup_name=\"orders\",namespace=\"default\"} 12\n",
        "kafka_backup_run_bytes{run=\"orders-20260102-030405\"} 3e3\n",
        "kafka_backup_run_progress_ratio 0.509\n",
        "kafka_backup_run_checked_ratio 0.999\n",
        "kafka_backup_run_bytes_per_second 12.7\n",
        "kafka_backup_run_remaining_seconds 7\n",
    );
    assert_eq!(rig.push(body).await.both(), (200, String::new()));
    let expected = Progress {
        records: 12,
        bytes: 3000,
        percent: Some(50),
        checked_percent: Some(99),
        bytes_per_second: Some(12),
        seconds_left: Some(7),
    };
    assert_eq!(rig.progress(), [expected]);

    let post = "POST /metrics/job@base64/a2Fma2EtYmFja3Vw/name/orders";
    assert_eq!(
        rig.metrics(post, &[GOOD], body.as_bytes()).await.status,
        200
    );
    assert_eq!(rig.progress(), [expected, expected]);
    let page = rig.metrics("GET /metrics", &[], b"").await.text();
    let count = "kafka_backup_operator_pushes_total{result=\"accepted\"} 2\n";
    assert!(page.contains(count), "{page}");
}

#[tokio::test]
async fn a_push_without_the_right_identity_is_refused_unread() {
    let rig = Rig::ready().await;
    let own = push_path(&RunRef::example());
    let other = own.replace("/name/orders/", "/name/payments/");
    let cases: [(&str, &[&str], u16, &str); 6] = [
        (&own, &[], 401, "a push needs the header"),
        (
            &own,
            &["Authorization: Basic good"],
            401,
            "the token is not valid",
        ),
        (
            &own,
            &["Authorization: Bearer bad"],
            401,
            "the token is not valid",
        ),
        (
            &own,
            &["Authorization: Bearer stranger"],
            403,
            "not a worker of a run",
        ),
        (&other, &[GOOD], 403, "another run"),
        ("/metrics/job/mine", &[GOOD], 403, "another run"),
    ];
    for (path, headers, status, reason) in cases {
        let answer = rig.metrics(&format!("PUT {path}"), headers, b"\xff").await;
        let (found, text) = answer.both();
        assert!(
            found == status && text.contains(reason),
            "{path}: {found} {text}"
        );
    }
    let bodies = [
        "kafka_backup_backup_records_total{backup_name=\"payments\"} 1\n",
        "kafka_backup_backup_records_total{namespace=\"kube-system\"} 1\n",
        "kafka_backup_run_bytes{run=\"orders-20200101-000000\"} 1\n",
    ];
    for body in bodies {
        assert_eq!(rig.push(body).await.status, 403, "{body}");
    }
    assert_eq!(rig.progress(), []);
    let page = rig.metrics("GET /metrics", &[], b"").await.text();
    assert!(
        page.contains("pushes_total{result=\"denied\"} 9\n"),
        "{page}"
    );
}

#[tokio::test]
async fn a_push_is_taken_whole_or_not_at_all() {
    let rig = Rig::ready().await;
    let good = "kafka_backup_backup_records_total 1\n";
    let cases = [
        (
            "kafka_backup_run_bytes 5",
            "line 2: the text ends in the middle",
        ),
        (
            "up 1\n",
            "family up is none of those that a KafkaBackup run pushes: kafka_backup_backup_records_total, kafka_backup_run_bytes, kafka_backup_run_progress_ratio, ",
        ),
        (
            "kafka_backup_restore_records_total 1\n",
            "family kafka_backup_restore_records_total is none",
        ),
        (
            "kafka_backup_run_bytes NaN\n",
            "kafka_backup_run_bytes is NaN",
        ),
        (
            "kafka_backup_run_bytes +Inf\n",
            "kafka_backup_run_bytes is inf",
        ),
        (
            "kafka_backup_run_bytes -1\n",
            "kafka_backup_run_bytes is -1",
        ),
        (
            "kafka_backup_run_bytes 1.5\n",
            "kafka_backup_run_bytes is 1.5",
        ),
        ("kafka_backup_run_progress_ratio 1.01\n", "not a ratio"),
        ("kafka_backup_run_progress_ratio NaN\n", "not a ratio"),
        ("kafka_backup_run_checked_ratio 2\n", "not a ratio"),
        (
            "kafka_backup_run_remaining_seconds -1\n",
            "not a number from 0 to 2^53",
        ),
        (
            "# TYPE kafka_backup_run_bytes counter\n",
            "kafka_backup_run_bytes is a gauge",
        ),
        (
            "kafka_backup_run_bytes{topic=\"t\"} 1\n",
            "has no label topic",
        ),
        (
            "kafka_backup_run_bytes 1\nkafka_backup_run_bytes{run=\"orders-20260102-030405\"} 1\n",
            "more than one sample",
        ),
        (
            "kafka_backup_run_bytes 1\nkafka_backup_run_bytes 1\n",
            "line 3: a second sample",
        ),
    ];
    for (bad, reason) in cases {
        let (status, text) = rig.push(&format!("{good}{bad}")).await.both();
        assert!(
            status == 400 && text.contains(reason),
            "{bad}: {status} {text}"
        );
        assert_eq!(text.matches('\n').count(), 1, "{text}");
    }
    assert_eq!(rig.progress(), []);
}

#[tokio::test]
async fn what_is_not_obeyed_has_a_definite_answer() {
    let rig = Rig::ready().await;
    let path = push_path(&RunRef::example());
    let put = format!("PUT {path}");
    let long = vec![b'#'; push::BODY_MAX + 1];
    assert_eq!(rig.metrics(&put, &[GOOD], &long).await.status, 413);
    let zipped = [GOOD, "Content-Encoding: gzip"];
    assert_eq!(rig.metrics(&put, &zipped, b"plain").await.status, 400);
    for (header, value) in [
        ("Content-Encoding", "zstd"),
        (
            "Content-Type",
            "application/vnd.google.protobuf; encoding=text",
        ),
        (
            "Content-Type",
            "application/vnd.google.protobuf; proto=other",
        ),
    ] {
        let header = format!("{header}: {value}");
        let answer = rig.metrics(&put, &[GOOD, &header], b"").await;
        assert_eq!(answer.status, 415, "{header} {}", answer.text());
    }
    assert_eq!(
        rig.metrics(&format!("{put}/pod/x"), &[GOOD], b"")
            .await
            .status,
        400
    );
    assert_eq!(rig.metrics("GET /nothing", &[], b"").await.status, 404);
    assert_eq!(ask(rig.health, "GET /metrics", &[], b"").await.status, 404);
    assert_eq!(rig.progress(), []);
}

/// A worker's families beyond the status get the labels of its object, and add up over its pods.
#[tokio::test]
async fn what_no_status_tells_of_a_worker_is_on_the_page() {
    let rig = Rig::ready().await;
    let retries = "# TYPE kafka_backup_worker_retries_total counter\nkafka_backup_worker_retries_total{peer=\"kafka\"}";
    let body = format!("kafka_backup_backup_records_total 1\n{retries} 3\n");
    assert_eq!(rig.push(&body).await.status, 200);
    assert_eq!(rig.push(&body).await.status, 200);
    assert_eq!(rig.progress().len(), 2);
    let line = "kafka_backup_worker_retries_total{kind=\"KafkaBackup\",name=\"orders\",namespace=\"default\",peer=\"kafka\"} 3\n";
    assert!(rig.page().await.contains(line));
    let forged = body.replace("peer=", "namespace=\"kube-system\",peer=");
    assert_eq!(rig.push(&forged).await.status, 200);
    let page = rig.page().await;
    assert!(
        page.contains(line) && !page.contains("kube-system"),
        "{page}"
    );
    let unknown = body.replace("peer=", "topic=");
    let refused = "kafka_backup_worker_retries_total has no label topic\n";
    assert_eq!(rig.push(&unknown).await.both(), (400, refused.to_owned()));
    let untyped = "kafka_backup_worker_retries_total{peer=\"kafka\"} 3\n";
    assert_eq!(rig.push(untyped).await.status, 400);
}

/// A newer worker, or an older one, tells what it is.
#[tokio::test]
async fn what_a_worker_of_another_version_pushes_is_taken_as_far_as_it_is_known() {
    let rig = Rig::ready().await;
    let body = "kafka_backup_backup_records_total 7\nkafka_backup_worker_of_tomorrow_total 1\n";
    let put = format!("PUT {}", push_path(&RunRef::example()));
    let own = concat!(
        "User-Agent: kafka-backup-worker/",
        env!("CARGO_PKG_VERSION")
    );
    for header in [own, "User-Agent: curl/8"] {
        let answer = rig.metrics(&put, &[GOOD, header], body.as_bytes()).await;
        assert_eq!(answer.status, 400, "{header}");
    }
    assert_eq!(rig.progress(), []);
    let other = "User-Agent: kafka-backup-worker/99.0.0";
    let answer = rig.metrics(&put, &[GOOD, other], body.as_bytes()).await;
    let note =
        "left out, since this controller does not know it: kafka_backup_worker_of_tomorrow_total\n";
    assert_eq!(answer.both(), (200, note.to_owned()));
    assert_eq!(rig.progress()[0].records, 7);
}

#[tokio::test]
async fn people_push_their_own_with_the_static_token() {
    let rig = Rig::ready().await;
    let bearer = format!("Authorization: Bearer {TOKEN}");
    // base64 of "anybody:" and the token.
    let basic = "Authorization: Basic YW55Ym9keTphLXN0YXRpYy10b2tlbi1vZi1zb21lLWxlbmd0aA==";
    let push = async |method: &str, path: &str, header: &str, body: &str| {
        let request = format!("{method} /metrics/job/{path}");
        rig.metrics(&request, &[header], body.as_bytes())
            .await
            .both()
    };
    let ok = (200, String::new());
    let counter = "# TYPE sold_total counter\nsold_total 2\n";
    assert_eq!(push("POST", "shop/instance/a", &bearer, counter).await, ok);
    assert_eq!(push("PUT", "shop/instance/b", basic, counter).await, ok);
    assert!(rig.page().await.contains("sold_total{job=\"shop\"} 4\n"));
    let late = push(
        "PUT",
        "shop/instance/b",
        basic,
        &counter.replace(" 2", " 1"),
    )
    .await;
    assert_eq!(late.0, 200);
    assert!(late.1.contains("nothing was changed"), "{}", late.1);
    let deleted = push("DELETE", "shop/instance/b", basic, "").await;
    assert_eq!(deleted, (202, String::new()));
    assert!(rig.page().await.contains("sold_total{job=\"shop\"} 4\n"));

    let refused = [
        ("x", "kafka_backup_backups_total 1\n", "the operator's"),
        ("x", "up 1\n", "Prometheus'"),
        ("x", "scrape_duration_seconds 1\n", "Prometheus'"),
        ("x", "a{instance=\"1\"} 1\n", "a has the label instance"),
        ("x", "a{namespace=\"1\"} 1\n", "a has the label namespace"),
        ("x", "a{pod=\"1\"} 1\n", "a has the label pod"),
        (
            "x/namespace/y",
            "a 1\n",
            "the label namespace is not one to push",
        ),
        (
            "x",
            "# TYPE sold_total gauge\nsold_total 1\n",
            "is a gauge in this push",
        ),
    ];
    for (path, body, reason) in refused {
        let (status, text) = push("PUT", path, &bearer, body).await;
        assert!(
            status == 400 && text.contains(reason),
            "{body}: {status} {text}"
        );
    }
    let many: String = (0..1001)
        .map(|i| format!("many{{x=\"{i}\"}} 1\n"))
        .collect();
    let (status, text) = push("PUT", "x", &bearer, &many).await;
    assert!(status == 429 && text.contains("of at most 1000"), "{text}");
    // It is nobody's run.
    let json = serde_json::to_vec(&success_report(5)).unwrap();
    let report = format!("PUT {}", report_path(JOB_UID));
    assert_eq!(rig.metrics(&report, &[&bearer], &json).await.status, 403);
    assert!(!rig.page().await.contains("many"));
}

#[tokio::test]
async fn a_gzipped_body_is_read_up_to_its_limit() {
    let rig = Rig::ready().await;
    let put = format!("PUT {}", push_path(&RunRef::example()));
    let headers = [GOOD, "Content-Encoding: gzip"];
    let zip = |plain: &[u8]| {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(plain).unwrap();
        zip.finish().unwrap()
    };
    let body = zip(b"kafka_backup_backup_records_total 5\n");
    assert_eq!(rig.metrics(&put, &headers, &body).await.status, 200);
    assert_eq!(rig.progress()[0].records, 5);
    let cut = &body[..body.len() - 1];
    assert_eq!(rig.metrics(&put, &headers, cut).await.status, 400);
    let bomb = zip(&vec![b'\n'; push::BODY_MAX + 1]);
    assert!(bomb.len() < 10_000);
    assert_eq!(rig.metrics(&put, &headers, &bomb).await.status, 413);
}

#[tokio::test]
async fn the_page_is_openmetrics_for_whoever_prefers_it() {
    let rig = Rig::ready().await;
    let open = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = "content-type: text/plain; version=0.0.4; charset=utf-8";
    let cases = [
        // Prometheus 2.42 and 3.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            open,
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
            open,
        ),
        (
            "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5",
            text,
        ),
        ("application/openmetrics-text;version=0.0.1", text),
        ("*/*", text),
        ("application/openmetrics-text; q=0", text),
    ];
    for (accepted, content_type) in cases {
        let header = format!("Accept: {accepted}");
        let answer = rig.metrics("GET /metrics", &[&header], b"").await;
        assert!(
            answer.head.contains(content_type),
            "{accepted}: {}",
            answer.head
        );
        assert_eq!(answer.text().ends_with("# EOF\n"), content_type == open);
    }
}

#[tokio::test]
async fn a_run_that_is_not_active_takes_nothing() {
    let rig = Rig::ready().await;
    let json = serde_json::to_vec(&success_report(5)).unwrap();
    let put = format!("PUT {}", report_path(JOB_UID));
    let cases = [
        (
            Standing::NotYet,
            503,
            "the status does not name the Job yet\n",
        ),
        (
            Standing::NotActive,
            409,
            "run orders-20260102-030405 is not active\n",
        ),
    ];
    for (standing, status, reason) in cases {
        *rig.push.runs.standing.lock().unwrap() = standing;
        let refused = (status, reason.to_owned());
        assert_eq!(rig.push("").await.both(), refused);
        assert_eq!(rig.metrics(&put, &[GOOD], &json).await.both(), refused);
    }
    assert_eq!(rig.progress(), []);
    assert_eq!(rig.reports(), []);
}

#[tokio::test]
async fn a_report_is_taken_from_its_own_job_only() {
    let rig = Rig::ready().await;
    let json = serde_json::to_vec(&success_report(5)).unwrap();
    let mut other = success_report(5);
    other.run.run = "orders-20200101-000000".into();
    let other = serde_json::to_vec(&other).unwrap();
    let own = format!("PUT {}", report_path(JOB_UID));
    let another = format!("PUT {}", report_path("job-uid-2"));
    let long = vec![b' '; push::BODY_MAX + 1];
    let cases: [(&str, &[&str], &[u8], u16); 6] = [
        (&own, &[], &json, 401),
        (&another, &[GOOD], &json, 403),
        (&own, &[GOOD], &other, 403),
        (&own, &[GOOD], b"{}", 400),
        (&own, &[GOOD], &json[..json.len() - 1], 400),
        (&own, &[GOOD], &long, 413),
    ];
    for (request, headers, body, status) in cases {
        let answer = rig.metrics(request, headers, body).await;
        assert_eq!(answer.status, status, "{request} {}", answer.text());
    }
    assert_eq!(rig.reports(), []);
    assert_eq!(rig.metrics(&own, &[GOOD], &json).await.status, 200);
    assert_eq!(rig.reports(), [success_report(5)]);
}

/// A snapshot without groups, of a run.
fn snapshot_of(run: RunRef, at: Timestamp) -> Vec<u8> {
    let header = SnapshotHeader {
        format_version: FORMAT_VERSION,
        snapshot_id: "before".into(),
        run,
        time: at,
        cluster_id: "c".into(),
        groups: vec!["*".into()],
        topics: None,
        topic_ids: Default::default(),
        group_count: 0,
        offset_count: 0,
    };
    let groups = Vec::new();
    Snapshot { header, groups }.to_bytes()
}

#[tokio::test]
async fn a_snapshot_is_kept_once_and_the_first_one_is_given_back() {
    let rig = Rig::ready().await;
    let path = snapshot_path(JOB_UID);
    let (put, delete) = (format!("PUT {path}"), format!("DELETE {path}"));
    let octets = "Content-Type: application/octet-stream";
    let first = snapshot_of(RunRef::example(), Timestamp::UNIX_EPOCH);
    let later = snapshot_of(RunRef::example(), Timestamp::MAX);
    let elsewhere = RunRef {
        uid: "another".into(),
        ..RunRef::example()
    };
    let foreign = snapshot_of(elsewhere, Timestamp::UNIX_EPOCH);
    let other_job = format!("PUT {}", snapshot_path("job-uid-2"));

    let refused: [(&str, &[&str], &[u8], u16); 7] = [
        (&put, &[octets], &first, 401),
        (
            &put,
            &["Authorization: Bearer stranger", octets],
            &first,
            403,
        ),
        (&other_job, &[GOOD, octets], &first, 403),
        (&put, &[GOOD], &first, 415),
        (&put, &[GOOD, octets], b"no snapshot", 400),
        (&put, &[GOOD, octets], &first[..first.len() - 1], 400),
        (&put, &[GOOD, octets], &foreign, 403),
    ];
    for (request, headers, body, status) in refused {
        let answer = rig.metrics(request, headers, body).await;
        assert_eq!(answer.status, status, "{headers:?} {:?}", answer.text());
    }
    assert_eq!(*rig.push.runs.snapshots.lock().unwrap(), []);
    for (standing, status) in [(Standing::NotActive, 409), (Standing::NotYet, 503)] {
        *rig.push.runs.standing.lock().unwrap() = standing;
        for request in [&put, &delete] {
            let answer = rig.metrics(request, &[GOOD, octets], &first).await;
            assert_eq!(answer.status, status, "{request} {standing:?}");
        }
    }
    *rig.push.runs.standing.lock().unwrap() = Standing::Active;

    let answer = rig.metrics(&put, &[GOOD, octets], &first).await;
    assert_eq!(answer.both(), (201, String::new()));
    let answer = rig.metrics(&put, &[GOOD, octets], &later).await;
    assert_eq!((answer.status, answer.body), (200, first));
    assert!(
        answer
            .head
            .contains("content-type: application/octet-stream")
    );
    *rig.push.runs.leader.lock().unwrap() = Some("other".into());
    assert_eq!(rig.metrics(&delete, &[GOOD], b"").await.status, 503);
    *rig.push.runs.leader.lock().unwrap() = None;
    assert_eq!(rig.metrics(&delete, &[GOOD], b"").await.status, 200);
    let missing = (404, "ConfigMap before does not exist\n".to_owned());
    assert_eq!(rig.metrics(&delete, &[GOOD], b"").await.both(), missing);
}

#[tokio::test]
async fn a_reader_that_does_not_read_keeps_nobody_waiting() {
    let rig = Rig::start(3000).await;
    rig.push.health.arrived("caches");
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(rig.metrics).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
        stream.write_all(request).await.unwrap();
        idle.push(stream);
    }
    // Far more than the buffers of a socket hold.
    let page = rig.metrics("GET /metrics", &[], b"").await;
    assert!(page.body.len() > 5 << 20, "{}", page.body.len());
    assert_eq!(ask(rig.health, "GET /healthz", &[], b"").await.status, 200);
}

#[tokio::test]
async fn pushes_that_do_not_arrive_keep_nobody_waiting() {
    let rig = Rig::ready().await;
    let path = push_path(&RunRef::example());
    let head =
        format!("PUT {path} HTTP/1.1\r\nHost: test\r\n{GOOD}\r\nContent-Length: 100\r\n\r\nkafka");
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(rig.metrics).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let body = "kafka_backup_backup_records_total 1\n";
    assert_eq!(rig.push(body).await.both(), (200, String::new()));
    assert_eq!(rig.metrics("GET /metrics", &[], b"").await.status, 200);
    assert_eq!(rig.progress().len(), 1);
}

#[tokio::test]
async fn the_shutdown_waits_for_nobody_who_is_idle() {
    let rig = Rig::ready().await;
    let mut kept = TcpStream::connect(rig.metrics).await.unwrap();
    kept.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 1];
    kept.read_exact(&mut first).await.unwrap();
    rig.cancel.cancel();
    let patience = Duration::from_secs(4);
    tokio::time::timeout(patience, rig.server)
        .await
        .expect("in time")
        .unwrap();
    assert!(TcpStream::connect(rig.metrics).await.is_err());
}
