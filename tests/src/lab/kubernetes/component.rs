//! The programs of the node and their command lines.

use super::{NODE, SERVICE_CIDR};
use crate::lab::NODE_IP;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A process of the node that its init keeps running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Containerd,
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
    Kubelet,
    Proxy,
    Dns,
}

impl Component {
    /// All, in the order of their start.
    pub const ALL: [Self; 8] = [
        Self::Containerd,
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
        Self::Proxy,
        Self::Dns,
    ];

    /// The name in logs and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::Proxy => "kube-proxy",
            Self::Dns => "dns",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|component| component.name() == name)
    }

    /// Whether it ends at once when the API server is away at its start, so that it is worth waiting.
    pub(super) fn needs_api(self) -> bool {
        match self {
            Self::Containerd | Self::Etcd | Self::ApiServer => false,
            Self::ControllerManager | Self::Scheduler | Self::Kubelet | Self::Proxy | Self::Dns => {
                true
            }
        }
    }

    /// The command line; `state` is the cluster's folder.
    pub(super) fn command(self, state: &Path) -> Command {
        let mut command = match self {
            Self::Containerd => Command::new("containerd"),
            Self::Etcd
            | Self::ApiServer
            | Self::ControllerManager
            | Self::Scheduler
            | Self::Kubelet
            | Self::Proxy
            | Self::Dns => {
                let mut command = Command::new(state.join("hyperkube"));
                command.arg(self.name());
                command
            }
        };
        for (flag, value) in self.flags(state) {
            command.arg(format!("--{flag}={value}"));
        }
        command
    }

    fn flags(self, state: &Path) -> Vec<(&'static str, String)> {
        let path = |relative: &str| -> String {
            PathBuf::from(state).join(relative).display().to_string()
        };
        let text = |value: &str| value.to_owned();
        match self {
            Self::Containerd => vec![
                ("config", path("containerd.toml")),
                ("log-level", text("warn")),
            ],
            Self::Etcd => vec![
                ("name", text("lab")),
                ("data-dir", path("etcd")),
                // A lab that loses power starts anew.
                ("unsafe-no-fsync", text("true")),
                ("log-level", text("warn")),
                ("listen-client-urls", text("http://127.0.0.1:2379")),
                ("advertise-client-urls", text("http://127.0.0.1:2379")),
                ("listen-peer-urls", text("http://127.0.0.1:2380")),
                ("initial-advertise-peer-urls", text("http://127.0.0.1:2380")),
                ("initial-cluster", text("lab=http://127.0.0.1:2380")),
            ],
            Self::ApiServer => vec![
                ("etcd-servers", text("http://127.0.0.1:2379")),
                ("bind-address", text("0.0.0.0")),
                ("advertise-address", text(NODE_IP)),
                ("secure-port", text("6443")),
                ("tls-cert-file", path("pki/apiserver.crt")),
                ("tls-private-key-file", path("pki/apiserver.key")),
                ("client-ca-file", path("pki/ca.crt")),
                ("authorization-mode", text("Node,RBAC")),
                // Beside those that are on by default, PodSecurity among them.
                ("enable-admission-plugins", text("NodeRestriction")),
                ("allow-privileged", text("true")),
                (
                    "service-account-issuer",
                    text("https://kubernetes.default.svc.cluster.local"),
                ),
                ("service-account-key-file", path("pki/sa.pub")),
                ("service-account-signing-key-file", path("pki/sa.key")),
                ("service-cluster-ip-range", text(SERVICE_CIDR)),
                ("kubelet-certificate-authority", path("pki/ca.crt")),
                (
                    "kubelet-client-certificate",
                    path("pki/apiserver-kubelet.crt"),
                ),
                ("kubelet-client-key", path("pki/apiserver-kubelet.key")),
                ("kubelet-preferred-address-types", text("InternalIP")),
                (
                    "requestheader-client-ca-file",
                    path("pki/front-proxy-ca.crt"),
                ),
                ("requestheader-allowed-names", text("front-proxy")),
                ("requestheader-username-headers", text("X-Remote-User")),
                ("requestheader-group-headers", text("X-Remote-Group")),
                (
                    "requestheader-extra-headers-prefix",
                    text("X-Remote-Extra-"),
                ),
                ("proxy-client-cert-file", path("pki/front-proxy.crt")),
                ("proxy-client-key-file", path("pki/front-proxy.key")),
                ("profiling", text("false")),
                ("audit-policy-file", path("audit.yaml")),
                ("audit-log-path", path("audit.log")),
                // In one file, whatever its size.
                ("audit-log-maxsize", text("100000")),
            ],
            Self::ControllerManager => [
                client("controller-manager", state),
                vec![
                    ("service-account-private-key-file", path("pki/sa.key")),
                    ("root-ca-file", path("pki/ca.crt")),
                    ("cluster-signing-cert-file", path("pki/ca.crt")),
                    ("cluster-signing-key-file", path("pki/ca.key")),
                    ("use-service-account-credentials", text("true")),
                    ("node-monitor-period", text("2s")),
                ],
            ]
            .concat(),
            Self::Scheduler => client("scheduler", state),
            Self::Kubelet => vec![
                ("config", path("kubelet.yaml")),
                ("kubeconfig", path("kubeconfig/kubelet.conf")),
                ("root-dir", path("kubelet")),
                ("cert-dir", path("pki")),
                ("hostname-override", text(NODE)),
                ("node-ip", text(NODE_IP)),
            ],
            Self::Proxy => vec![
                ("config", path("kube-proxy.yaml")),
                ("hostname-override", text(NODE)),
            ],
            Self::Dns => vec![
                ("kubeconfig", path("kubeconfig/dns.conf")),
                ("listen", format!("{NODE_IP}:53")),
                ("domain", text("cluster.local")),
            ],
        }
    }
}

/// What controller manager and scheduler have in common.
fn client(name: &str, state: &Path) -> Vec<(&'static str, String)> {
    let kubeconfig = state
        .join("kubeconfig")
        .join(format!("{name}.conf"))
        .display()
        .to_string();
    vec![
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("leader-elect", "false".to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("profiling", "false".to_owned()),
        // With the defaults (20, 30) the burst of a new cluster takes five seconds longer.
        ("kube-api-qps", "500".to_owned()),
        ("kube-api-burst", "1000".to_owned()),
    ]
}
