//! A restore whose broker is killed (-9) and started again in the middle. Needs `KAFKA_BACKUP_LAB_TARGET`, a cluster that
//! nobody else uses meanwhile, and `KAFKA_BACKUP_LAB_RESTART`, a shell command that kills its broker and starts it again.

mod restore_support;

use kafka_backup_shared::archive::codec::Codec;
use restore_support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_in_the_middle_leaves_each_record_once() {
    let restart = std::env::var("KAFKA_BACKUP_LAB_RESTART")
        .expect("KAFKA_BACKUP_LAB_RESTART is not set: run this test by `cargo lab test`");
    let mut archive = Archive::new();
    let partition = |codec| {
        let batch = |n: i64| Source::dense(n * 20, 20, codec, 3000);
        let segments = (0..40)
            .map(|s| (0..8).map(|b| batch(s * 8 + b)).collect())
            .collect();
        Partition {
            log_start: 0,
            segments,
        }
    };
    archive
        .topic(
            "killed",
            &[],
            &[Codec::None, Codec::None, Codec::Lz4].map(partition),
        )
        .await;
    archive.commit().await;
    let total: u64 = archive.seen.values().map(|seen| seen.len() as u64).sum();
    let plan = archive.plan();
    let context = context();
    let progress = context.progress.clone();
    let killer = tokio::spawn(async move {
        let mut restarts = 0;
        for part in [total / 10, total / 2] {
            until("progress", || progress.records() >= part).await;
            if progress.records() >= total {
                break;
            }
            let command = restart.clone();
            let status = tokio::task::spawn_blocking(move || {
                std::process::Command::new("sh")
                    .arg("-c")
                    .arg(command)
                    .status()
            });
            assert!(status.await.unwrap().unwrap().success());
            restarts += 1;
        }
        restarts
    });
    let completed = archive.restore(&plan, &context).await.unwrap();
    assert_eq!(
        killer.await.unwrap(),
        2,
        "the broker was not killed in the middle"
    );
    assert_eq!(completed.records, total);
    archive.assert_restored(&plan).await;
}
