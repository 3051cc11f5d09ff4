//! Keys, certificates and kubeconfigs of one cluster, made by openssl at each start.
//!
//! # Guarantees
//! Every component has a certificate of its own with the user and groups that a real cluster gives it, so RBAC and the
//! node authorizer decide about it as they do there. Keys are P-256, but for service account tokens (RS256, the usual kind).

use super::{API_SERVICE_IP, NODE};
use crate::lab::certificates::{Certificate, Usage, create_all, openssl, private_folder};
use crate::lab::{Doing, LabError, NODE_IP};
use std::fs;
use std::path::Path;
use std::thread;

/// Kubeconfigs to write: file name and certificate are called the same.
const CLIENTS: [&str; 6] = [
    "admin",
    "controller-manager",
    "scheduler",
    "kubelet",
    "proxy",
    "dns",
];

/// Fills the folders `pki` and `kubeconfig` in `state`.
pub(super) fn create(state: &Path) -> Result<(), LabError> {
    let pki = state.join("pki");
    let kubeconfigs = state.join("kubeconfig");
    for folder in [&pki, &kubeconfigs] {
        private_folder(folder)?;
    }
    let api_names = format!(
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,\
         DNS:localhost,IP:127.0.0.1,IP:{NODE_IP},IP:{API_SERVICE_IP}"
    );
    let kubelet_names = format!("DNS:{NODE},IP:{NODE_IP}");
    let client = |name, subject: &str| Certificate {
        name,
        issuer: "ca",
        subject: subject.to_owned(),
        usage: Usage::Client,
    };
    let certificates = [
        Certificate {
            name: "apiserver",
            issuer: "ca",
            subject: "/CN=kube-apiserver".to_owned(),
            usage: Usage::Server { names: &api_names },
        },
        Certificate {
            name: "kubelet-server",
            issuer: "ca",
            subject: format!("/CN={NODE}"),
            usage: Usage::Server {
                names: &kubelet_names,
            },
        },
        Certificate {
            name: "front-proxy",
            issuer: "front-proxy-ca",
            subject: "/CN=front-proxy".to_owned(),
            usage: Usage::Client,
        },
        client("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver"),
        client("admin", "/O=system:masters/CN=admin"),
        client("controller-manager", "/CN=system:kube-controller-manager"),
        client("scheduler", "/CN=system:kube-scheduler"),
        client("kubelet", &format!("/O=system:nodes/CN=system:node:{NODE}")),
        client("proxy", "/CN=system:kube-proxy"),
        client("dns", "/CN=lab:dns"),
    ];
    thread::scope(|scope| {
        let tokens = scope.spawn(|| token_key(&pki));
        create_all(&pki, &["ca", "front-proxy-ca"], &certificates)?;
        tokens
            .join()
            .map_err(|_| LabError::State("a thread that makes keys panicked".to_owned()))?
    })?;
    for name in CLIENTS {
        let path = kubeconfigs.join(format!("{name}.conf"));
        fs::write(&path, kubeconfig(&pki, name)).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The key that signs service account tokens.
fn token_key(pki: &Path) -> Result<(), LabError> {
    openssl(
        pki,
        &[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            "sa.key",
        ],
    )?;
    openssl(pki, &["pkey", "-in", "sa.key", "-pubout", "-out", "sa.pub"])
}

/// A kubeconfig with absolute paths; JSON strings, which are YAML as well.
fn kubeconfig(pki: &Path, name: &str) -> String {
    let file = |extension: &str| pki.join(format!("{name}.{extension}"));
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": { "server": format!("https://{NODE_IP}:6443"), "certificate-authority": pki.join("ca.crt") } }],
        "users": [{ "name": name, "user": { "client-certificate": file("crt"), "client-key": file("key") } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": name } }],
        "current-context": "lab",
    })
    .to_string()
}
