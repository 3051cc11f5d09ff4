//! Counters never fall, whatever becomes of the controller, and at rest they say how many runs there were: a minute and a half of runs
//! that succeed and fail, pushes that come twice and late, and a controller that is killed, told to stop and paused at random.
//! Needs the installed operator.
//!
//! What is exposed is read all the time; the controller's families about itself are left out, since they begin at 0 with its process.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster_support;

use std::collections::HashMap;
use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cluster_support::{
    Controller, LIMIT, Place, Stage, admin, backup, ended, failed, play, push_of, request, running,
    success, token_of,
};
use k8s_openapi::api::core::v1::Pod;
use kafka_backup_tests::lab::{Lab, prometheus, push_clients};
use kafka_backup_tests::soak::Random;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::json;

const OBJECTS: u64 = 3;
const TIME: Duration = Duration::from_secs(90);
const TEXT: &str = "text/plain;version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

struct Scene {
    place: Place,
    pod: Pod,
    controller: tokio::sync::Mutex<Controller>,
    /// Where the present controller is; nowhere while there is none.
    address: Mutex<SocketAddr>,
    end: Instant,
}

/// What is known of the page.
#[derive(Default)]
struct Read {
    pages: u64,
    counters: HashMap<String, f64>,
    /// One of ten, with its format.
    kept: Vec<(&'static str, String)>,
}

impl Scene {
    async fn begin(lab: &Lab) -> Self {
        let place = Place::new(lab, &admin().await, "t-counters").await;
        let pod = place.controller_pod("controller").await;
        let controller = Controller::shipped(&place, "controller", &pod).await;
        Self {
            address: Mutex::new(controller.metrics),
            controller: controller.into(),
            place,
            pod,
            end: Instant::now() + TIME,
        }
    }

    fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap()
    }

    /// Runs of one object, one after the other; how many of them succeeded and failed.
    async fn runs(&self, number: u64, seed: u64) -> [u64; 2] {
        let place = &self.place;
        let name = format!("orders-{number}");
        let mut random = Random(seed);
        let mut object = place
            .backups()
            .create(&PostParams::default(), &backup(&name, json!({})))
            .await
            .unwrap();
        let mut counted = [0, 0];
        let mut last = String::new();
        loop {
            let (id, pod) = self.next_run(&name, &last).await;
            play(&place.pods(), &pod, "Running", running()).await;
            let token = token_of(place, &pod).await;
            for _ in 0..random.below(4) {
                // Not in order: a push may have been under way for long.
                let records = random.below(8);
                let body = format!("kafka_backup_backup_records_total {records}\n");
                let run = (name.as_str(), id.as_str());
                push_of(self.address(), &place.namespace, run, &token, &body).await;
                tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
            }
            let succeeds = random.below(3) > 0;
            let (phase, state) = match succeeds {
                true => ("Succeeded", ended(&success(&object, &id).to_string())),
                // One that is not tried again.
                false => ("Failed", failed(64)),
            };
            play(&place.pods(), &pod, phase, state).await;
            counted[usize::from(!succeeds)] += 1;
            let [successes, failures] = counted;
            place
                .until(&format!("count of {id}"), async || {
                    let status = place.backups().get(&name).await.unwrap().data["status"].clone();
                    let runs = |outcome: &str| status["totals"][outcome]["runs"].as_u64();
                    let runs = |outcome: &str| runs(outcome).unwrap_or_default();
                    let found = (runs("success"), runs("failure"));
                    assert!(found.0 <= successes && found.1 <= failures, "{status}");
                    (found == (successes, failures)).then_some(())
                })
                .await;
            if Instant::now() > self.end {
                return counted;
            }
            last = id.clone();
            let trigger =
                json!({ "metadata": { "annotations": { "kafka-backup.dev/trigger-backup": id } } });
            let (params, patch) = (PatchParams::default(), Patch::Merge(trigger));
            object = place.backups().patch(&name, &params, &patch).await.unwrap();
        }
    }

    /// The next run of the object after `last`, and its pod.
    async fn next_run(&self, name: &str, last: &str) -> (String, Pod) {
        let place = &self.place;
        let uid = place
            .until(&format!("run of {name} after {last}"), async || {
                let object = place.backups().get(name).await.unwrap();
                let active = &object.data["status"]["activeRun"];
                let is_next = active["id"].as_str().is_some_and(|id| id != last);
                let uid = active["jobUid"].as_str().filter(|_| is_next)?;
                Some(uid.to_owned())
            })
            .await;
        let pod = place.pod_of(&uid).await;
        let id = pod.annotations()["kafka-backup.dev/run"].clone();
        (id, pod)
    }

