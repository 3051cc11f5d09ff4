//! What answers in the token server's process.

use super::{pki, tokens};
use crate::lab::{Doing, Lab, LabError};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const LIFETIME: u64 = 300;
/// No request is longer.
const LIMIT: u64 = 64 * 1024;

/// A key that signs tokens by ES256.
struct Signer {
    pair: EcdsaKeyPair,
    id: String,
}

impl Signer {
    fn open(lab: &Lab, name: &str) -> Result<Self, LabError> {
        let path = pki::file(lab, name, "key");
        let bad = |what: String| LabError::State(format!("key {}: {what}", path.display()));
        let key =
            PrivatePkcs8KeyDer::from_pem_file(&path).map_err(|error| bad(error.to_string()))?;
        let pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            key.secret_pkcs8_der(),
            &SystemRandom::new(),
        )
        .map_err(|error| bad(error.to_string()))?;
        let id = crate::lab::parts::key(&[pair.public_key().as_ref()]);
        Ok(Self { pair, id })
    }

    /// The public key as RFC 7518, 6.2.1 has it.
    fn jwks(&self) -> Value {
        // An uncompressed point: 4, x, y (SEC 1, 2.3.3).
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": self.id,
        }] })
    }

    /// A JWS in its compact form (RFC 7515, 7.1), which says that the key is `id`.
    fn sign(&self, id: &str, claims: &Value) -> Result<String, LabError> {
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": id });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|error| LabError::State(format!("sign: {error}")))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

struct Server {
    signer: Signer,
    forger: Signer,
    tls: Arc<ServerConfig>,
    /// Clients `flaky.USER` whose next request gets a token.
    calm: Mutex<BTreeSet<String>>,
}

/// Serves without TLS on the first port, with it on the second.
pub(super) fn serve(lab: &Lab, address: &str, ports: [u16; 2]) -> Result<Infallible, LabError> {
    let server = Arc::new(Server {
        signer: Signer::open(lab, pki::SIGNER)?,
        forger: Signer::open(lab, pki::FORGER)?,
        tls: tls(lab)?,
        calm: Mutex::default(),
    });
    let listen = |port: u16| {
        TcpListener::bind((address, port)).doing(|| format!("listen on {address}:{port}"))
    };
    let (plain, secured) = (listen(ports[0])?, listen(ports[1])?);
    let other = Arc::clone(&server);
    std::thread::spawn(move || accept(&server, &plain, false));
    accept(&other, &secured, true)
}

fn tls(lab: &Lab) -> Result<Arc<ServerConfig>, LabError> {
    let bad = |error: String| LabError::State(format!("TLS of the token server: {error}"));
    let certificate = CertificateDer::from_pem_file(pki::file(lab, pki::TOKENS, "crt"))
        .map_err(|error| bad(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(pki::file(lab, pki::TOKENS, "key"))
        .map_err(|error| bad(error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(vec![certificate], key)
        });
    config.map(Arc::new).map_err(|error| bad(error.to_string()))
}

fn accept(server: &Arc<Server>, listener: &TcpListener, secured: bool) -> ! {
    loop {
        let Ok((stream, _)) = listener.accept() else {
            // Too many connections, which end by themselves.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            if let Err(error) = connection(&server, stream, secured) {
                println!("connection failed: {error}");
            }
        });
    }
}

fn connection(server: &Server, stream: TcpStream, secured: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    if !secured {
        return server.answer(stream);
    }
    let connection = ServerConnection::new(Arc::clone(&server.tls)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    server.answer(&mut stream)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// A request, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
    form: BTreeMap<String, String>,
}

impl Request {
    fn read(stream: impl Read) -> io::Result<Self> {
        let mut reader = BufReader::new(stream.take(LIMIT));
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let mut request = Self {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            ..Self::default()
        };
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => request.authorization = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
                _ => {}
            }
        }
        let mut body = Vec::new();
        reader.take(length).read_to_end(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        let pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        request.form = pairs
            .map(|(name, value)| (decoded(name), decoded(value)))
            .collect();
        Ok(request)
    }

    /// Client id and secret: by basic authentication or in the form (RFC 6749, 2.3.1).
    fn client(&self) -> Option<(String, String)> {
        if let Some(basic) = self
            .authorization
            .as_deref()
            .and_then(|it| it.strip_prefix("Basic "))
        {
            let text = String::from_utf8(STANDARD.decode(basic.trim()).ok()?).ok()?;
            let (id, secret) = text.split_once(':')?;
            return Some((decoded(id), decoded(secret)));
        }
        let field = |name: &str| self.form.get(name).cloned();
        Some((field("client_id")?, field("client_secret")?))
    }
}

/// Undoes application/x-www-form-urlencoded.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            Some(_) | None => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn error(name: &str, description: &str) -> Value {
    json!({ "error": name, "error_description": description })
}

