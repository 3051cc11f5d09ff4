//! What `cargo lab bench controller` measures: a controller with many KafkaBackups at the lab's real API server, beside the real Job controller.
//! No pod is placed; kubelets are played, and start every pod.
//!
//! Argument: the number of objects. Prints one line for each figure.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../tests/cluster_support/mod.rs"]
mod cluster_support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cluster_support::{
    Controller, LIMIT, Place, Stage, admin, backup, ended, play, running, success,
};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::batch::v1::Job;
use kafka_backup_tests::lab::Lab;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Requests of the bench under way at a time.
const AT_A_TIME: usize = 16;
const SPREAD: Duration = Duration::from_secs(60);
const FINISHING: usize = 200;
const IDLE: usize = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let count = std::env::args().nth(1).map(|count| count.parse());
    let count: usize = count.expect("argument: the number of objects").unwrap();
    let lab = Lab::open().unwrap();
    let _stage = Stage::set(&lab);
    spread(&lab, count).await;
    burst(&lab, count).await;
}

/// A controller and its objects.
struct Bench {
    place: Place,
    controller: Controller,
    count: usize,
    seen: Arc<Mutex<HashMap<String, SystemTime>>>,
    watches: [JoinHandle<()>; 2],
}

fn name(number: usize) -> String {
    format!("orders-{number}")
}

impl Bench {
    async fn begin(lab: &Lab, name_: &str, count: usize, spec: Value) -> Self {
        let place = Place::new(lab, &admin().await, name_).await;
        let pod = place.controller_pod("controller").await;
        let controller = Controller::shipped(&place, "controller", &pod).await;
        let seen = Arc::<Mutex<HashMap<_, _>>>::default();
        let watches = [
            tokio::spawn(watch_jobs(place.clone(), seen.clone())),
            tokio::spawn(start_pods(place.clone())),
        ];
        let bench = Self {
            place,
            controller,
            count,
            seen,
            watches,
        };
        let api = bench.place.backups();
        bench
            .until("readiness", async || {
                let ready = Controller::get(bench.controller.health, "/readyz").await;
                ready.is_some_and(|(status, _)| status == 200)
            })
            .await;
        println!(
            "the controller without objects: {}",
            cost(bench.controller.pid())
        );
        let start = Instant::now();
        bench
            .each(0..count, async |number| {
                let object = backup(&name(number), spec.clone());
                api.create(&PostParams::default(), &object).await.unwrap();
            })
            .await;
        bench
            .until("every object to have a status", async || {
                let list = api.list(&ListParams::default()).await.unwrap();
                let known = |object: &&kube::api::DynamicObject| {
                    object.data["status"]["observedGeneration"].is_i64()
                };
                list.iter().filter(known).count() == count
            })
            .await;
        println!(
            "{count} objects created and looked at in {:.1} s",
            start.elapsed().as_secs_f64()
        );
        bench
    }

    async fn end(self) {
        println!("the controller: {}", cost(self.controller.pid()));
        for watch in self.watches {
            watch.abort();
        }
        drop(self.controller);
        self.place.leave().await;
    }

    async fn each(&self, numbers: std::ops::Range<usize>, work: impl AsyncFn(usize)) {
        stream::iter(numbers)
            .for_each_concurrent(AT_A_TIME, |number| work(number))
            .await;
    }

