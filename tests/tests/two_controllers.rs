//! Two controllers of the same objects: one leads, and when it ends, dies or stands still, the other one goes on, and each run is counted
//! once. Needs the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster_support;

use std::time::{Duration, Instant};

use cluster_support::{
    Controller, Place, RECORDS, Stage, admin, ended, play, push, running, token_of,
};
use kafka_backup_tests::lab::Lab;
use kube::ResourceExt;
use nix::sys::signal::Signal;
use serde_json::json;

/// How a leader ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// SIGTERM.
    Told,
    /// SIGKILL.
    Killed,
    /// SIGSTOP, and SIGCONT when the other one leads.
    Paused,
}

struct Two {
    place: Place,
    /// In the order of their names: `a` leads first.
    controllers: [Controller; 2],
}

impl Two {
    async fn begin(lab: &Lab, client: &kube::Client, name: &str) -> Self {
        let place = Place::new(lab, client, name).await;
        let a = Controller::shipped(&place, "a", &place.controller_pod("a").await).await;
        let only_a = async || (place.leaders().await == ["a"]).then_some(());
        place.until("leader", only_a).await;
        // It takes its own label off before it serves.
        let b = Controller::shipped(&place, "b", &place.leaders_pod("b").await).await;
        place.until("follower without the label", only_a).await;
        Self {
            place,
            controllers: [a, b],
        }
    }

    /// Status and body of `/readyz` of one of them.
    async fn ready(&self, index: usize) -> Option<(u16, String)> {
        Controller::get(self.controllers[index].health, "/readyz").await
    }

    /// The lines about the object on the page of one of them, without what each controller counts about itself.
    async fn page(&self, index: usize) -> Vec<String> {
        let page = Controller::get(self.controllers[index].metrics, "/metrics").await;
        let (status, page) = page.unwrap();
        assert_eq!(status, 200, "{page}");
        let lines = page.lines().filter(|line| line.contains("\"orders\""));
        let own = "kafka_backup_operator_";
        lines
            .filter(|line| !line.starts_with(own))
            .map(str::to_owned)
            .collect()
    }
}

async fn the_other_one_goes_on(end: End, name: &str, within: Duration) {
    let lab = Lab::open().unwrap();
    let client = admin().await;
    let mut two = Two::begin(&lab, &client, name).await;
    let place = two.place.clone();
    place
        .until("readiness of the follower", async || {
            two.ready(1).await.filter(|(status, _)| *status == 200)
        })
        .await;

    place.create_backup(json!({})).await;
    let (_, uid) = place.job_of_run().await;
    let pod = place.pod_of(&uid).await;
    let id = pod.annotations()["kafka-backup.dev/run"].clone();
    play(&place.pods(), &pod, "Running", running()).await;
    let token = token_of(&place, &pod).await;
    let refused = push(two.controllers[1].metrics, &place.namespace, &id, &token).await;
    let (status, text) = refused.unwrap();
    assert!(
        status == 503 && text.contains("does not lead; a_"),
        "{status} {text}"
    );
    let taken = push(two.controllers[0].metrics, &place.namespace, &id, &token).await;
    assert_eq!(taken, Some((200, String::new())));
    place
        .until("the same page", async || {
            let (led, followed) = (two.page(0).await, two.page(1).await);
            let records = format!(
                "records_total{{backup_name=\"orders\",namespace=\"{}\"}} {RECORDS}",
                place.namespace
            );
            (led == followed && led.iter().any(|line| line.contains(&records))).then_some(())
        })
        .await;

    let start = Instant::now();
    two.controllers[0].signal(match end {
        End::Told => Signal::SIGTERM,
        End::Killed => Signal::SIGKILL,
        End::Paused => Signal::SIGSTOP,
    });
    // The old leader knows nothing of this.
    let report = place.success(&id).await.to_string();
    play(&place.pods(), &pod, "Succeeded", ended(&report)).await;
    place
        .until("new leader", async || {
            (place.leaders().await == ["b"]).then_some(())
        })
        .await;
    assert!(
        start.elapsed() < within,
        "{end:?}: after {:?}",
        start.elapsed()
    );
    if end == End::Paused {
        two.controllers[0].signal(Signal::SIGCONT);
    }
    let status = place
        .status_that("counted run", |status| {
            status["totals"]["success"]["runs"] == 1 && status["totals"]["held"].is_null()
        })
        .await;
    assert_eq!(status["backupHistory"].as_array().unwrap().len(), 1);
    match end {
        End::Told => assert!(two.controllers[0].ended().unwrap().success()),
        End::Killed => assert!(two.controllers[0].ended().is_some()),
        End::Paused => {
            // It follows now: it serves, writes nothing, and takes no push.
            place
                .until("the old leader to follow", async || {
                    let answer = push(two.controllers[0].metrics, &place.namespace, &id, &token);
                    let (status, text) = answer.await?;
                    (status == 503 && text.contains("does not lead; b_")).then_some(())
                })
                .await;
            assert_eq!(two.ready(0).await, Some((200, "ok\n".to_owned())));
            assert_eq!(two.page(0).await, two.page(1).await);
            assert_eq!(place.status().await, status);
        }
    }
    assert_eq!(place.leaders().await, ["b"]);
    place.leave().await;
}

#[tokio::test]
async fn when_a_leader_ends_stands_still_or_dies_the_other_one_goes_on() {
    let lab = Lab::open().unwrap();
    let _stage = Stage::set(&lab);
    tokio::join!(
        // It gives its lease back, and they look every 2 s.
        the_other_one_goes_on(End::Told, "t-told", Duration::from_secs(8)),
        the_other_one_goes_on(End::Killed, "t-killed", Duration::from_secs(25)),
        the_other_one_goes_on(End::Paused, "t-paused", Duration::from_secs(25)),
    );
}
