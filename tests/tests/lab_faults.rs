//! Components of the lab's Kubernetes can be killed and kept away.
//!
//! Needs the lab (`cargo lab test` starts it). A file of its own: the tests of one file run at the same time, those of another do not.

use kafka_backup_tests::lab::kubernetes::{self, Component};
use kafka_backup_tests::lab::{Lab, process, wait_for};
use nix::sys::signal::Signal;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn killed_api_server_comes_back_when_it_is_no_longer_held() {
    let lab = Lab::open().unwrap();
    let serves = || {
        let mut kubectl = kubernetes::kubectl(&lab).unwrap_or_else(|error| panic!("{error}"));
        process::run(kubectl.args(["get", "--raw", "/readyz", "--request-timeout=2s"])).is_ok()
    };
    wait_for("the API server", LIMIT, serves).unwrap();

    kubernetes::hold(&lab, Component::ApiServer).unwrap();
    let old = kubernetes::restart(&lab, Component::ApiServer, Signal::SIGKILL).unwrap();
    wait_for("the API server to end", LIMIT, || {
        kubernetes::pid(&lab, Component::ApiServer).is_none()
    })
    .unwrap();
    assert!(!serves());

    kubernetes::release(&lab, Component::ApiServer).unwrap();
    kubernetes::wait_replaced(&lab, Component::ApiServer, old, LIMIT).unwrap();
    wait_for("the API server", LIMIT, serves).unwrap();
}
