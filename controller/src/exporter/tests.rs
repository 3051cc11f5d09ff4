//! The page as a whole.

use std::collections::HashSet;

use kafka_backup_shared::metrics::{AGGREGATED, FAMILIES, PUSHED_ONLY};
use kafka_backup_shared::status::{GroupTotals, HeldRun, Phase, RunOutcome, time};
use serde_json::json;

use super::fixtures::{backup, offset_reset, offset_rollback, restore};
use super::*;
use crate::exposition::{Family, Syntax, parse};
use crate::fixtures::active_run;

/// A backup that has had runs, one whose first run goes on, a reset that has failed for one group, and a restore and a rollback
/// without a status.
fn snapshot() -> Snapshot {
    let mut seasoned = backup("kafka-backup", "hourly-backup");
    let status = seasoned.status.get_or_insert_default();
    let totals = &mut status.life.totals;
    totals.success.add(45_500);
    totals.success.add(299_000);
    totals.failure.add(30_000_000);
    totals.records = 1000;
    totals.uncommitted = 23;
    let end = "2023-12-01T12:00:00Z".parse().expect("a time");
    totals.last_success_time = Some(time(end));
    status.life.phase = Phase::Failed;
    status.last_backup_size = Some(4096);
    status.last_backup_lag = Some(17);
    status.missed_runs = 2;
    status.life.totals.last_duration_ms = Some(45_500);
    status.life.totals.gaps = 1;
    seasoned.spec.schedule = Some("0 2 * * 1-5".into());
    seasoned.spec.suspend = true;

    let mut first = backup("a", "first");
    let status = first.status.get_or_insert_default();
    status.life.totals.uncommitted = 7;
    status.life.phase = Phase::Running;
    status.life.active_run = Some(active_run(&crate::fixtures::backup()));
    status.life.conditions = serde_json::from_value(json!([{
        "type": "Ready", "status": "True", "reason": "SpecValid", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]))
    .expect("conditions");
    let mut reset = offset_reset("a", "replay");
    let totals = &mut reset.status.get_or_insert_default().life.totals;
    totals.failure.add(2_000);
    totals.groups = GroupTotals {
        success: 1,
        failure: 1,
    };
    Snapshot {
        backups: vec![seasoned.into(), first.into()],
        restores: vec![restore("a", "never-looked-at").into()],
        offset_resets: vec![reset.into()],
        offset_rollbacks: vec![offset_rollback("a", "check").into()],
        queues: vec![QueueState {
            controller: "backup",
            depth: 1,
            adds: 20,
        }],
    }
}

/// When the page is rendered, an hour and a half after [`fixtures::backup`] was created.
fn now() -> Timestamp {
    "2026-01-01T01:30:00Z".parse().expect("a time")
}

fn only(backup: KafkaBackup) -> Snapshot {
    Snapshot {
        backups: vec![backup.into()],
        ..Snapshot::default()
    }
}

fn exporter(source: impl Fn() -> Snapshot + Send + Sync + 'static) -> Arc<Exporter> {
    Exporter::new(Box::new(source), 100)
}

fn told(snapshot: &Snapshot, now: Timestamp) -> String {
    let mut text = String::new();
    render(&mut Encoder::new(&mut text, Format::Text), snapshot, now);
    text
}

/// Compares with a file; `GOLDEN=write` writes it instead.
fn assert_golden(path: &str, text: &str) {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, text).expect(&path);
    }
    let golden = std::fs::read_to_string(&path).expect(&path);
    assert!(golden == text, "{path} differs from:\n{text}");
}

#[test]
fn the_page_is_the_one_in_the_golden_file() {
    let text = exporter(snapshot).render_page(Format::Text, now()).text;
    let text = String::from_utf8_lossy(&text);
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    let text = text.replace(version, "version=\"0.0.0\"");
    assert_golden("src/exporter/golden/page.txt", &text);
}

#[test]
fn the_order_of_the_caches_does_not_matter() {
    let snapshot = snapshot();
    let mut turned = snapshot.clone();
    turned.backups.reverse();
    assert_eq!(told(&snapshot, now()), told(&turned, now()));
}

