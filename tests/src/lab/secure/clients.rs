//! Settings with which Kafka's own clients reach a secured cluster.

use super::{Identity, Listener, Mechanism, Secured, pki, tokens};

/// What a client shows to say who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials<'a> {
    /// Nothing.
    None,
    Certificate(Identity),
    /// User and password by PLAIN or SCRAM.
    Password(Mechanism, &'a str, &'a str),
    /// Client id, secret and scope; the token comes from [`tokens::ENDPOINT`].
    Token(&'a str, &'a str, &'a str),
}

const MODULES: &str = "org.apache.kafka.common.security";

impl Secured<'_> {
    /// Settings of a client of Kafka's own that trusts the lab's authority, as in a `client.properties`.
    pub fn client(&self, listener: Listener, credentials: Credentials) -> Vec<(String, String)> {
        let mut config = vec![
            ("bootstrap.servers".to_owned(), self.bootstrap(listener)),
            (
                "security.protocol".to_owned(),
                listener.protocol().to_owned(),
            ),
        ];
        let mut set = |name: &str, value: String| config.push((name.to_owned(), value));
        if listener.protocol().ends_with("SSL") {
            set("ssl.truststore.type", "PEM".to_owned());
            set(
                "ssl.truststore.location",
                pki::ca(self.lab).display().to_string(),
            );
        }
        match credentials {
            Credentials::None => {}
            Credentials::Certificate(identity) => {
                set("ssl.keystore.type", "PEM".to_owned());
                let store = identity.key_store(self.lab);
                set("ssl.keystore.location", store.display().to_string());
            }
            Credentials::Password(mechanism, user, password) => {
                let module = if mechanism == Mechanism::Plain {
                    "plain.PlainLoginModule"
                } else {
                    "scram.ScramLoginModule"
                };
                set("sasl.mechanism", mechanism.name().to_owned());
                set(
                    "sasl.jaas.config",
                    format!(
                        "{MODULES}.{module} required username=\"{user}\" password=\"{password}\";"
                    ),
                );
            }
            Credentials::Token(client, secret, scope) => {
                set("sasl.mechanism", Mechanism::OAuthBearer.name().to_owned());
                set(
                    "sasl.login.callback.handler.class",
                    format!("{MODULES}.oauthbearer.OAuthBearerLoginCallbackHandler"),
                );
                set(
                    "sasl.oauthbearer.token.endpoint.url",
                    tokens::ENDPOINT.to_owned(),
                );
                let scope = if scope.is_empty() {
                    String::new()
                } else {
                    format!(" scope=\"{scope}\"")
                };
                set(
                    "sasl.jaas.config",
                    format!(
                        "{MODULES}.oauthbearer.OAuthBearerLoginModule required clientId=\"{client}\" clientSecret=\"{secret}\"{scope};"
                    ),
                );
            }
        }
        config
    }
}