    async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !is().await {
            assert!(start.elapsed() < 3 * LIMIT, "gave up waiting for {what}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until every object has a Job; how long after `since` each was seen.
    async fn jobs_after(&self, since: impl Fn(&str) -> SystemTime) -> Vec<Duration> {
        self.until("every Job", async || {
            self.seen.lock().unwrap().len() >= self.count
        })
        .await;
        let seen = self.seen.lock().unwrap();
        let late = seen.iter().map(|(object, at)| {
            at.duration_since(since(object))
                .expect("no Job comes before its time")
        });
        late.collect()
    }

    async fn metric(&self, series: &str) -> f64 {
        let page = Controller::get(self.controller.metrics, "/metrics")
            .await
            .unwrap()
            .1;
        let lines = page.lines().filter(|line| line.starts_with(series));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }
}

/// When each object's first Job was seen.
async fn watch_jobs(place: Place, seen: Arc<Mutex<HashMap<String, SystemTime>>>) {
    let jobs = place.jobs();
    let params = WatchParams::default()
        .labels("kafka-backup.dev/kind")
        .timeout(280);
    let mut events = jobs.watch(&params, "0").await.unwrap().boxed();
    while let Some(event) = events.try_next().await.unwrap() {
        let now = SystemTime::now();
        if let WatchEvent::Added(job) = event {
            let object = job.annotations()["kafka-backup.dev/name"].clone();
            seen.lock().unwrap().entry(object).or_insert(now);
        }
    }
}

/// Plays the kubelet of every pod as far as its start: one that does not start is looked at again and again.
async fn start_pods(place: Place) {
    let pods = place.pods();
    let params = WatchParams::default()
        .labels("kafka-backup.dev/kind")
        .timeout(280);
    let events = pods.watch(&params, "0").await.unwrap();
    events
        .try_for_each_concurrent(AT_A_TIME, async |event| {
            if let WatchEvent::Added(pod) = event {
                play(&pods, &pod, "Running", running()).await;
            }
            Ok(())
        })
        .await
        .unwrap();
}

/// Resident memory now and at its peak, and CPU time.
fn cost(pid: u32) -> String {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let (status, stat) = (read("status"), read("stat"));
    let mb = |key: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    // Fields 14 and 15, behind the name in parentheses: ticks of 10 ms in user and system mode.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    format!(
        "{:.1} MB, peak {:.1} MB, {:.1} CPU s",
        mb("VmRSS:"),
        mb("VmHWM:"),
        ticks / 100.0
    )
}

fn percentiles(what: &str, mut late: Vec<Duration>) {
    late.sort();
    let at = |percent: usize| late[(late.len() * percent).div_ceil(100).max(1) - 1].as_millis();
    println!(
        "{what}: {} Jobs, p50 {} ms, p99 {} ms, last {} ms",
        late.len(),
        at(50),
        at(99),
        at(100)
    );
}

/// Runs that fall due one after the other; then objects that are idle, and pods that finish together.
async fn spread(lab: &Lab, count: usize) {
    let far = json!({ "schedule": "0 0 1 1 *", "suspend": true });
    let bench = Bench::begin(lab, "bench-spread", count, far).await;
    idle(&bench).await;

    let due = Arc::<Mutex<HashMap<String, SystemTime>>>::default();
    let start = tokio::time::Instant::now();
    let api = bench.place.backups();
    let mut triggers = Vec::new();
    for number in 0..count {
        tokio::time::sleep_until(start + SPREAD * number as u32 / count as u32).await;
        let (api, due) = (api.clone(), due.clone());
        triggers.push(tokio::spawn(async move {
            let name = name(number);
            let patch = json!({ "metadata": { "annotations": { "kafka-backup.dev/trigger-backup": "1" } } });
            due.lock().unwrap().insert(name.clone(), SystemTime::now());
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            api.patch(&name, &params, &patch).await.unwrap();
        }));
    }
    for trigger in triggers {
        trigger.await.unwrap();
    }
    let late = bench.jobs_after(|object| due.lock().unwrap()[object]).await;
    percentiles("from trigger to Job, spread over 60 s", late);
    finish(&bench).await;
    bench.end().await;
}

/// Has idle objects looked at, and counts what is written.
async fn idle(bench: &Bench) {
    let api = bench.place.backups();
    let looks = "kafka_backup_operator_reconciliations_total";
    let before = bench.metric(looks).await;
    let versions = Mutex::new(HashMap::new());
    bench
        .each(0..IDLE.min(bench.count), async |number| {
            let patch = json!({ "metadata": { "annotations": { "example.org/touched": "1" } } });
            let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
            let object = api.patch(&name(number), &params, &patch).await.unwrap();
            versions
                .lock()
                .unwrap()
                .insert(object.name_any(), object.resource_version());
        })
        .await;
    let versions = versions.into_inner().unwrap();
    bench
        .until("looks at idle objects", async || {
            bench.metric(looks).await >= before + versions.len() as f64
        })
        .await;
    let list = api.list(&ListParams::default()).await.unwrap();
    let written = list.iter().filter(|object| {
        let touched = versions.get(&object.name_any());
        touched.is_some_and(|version| *version != object.resource_version())
    });
    println!(
        "{} idle objects looked at, {} statuses written",
        versions.len(),
        written.count()
    );
}

/// Ends pods at once, and counts the runs.
async fn finish(bench: &Bench) {
    let (api, pods) = (bench.place.backups(), bench.place.pods());
    let count = FINISHING.min(bench.count);
    let mut ready = Vec::new();
    bench
        .until("pods", async || {
            let ours = ListParams::default().labels("kafka-backup.dev/kind");
            ready = pods.list(&ours).await.unwrap().items;
            ready.len() >= count
        })
        .await;
    ready.truncate(count);
    let objects = api.list(&ListParams::default()).await.unwrap();
    let objects: HashMap<_, _> = objects.into_iter().map(|o| (o.name_any(), o)).collect();
    let start = Instant::now();
    stream::iter(&ready)
        .for_each_concurrent(AT_A_TIME, async |pod| {
            let object = &objects[&pod.annotations()["kafka-backup.dev/name"]];
            let message = success(object, &pod.annotations()["kafka-backup.dev/run"]).to_string();
            play(&pods, pod, "Succeeded", ended(&message)).await;
        })
        .await;
    let ended = start.elapsed();
    let counted = async || -> Vec<u64> {
        let list = api.list(&ListParams::default()).await.unwrap();
        let runs = |object: &kube::api::DynamicObject| {
            let totals = &object.data["status"]["totals"];
            let runs = |outcome: &str| totals[outcome]["runs"].as_u64().unwrap_or(0);
            runs("success") + runs("failure") + totals["held"].as_array().map_or(0, Vec::len) as u64
        };
        list.iter().map(runs).collect()
    };
    bench
        .until("every run to be counted", async || {
            counted().await.iter().sum::<u64>() >= count as u64
        })
        .await;
    let all = start.elapsed();
    // What would count twice would do so by now.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let runs = counted().await;
    println!(
        "{count} pods ended in {:.2} s: all accounted after {:.2} s, {} runs of {} objects, {} more than once",
        ended.as_secs_f64(),
        all.as_secs_f64(),
        runs.iter().sum::<u64>(),
        runs.iter().filter(|runs| **runs > 0).count(),
        runs.iter().filter(|runs| **runs > 1).count(),
    );
    let jobs: Vec<Job> = bench
        .place
        .jobs()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    println!("{} Jobs for {} objects", jobs.len(), bench.count);
}

/// Runs that all fall due at the same minute.
async fn burst(lab: &Lab, count: usize) {
    let now = jiff::Timestamp::now().as_second();
    // Time enough for the objects to be created.
    let minute = (now + 45) / 60 * 60 + 60;
    let at = jiff::Timestamp::from_second(minute).unwrap();
    let schedule = at.strftime("%-M %-H * * *").to_string();
    let bench = Bench::begin(lab, "bench-burst", count, json!({ "schedule": schedule })).await;
    let due = SystemTime::UNIX_EPOCH + Duration::from_secs(minute as u64);
    assert!(
        SystemTime::now() < due,
        "the objects took too long to create"
    );
    let late = bench.jobs_after(|_| due).await;
    percentiles("from tick to Job, all in one second", late);
    bench.end().await;
}