/// `# TYPE`, `# HELP` and label names are the table's, and nothing else is on the page.
#[test]
fn the_whole_page_reads_back_as_the_table_of_families() {
    let exporter = exporter(snapshot);
    let text = exporter.render_page(Format::Text, now()).text;
    let text = std::str::from_utf8(&text).expect("UTF-8");
    let families = parse(text, Syntax::Text).expect("a valid page");
    for read in &families {
        let family = FAMILIES.iter().find(|family| family.name == read.name);
        let family = family.unwrap_or_else(|| panic!("{} is not in the table", read.name));
        assert_eq!(read.kind.as_str(), family.kind.as_str(), "{}", family.name);
        assert_eq!(read.help, family.help, "{}", family.name);
        let expected: HashSet<_> = family.labels.iter().copied().collect();
        for point in &read.points {
            let labels = point.labels.iter().map(|(name, _)| name.as_ref());
            let labels: HashSet<_> = labels.collect();
            assert_eq!(labels, expected, "{}", family.name);
        }
    }
    let elsewhere = PUSHED_ONLY.len() + AGGREGATED.len();
    assert_eq!(families.len(), FAMILIES.len() - elsewhere);
    let other = exporter.render_page(Format::OpenMetrics, now()).text;
    let other = std::str::from_utf8(&other).expect("UTF-8");
    let other = parse(other, Syntax::OpenMetrics).expect("a valid page");
    let points = |families: &[Family<'_>]| -> Vec<_> {
        let points = families.iter().map(|family| family.points.clone());
        points.map(|points| format!("{points:?}")).collect()
    };
    assert_eq!(points(&other), points(&families));
}

