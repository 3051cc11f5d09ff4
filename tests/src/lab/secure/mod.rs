//! Kafka clusters with TLS, SASL and an authorizer: `kafka-secure` (one broker) and `kafka-secure3` (three), started when they are named.
//!
//! Each broker has the listeners of [`Listener`]; their SASL mechanisms are those of [`Mechanism`]. Users are [`USERS`], the same by
//! every mechanism and by certificate. What no ACL allows is refused; ANONYMOUS, who comes without certificate and without SASL, may
//! do everything, so the lab's own tools work by [`Listener::Plaintext`] as with the other clusters.
//!
//! # Guarantees
//! `up` sets passwords and ACLs back to what is said here, also those that a test left otherwise, but for passwords of PLAIN.
//!
//! # Assumptions
//! The component [`tokens`] is up: it makes the certificates, and brokers fetch the keys of tokens from it.

mod clients;
pub mod pki;
mod server;
pub mod tokens;
mod users;

pub use clients::Credentials;
pub use pki::Identity;
pub use users::{Mechanism, USERS, password};

use super::components::Row;
use super::kafka::Cluster;
use super::{Lab, LabError, NODE_IP, net, process};
use std::time::Duration;

/// The cluster of one broker. To be started by [`Secured::up`], which knows the rest of its properties.
pub const ONE: Cluster = Cluster {
    name: "secure",
    port: 11100,
    extra: "",
};
/// The cluster of three brokers.
pub const THREE: Cluster = Cluster {
    name: "secure3",
    port: 11200,
    extra: "",
};

/// What makes certificates, and asks for tokens.
pub const PACKAGES: &[(&str, &str)] = &[("openssl", "openssl"), ("curl", "curl")];

/// How often clients of [`Listener::Reauthenticating`] must prove again who they are.
pub const REAUTHENTICATION: Duration = Duration::from_secs(5);

const PROPERTIES: &str = include_str!("../../../assets/kafka/secure.properties");

/// What a broker listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Neither TLS nor SASL: the client is ANONYMOUS, who may do everything.
    Plaintext,
    /// TLS without client certificates: ANONYMOUS again.
    Tls,
    /// TLS with a client certificate of the lab's authority, whose CN is the user.
    MutualTls,
    /// SASL without TLS.
    Sasl,
    /// SASL over TLS.
    SaslTls,
    /// SASL over TLS; authentication is good for [`REAUTHENTICATION`] (KIP-368).
    Reauthenticating,
    /// TLS as [`Self::Tls`], by a certificate for [`pki::OTHER_HOST`] only.
    WrongName,
}

impl Listener {
    pub const ALL: [Self; 7] = [
        Self::Plaintext,
        Self::Tls,
        Self::MutualTls,
        Self::Sasl,
        Self::SaslTls,
        Self::Reauthenticating,
        Self::WrongName,
    ];

    /// The port of broker 1 less that of the cluster; those of the other brokers follow.
    fn offset(self) -> u16 {
        match self {
            Self::Plaintext => 0,
            Self::Tls => 10,
            Self::MutualTls => 20,
            Self::Sasl => 30,
            Self::SaslTls => 40,
            Self::Reauthenticating => 50,
            Self::WrongName => 60,
        }
    }

    /// `security.protocol` of its clients.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls | Self::MutualTls | Self::WrongName => "SSL",
            Self::Sasl => "SASL_PLAINTEXT",
            Self::SaslTls | Self::Reauthenticating => "SASL_SSL",
        }
    }

    /// The brokers' name for it.
    fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "CLIENT",
            Self::Tls => "TLS",
            Self::MutualTls => "MTLS",
            Self::Sasl => "SASL",
            Self::SaslTls => "SASLTLS",
            Self::Reauthenticating => "REAUTH",
            Self::WrongName => "WRONGNAME",
        }
    }

    fn is_sasl(self) -> bool {
        self.protocol().starts_with("SASL")
    }
}

/// A secured cluster of the lab.
#[derive(Debug, Clone, Copy)]
pub struct Secured<'a> {
    lab: &'a Lab,
    cluster: Cluster<'static>,
    brokers: u16,
}

impl<'a> Secured<'a> {
    /// `kafka-secure`.
    pub fn one(lab: &'a Lab) -> Self {
        Self {
            lab,
            cluster: ONE,
            brokers: 1,
        }
    }

    /// `kafka-secure3`.
    pub fn three(lab: &'a Lab) -> Self {
        Self {
            lab,
            cluster: THREE,
            brokers: 3,
        }
    }

