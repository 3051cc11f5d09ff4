//! A real Kubernetes node: etcd, API server, controller manager, scheduler, kubelet, kube-proxy, containerd and DNS.
//!
//! # Guarantees
//! - Kubernetes is compiled from its own modules (version in `assets/kubernetes/hyperkube/go.mod`); RBAC, the node authorizer and Pod Security admission are on.
//! - Everything of the node runs in namespaces of its own below one process ([`init`]) in the lab's network namespace;
//!   [`down`] kills that process, and leaves no process, mount, cgroup, link or changed sysctl.
//! - Images come from files only ([`import`]); nothing is pulled.
//!
//! # Assumptions
//! A kernel with overlayfs, bridge, veth and iptables. cgroup v1 is what it was tried on; v2 should do.
//! The folders in `init`'s list of fixed paths are created on the machine, and stay empty there.

pub(in crate::lab) mod build;
mod cgroups;
mod component;
mod faults;
pub mod init;
mod pki;

pub use build::{PACKAGES, hyperkube, prepare};
pub use component::Component;
pub use faults::{hold, pid, release, restart, wait_replaced};

use faults::{hold_file, pid_file};

use super::components::Row;
use super::images::{self, Image};
use super::process::{self, run};
use super::{Doing, Lab, LabError, NODE_IP, POD_CIDR, SERVICE_CIDR, net, packages, parts, step};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The component's name: process record, log and state folder.
pub const NAME: &str = "kubernetes";
/// The node's name.
pub const NODE: &str = "lab";
/// Where pods find the API server: the first address of the Service range.
const API_SERVICE_IP: &str = "198.18.32.1";
const CNI_PLUGINS: &str = "/usr/lib/cni";
const RUNC: &str = "/usr/sbin/runc";

const BOOTSTRAP: &str = include_str!("../../../assets/kubernetes/bootstrap.yaml");
/// Configuration files: name in the state folder, and template.
const TEMPLATES: [(&str, &str); 5] = [
    (
        "audit.yaml",
        include_str!("../../../assets/kubernetes/audit.yaml"),
    ),
    (
        "containerd.toml",
        include_str!("../../../assets/kubernetes/containerd.toml"),
    ),
    (
        "cni/lab.conflist",
        include_str!("../../../assets/kubernetes/cni.conflist"),
    ),
    (
        "kubelet.yaml",
        include_str!("../../../assets/kubernetes/kubelet.yaml"),
    ),
    (
        "kube-proxy.yaml",
        include_str!("../../../assets/kubernetes/kube-proxy.yaml"),
    ),
];

/// The administrator's kubeconfig, while the cluster is up.
pub fn kubeconfig(lab: &Lab) -> PathBuf {
    lab.state(NAME).join("kubeconfig").join("admin.conf")
}

/// What the operator has asked of the API server, a JSON object a line (audit.k8s.io).
pub fn audit_log(lab: &Lab) -> PathBuf {
    lab.state(NAME).join("audit.log")
}

