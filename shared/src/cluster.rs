//! Where a Kafka cluster is, and how it is spoken to: encryption and who we are.
//!
//! # Guarantees
//! - A [`KafkaCluster`] that [`KafkaCluster::check`] takes contradicts itself nowhere: each setting is one that its protocol uses.
//! - Secrets are only named: nothing here holds a credential.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::SpecError;

/// Where a Kafka cluster is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.securityProtocol in ['SSL', 'SASL_SSL'] || !has(self.caSecret) && !has(self.tlsSecret)").message("caSecret and tlsSecret are for securityProtocol SSL and SASL_SSL"),
    validation = Rule::new("(self.securityProtocol in ['SASL_PLAINTEXT', 'SASL_SSL']) == has(self.saslSecret)").message("saslSecret must be given exactly when securityProtocol is SASL_PLAINTEXT or SASL_SSL"),
    validation = Rule::new("!has(self.caSecret) || !has(self.tlsSecret) || !has(self.tlsSecret.caKey)").message("caSecret and tlsSecret.caKey both name the CA, give one of them")
)]
pub struct KafkaCluster {
    /// `host:port` of one or more brokers; any one of them is enough to find the others.
    #[schemars(length(min = 1))]
    pub bootstrap_servers: Vec<String>,
    /// How brokers are spoken to. With SSL and SASL_SSL the broker's certificate and its host name are always checked: against the
    /// CA of caSecret or tlsSecret, else against the public ones (Mozilla's list).
    #[serde(default)]
    pub security_protocol: SecurityProtocol,
    /// The CA of the brokers' certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,
    /// The client's certificate and key (mutual TLS), the CA of the brokers, or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<TlsSecret>,
    /// Who we are (SASL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl_secret: Option<SaslSecret>,
}

/// Kafka's security protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SecurityProtocol {
    /// Neither encrypted nor authenticated.
    #[default]
    #[serde(rename = "PLAINTEXT")]
    Plaintext,
    /// TLS, with a client certificate where one is given.
    #[serde(rename = "SSL")]
    Ssl,
    /// SASL without encryption: what is sent can be read on the way, a password of PLAIN included.
    #[serde(rename = "SASL_PLAINTEXT")]
    SaslPlaintext,
    /// SASL over TLS.
    #[serde(rename = "SASL_SSL")]
    SaslSsl,
}

impl SecurityProtocol {
    /// Its name, as Kafka's clients are configured with it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    /// Whether the stream is encrypted.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    /// Whether the client says who it is by SASL.
    pub fn is_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// A Secret with the CA of the brokers' certificates, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds one or more certificates (PEM).
    #[serde(default = "ca_key")]
    pub ca_key: String,
}

fn ca_key() -> String {
    "ca.crt".into()
}

/// A Secret with what TLS needs, in the namespace of the object. A key that is named must exist; one that is left out is used
/// where it exists. Of certificate and private key there must be both or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the CA of the brokers' certificates (PEM); left out, ca.crt, unless caSecret is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ca_key: Option<String>,
    /// Key in it that holds the client's certificate with its chain (PEM); left out, tls.crt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub cert_key: Option<String>,
    /// Key in it that holds the client's private key (PEM, not encrypted); left out, tls.key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub key_key: Option<String>,
}

/// How the client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// User name and password as they are (RFC 4616).
    #[serde(rename = "PLAIN")]
    Plain,
    /// Proof of a password (RFC 7677).
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A bearer token (RFC 7628, KIP-255).
    #[serde(rename = "OAUTHBEARER")]
    OAuthBearer,
}

impl SaslMechanism {
    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }
}

/// A Secret with credentials for SASL, in the namespace of the object. It is read anew for each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mechanism == 'OAUTHBEARER') == has(self.oauth)").message("saslSecret.oauth must be given exactly when mechanism is OAUTHBEARER"),
    validation = Rule::new("self.mechanism != 'OAUTHBEARER' || !has(self.usernameKey) && !has(self.passwordKey)").message("saslSecret.usernameKey and passwordKey are not for OAUTHBEARER")
)]
pub struct SaslSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Which mechanism.
    pub mechanism: SaslMechanism,
    /// Key in it that holds the user name; left out, username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub username_key: Option<String>,
    /// Key in it that holds the password; left out, password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub password_key: Option<String>,
    /// Where the bearer token comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuth>,
}

