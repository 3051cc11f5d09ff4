//! The lab's token server: OAuth 2 client credentials (RFC 6749, 4.4) and the keys that brokers check tokens with (RFC 7517).
//!
//! Client ids are users with their passwords ([`super::password`]); what a client asks for beside that makes the server's tricks:
//! - scope `lifetime-N`: the token is good for N seconds, else for 300; a scope is any list of words, `kafka` if there is none;
//! - scope `forged`: it is signed by a key that no broker knows; scope `other-audience`: it is for somebody else;
//! - client id `broken.USER`: 500; `slow.USER`: an answer after [`SLOW`]; `flaky.USER`: 503 and a token by turns, 503 first.
//!
//! The server's log ([`NAME`]) has one line for each answer.

use super::{pki, server};
use crate::lab::{Lab, LabError, NODE_IP, net, parts, process};
use serde_json::Value;
use std::time::Duration;

/// The component and its process.
pub const NAME: &str = "tokens";
/// Where tokens are given, without TLS.
pub const ENDPOINT: &str = "http://198.18.0.2:11090/token";
/// The same with TLS, by a certificate of [`pki::ca`].
pub const TLS_ENDPOINT: &str = "https://198.18.0.2:11091/token";
/// The keys of the tokens.
pub const JWKS: &str = "http://198.18.0.2:11090/jwks";
/// All addresses that Kafka's Java programs are allowed to fetch tokens and keys from.
pub const ALLOWED: &str =
    "http://198.18.0.2:11090/token,https://198.18.0.2:11091/token,http://198.18.0.2:11090/jwks";
/// Whom tokens are for.
pub const AUDIENCE: &str = "kafka";
/// Who gives them.
pub const ISSUER: &str = "http://198.18.0.2:11090";
/// What `slow.USER` waits.
pub const SLOW: Duration = Duration::from_secs(20);
const PORTS: [u16; 2] = [11090, 11091];

/// Makes the certificates and starts the server.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    pki::create(lab)?;
    if process::is_running(lab, NAME) {
        return Ok(());
    }
    let mut command = net::command(lab, lab.program()?)?;
    process::spawn(lab, NAME, command.arg("token-server"))?;
    process::wait_ready(lab, NAME, Duration::from_secs(10), || {
        PORTS.iter().all(|port| net::listens(lab, *port))
    })
}

/// Kills the server and removes all certificates.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, NAME)?;
    parts::remove(&pki::folder(lab))
}

/// Asks a token endpoint ([`ENDPOINT`] or [`TLS_ENDPOINT`]) as curl does: status and body.
///
/// # Errors
/// There is no answer, or one that is not JSON.
pub fn ask(
    lab: &Lab,
    endpoint: &str,
    (client, secret): (&str, &str),
    scope: &str,
) -> Result<(u16, Value), LabError> {
    let mut curl = net::command(lab, "curl")?;
    curl.args([
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "60",
    ]);
    curl.arg("--cacert").arg(pki::ca(lab));
    curl.args(["--user", &format!("{client}:{secret}")]);
    curl.args(["--data", "grant_type=client_credentials"]);
    curl.args(["--data-urlencode", &format!("scope={scope}")]);
    let text = process::run(curl.args(["--write-out", "\n%{http_code}", endpoint]))?;
    let answer = text
        .rsplit_once('\n')
        .and_then(|(body, status)| Some((status.parse().ok()?, serde_json::from_str(body).ok()?)));
    answer.ok_or_else(|| LabError::State(format!("the token server answered {text:?}")))
}

/// The process itself.
///
/// # Errors
/// It cannot start: keys are not there, or ports are taken.
pub fn main(lab: &Lab) -> Result<std::convert::Infallible, LabError> {
    server::serve(lab, NODE_IP, PORTS)
}