impl Server {
    fn answer(&self, mut stream: impl Read + Write) -> io::Result<()> {
        let request = Request::read(&mut stream)?;
        let (status, body) = self.respond(&request);
        let scope = request.form.get("scope").map_or("", String::as_str);
        let client = request.client().unwrap_or_default().0;
        println!(
            "{} {} client {client:?} scope {scope:?}: {status}",
            request.method, request.path
        );
        let body = body.to_string();
        let reason = match status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            500 => "Internal Server Error",
            _ => "Service Unavailable",
        };
        // RFC 6749, 5.1 and 5.2.
        let authenticate = if status == 401 {
            "WWW-Authenticate: Basic realm=\"lab\"\r\n"
        } else {
            ""
        };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{authenticate}Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes())?;
        stream.flush()
    }

    fn respond(&self, request: &Request) -> (u16, Value) {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/jwks") => (200, self.signer.jwks()),
            ("POST", "/token") => self.token(request),
            _ => (404, error("not_found", "there are /token and /jwks")),
        }
    }

    fn token(&self, request: &Request) -> (u16, Value) {
        if request.form.get("grant_type").map(String::as_str) != Some("client_credentials") {
            let description = "only client_credentials";
            return (400, error("unsupported_grant_type", description));
        }
        let Some((id, secret)) = request.client() else {
            return (401, error("invalid_client", "no client id and secret"));
        };
        let (trick, user) = id.split_once('.').unwrap_or(("", &id));
        match trick {
            "broken" => return (500, error("server_error", "as it was asked for")),
            "slow" => std::thread::sleep(tokens::SLOW),
            "flaky" if self.fails_now(&id) => {
                return (503, error("temporarily_unavailable", "as it was asked for"));
            }
            _ => {}
        }
        if !super::USERS.contains(&user) || secret != super::password(user) {
            return (
                401,
                error("invalid_client", "unknown client or wrong secret"),
            );
        }
        // Kafka takes no token without a scope.
        let scope = request.form.get("scope").map_or("kafka", String::as_str);
        match self.signed(user, scope) {
            Ok((token, lifetime)) => {
                let answer = json!({
                    "access_token": token, "token_type": "Bearer", "expires_in": lifetime, "scope": scope,
                });
                (200, answer)
            }
            Err(problem) => (500, error("server_error", &problem.to_string())),
        }
    }

    /// True at each odd request of a client.
    fn fails_now(&self, id: &str) -> bool {
        let mut calm = self.calm.lock().unwrap_or_else(|error| error.into_inner());
        if calm.remove(id) {
            return false;
        }
        calm.insert(id.to_owned())
    }

    /// A token for a user, and the seconds that it is good for.
    fn signed(&self, user: &str, scope: &str) -> Result<(String, u64), LabError> {
        let words: Vec<&str> = scope.split_whitespace().collect();
        let lifetime = words
            .iter()
            .find_map(|word| word.strip_prefix("lifetime-")?.parse().ok());
        let lifetime = lifetime.unwrap_or(LIFETIME);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now
            .map_err(|error| LabError::State(error.to_string()))?
            .as_secs();
        let audience = if words.contains(&"other-audience") {
            "somebody else"
        } else {
            tokens::AUDIENCE
        };
        let claims = json!({
            "iss": tokens::ISSUER, "aud": audience, "sub": user, "iat": now, "exp": now + lifetime, "scope": scope,
        });
        let signer = if words.contains(&"forged") {
            &self.forger
        } else {
            &self.signer
        };
        Ok((signer.sign(&self.signer.id, &claims)?, lifetime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_comes_by_header_or_form() {
        let body = "grant_type=client_credentials&client_id=a%2Bb&client_secret=c+d";
        let text = format!(
            "POST /token HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let request = Request::read(text.as_bytes()).unwrap();
        assert_eq!(request.path, "/token");
        assert_eq!(request.client(), Some(("a+b".to_owned(), "c d".to_owned())));
        let text = "POST /token HTTP/1.1\r\nauthorization: Basic YTpiJTI1\r\n\r\n";
        let request = Request::read(text.as_bytes()).unwrap();
        assert_eq!(request.client(), Some(("a".to_owned(), "b%".to_owned())));
    }

    #[test]
    fn percent_that_is_no_code_stays() {
        assert_eq!(decoded("%41%4g%"), "A%4g%");
    }
}