impl SaslSecret {
    /// Key of the user name.
    pub fn username_key(&self) -> &str {
        self.username_key.as_deref().unwrap_or("username")
    }

    /// Key of the password.
    pub fn password_key(&self) -> &str {
        self.password_key.as_deref().unwrap_or("password")
    }
}

/// A bearer token: from the Secret, or from an endpoint that gives one for a client's id and secret (RFC 6749, 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.tokenKey) != has(self.tokenEndpoint)").message("saslSecret.oauth needs tokenKey or tokenEndpoint, and not both"),
    validation = Rule::new("has(self.tokenEndpoint) || !has(self.scope) && !has(self.clientIdKey) && !has(self.clientSecretKey) && !self.allowHttp").message("saslSecret.oauth.scope, clientIdKey, clientSecretKey and allowHttp are for tokenEndpoint"),
    validation = Rule::new("!has(self.tokenEndpoint) || self.tokenEndpoint.startsWith('https://') || self.allowHttp").message("saslSecret.oauth.tokenEndpoint must be https, or allowHttp true")
)]
pub struct OAuth {
    /// Key in the Secret that holds a token; whoever renews it writes the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub token_key: Option<String>,
    /// URL that gives tokens for client credentials. Its certificate is checked against the public CAs and the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"))]
    pub token_endpoint: Option<String>,
    /// What is asked for at the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub scope: Option<String>,
    /// Key in the Secret that holds the client's id; left out, clientId.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub client_id_key: Option<String>,
    /// Key in the Secret that holds the client's secret; left out, clientSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub client_secret_key: Option<String>,
    /// Permits an endpoint without TLS: the client's secret can be read on the way.
    #[serde(default)]
    pub allow_http: bool,
}

impl OAuth {
    /// Key of the client's id.
    pub fn client_id_key(&self) -> &str {
        self.client_id_key.as_deref().unwrap_or("clientId")
    }

    /// Key of the client's secret.
    pub fn client_secret_key(&self) -> &str {
        self.client_secret_key.as_deref().unwrap_or("clientSecret")
    }
}

impl KafkaCluster {
    /// A cluster without security.
    pub fn plaintext(bootstrap_servers: Vec<String>) -> Self {
        Self {
            bootstrap_servers,
            security_protocol: SecurityProtocol::Plaintext,
            ca_secret: None,
            tls_secret: None,
            sasl_secret: None,
        }
    }

    /// Names of the Secrets that the worker needs as files `<secrets dir>/<secret name>/<key>`.
    pub fn secret_names(&self) -> Vec<&str> {
        let ca = self.ca_secret.iter().map(|secret| secret.name.as_str());
        let tls = self.tls_secret.iter().map(|secret| secret.name.as_str());
        let sasl = self.sasl_secret.iter().map(|secret| secret.name.as_str());
        ca.chain(tls).chain(sasl).collect()
    }

