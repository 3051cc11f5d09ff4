//! Keys, certificates and kubeconfigs of one cluster, made by openssl at each start.
//!
//! # Guarantees
//! Every component has a certificate of its own with the user and groups that a real cluster gives it, so RBAC and the
//! node authorizer decide about it as they do there. Keys are P-256, but for service account tokens (RS256, the usual kind).

use super::{API_SERVICE_IP, NODE};
use crate::lab::process::run;
use crate::lab::{Doing, LabError, NODE_IP};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

/// A lab lives for hours; whoever forgets one for a month starts it anew.
const DAYS: &str = "30";

/// What a certificate is for.
enum Usage<'a> {
    Server { names: &'a str },
    Client,
}

struct Certificate<'a> {
    name: &'a str,
    issuer: &'a str,
    subject: String,
    usage: Usage<'a>,
}

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
        fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .doing(|| format!("protect {}", folder.display()))?;
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
        let pki = &pki;
        authority(pki, "ca")?;
        authority(pki, "front-proxy-ca")?;
        let issued: Vec<_> = certificates
            .iter()
            .map(|certificate| scope.spawn(move || issue(pki, certificate)))
            .collect();
        for thread in issued.into_iter().chain([tokens]) {
            thread
                .join()
                .map_err(|_| LabError::State("a thread that makes keys panicked".to_owned()))??;
        }
        Ok::<_, LabError>(())
    })?;
    for name in CLIENTS {
        let path = kubeconfigs.join(format!("{name}.conf"));
        fs::write(&path, kubeconfig(&pki, name)).doing(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn openssl(pki: &Path, args: &[&str]) -> Result<(), LabError> {
    run(Command::new("openssl").current_dir(pki).args(args)).map(drop)
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

/// Makes a key and a certificate. The extensions come from a file of our own: those of the machine's openssl.cnf would be added to ours.
fn request(
    pki: &Path,
    name: &str,
    subject: &str,
    extensions: &str,
    issuer: &[&str],
) -> Result<(), LabError> {
    let config = format!("{name}.cnf");
    let text =
        format!("[req]\ndistinguished_name=subject\n[subject]\n[extensions]\n{extensions}\n");
    fs::write(pki.join(&config), text).doing(|| format!("write {config}"))?;
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let fixed = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        DAYS,
        "-extensions",
        "extensions",
    ];
    let own = [
        "-config",
        &config,
        "-subj",
        subject,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    openssl(pki, &[&fixed[..], &own, issuer].concat())
}

fn authority(pki: &Path, name: &str) -> Result<(), LabError> {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash";
    request(pki, name, &format!("/CN=lab-{name}"), extensions, &[])
}

fn issue(pki: &Path, certificate: &Certificate) -> Result<(), LabError> {
    let usage = match certificate.usage {
        Usage::Client => "extendedKeyUsage=clientAuth".to_owned(),
        Usage::Server { names } => format!("extendedKeyUsage=serverAuth\nsubjectAltName={names}"),
    };
    let extensions = format!(
        "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n{usage}"
    );
    let (by, with) = (
        format!("{}.crt", certificate.issuer),
        format!("{}.key", certificate.issuer),
    );
    request(
        pki,
        certificate.name,
        &certificate.subject,
        &extensions,
        &["-CA", &by, "-CAkey", &with],
    )
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
