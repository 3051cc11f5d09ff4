//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::check::Target;

/// Turns KafkaBackup, KafkaRestore, KafkaOffsetReset and KafkaOffsetRollback objects into Jobs, and serves their metrics.
#[derive(Debug, Parser)]
#[command(name = "kafka-backup-controller", version, about)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the controller against the cluster of KUBECONFIG or of the pod it runs in.
    Run(Box<RunArguments>),
    /// Print the custom resource definitions.
    Crds,
    /// Ask a running controller whether it serves what it should; for `helm test`.
    Check(CheckArguments),
    /// Print the Job that the controller would create for each object in a file.
    Render(RenderArguments),
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) worker: WorkerArguments,
    /// Watch this namespace only; all of them where it is left out.
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) watch_namespace: Option<String>,
    /// How long a counter's value stays exposed before a finished run changes it: three scrapes (90s, 2m).
    #[arg(long, value_name = "DURATION", default_value = "90s", value_parser = duration)]
    pub(crate) hold: Duration,
    /// Runs that may be going on at once; those that are due beyond wait in line. Left out, no limit.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit_runs: Option<u32>,
    /// The same, of one namespace.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit_runs_per_namespace: Option<u32>,
    /// Where /metrics is served and workers push.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub(crate) metrics_addr: SocketAddr,
    /// The path of the page with the metrics.
    #[arg(long, value_name = "PATH", default_value = "/metrics", value_parser = page_path)]
    pub(crate) metrics_path: String,
    /// Serve no page with metrics; pushes are taken, because statuses are made from them.
    #[arg(long, conflicts_with = "metrics_path")]
    pub(crate) no_metrics: bool,
    /// Lead without a Lease: for one controller that is never beside another.
    #[arg(long)]
    pub(crate) no_leader_election: bool,
    /// Where /healthz and /readyz are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8081")]
    pub(crate) health_addr: SocketAddr,
    /// A file with the token with which people's own jobs may push metrics of their own; read again when it changes. Left out,
    /// only workers may push.
    #[arg(long, value_name = "FILE")]
    pub(crate) push_token_file: Option<PathBuf>,
    /// The certificate, with its chain, of a port for pushes alone that speaks TLS: PEM, read again when it changes. With it no
    /// push is taken at the port of /metrics.
    #[arg(long, value_name = "FILE", requires = "push_tls_key")]
    pub(crate) push_tls_cert: Option<PathBuf>,
    /// The key of the certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "push_tls_cert")]
    pub(crate) push_tls_key: Option<PathBuf>,
    /// Where the port for pushes with TLS is.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0.0.0.0:8443",
        requires = "push_tls_cert"
    )]
    pub(crate) push_addr: SocketAddr,
    /// Series that pushes may add to /metrics.
    #[arg(long, value_name = "NUMBER", default_value = "100000")]
    pub(crate) push_max_series: usize,
    /// How log lines look; RUST_LOG chooses what is logged.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Where /healthz is served: it must answer 200.
    #[arg(long, value_name = "URL")]
    pub(crate) health: Target,
    /// Where the metrics are served: the page must be the controller's. Left out, it is not asked for.
    #[arg(long, value_name = "URL")]
    pub(crate) metrics: Option<Target>,
    /// For how long to ask again while an answer is not as it should be.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) patience: Duration,
}

/// What every Job gets.
#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// Image of the worker's container.
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) worker_image: String,
    /// Where workers push; the Service kafka-backup-operator of the own namespace where it is left out. https with --push-tls-cert.
    #[arg(long, value_name = "URL")]
    pub(crate) push_url: Option<String>,
    /// A file with the certificates, as PEM, by which workers know who answers at an https push URL, as ca.crt of a
    /// kubernetes.io/tls Secret; read again when it changes. Left out, the roots of trust of the worker's image.
    #[arg(long, value_name = "FILE")]
    pub(crate) push_ca_file: Option<PathBuf>,
}

/// Flags of `render`.
#[derive(Debug, Args)]
pub(crate) struct RenderArguments {
    /// The file with objects.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Image of the worker's container.
    #[arg(
        long,
        value_name = "REFERENCE",
        default_value = concat!("kafka-backup.local/worker:", env!("CARGO_PKG_VERSION"))
    )]
    pub(crate) worker_image: String,
    /// Where workers push.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://kafka-backup-operator.kafka-backup.svc:8080"
    )]
    pub(crate) push_url: String,
    /// A file with the certificates by which workers know who answers there.
    #[arg(long, value_name = "FILE")]
    pub(crate) push_ca_file: Option<PathBuf>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads `90s`, `2m`, `1h` or `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let span = text
        .parse::<jiff::SignedDuration>()
        .map_err(|error| format!("expected a duration such as 90s: {error}"))?;
    Duration::try_from(span).map_err(|_| "expected a duration that is not negative".into())
}

/// Reads an absolute path of plain segments that is no path of pushes.
fn page_path(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    let is_plain = |segment: &str| !segment.is_empty() && segment.chars().all(plain);
    let segments = text.strip_prefix('/').map(|rest| rest.split('/'));
    if !segments.is_some_and(|mut segments| segments.all(is_plain)) {
        return Err("expected a path such as /metrics, of letters, digits and ._~-".into());
    }
    if text.starts_with("/metrics/") || text.starts_with("/runs/") {
        return Err("pushes are taken below /metrics/ and /runs/".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    fn refused(more: &[&str]) -> String {
        let run = ["controller", "run", "--worker-image=w"];
        let parsed = Arguments::try_parse_from(run.iter().chain(more));
        parsed.unwrap_err().to_string()
    }

    #[test]
    fn a_certificate_comes_with_its_key_and_a_port_with_a_certificate() {
        let error = refused(&["--push-tls-cert=c"]);
        assert!(error.contains("--push-tls-key <FILE>"), "{error}");
        for lonely in ["--push-tls-key=k", "--push-addr=127.0.0.1:1"] {
            let error = refused(&[lonely]);
            assert!(error.contains("--push-tls-cert <FILE>"), "{error}");
        }
    }

    #[test]
    fn the_page_is_at_a_plain_path_beside_those_of_pushes() {
        for path in ["/metrics", "/kafka/metrics", "/m", "/a.b_c~d-e"] {
            assert_eq!(page_path(path), Ok(path.to_owned()));
        }
        for path in [
            "",
            "/",
            "metrics",
            "/a/",
            "/a//b",
            "/{a}",
            "/a?b",
            "/metrics/x",
            "/runs/x",
        ] {
            assert!(page_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert!(duration("90").is_err());
        assert!(duration("-1s").is_err());
    }
}
