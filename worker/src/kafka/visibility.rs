//! What a principal may not see. Kafka leaves topics and groups that it may not describe out of every listing, without a word; a
//! glob that is matched against such a listing misses them. `Describe` on the cluster ends that: with it a broker lists all groups
//! (`KafkaApis.handleListGroupsRequest`), and names the topics of all its logs whatever the permissions on them are
//! (`KafkaApis.handleDescribeLogDirsRequest`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::try_join_all;
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use kafka_protocol::messages::{ApiKey, DescribeLogDirsRequest};

use super::client::Client;
use super::error::{KafkaError, Subject, chain};
use super::metadata::TopicFilter;
use super::retry::Retry;

/// What is said of such a listing.
pub(crate) const ONLY_VISIBLE: &str = "only topics and groups were seen that this user may describe: whether there are more is not \
     known without the permission Describe on the cluster";

/// Logs of a topic that was deleted may be left for a moment.
const DELETION: Duration = Duration::from_secs(2);

impl Client {
    /// Topics beside those `seen` that exist and that the principal may not describe, ascending. `None`: it may not know, for want
    /// of `Describe` on the cluster, or of brokers that tell.
    ///
    /// # Errors
    /// No broker says what may be described.
    ///
    /// # Assumptions
    /// Every topic has a replica on a broker that is up.
    pub async fn hidden_topics(
        &self,
        seen: &BTreeSet<Arc<str>>,
    ) -> Result<Option<BTreeSet<Arc<str>>>, KafkaError> {
        let Some(first) = self.unseen_logs(seen).await? else {
            return Ok(None);
        };
        let refused = self.refused_topics(first).await?;
        if refused.is_empty() {
            return Ok(Some(refused));
        }
        tokio::time::sleep(DELETION).await;
        let again = self.unseen_logs(seen).await?;
        Ok(again.map(|again| again.intersection(&refused).cloned().collect()))
    }

    /// Those of `names` that the principal may not describe, whether they exist or not.
    ///
    /// # Errors
    /// No broker answers.
    pub async fn refused_topics(
        &self,
        names: BTreeSet<Arc<str>>,
    ) -> Result<BTreeSet<Arc<str>>, KafkaError> {
        if names.is_empty() {
            return Ok(names);
        }
        let named = TopicFilter::Named(names.into_iter().collect());
        let topics = self.topics(&named).await?;
        let refused = Some(ResponseError::TopicAuthorizationFailed);
        let refused = topics.into_iter().filter(|topic| topic.error == refused);
        Ok(refused.map(|topic| topic.name).collect())
    }

    /// Whether listings hold all that there is: whether the principal has `Describe` on the cluster.
    ///
    /// # Errors
    /// Another cluster answers.
    pub async fn sees_everything(&self) -> Result<bool, KafkaError> {
        Ok(self.log_dirs(Some(Vec::new())).await?.is_some())
    }

    /// Topics beside those `seen` that brokers have logs of; `None` where that is not known.
    async fn unseen_logs(
        &self,
        seen: &BTreeSet<Arc<str>>,
    ) -> Result<Option<BTreeSet<Arc<str>>>, KafkaError> {
        // Without topics: all.
        let Some(dirs) = self.log_dirs(None).await? else {
            return Ok(None);
        };
        let topics = dirs.into_iter().flat_map(|dir| dir.topics);
        let all: BTreeSet<Arc<str>> = topics.map(|topic| Arc::from(topic.name.as_str())).collect();
        // A service whose brokers have no logs tells nothing by having none.
        if all.is_disjoint(seen) && !seen.is_empty() {
            return Ok(None);
        }
        Ok(Some(all.difference(seen).cloned().collect()))
    }

    /// The folders for logs of all brokers; `None` where one does not tell of each. What is asked here is no need of a run, so that
    /// none fails of it.
    async fn log_dirs(
        &self,
        topics: Option<Vec<DescribableLogDirTopic>>,
    ) -> Result<Option<Vec<DescribeLogDirsResult>>, KafkaError> {
        let request = &DescribeLogDirsRequest::default().with_topics(topics);
        let mut retry = Retry::new(self.config().retry_timeout);
        loop {
            let asked = self.brokers().into_iter().map(|broker| async move {
                let answer = self.connection(broker.id).await?.send(request)?.await?;
                match answer.error_code.err() {
                    None => Ok(answer.results),
                    Some(code) => Err(KafkaError::answered(
                        ApiKey::DescribeLogDirs,
                        Subject::Cluster,
                        code,
                    )),
                }
            });
            let error = match try_join_all(asked).await {
                Ok(answers) => {
                    // Before version 3 (Kafka 3.2) a refusal is an empty list; a broker has a folder.
                    let is_told = |dirs: &Vec<DescribeLogDirsResult>| {
                        !dirs.is_empty() && dirs.iter().all(|dir| dir.error_code == 0)
                    };
                    let all = answers.iter().all(is_told);
                    return Ok(all.then(|| answers.concat()));
                }
                Err(error) => error,
            };
            if let Err(error) = retry.pause_or_fail(error).await {
                if error.code() != Some(ResponseError::ClusterAuthorizationFailed) {
                    tracing::warn!(error = %chain(&error), "brokers do not tell of their logs");
                }
                return Ok(None);
            }
            self.topics(&TopicFilter::Nothing).await?;
        }
    }
}