    /// Its brokers: to stop, kill and start them.
    pub fn cluster(&self) -> Cluster<'static> {
        self.cluster
    }

    /// The port of a listener of broker `id`, counted from 1.
    pub fn port(&self, listener: Listener, id: u16) -> u16 {
        self.cluster.client_port(id) + listener.offset()
    }

    /// Bootstrap servers of a listener.
    pub fn bootstrap(&self, listener: Listener) -> String {
        let servers: Vec<_> = (1..=self.brokers)
            .map(|id| format!("{NODE_IP}:{}", self.port(listener, id)))
            .collect();
        servers.join(",")
    }

    /// Bootstrap servers for the lab's own tools ([`super::kafka_tools`]), which may do everything.
    pub fn tools(&self) -> String {
        self.bootstrap(Listener::Plaintext)
    }

    /// Starts the brokers that do not run, waits until all listeners serve, and sets users and ACLs.
    pub fn up(&self) -> Result<(), LabError> {
        let extra = self.properties();
        let cluster = Cluster {
            extra: &extra,
            ..self.cluster
        };
        cluster.up(self.lab, self.brokers)?;
        for id in 1..=self.brokers {
            self.wait_listeners(id)?;
        }
        self.set_users()
    }

    /// Waits until broker `id` serves all listeners.
    fn wait_listeners(&self, id: u16) -> Result<(), LabError> {
        let name = self.cluster.broker(id);
        process::wait_ready(self.lab, &name, Duration::from_secs(60), || {
            let mut ports = Listener::ALL.iter().map(|it| self.port(*it, id));
            ports.all(|port| net::listens(self.lab, port))
        })
    }

    /// Starts broker `id` again after it was stopped or killed, and waits until it serves all listeners.
    pub fn start_broker(&self, id: u16) -> Result<(), LabError> {
        self.cluster.start_broker(self.lab, id)?;
        self.wait_listeners(id)
    }

    /// Kills the brokers and removes their data.
    pub fn down(&self) -> Result<(), LabError> {
        self.cluster.down(self.lab)
    }

    /// One row for each broker.
    pub fn status(&self) -> Vec<Row> {
        let row = |id| {
            let address = format!(
                "{NODE_IP}:{} (TLS and SASL: +{} to +{})",
                self.cluster.client_port(id),
                Listener::Tls.offset(),
                Listener::WrongName.offset()
            );
            Row::of_process(self.lab, &self.cluster.broker(id), &address)
        };
        (1..=self.brokers).map(row).collect()
    }

    /// What a broker's properties have more than those of the other clusters.
    fn properties(&self) -> String {
        // The last digit is the broker's: the cluster's port ends with 00, and it has less than ten brokers.
        let server = |listener: &Listener| {
            let tens = (self.cluster.port + listener.offset()) / 10;
            format!("{}://{NODE_IP}:{tens}@INDEX@", listener.name())
        };
        let servers: Vec<_> = Listener::ALL.iter().map(server).collect();
        let protocols: Vec<_> = Listener::ALL
            .iter()
            .map(|it| format!("{}:{}", it.name(), it.protocol()))
            .collect();
        let advertised = servers.join(",");
        let mut text = format!(
            "listeners={advertised},CONTROLLER://{NODE_IP}:@CONTROLLER_PORT@\n\
             advertised.listeners={advertised}\n\
             listener.security.protocol.map={},CONTROLLER:PLAINTEXT\n",
            protocols.join(",")
        );
        let store = |name| pki::file(self.lab, name, "pem").display().to_string();
        let values = [
            ("@KEY_STORE@", store(pki::BROKER)),
            ("@WRONG_KEY_STORE@", store(pki::WRONG_NAME)),
            ("@CA@", pki::ca(self.lab).display().to_string()),
            ("@JWKS@", tokens::JWKS.to_owned()),
            ("@AUDIENCE@", tokens::AUDIENCE.to_owned()),
            ("@ISSUER@", tokens::ISSUER.to_owned()),
            (
                "@REAUTHENTICATION@",
                REAUTHENTICATION.as_millis().to_string(),
            ),
        ];
        text.push_str(
            &values
                .iter()
                .fold(PROPERTIES.to_owned(), |text, (name, value)| {
                    text.replace(name, value)
                }),
        );
        for listener in Listener::ALL.into_iter().filter(|it| it.is_sasl()) {
            text.push_str(&users::listener_properties(listener));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_the_properties_are_those_of_the_clients() {
        let lab = Lab {
            name: "x".to_owned(),
            cache: "/c".into(),
            run: "/c/run/x".into(),
            given: None,
        };
        let three = Secured::three(&lab);
        let text = three.properties().replace("@INDEX@", "2");
        for listener in &Listener::ALL {
            let server = format!(
                "{}://{NODE_IP}:{}",
                listener.name(),
                three.port(*listener, 3)
            );
            assert!(text.contains(&server), "{server} in {text}");
        }
    }
}
