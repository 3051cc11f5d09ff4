//! The port for pushes with TLS, as curl and openssl see it.

use std::process::{Command, Output};
use std::time::Duration;

use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::pod::{push_path, report_path, snapshot_path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tests::*;
use super::*;
use crate::push::{BODY_MAX, BODY_TIME};
use crate::tls::tests::Authority;

const URL: &str = "https://kafka-backup-operator.kafka-backup.svc:8443";
/// curl does not know who signed the certificate.
const UNKNOWN: i32 = 60;

/// Runs a shell line, of which `$URL` is the port's.
async fn shell(rig: &Rig, line: String) -> Output {
    let address = rig.pushes.unwrap();
    let sh = move || {
        Command::new("sh")
            .args(["-c", &line])
            .env("URL", format!("https://{address}"))
            .env("ADDRESS", address.to_string())
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(sh).await.unwrap()
}

/// What curl gets: its exit code, the status and the body.
async fn curl(rig: &Rig, ca: &Authority, arguments: &str) -> (i32, String) {
    let ca = ca.path("ca.crt");
    let line = format!(
        "curl --silent --show-error --noproxy '*' --max-time 20 --cacert {} --header '{GOOD}' --write-out '%{{http_code}}' {arguments}",
        ca.display()
    );
    let output = shell(rig, line).await;
    let text = [output.stdout, output.stderr].concat();
    let code = output.status.code().unwrap();
    (code, String::from_utf8(text).unwrap())
}

async fn rig(authority: &Authority, times: Times, body_time: Duration) -> Rig {
    let certificate = Arc::new(authority.certificate().unwrap());
    let rig = Rig::with_tls(certificate, URL.to_owned(), times, body_time).await;
    rig.push.health.arrived("caches");
    rig
}

fn push() -> String {
    let path = push_path(&RunRef::example());
    format!("--data-binary 'kafka_backup_backup_records_total 7\n' --request PUT $URL{path}")
}

#[tokio::test]
async fn pushes_are_taken_with_tls_and_without_it_are_told_where() {
    let authority = Authority::new("push");
    let rig = rig(&authority, Times::default(), BODY_TIME).await;
    let taken = curl(&rig, &authority, &push()).await;
    assert_eq!(taken, (0, "200".to_owned()));
    assert_eq!(rig.progress()[0].records, 7);

    let metrics = push_path(&RunRef::example());
    let (report, snapshot) = (report_path(JOB_UID), snapshot_path(JOB_UID));
    let told = format!("pushes are taken at {URL} only\n");
    for request in [
        format!("PUT {metrics}"),
        format!("POST {metrics}"),
        format!("DELETE {metrics}"),
        "POST /metrics/job/people".to_owned(),
        format!("PUT {report}"),
        format!("PUT {snapshot}"),
        format!("DELETE {snapshot}"),
    ] {
        // With the right token, a wrong one, and more of a body than would be read.
        for (header, body) in [
            (GOOD, &b"kafka_backup_backup_records_total 9\n"[..]),
            ("Authorization: Bearer bad", b""),
            (GOOD, &vec![b'#'; 2 * BODY_MAX]),
        ] {
            let answer = rig.metrics(&request, &[header], body).await;
            assert_eq!(answer.both(), (421, told.clone()), "{request}");
        }
    }
    assert_eq!((rig.progress().len(), rig.reports().len()), (1, 0));
    assert_eq!(rig.metrics("GET /nothing", &[], b"").await.status, 404);
    let page = rig.page().await;
    assert!(
        page.contains("pushes_total{result=\"misdirected\"} 21\n"),
        "{page}"
    );
    let (code, text) = curl(&rig, &authority, "$URL/metrics").await;
    assert_eq!((code, text.as_str()), (0, "nothing is here\n404"));
}

#[tokio::test]
async fn the_certificate_is_that_of_the_files_and_a_broken_one_changes_nothing() {
    let (authority, next) = (Authority::new("first"), Authority::new("second"));
    // Whom a client believes that has the CA of before.
    let before = Authority::new("none");
    before.takes(&["ca.crt"], &authority);
    let certificate = Arc::new(authority.certificate().unwrap());
    let rig = Rig::with_tls(certificate.clone(), URL.into(), Times::default(), BODY_TIME).await;
    rig.push.health.arrived("caches");
    let push = push();
    assert_eq!(curl(&rig, &before, &push).await.0, 0);
    let (code, text) = curl(&rig, &next, &push).await;
    assert_eq!(code, UNKNOWN, "{text}");

    authority.takes(&["ca.crt", "tls.crt", "tls.key"], &next);
    certificate.read_again().unwrap();
    assert_eq!(curl(&rig, &next, &push).await, (0, "200".to_owned()));
    assert_eq!(curl(&rig, &before, &push).await.0, UNKNOWN);

    std::fs::write(authority.path("tls.crt"), "nothing of the kind").unwrap();
    certificate.read_again().unwrap_err();
    assert_eq!(curl(&rig, &next, &push).await, (0, "200".to_owned()));
}

#[tokio::test]
async fn only_tls_of_today_is_spoken() {
    let authority = Authority::new("push");
    let rig = rig(&authority, Times::default(), BODY_TIME).await;
    let ca = authority.path("ca.crt");
    let ca = ca.display();
    for (version, is_spoken) in [("tls1_3", true), ("tls1_2", true), ("tls1_1", false)] {
        let line = format!(
            "openssl s_client -connect $ADDRESS -{version} -CAfile {ca} -verify_return_error -brief < /dev/null"
        );
        let output = shell(&rig, line).await;
        assert_eq!(output.status.success(), is_spoken, "{version} {output:?}");
    }
    // Whoever speaks no TLS gets no HTTP.
    let answer = async |begun: &[u8]| {
        let mut stream = TcpStream::connect(rig.pushes.unwrap()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        answer
    };
    let plain = answer(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(!plain.starts_with(b"HTTP"), "{plain:?}");
}

#[tokio::test]
async fn the_limits_with_tls_are_those_without() {
    let authority = Authority::new("push");
    let times = Times {
        handshake: Duration::from_millis(300),
        ..Times::default()
    };
    let rig = rig(&authority, times, Duration::from_millis(300)).await;
    // Begins a handshake, or not even that.
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(rig.pushes.unwrap()).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        assert_eq!(answer, b"");
    }
    let path = push_path(&RunRef::example());
    let slow = format!("--upload-file - $URL{path}");
    let ca = authority.path("ca.crt");
    let line = format!(
        "(echo '# begun'; sleep 2) | curl --silent --noproxy '*' --cacert {} --header '{GOOD}' --write-out '%{{http_code}}' {slow}",
        ca.display()
    );
    let output = shell(&rig, line).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "the body did not arrive within 0.3 s\n408");
    // Without the header by which curl asks first whether it may.
    let much = format!("--header Expect: --request PUT --data-binary @much $URL{path}");
    let file = authority.path("much");
    std::fs::write(&file, vec![b'#'; 4 * BODY_MAX]).unwrap();
    let much = much.replace("@much", &format!("@{}", file.display()));
    let (code, text) = curl(&rig, &authority, &much).await;
    let told = "the body is longer than 1048576 bytes\n413";
    assert_eq!((code, text.as_str()), (0, told));
    assert_eq!(rig.progress(), []);
}