/// The administrator's kubeconfig with another namespace for those that name none, in a file of the lab. With a `token` it is
/// that of the token's account.
///
/// # Errors
/// The cluster is not up, or the file cannot be written.
pub fn kubeconfig_in(lab: &Lab, namespace: &str, token: Option<&str>) -> Result<PathBuf, LabError> {
    let path = kubeconfig(lab);
    let text = fs::read(&path).doing(|| format!("read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text)
        .map_err(|error| LabError::State(format!("{} is no JSON: {error}", path.display())))?;
    config["contexts"][0]["context"]["namespace"] = namespace.into();
    if let Some(token) = token {
        config["users"][0]["user"] = json!({ "token": token });
    }
    lab.write_private(
        &format!("kubeconfigs/{namespace}.conf"),
        &config.to_string(),
    )
}

/// A `kubectl` command as administrator, in the lab's network namespace; an error when the cluster is not up.
pub fn kubectl(lab: &Lab) -> Result<Command, LabError> {
    running(lab)?;
    let mut command = net::command(lab, hyperkube(lab))?;
    command.arg("kubectl").env("KUBECONFIG", kubeconfig(lab));
    // What the API offers is remembered by address, and every lab has the same.
    command.env("KUBECACHEDIR", lab.state(NAME).join("kubectl"));
    Ok(command)
}

fn running(lab: &Lab) -> Result<i32, LabError> {
    let down = || {
        LabError::State(format!(
            "the Kubernetes of lab {:?} is not up; start it with `cargo lab up kubernetes`",
            lab.name
        ))
    };
    process::pid(lab, NAME).ok_or_else(down)
}

/// Starts the cluster unless it is up: the node is Ready, Services and DNS are served.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    let pause = prepare(lab)?;
    if process::is_running(lab, NAME) && node_ready(lab) {
        return Ok(());
    }
    // Also what a killed or half started one left.
    down(lab)?;
    let state = lab.state(NAME);
    configure(lab, &state, &pause)?;
    pki::create(&state)?;
    cgroups::create(lab)?;

    let mut node = net::command(lab, "unshare")?;
    node.args([
        "--fork",
        "--kill-child",
        "--pid",
        "--mount",
        "--uts",
        "--ipc",
        "--mount-proc",
        "--propagation",
        "private",
        "--",
    ]);
    // Not marked as processes of the lab: only unshare is, and they end with it.
    node.args(["env", "--unset", process::MARK])
        .arg(lab.program()?)
        .arg("node-init");
    node.env("KAFKA_BACKUP_LAB", &lab.name);
    process::spawn(lab, NAME, &node)?;

    let ready = |limit, check: &dyn Fn() -> bool| {
        process::wait_ready(lab, NAME, Duration::from_secs(limit), check)
    };
    ready(30, &|| run(ctr(lab).arg("version")).is_ok())?;
    import(lab, &pause)?;
    ready(90, &|| api(lab, "/readyz").is_some())?;
    for component in Component::ALL {
        release(lab, component)?;
    }
    let bootstrap = state.join("bootstrap.yaml");
    fs::write(&bootstrap, BOOTSTRAP).doing(|| format!("write {}", bootstrap.display()))?;
    run(kubectl(lab)?.args(["apply", "--filename"]).arg(&bootstrap))?;
    ready(60, &|| node_ready(lab))?;
    ready(30, &|| {
        api(lab, "/api/v1/namespaces/default/serviceaccounts/default").is_some()
    })?;
    ready(30, &|| {
        fs::read_to_string(lab.log(Component::Dns.name())).is_ok_and(|log| log.contains("serving"))
    })
}

/// Writes everything but keys into a new state folder.
fn configure(lab: &Lab, state: &Path, pause: &Image) -> Result<(), LabError> {
    for folder in ["cni", "etcd", "hold", "pids", "pod-logs"] {
        let folder = state.join(folder);
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    }
    let here = state.display().to_string();
    let cgroup = cgroups::name(lab);
    let values = [
        ("@STATE@", here.as_str()),
        ("@PAUSE@", &pause.reference),
        ("@NODE_IP@", NODE_IP),
        ("@POD_CIDR@", POD_CIDR),
        ("@CGROUP@", &cgroup),
        ("@CNI@", CNI_PLUGINS),
        ("@RUNC@", RUNC),
    ];
    for (name, template) in TEMPLATES {
        let text = values
            .iter()
            .fold(template.to_owned(), |text, (mark, value)| {
                text.replace(mark, value)
            });
        fs::write(state.join(name), text).doing(|| format!("write {name}"))?;
    }
    // Pods get the cluster's DNS server and no other.
    fs::write(state.join("resolv.conf"), "").doing(|| "write resolv.conf".to_owned())?;
    symlink(hyperkube(lab), state.join("hyperkube")).doing(|| "link hyperkube".to_owned())?;
    for component in Component::ALL
        .into_iter()
        .filter(|component| component.needs_api())
    {
        hold(lab, component)?;
    }
    for component in Component::ALL {
        let log = lab.log(component.name());
        fs::write(&log, "").doing(|| format!("empty {}", log.display()))?;
    }
    Ok(())
}

/// Ends the cluster and removes all of it; nothing to do when there is none.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    // `unshare` ignores SIGTERM; its death kills the node's init, and that everything in the node.
    process::kill_now(lab, NAME)?;
    cgroups::remove(lab)?;
    if process::is_running(lab, net::HOLDER) && packages::find("iptables").is_some() {
        let script = format!(
            "ip link delete cni0; ip route delete {SERVICE_CIDR}; \
             for tables in iptables ip6tables; do for table in nat filter mangle; do $tables -w -t $table -F; $tables -w -t $table -X; done; done; true"
        );
        // What is not there cannot be removed, and that is all that can go wrong here.
        run(net::command(lab, "sh")?.args(["-c", &script]))?;
    }
    parts::remove(&lab.state(NAME))
}

