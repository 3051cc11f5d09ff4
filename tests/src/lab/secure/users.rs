//! Who the users of the secured clusters are, how they prove it, and what they may do.

use super::{Listener, Secured};
use crate::lab::kafka_tools as tools;
use crate::lab::{Doing, LabError, NODE_IP};
use std::fs;

/// `alice` may do everything that an ACL can allow; `reader` may read topics and groups and describe all; `nobody` may do nothing.
pub const USERS: [&str; 3] = ["alice", "reader", "nobody"];

/// Who has all permissions.
const ALL: &[&str] = &[
    "topic:*:ALL",
    "group:*:ALL",
    "cluster:kafka-cluster:ALL",
    "transactional_id:*:ALL",
];
const READ: &[&str] = &[
    "topic:*:READ",
    "topic:*:DESCRIBE",
    "topic:*:DESCRIBE_CONFIGS",
    "group:*:READ",
    "group:*:DESCRIBE",
    "cluster:kafka-cluster:DESCRIBE",
];

/// The password of a user, by PLAIN and by SCRAM, and the secret at the token server, until a test changes it.
pub fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// How a client of a SASL listener proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    OAuthBearer,
}

impl Mechanism {
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::ScramSha256,
        Self::ScramSha512,
        Self::OAuthBearer,
    ];

    /// As `sasl.mechanism` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}

const MODULES: &str = "org.apache.kafka.common.security";

/// What a SASL listener's properties say about users: PLAIN's passwords are there, SCRAM's in the cluster, tokens at their server.
pub(super) fn listener_properties(listener: Listener) -> String {
    let prefix = format!("listener.name.{}", listener.name().to_lowercase());
    let passwords = USERS.map(|user| (user, password(user)));
    let plain: Vec<_> = passwords
        .iter()
        .map(|(user, it)| (*user, it.as_str()))
        .collect();
    let mut text = format!(
        "{prefix}.oauthbearer.sasl.server.callback.handler.class={MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler\n"
    );
    for mechanism in Mechanism::ALL {
        let module = match mechanism {
            Mechanism::Plain => plain_module(&plain),
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                format!("{MODULES}.scram.ScramLoginModule required;")
            }
            Mechanism::OAuthBearer => {
                format!("{MODULES}.oauthbearer.OAuthBearerLoginModule required;")
            }
        };
        text.push_str(&format!("{}={module}\n", jaas_key(listener, mechanism)));
    }
    text
}

fn jaas_key(listener: Listener, mechanism: Mechanism) -> String {
    let (listener, mechanism) = (listener.name(), mechanism.name());
    format!("listener.name.{listener}.{mechanism}.sasl.jaas.config").to_lowercase()
}

fn plain_module(users: &[(&str, &str)]) -> String {
    let users: Vec<_> = users
        .iter()
        .map(|(user, password)| format!(" user_{user}=\"{password}\""))
        .collect();
    format!(
        "{MODULES}.plain.PlainLoginModule required{};",
        users.concat()
    )
}

impl Secured<'_> {
    /// The listeners at which a broker is asked whether it knows a SCRAM password.
    fn logins(&self) -> Vec<String> {
        (1..=self.brokers)
            .map(|id| format!("{NODE_IP}:{}", self.port(Listener::Sasl, id)))
            .collect()
    }

    /// Sets SCRAM passwords and ACLs of [`USERS`]. Other users stay as they are.
    pub(super) fn set_users(&self) -> Result<(), LabError> {
        for user in USERS {
            for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
                self.set_scram(user, mechanism, &password(user))?;
            }
        }
        tools::clear_acls(self.lab, &self.tools())?;
        self.allow("alice", ALL)?;
        self.allow("reader", READ)
    }

    /// Sets a user's password for a SCRAM mechanism, or makes the user. Returns when every broker takes it.
    pub fn set_scram(
        &self,
        user: &str,
        mechanism: Mechanism,
        password: &str,
    ) -> Result<(), LabError> {
        let credentials = (user, mechanism.name(), password);
        tools::set_scram(self.lab, &self.tools(), credentials, &self.logins())
    }

    /// Takes a user's password for a SCRAM mechanism away. Returns when every broker refuses the user.
    pub fn remove_scram(&self, user: &str, mechanism: Mechanism) -> Result<(), LabError> {
        let user = (user, mechanism.name());
        tools::remove_scram(self.lab, &self.tools(), user, &self.logins())
    }

    /// Allows a user more, in the words of [`tools::change_acls`]; of the users here `nobody` has nothing. Returns when one broker goes by
    /// it; others may follow some milliseconds later.
    pub fn allow(&self, user: &str, acls: &[&str]) -> Result<(), LabError> {
        tools::change_acls(self.lab, &self.tools(), user, acls, &[])
    }

    /// Takes back what was allowed in the same words. Returns when one broker goes by it; others may follow some milliseconds later.
    pub fn forbid(&self, user: &str, acls: &[&str]) -> Result<(), LabError> {
        tools::change_acls(self.lab, &self.tools(), user, &[], acls)
    }

    /// Sets PLAIN's users and their passwords, at all listeners: each broker is stopped and started again, one after another. Brokers
    /// know these users by their properties only. Kafka 4.1.2 takes the setting of a listener from a client, too (kafka-configs, entity
    /// type brokers), but no login was seen to go by it, neither at once nor after a restart.
    pub fn restart_with_plain(&self, users: &[(&str, &str)]) -> Result<(), LabError> {
        let module = plain_module(users);
        let keys: Vec<_> = Listener::ALL
            .into_iter()
            .filter(|listener| listener.is_sasl())
            .map(|listener| jaas_key(listener, Mechanism::Plain))
            .collect();
        for id in 1..=self.brokers {
            let path = self.cluster.properties_file(self.lab, id);
            let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
            let lines = text.lines().map(|line| match line.split_once('=') {
                Some((key, _)) if keys.iter().any(|it| it == key) => format!("{key}={module}\n"),
                Some(_) | None => format!("{line}\n"),
            });
            let text: String = lines.collect();
            fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
            self.cluster.stop_broker(self.lab, id)?;
            self.start_broker(id)?;
        }
        Ok(())
    }
}