#[test]
fn a_histogram_rises_to_its_count() {
    let mut object = backup("ns", "b");
    let totals = &mut object.status.get_or_insert_default().life.totals;
    for duration in [1, 10_000, 10_001, 300_000, 21_600_000, 90_000_000] {
        totals.success.add(duration);
    }
    let text = told(&only(object), now());
    let bucket = |outcome: &str, bound: &str| {
        let start = format!(
            "kafka_backup_backup_duration_seconds_bucket{{backup_name=\"b\",namespace=\"ns\",outcome=\"{outcome}\",le=\"{bound}\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.expect(&start).to_owned()
    };
    for (bound, count) in [
        ("10", "2"),
        ("30", "3"),
        ("60", "3"),
        ("300", "4"),
        ("14400", "4"),
        ("21600", "5"),
        ("+Inf", "6"),
    ] {
        assert_eq!(bucket("success", bound), count, "{bound}");
        assert_eq!(bucket("failure", bound), "0", "{bound}");
    }
    assert!(text.contains(
        "duration_seconds_sum{backup_name=\"b\",namespace=\"ns\",outcome=\"success\"} 111920.002\n"
    ));
}

fn value(text: &str, family: &str) -> Option<String> {
    let start = format!("kafka_backup_{family}{{");
    let line = text.lines().find(|line| line.starts_with(&start))?;
    line.rsplit(' ').next().map(str::to_owned)
}

#[test]
fn the_interval_is_the_longest_wait_of_a_valid_schedule() {
    let cases = [
        (None, None, None),
        (Some("@yearly 1"), None, None),
        (Some("0 * * * *"), None, Some("3600")),
        (Some("0 2 * * *"), None, Some("86400")),
        (Some("0 2 * * 1-5"), None, Some("259200")),
        // Later than its ticks of the day, earlier than the first one of the next.
        (
            Some("*/5 8-17 * * *"),
            Some("2025-12-31T17:55:00Z"),
            Some("50700"),
        ),
        (
            Some("*/5 8-17 * * *"),
            Some("2025-12-31T12:00:00Z"),
            Some("300"),
        ),
    ];
    for (line, last_tick, expected) in cases {
        let mut object = backup("ns", "b");
        object.spec.schedule = line.map(str::to_owned);
        let last_tick = last_tick.map(|tick| time(tick.parse().expect("a time")));
        object.status.get_or_insert_default().last_schedule_time = last_tick;
        let found = value(&told(&only(object), now()), "schedule_interval_seconds");
        assert_eq!(found.as_deref(), expected, "{line:?}");
    }
}

#[test]
fn a_run_that_goes_on_grows_and_one_that_is_over_leaves_its_duration() {
    let mut object = backup("ns", "b");
    let shown = |object: &KafkaBackup| {
        let text = told(&only(object.clone()), now());
        ["running", "last_duration"].map(|which| value(&text, &format!("backup_{which}_seconds")))
    };
    assert_eq!(shown(&object), [Some("0".into()), None]);
    let life = &mut object.status.get_or_insert_default().life;
    life.active_run = Some(active_run(&crate::fixtures::backup()));
    assert_eq!(shown(&object), [Some("5400".into()), None]);
    // The clock of who decided it was ahead.
    let ahead = time(now() + jiff::SignedDuration::from_secs(5));
    let life = &mut object.status.get_or_insert_default().life;
    life.active_run.as_mut().expect("a run").start_time = ahead;
    assert_eq!(shown(&object), [Some("0".into()), None]);
    let life = &mut object.status.get_or_insert_default().life;
    life.active_run = None;
    life.totals.last_duration_ms = Some(1500);
    assert_eq!(shown(&object), [Some("0".into()), Some("1.5".into())]);
}

#[test]
fn held_runs_are_not_on_the_page() {
    let mut object = backup("ns", "b");
    let before = told(&only(object.clone()), now());
    let totals = &mut object.status.get_or_insert_default().life.totals;
    totals.held.push(HeldRun {
        id: "b-1".into(),
        outcome: RunOutcome::Failure,
        duration_ms: 1,
        gaps: 3,
        groups: GroupTotals {
            success: 2,
            failure: 1,
        },
        since: time(jiff::Timestamp::UNIX_EPOCH),
    });
    assert_eq!(told(&only(object), now()), before);
}

#[tokio::test]
async fn series_of_a_deleted_object_go_with_it() {
    let shown = Arc::new(Mutex::new(snapshot()));
    let source = shown.clone();
    let exporter = exporter(move || source.lock().expect("a lock").clone());
    let error = Err(());
    exporter
        .own()
        .observe_reconcile("backup", "a", "first", Duration::from_millis(1), error);
    let count = |text: &[u8]| String::from_utf8_lossy(text).matches("\"first\"").count();
    assert!(count(&exporter.render_page(Format::Text, now()).text) > 50);
    shown.lock().expect("a lock").backups.pop();
    assert_eq!(count(&exporter.render_page(Format::Text, now()).text), 0);
}

#[tokio::test]
async fn exposure_of_a_deleted_object_is_forgotten() {
    let shown = Arc::new(Mutex::new(snapshot()));
    let source = shown.clone();
    let exporter = exporter(move || source.lock().expect("a lock").clone());
    let start = Instant::now();
    let later = start + Duration::from_secs(100);
    let totals = Totals::default();
    let exposed = |at| exporter.exposed("uid-first", &totals, at).failure;
    exposed(start);
    exporter.render_page(Format::Text, now());
    assert_eq!(exposed(later), Duration::from_secs(100));
    shown.lock().expect("a lock").backups.pop();
    exporter.render_page(Format::Text, now());
    assert_eq!(exposed(later), Duration::ZERO);
}

#[tokio::test]
async fn readers_that_come_at_once_share_a_page_which_goes_when_it_is_old() {
    let exporter = exporter(snapshot);
    let old = exporter.clone();
    let dropping = tokio::spawn(async move { old.drop_old_pages().await });
    let (one, other) = tokio::join!(exporter.page(Format::Text), exporter.page(Format::Text));
    assert!(Arc::ptr_eq(&one, &other));
    let page = Arc::downgrade(&one);
    drop((one, other));
    assert!(page.upgrade().is_some(), "it is not old yet");
    let gone = async {
        while page.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    gone.expect("nobody reads it any more");
    dropping.abort();
}

#[test]
fn only_open_metrics_names_counters_without_total_and_has_bounds_with_a_point() {
    let page = |format| {
        let text = exporter(snapshot).render_page(format, now()).text;
        String::from_utf8_lossy(&text).into_owned()
    };
    let (text, other) = (page(Format::Text), page(Format::OpenMetrics));
    for (line, in_other) in [
        (
            "# TYPE kafka_backup_backups_total counter\n",
            "# TYPE kafka_backup_backups counter\n",
        ),
        (
            "outcome=\"success\",le=\"10\"} ",
            "outcome=\"success\",le=\"10.0\"} ",
        ),
        (
            "namespace=\"a\",le=\"10\"} ",
            "namespace=\"a\",le=\"10.0\"} ",
        ),
    ] {
        assert!(text.contains(line) && !text.contains(in_other), "{line}");
        assert!(
            other.contains(in_other) && !other.contains(line),
            "{in_other}"
        );
    }
    for line in [
        "le=\"0.005\"} ",
        "le=\"+Inf\"} ",
        "kafka_backup_backups_total{",
    ] {
        assert!(text.contains(line) && other.contains(line), "{line}");
    }
}
