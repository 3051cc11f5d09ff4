//! `check`: asks a running controller over HTTP, as `helm test` does from a pod beside it.
//!
//! # Guarantees
//! - It ends without an error only when each answer was as it should be; what was found instead is told.
//! - It takes no longer than the patience and the time of one round of requests.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::args::CheckArguments;

/// How long one request may wait for the peer.
const REQUEST: Duration = Duration::from_secs(5);
/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(500);
/// A family that only the controller's page has.
const FAMILY: &str = "kafka_backup_operator_build_info{";

/// An address of plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host and port.
    authority: String,
    path: String,
}

/// Why an answer is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// No answer.
    #[error("failed to ask {target}")]
    Ask { target: Target, source: io::Error },
    /// Another answer than 200.
    #[error("{target} answered {answer:?}, expected status 200")]
    Status { target: Target, answer: String },
    /// A page of something else.
    #[error("{target} has no {FAMILY}…}}: it is not the controller's page")]
    Page { target: Target },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected http://HOST:PORT/PATH, found {text:?}");
        let rest = text.strip_prefix("http://").ok_or_else(expected)?;
        let (authority, path) = rest.split_once('/').ok_or_else(expected)?;
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            return Err(expected());
        }
        Ok(Self {
            authority: authority.to_owned(),
            path: format!("/{path}"),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}

/// What was found, when all of it was as it should be.
pub(crate) fn check(arguments: &CheckArguments) -> Result<String, CheckError> {
    let deadline = Instant::now() + arguments.patience;
    let mut told = String::new();
    loop {
        match round(arguments) {
            Err(error) if Instant::now() < deadline => {
                let text = kafka_backup_shared::report::error_chain(&error);
                if text != told {
                    let seconds = (deadline - Instant::now()).as_secs();
                    eprintln!(
                        "{text}; asking again for up to {seconds} s, a new leader takes some of them"
                    );
                    told = text;
                }
                std::thread::sleep(PAUSE);
            }
            ended => return ended,
        }
    }
}

fn round(arguments: &CheckArguments) -> Result<String, CheckError> {
    ask(&arguments.health)?;
    let mut found = format!("{} is healthy\n", arguments.health);
    if let Some(target) = &arguments.metrics {
        let page = ask(target)?;
        if !page.lines().any(|line| line.starts_with(FAMILY)) {
            let target = target.clone();
            return Err(CheckError::Page { target });
        }
        found += &format!("{target} has the controller's metrics\n");
    }
    Ok(found)
}

/// The body of an answer of status 200.
fn ask(target: &Target) -> Result<String, CheckError> {
    let answer = exchange(target).map_err(|source| CheckError::Ask {
        target: target.clone(),
        source,
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1);
    if status != Some("200") {
        let first = head.lines().next().unwrap_or_default();
        return Err(CheckError::Status {
            target: target.clone(),
            answer: format!("{first} {}", body.trim()),
        });
    }
    Ok(body.to_owned())
}

fn exchange(target: &Target) -> io::Result<String> {
    let mut addresses = target.authority.to_socket_addrs()?;
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let address = addresses.next().ok_or_else(nowhere)?;
    let mut stream = TcpStream::connect_timeout(&address, REQUEST)?;
    stream.set_read_timeout(Some(REQUEST))?;
    stream.set_write_timeout(Some(REQUEST))?;
    // HTTP/1.0: the body is neither chunked nor kept open.
    let (path, host) = (&target.path, &target.authority);
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::io::BufReader;
    use std::net::TcpListener;

    use super::*;

    /// Gives these answers, one to each request, the last one for ever.
    fn serve(answers: &'static [&'static str]) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let all = answers
                .iter()
                .chain(std::iter::repeat(&answers[answers.len() - 1]));
            for (stream, answer) in listener.incoming().zip(all) {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                assert!(lines.take_while(|line| !line.is_empty()).count() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        format!("http://{authority}/page").parse().unwrap()
    }

    const OK: &str = "HTTP/1.0 200 OK\r\n\r\nok\n";
    const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n# HELP\nkafka_backup_operator_build_info{version=\"1\"} 1\n";
    const AWAY: &str = "HTTP/1.0 503 Service Unavailable\r\n\r\nwaiting for the caches\n";

    fn arguments(health: Target, metrics: Option<Target>, patience: Duration) -> CheckArguments {
        CheckArguments {
            health,
            metrics,
            patience,
        }
    }

    #[test]
    fn a_controller_that_serves_both_passes() {
        let (health, metrics) = (serve(&[OK]), serve(&[PAGE]));
        let found = check(&arguments(health, Some(metrics), Duration::ZERO)).unwrap();
        assert_eq!(found.lines().count(), 2, "{found}");
        check(&arguments(serve(&[OK]), None, Duration::ZERO)).unwrap();
    }

    #[test]
    fn whatever_is_not_right_is_told() {
        let told = |health, metrics| {
            let arguments = arguments(health, metrics, Duration::ZERO);
            check(&arguments).unwrap_err().to_string()
        };
        let stuck = told(serve(&[AWAY]), None);
        assert!(
            stuck.contains("503") && stuck.contains("waiting for the caches"),
            "{stuck}"
        );
        let foreign = told(serve(&[OK]), Some(serve(&[OK])));
        assert!(foreign.contains("not the controller's page"), "{foreign}");
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let nobody = told(format!("http://{nobody}/healthz").parse().unwrap(), None);
        assert!(
            nobody.starts_with("failed to ask http://127.0.0.1:"),
            "{nobody}"
        );
    }

    #[test]
    fn one_that_is_not_ready_yet_is_asked_again() {
        let health = serve(&[AWAY, AWAY, OK]);
        check(&arguments(health, None, Duration::from_secs(60))).unwrap();
    }

    #[test]
    fn addresses_are_plain_http_with_a_port() {
        let target: Target = "http://a.b.svc:8080/metrics".parse().unwrap();
        assert_eq!(target.to_string(), "http://a.b.svc:8080/metrics");
        for wrong in [
            "",
            "a:1/b",
            "https://a:1/b",
            "http://a/b",
            "http://a:1",
            "http://a:x/b",
        ] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }
}