    async fn harm(&self, seed: u64) -> u64 {
        let mut random = Random(seed);
        let mut harms = 0;
        while Instant::now() < self.end {
            tokio::time::sleep(Duration::from_millis(2000 + random.below(6000))).await;
            let mut controller = self.controller.lock().await;
            match random.below(3) {
                0 => {
                    controller.signal(Signal::SIGSTOP);
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    controller.signal(Signal::SIGCONT);
                }
                other => {
                    let how = [Signal::SIGTERM, Signal::SIGKILL][usize::from(other == 1)];
                    controller.signal(how);
                    let begun = Instant::now();
                    while controller.ended().is_none() {
                        assert!(begun.elapsed() < LIMIT, "{how} does not end it");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    *controller = Controller::shipped(&self.place, "controller", &self.pod).await;
                    *self.address.lock().unwrap() = controller.metrics;
                }
            }
            harms += 1;
        }
        harms
    }

    async fn read(&self, read: &mut Read) {
        for format in [TEXT, OPEN_METRICS].into_iter().cycle() {
            self.read_once(format, read).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn read_once(&self, format: &'static str, read: &mut Read) {
        let accept = format!("Accept: {format}");
        let answer = request(self.address(), "GET /metrics", &[&accept], "").await;
        let Some((200, page)) = answer else {
            return;
        };
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let family = series.split('{').next().unwrap_or_default();
            let is_counter = ["_total", "_bucket", "_count", "_sum"]
                .iter()
                .any(|suffix| family.ends_with(suffix));
            if !is_counter || family.starts_with("kafka_backup_operator_") {
                continue;
            }
            // The bounds of buckets are spelled differently.
            let series = series.replace(".0\"}", "\"}");
            let value: f64 = value.parse().unwrap();
            let before = read.counters.insert(series.clone(), value);
            assert!(
                before.is_none_or(|before| before <= value),
                "{series} fell from {before:?} to {value}"
            );
        }
        read.pages += 1;
        if read.pages % 20 < 2 {
            read.kept.push((format, page));
        }
    }
}

#[tokio::test]
async fn counters_never_fall_and_say_at_rest_how_many_runs_there_were() {
    let lab = Lab::open().unwrap();
    let _stage = Stage::set(&lab);
    let scene = Scene::begin(&lab).await;
    let seed = u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    println!("seed {seed}");
    let mut read = Read::default();
    let (counted, harms) = {
        let runs = (0..OBJECTS).map(|number| scene.runs(number, seed + number));
        let lived = async { tokio::join!(futures::future::join_all(runs), scene.harm(seed + 99)) };
        tokio::select! {
            lived = lived => lived,
            () = scene.read(&mut read) => unreachable!("it reads for ever"),
        }
    };
    // At rest nothing is held.
    let place = &scene.place;
    place
        .until("rest", async || {
            let objects = place.backups().list(&ListParams::default()).await.unwrap();
            let mut statuses = objects.iter().map(|object| &object.data["status"]);
            let at_rest = statuses
                .all(|status| status["totals"]["held"].is_null() && status["activeRun"].is_null());
            at_rest.then_some(())
        })
        .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.read_once(TEXT, &mut read).await;
    scene.read_once(OPEN_METRICS, &mut read).await;
    for (number, counted) in counted.iter().enumerate() {
        let labels = |outcome: &str| {
            format!(
                "{{backup_name=\"orders-{number}\",namespace=\"{}\",outcome=\"{outcome}\"}}",
                place.namespace
            )
        };
        for (outcome, count) in ["success", "failure"].into_iter().zip(counted) {
            let expected = Some(*count as f64);
            for family in [
                "kafka_backup_backups_total",
                "kafka_backup_backup_duration_seconds_count",
            ] {
                let series = format!("{family}{}", labels(outcome));
                assert_eq!(read.counters.get(&series).copied(), expected, "{series}");
            }
        }
    }
    let runs: u64 = counted.iter().flatten().sum();
    println!(
        "{runs} runs, {harms} times harm to the controller, {} pages read",
        read.pages
    );
    assert!(
        runs > OBJECTS && harms > 3 && read.pages > 100,
        "too little happened"
    );
    assert!(read.kept.len() > 5);
    for (format, page) in &read.kept {
        let mut reader = push_clients::reader(&lab).unwrap();
        accepts(
            reader.arg(if *format == TEXT {
                "text"
            } else {
                "openmetrics"
            }),
            page,
        );
        if *format == TEXT {
            let mut promtool = Command::new(prometheus::program(&lab, "promtool").unwrap());
            accepts(promtool.args(["check", "metrics"]), page);
        }
    }
    drop(scene.controller);
    scene.place.leave().await;
}

/// A program that reads a page from its standard input has nothing against it.
fn accepts(program: &mut Command, page: &str) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(page.as_bytes()).unwrap();
    file.rewind().unwrap();
    let read = program.stdin(file).output().unwrap();
    let said = String::from_utf8_lossy(&read.stderr);
    assert!(
        read.status.success() && said.is_empty(),
        "{program:?}: {said}"
    );
}
