//! Parts that a user has already, in place of the lab's own: a Kubernetes cluster, two Kafka clusters and a bucket.
//!
//! # Guarantees
//! - All or nothing: pods of the user's cluster could not reach brokers of the lab, which nothing outside can reach.
//! - With given parts the lab starts nothing but Kafka's own clients, and its programs run in the caller's network.

use super::{Lab, LabError, kafka, kubernetes, packages, store};
use std::path::PathBuf;
use std::process::Command;

/// The command line that gives them.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "On parts of your own (all of the first four, or none)")]
pub struct Flags {
    /// Use this cluster; needs `kubectl`. Without these options everything is the lab's own
    #[arg(long, value_name = "FILE", requires_all = ["bootstrap_servers", "target_bootstrap_servers", "s3_bucket"])]
    kubeconfig: Option<PathBuf>,
    /// The Kafka cluster that is backed up, as pods and this machine both reach it
    #[arg(long, value_name = "HOST:PORT,...", requires = "kubeconfig")]
    bootstrap_servers: Option<String>,
    /// The Kafka cluster that is restored into
    #[arg(long, value_name = "HOST:PORT,...", requires = "kubeconfig")]
    target_bootstrap_servers: Option<String>,
    /// An S3 bucket that exists; keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    s3_bucket: Option<String>,
    /// An S3 server other than AWS, as pods reach it
    #[arg(long, value_name = "URL", requires = "kubeconfig")]
    s3_endpoint: Option<String>,
    /// The bucket's region
    #[arg(long, requires = "kubeconfig")]
    s3_region: Option<String>,
    /// Context in the kubeconfig, if not its current one
    #[arg(long, requires = "kubeconfig")]
    context: Option<String>,
    /// Image of the controller, to install the operator where it is not; an installed one is used as it is
    #[arg(long, value_name = "REF", requires_all = ["kubeconfig", "worker_image"])]
    controller_image: Option<String>,
    /// Image of the worker, for the same
    #[arg(long, value_name = "REF", requires = "controller_image")]
    worker_image: Option<String>,
}

/// Parts of a user's own.
#[derive(Debug, Clone)]
pub struct Given {
    kubeconfig: PathBuf,
    context: Option<String>,
    source: String,
    target: String,
    bucket: Bucket,
    /// Controller and worker, to install the operator with.
    pub images: Option<(String, String)>,
}

/// An S3 bucket and its keys.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub name: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key: String,
    pub secret_key: String,
}

impl Flags {
    /// What the command line and the environment give; `None` when they give nothing.
    ///
    /// # Errors
    /// The bucket's keys are not in the environment.
    pub fn given(
        self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Given>, LabError> {
        let (Some(kubeconfig), Some(source), Some(target), Some(name)) = (
            self.kubeconfig,
            self.bootstrap_servers,
            self.target_bootstrap_servers,
            self.s3_bucket,
        ) else {
            // clap lets each of them stand only beside the others.
            return Ok(None);
        };
        let key = |name: &str| {
            let value = environment(name).filter(|value| !value.is_empty());
            value.ok_or_else(|| {
                LabError::State(format!(
                    "--s3-bucket needs its keys: {name} is not set in the environment"
                ))
            })
        };
        Ok(Some(Given {
            kubeconfig,
            context: self.context,
            source,
            target,
            bucket: Bucket {
                name,
                endpoint: self.s3_endpoint,
                region: self.s3_region,
                access_key: key("AWS_ACCESS_KEY_ID")?,
                secret_key: key("AWS_SECRET_ACCESS_KEY")?,
            },
            images: self.controller_image.zip(self.worker_image),
        }))
    }
}

impl Bucket {
    /// The one in the lab's own store.
    pub fn of_lab() -> Self {
        Self {
            name: store::BUCKET.to_owned(),
            endpoint: Some(store::ENDPOINT.to_owned()),
            region: None,
            access_key: store::ACCESS_KEY.to_owned(),
            secret_key: store::SECRET_KEY.to_owned(),
        }
    }
}

impl Given {
    fn kubectl(&self) -> Result<Command, LabError> {
        let program = packages::toolchain("kubectl", "kubectl to use the cluster of --kubeconfig")?;
        let mut command = Command::new(program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        Ok(command)
    }
}

/// Where the parts are, given or the lab's own.
impl Lab {
    /// This lab with given parts: its state is apart, so that a running lab of the same name has nothing to do with it.
    pub fn with_given(self, given: Given) -> Result<Self, LabError> {
        let run = self.run.join("given");
        Self {
            given: Some(given),
            run,
            ..self
        }
        .prepared()
    }

    /// Bootstrap servers of the cluster that is backed up.
    pub fn source(&self) -> String {
        match &self.given {
            Some(given) => given.source.clone(),
            None => kafka::SOURCE.bootstrap(self),
        }
    }

    /// Bootstrap servers of the cluster that is restored into.
    pub fn restore_target(&self) -> String {
        match &self.given {
            Some(given) => given.target.clone(),
            None => kafka::TARGET.bootstrap(self),
        }
    }

    /// The bucket for archives.
    pub fn bucket(&self) -> Bucket {
        match &self.given {
            Some(given) => given.bucket.clone(),
            None => Bucket::of_lab(),
        }
    }

    /// kubectl as administrator.
    pub fn kubectl(&self) -> Result<Command, LabError> {
        match &self.given {
            Some(given) => given.kubectl(),
            None => kubernetes::kubectl(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn parsed(line: &str) -> Result<Option<Given>, String> {
        let words = std::iter::once("demo").chain(line.split_ascii_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let environment = |name: &str| (name == "AWS_ACCESS_KEY_ID").then(|| "key".to_owned());
        line.flags
            .given(environment)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn half_given_parts_are_refused_by_name() {
        let cases: [(&str, &[&str]); 9] = [
            (
                "--kubeconfig k",
                &[
                    "--bootstrap-servers",
                    "--target-bootstrap-servers",
                    "--s3-bucket",
                ],
            ),
            ("--bootstrap-servers a:1", &["--kubeconfig"]),
            ("--target-bootstrap-servers a:1", &["--kubeconfig"]),
            ("--s3-bucket b", &["--kubeconfig"]),
            ("--s3-endpoint http://s", &["--kubeconfig"]),
            ("--context c", &["--kubeconfig"]),
            ("--worker-image w", &["--controller-image"]),
            (
                "--kubeconfig k --bootstrap-servers a:1 --target-bootstrap-servers b:1 --s3-bucket b --controller-image c",
                &["--worker-image"],
            ),
            (
                "--kubeconfig k --bootstrap-servers a:1 --target-bootstrap-servers b:1 --s3-bucket b",
                &["AWS_SECRET_ACCESS_KEY is not set"],
            ),
        ];
        for (line, missing) in cases {
            let error = parsed(line).expect_err(line);
            for name in missing {
                assert!(error.contains(name), "{line}: {error}");
            }
        }
    }

    #[test]
    fn nothing_given_is_the_labs_own() {
        assert!(parsed("").unwrap().is_none());
    }
}