/// The node and its processes.
pub fn status(lab: &Lab) -> Vec<Row> {
    let node = Row::of_process(lab, NAME, &format!("https://{NODE_IP}:6443"));
    if node.pid.is_none() {
        return vec![node];
    }
    let row = |component: Component| {
        let pid = pid(lab, component);
        Row {
            name: format!("  {}", component.name()),
            state: if pid.is_some() { "running" } else { "down" }.to_owned(),
            pid,
            address: String::new(),
            memory_mib: pid.and_then(process::memory_mib),
        }
    };
    std::iter::once(node)
        .chain(Component::ALL.map(row))
        .collect()
}

fn ctr(lab: &Lab) -> Command {
    let mut command = Command::new("ctr");
    command
        .arg("--address")
        .arg(lab.state(NAME).join("containerd.sock"))
        .args(["--namespace", "k8s.io"]);
    command
}

/// Gives the node an image, unless it has one of that name: references of the lab name their contents.
pub fn import(lab: &Lab, image: &Image) -> Result<(), LabError> {
    running(lab)?;
    // Of two imports of the same contents at once, containerd refuses one.
    let _lock = parts::lock(&lab.run.join("locks").join("import"))?;
    let known = run(ctr(lab).args(["images", "list", "--quiet"]))?;
    if known.lines().any(|name| name == image.reference) {
        return Ok(());
    }
    run(ctr(lab).args(["images", "import"]).arg(&image.archive)).map(drop)
}

/// Compiles worker and controller of this checkout and gives the node their images.
pub fn import_worker_and_controller(lab: &Lab) -> Result<images::Built, LabError> {
    running(lab)?;
    let built = images::worker_and_controller(lab)?;
    step("gave the node the images", || {
        import(lab, &built.worker)?;
        import(lab, &built.controller)
    })?;
    Ok(built)
}

/// The body of a successful GET, as administrator.
fn api(lab: &Lab, path: &str) -> Option<String> {
    let file = |name: &str| lab.state(NAME).join("pki").join(name);
    let mut curl = net::command(lab, "curl").ok()?;
    curl.args(["--silent", "--fail", "--max-time", "3", "--noproxy", "*"]);
    curl.arg("--cacert")
        .arg(file("ca.crt"))
        .arg("--cert")
        .arg(file("admin.crt"))
        .arg("--key")
        .arg(file("admin.key"));
    run(curl.arg(format!("https://{NODE_IP}:6443{path}"))).ok()
}

/// Whether pods can be placed on the node.
fn node_ready(lab: &Lab) -> bool {
    api(lab, &format!("/api/v1/nodes/{NODE}"))
        .and_then(|text| serde_json::from_str(&text).ok())
        .is_some_and(|node| takes_pods(&node))
}

/// Ready, and without the taint that is removed some moments later.
fn takes_pods(node: &Value) -> bool {
    let list = |pointer: &str| {
        node.pointer(pointer)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let ready = list("/status/conditions")
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let tainted = list("/spec/taints").iter().any(|taint| {
        taint["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("node.kubernetes.io/not-ready"))
    });
    ready && !tainted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_takes_pods_when_ready_and_untainted() {
        let node = |status: &str, taints: Value| json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] }, "spec": { "taints": taints } });
        let taint = json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }]);
        assert!(takes_pods(&node("True", Value::Null)));
        assert!(!takes_pods(&node("True", taint)));
        assert!(!takes_pods(&node("Unknown", Value::Null)));
        assert!(!takes_pods(&json!({})));
    }

    #[test]
    fn templates_are_filled_in_entirely() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::at(folder.path().to_owned(), "a").unwrap();
        let pause = Image {
            reference: "h.local/pause:1".to_owned(),
            archive: PathBuf::new(),
        };
        configure(&lab, &lab.state(NAME), &pause).unwrap();
        for (name, _) in TEMPLATES {
            let text = fs::read_to_string(lab.state(NAME).join(name)).unwrap();
            assert!(!text.contains('@'), "{name} still has a mark:\n{text}");
        }
    }
}
