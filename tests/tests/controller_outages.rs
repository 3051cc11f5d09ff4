//! What is missing around the controller: a CRD at its start and in its life, and the API server. Needs the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster_support;

use std::time::{Duration, Instant};

use cluster_support::{Controller, Place, Stage, admin, ended, play};
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kubernetes::{self, Component};
use kafka_backup_tests::operator;
use kube::ResourceExt;
use nix::sys::signal::Signal;
use serde_json::json;

const CRD: &str = "kafkarestores.kafka-backup.dev";
/// Long enough for the holder of a lease to stop by itself.
const AWAY: Duration = Duration::from_secs(20);

/// Has the CRDs there again, whatever became of the test.
struct Crds<'a>(&'a Lab);

impl Drop for Crds<'_> {
    fn drop(&mut self) {
        operator::apply_crds(self.0).unwrap();
    }
}

/// Keeps the API server away, until it is dropped.
struct Away<'a>(&'a Lab);

impl<'a> Away<'a> {
    fn send(lab: &'a Lab) -> Self {
        kubernetes::hold(lab, Component::ApiServer).unwrap();
        let away = Self(lab);
        kubernetes::restart(lab, Component::ApiServer, Signal::SIGKILL).unwrap();
        away
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        kubernetes::release(self.0, Component::ApiServer).unwrap();
    }
}

async fn begin(lab: &Lab, name: &str) -> (Place, Controller) {
    let place = Place::new(lab, &admin().await, name).await;
    let pod = place.controller_pod("controller").await;
    let controller = Controller::shipped(&place, "controller", &pod).await;
    (place, controller)
}

/// Waits until `/readyz` is 200 and says something that `is` wants.
async fn ready(place: &Place, controller: &Controller, what: &str, is: impl Fn(&str) -> bool) {
    place
        .until(what, async || {
            let (status, body) = Controller::get(controller.health, "/readyz").await?;
            (status == 200 && is(&body)).then_some(())
        })
        .await;
}

/// Plays the worker of the run to its successful end.
async fn finish(place: &Place) {
    let (_, uid) = place.job_of_run().await;
    let pod = place.pod_of(&uid).await;
    let report = place
        .success(&pod.annotations()["kafka-backup.dev/run"])
        .await;
    play(&place.pods(), &pod, "Succeeded", ended(&report.to_string())).await;
    let status = place
        .status_that("counted run", |status| {
            status["totals"]["success"]["runs"] == 1 && status["totals"]["held"].is_null()
        })
        .await;
    assert_eq!(status["backupHistory"].as_array().unwrap().len(), 1);
}

/// The errors that were counted for the backup.
async fn errors(place: &Place, controller: &Controller) -> f64 {
    let series = format!(
        "kafka_backup_operator_reconciliation_errors_total{{controller=\"backup\",name=\"orders\",namespace=\"{}\"}}",
        place.namespace
    );
    let (status, page) = Controller::get(controller.metrics, "/metrics")
        .await
        .unwrap();
    assert_eq!(status, 200, "{page}");
    operator::sample(&page, &series).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_named_and_nothing_else_suffers() {
    let lab = Lab::open().unwrap();
    let _stage = Stage::set(&lab);
    operator::apply_crds(&lab).unwrap();
    let crds = Crds(&lab);
    operator::kubectl(&lab, &["delete", "crd", CRD, "--timeout=60s"]).unwrap();

    let (place, controller) = begin(&lab, "t-crd").await;
    let missing = "KafkaRestore is not known to the API server: its CRD is missing\n";
    ready(&place, &controller, "word of the missing CRD", |body| {
        body == format!("ok\n{missing}")
    })
    .await;
    place.create_backup(json!({})).await;
    finish(&place).await;

    drop(crds);
    ready(&place, &controller, "the CRD to be found", |body| {
        body == "ok\n"
    })
    .await;
    let restore = format!(
        "{{apiVersion: kafka-backup.dev/v1alpha1, kind: KafkaRestore, metadata: {{name: back, namespace: {}}}, spec: \
         {{backupId: latest, targetCluster: {{bootstrapServers: ['kafka.invalid:9092']}}, topics: ['*'], \
         storage: {{storageType: s3, s3: {{bucket: backups}}}}}}}}",
        place.namespace
    );
    operator::apply(&lab, "outage-restore", &restore).unwrap();
    place
        .until("status of the restore", async || {
            let found = operator::get(&lab, &place.namespace, "kafkarestore", "back").unwrap();
            found.filter(|found| found["status"]["phase"] == "Running")
        })
        .await;

    let crds = Crds(&lab);
    operator::kubectl(&lab, &["delete", "crd", CRD, "--timeout=60s"]).unwrap();
    ready(&place, &controller, "word of the CRD that went", |body| {
        body == format!("ok\n{missing}")
    })
    .await;
    drop(crds);
    ready(&place, &controller, "the CRD to be found again", |body| {
        body == "ok\n"
    })
    .await;
    place.leave().await;
    drop(controller);

    away(&lab).await;
}

/// The API server goes for longer than a lease lasts.
async fn away(lab: &Lab) {
    let (place, controller) = begin(lab, "t-away").await;
    ready(&place, &controller, "readiness", |body| body == "ok\n").await;
    place.create_backup(json!({})).await;
    place.job_of_run().await;
    assert_eq!(errors(&place, &controller).await, 0.0);

    let gone = Away::send(lab);
    let start = Instant::now();
    let mut named = false;
    while start.elapsed() < AWAY {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (status, body) = Controller::get(controller.health, "/readyz").await.unwrap();
        assert_eq!(status, 200, "{body}");
        named |= body.contains("\nthe API server ");
        let alive = Controller::get(controller.health, "/healthz")
            .await
            .unwrap();
        assert_eq!(alive.0, 200, "{}", alive.1);
    }
    let counted = errors(&place, &controller).await;
    drop(gone);
    assert!(named, "/readyz has not named the API server");
    assert!(counted >= 1.0, "{counted} errors");

    place
        .until("API server", async || {
            place.client.apiserver_version().await.ok()
        })
        .await;
    ready(&place, &controller, "the API server to be found", |body| {
        body == "ok\n"
    })
    .await;
    finish(&place).await;
    place.leave().await;
}
