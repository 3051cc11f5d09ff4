//! The node's programs: Debian packages, and Kubernetes compiled from its Go modules.

use super::RUNC;
use crate::lab::images::{self, Image};
use crate::lab::process::run;
use crate::lab::{Lab, LabError, cargo, packages, parts};
use std::path::PathBuf;
use std::process::Command;

const GO: &str = "Go 1.24 or newer (https://go.dev/dl)";

pub(in crate::lab) const VERSION: &str = "v1.33.13";
/// The Go module, in the order in which it is hashed.
const MODULE: [&str; 4] = [
    include_str!("../../../assets/kubernetes/hyperkube/main.go"),
    include_str!("../../../assets/kubernetes/hyperkube/dns.go"),
    include_str!("../../../assets/kubernetes/hyperkube/go.mod"),
    include_str!("../../../assets/kubernetes/hyperkube/go.sum"),
];
/// No inlining and no debug information: a third less to compile, and fast enough.
pub(in crate::lab) const COMPILER: &str = "-gcflags=all=-dwarf=false -l";
/// Programs that the node needs, and the Debian packages that have them.
pub const PACKAGES: [(&str, &str); 7] = [
    ("containerd", "containerd"),
    (RUNC, "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("curl", "curl"),
];

/// The binary with all programs of Kubernetes; the first argument chooses, e.g. `kubectl`. There after [`prepare`].
pub fn hyperkube(lab: &Lab) -> PathBuf {
    lab.cache
        .join("third-party")
        .join("hyperkube")
        .join(hyperkube_version())
        .join("hyperkube")
}

/// The Go toolchain.
pub(in crate::lab) fn go() -> Result<PathBuf, LabError> {
    packages::toolchain("go", GO)
        .or_else(|error| packages::find("/usr/local/go/bin/go").ok_or(error))
}

fn hyperkube_version() -> String {
    let inputs: Vec<&[u8]> = MODULE
        .iter()
        .chain(&[COMPILER, VERSION])
        .map(|input| input.as_bytes())
        .collect();
    format!("{VERSION}-{}", parts::key(&inputs))
}

/// Installs and builds what the node needs; everything is kept. Compiling Kubernetes takes minutes the first time.
pub fn prepare(lab: &Lab) -> Result<Image, LabError> {
    packages::require(&PACKAGES)?;
    if !hyperkube(lab).exists() {
        println!("            compiling Kubernetes {VERSION}: 4 to 8 minutes, once");
    }
    parts::part(lab, "hyperkube", &hyperkube_version(), |folder| {
        let go = go()?;
        let package = "k8s.io/component-base/version";
        let (major, minor) = ("1", VERSION.split('.').nth(1).unwrap_or_default());
        let link = format!(
            "-s -w -X {package}.gitVersion={VERSION} -X {package}.gitMajor={major} -X {package}.gitMinor={minor} \
             -X {package}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion={VERSION}"
        );
        let mut build = Command::new(go);
        build.current_dir(cargo::workspace().join("tests/assets/kubernetes/hyperkube"));
        build
            .args(["build", "-trimpath", COMPILER, "-ldflags", &link, "-o"])
            .arg(folder.join("hyperkube"))
            .arg(".");
        build
            .env("GOCACHE", lab.go_build())
            .env("GOFLAGS", "-buildvcs=false -mod=readonly")
            .env("CGO_ENABLED", "0");
        // Fewer collections in the compiler: a tenth less to wait.
        run(build.env("GOGC", "400")).map(drop)
    })?;
    images::pause(lab)
}
