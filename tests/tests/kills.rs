//! Workers killed, stopped, paused and replaced at random points. Needs `cargo lab up kafka`; `cargo lab soak` is the long form.
#![allow(clippy::unwrap_used, reason = "a test")]

use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka::{Cluster, SOURCE};
use kafka_backup_tests::restore_soak::{self, Event};
use kafka_backup_tests::soak;

/// Another one each time: what is found is found again by the seed that is printed.
fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_nanos() as u64
}

#[test]
fn killed_workers_lose_and_double_nothing() {
    let lab = Lab::open().unwrap();
    let tally = soak::run(&lab, &SOURCE, seed(), 8).unwrap();
    assert_eq!(tally.rounds, 8);
    assert!(tally.killed > 0, "{tally:?}");
}

#[test]
fn killed_restores_lose_and_double_nothing() {
    let lab = Lab::open().unwrap();
    let cluster = Cluster {
        name: "forgetful",
        port: 9692,
        extra: restore_soak::FORGETFUL,
    };
    cluster.up(&lab, 1).unwrap();
    // Each begins a round in its turn.
    let events = [
        Event::Killed,
        Event::Terminated,
        Event::Frozen,
        Event::FrozenInFlight,
        Event::ThawedBeside,
        Event::BrokerKilled,
        Event::BrokerStopped,
        Event::BrokerPaused,
        Event::LookedAgain,
    ];
    let tally = restore_soak::run_until(&lab, &cluster, seed(), 8, &events).unwrap();
    assert!(tally.rounds >= 8);
    cluster.down(&lab).unwrap();
}