    /// Checks what the object alone can tell. `field` is where the cluster stands in it.
    ///
    /// # Errors
    /// The field that cannot be obeyed.
    pub fn check(&self, field: &str) -> Result<(), SpecError> {
        let servers = format!("{field}.bootstrapServers");
        if self.bootstrap_servers.is_empty() {
            return Err(SpecError::new(
                servers,
                "at least one host:port",
                "an empty list",
            ));
        }
        for server in &self.bootstrap_servers {
            let valid = server.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !valid {
                return Err(SpecError::new(servers, "host:port", format!("{server:?}")));
            }
        }
        let protocol = self.security_protocol;
        let given = |name: &str| format!("{field}.{name}");
        for (name, is_given) in [
            ("caSecret", self.ca_secret.is_some()),
            ("tlsSecret", self.tls_secret.is_some()),
        ] {
            if is_given && !protocol.is_encrypted() {
                let expected = "securityProtocol SSL or SASL_SSL beside it";
                return Err(SpecError::new(given(name), expected, protocol.name()));
            }
        }
        let ca_twice = self.ca_secret.is_some()
            && (self.tls_secret.as_ref()).is_some_and(|tls| tls.ca_key.is_some());
        if ca_twice {
            return Err(SpecError::new(
                given("tlsSecret.caKey"),
                "the CA named once",
                "caSecret beside it",
            ));
        }
        match (&self.sasl_secret, protocol.is_sasl()) {
            (None, true) => Err(SpecError::new(
                given("saslSecret"),
                format!(
                    "a Secret with credentials, as securityProtocol {} says",
                    protocol.name()
                ),
                "none",
            )),
            (Some(_), false) => Err(SpecError::new(
                given("saslSecret"),
                "securityProtocol SASL_PLAINTEXT or SASL_SSL beside it",
                protocol.name(),
            )),
            (Some(sasl), true) => check_sasl(&given("saslSecret"), sasl),
            (None, false) => Ok(()),
        }
    }
}

fn check_sasl(field: &str, sasl: &SaslSecret) -> Result<(), SpecError> {
    let mechanism = sasl.mechanism.name();
    let is_oauth = sasl.mechanism == SaslMechanism::OAuthBearer;
    let oauth_field = format!("{field}.oauth");
    let Some(oauth) = &sasl.oauth else {
        return match is_oauth {
            true => Err(SpecError::new(
                oauth_field,
                "a source of tokens, as mechanism OAUTHBEARER says",
                "none",
            )),
            false => Ok(()),
        };
    };
    if !is_oauth {
        return Err(SpecError::new(
            oauth_field,
            "mechanism OAUTHBEARER beside it",
            mechanism,
        ));
    }
    for (name, key) in [
        ("usernameKey", &sasl.username_key),
        ("passwordKey", &sasl.password_key),
    ] {
        if let Some(key) = key {
            let expected = "nothing, with mechanism OAUTHBEARER";
            return Err(SpecError::new(
                format!("{field}.{name}"),
                expected,
                format!("{key:?}"),
            ));
        }
    }
    check_oauth(&oauth_field, oauth)
}

fn check_oauth(field: &str, oauth: &OAuth) -> Result<(), SpecError> {
    let Some(endpoint) = &oauth.token_endpoint else {
        if oauth.token_key.is_none() {
            return Err(SpecError::new(
                field,
                "tokenKey or tokenEndpoint",
                "neither",
            ));
        }
        for (name, is_given) in [
            ("scope", oauth.scope.is_some()),
            ("clientIdKey", oauth.client_id_key.is_some()),
            ("clientSecretKey", oauth.client_secret_key.is_some()),
            ("allowHttp", oauth.allow_http),
        ] {
            if is_given {
                let expected = "tokenEndpoint beside it";
                return Err(SpecError::new(
                    format!("{field}.{name}"),
                    expected,
                    "tokenKey",
                ));
            }
        }
        return Ok(());
    };
    if oauth.token_key.is_some() {
        return Err(SpecError::new(field, "tokenKey or tokenEndpoint", "both"));
    }
    let https = endpoint.starts_with("https://");
    if https || (oauth.allow_http && endpoint.starts_with("http://")) {
        return Ok(());
    }
    Err(SpecError::new(
        format!("{field}.tokenEndpoint"),
        "an https URL, or http with allowHttp: true",
        format!("{endpoint:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cluster(fields: Value) -> KafkaCluster {
        let mut value = json!({"bootstrapServers": ["a:9092"]});
        let object = value.as_object_mut().unwrap();
        object.extend(fields.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        let (ca, tls) = (json!({"name": "ca"}), json!({"name": "tls"}));
        let plain = json!({"name": "user", "mechanism": "PLAIN"});
        let oauth = |oauth: Value| {
            let sasl = json!({"name": "user", "mechanism": "OAUTHBEARER", "oauth": oauth});
            json!({"securityProtocol": "SASL_SSL", "saslSecret": sasl})
        };
        let cases = [
            (json!({"bootstrapServers": []}), "bootstrapServers"),
            (json!({"bootstrapServers": ["a"]}), "bootstrapServers"),
            (json!({"caSecret": ca}), "caSecret"),
            (json!({"tlsSecret": tls}), "tlsSecret"),
            (json!({"saslSecret": plain}), "saslSecret"),
            (
                json!({"securityProtocol": "SSL", "saslSecret": plain}),
                "saslSecret",
            ),
            (json!({"securityProtocol": "SASL_SSL"}), "saslSecret"),
            (
                json!({"securityProtocol": "SASL_PLAINTEXT", "saslSecret": plain, "caSecret": ca}),
                "caSecret",
            ),
            (
                json!({"securityProtocol": "SSL", "caSecret": ca, "tlsSecret": {"name": "tls", "caKey": "x"}}),
                "tlsSecret.caKey",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "saslSecret": {"name": "u", "mechanism": "OAUTHBEARER"}}),
                "saslSecret.oauth",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "saslSecret": {"name": "u", "mechanism": "PLAIN", "oauth": {"tokenKey": "t"}}}),
                "saslSecret.oauth",
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "saslSecret": {"name": "u", "mechanism": "OAUTHBEARER", "usernameKey": "x", "oauth": {"tokenKey": "t"}}}),
                "saslSecret.usernameKey",
            ),
            (oauth(json!({})), "saslSecret.oauth"),
            (
                oauth(json!({"tokenKey": "t", "tokenEndpoint": "https://a"})),
                "saslSecret.oauth",
            ),
            (
                oauth(json!({"tokenKey": "t", "scope": "s"})),
                "saslSecret.oauth.scope",
            ),
            (
                oauth(json!({"tokenKey": "t", "allowHttp": true})),
                "saslSecret.oauth.allowHttp",
            ),
            (
                oauth(json!({"tokenEndpoint": "http://a"})),
                "saslSecret.oauth.tokenEndpoint",
            ),
            (
                oauth(json!({"tokenEndpoint": "ftp://a", "allowHttp": true})),
                "saslSecret.oauth.tokenEndpoint",
            ),
        ];
        for (fields, named) in cases {
            let error = cluster(fields.clone()).check("spec.kafkaCluster");
            let error = error.expect_err(&fields.to_string());
            assert_eq!(
                error.field,
                format!("spec.kafkaCluster.{named}"),
                "{fields}: {error}"
            );
        }
    }

    #[test]
    fn each_way_is_taken_and_its_secrets_are_named() {
        let (ca, tls) = (json!({"name": "ca"}), json!({"name": "tls"}));
        let scram = json!({"name": "user", "mechanism": "SCRAM-SHA-512"});
        let cases = [
            (json!({}), &[][..]),
            (json!({"securityProtocol": "SSL"}), &[]),
            (
                json!({"securityProtocol": "SSL", "caSecret": ca, "tlsSecret": tls}),
                &["ca", "tls"],
            ),
            (
                json!({"securityProtocol": "SASL_PLAINTEXT", "saslSecret": scram}),
                &["user"],
            ),
            (
                json!({"securityProtocol": "SASL_SSL", "caSecret": ca, "saslSecret":
                    {"name": "user", "mechanism": "OAUTHBEARER", "oauth": {"tokenEndpoint": "https://a", "scope": "s"}}}),
                &["ca", "user"],
            ),
        ];
        for (fields, secrets) in cases {
            let cluster = cluster(fields.clone());
            assert_eq!(cluster.check("x"), Ok(()), "{fields}");
            assert_eq!(cluster.secret_names(), secrets, "{fields}");
        }
    }

    #[test]
    fn an_unknown_protocol_is_refused_and_never_plaintext() {
        for wrong in ["ssl", "TLS", "", "SASL_TLS"] {
            let value = json!({"bootstrapServers": ["a:1"], "securityProtocol": wrong});
            assert!(
                serde_json::from_value::<KafkaCluster>(value).is_err(),
                "{wrong}"
            );
        }
    }
}
