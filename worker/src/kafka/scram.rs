//! SCRAM as a client (RFC 5802, RFC 7677), as Kafka speaks it.
//!
//! Kafka takes passwords as their bytes (`ScramFormatter.normalize`), where a general library prepares them by SASLprep: the two
//! differ for other scripts than Latin, and no user of Kafka's own clients would understand why. Channel binding is not Kafka's.
//!
//! # Guarantees
//! - The broker must prove that it knows the password, too; one that does not is not spoken to.
//! - Fewer than 4096 rounds are refused, as Kafka's clients do (`ScramMechanism.minIterations`): a broker could ask for a proof that
//!   is easily guessed from.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kafka_backup_shared::spec::SaslMechanism;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

const ITERATIONS_MIN: u32 = 4096;
/// More rounds would keep a processor busy for minutes.
const ITERATIONS_MAX: u32 = 10_000_000;

/// What goes wrong in an exchange.
pub(super) type Refusal = String;

/// An exchange.
pub(super) struct Scram {
    hash: Hash,
    password: String,
    nonce: String,
    first_bare: String,
    /// The signature that the broker must give, once the proof is sent.
    expected: Option<hmac::Tag>,
}

#[derive(Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }

    fn sign(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(self.hmac(), key), text)
    }
}

impl Scram {
    /// Begins an exchange; gives the first message.
    pub(super) fn begin(
        mechanism: SaslMechanism,
        username: &str,
        password: &str,
    ) -> Result<(Self, Vec<u8>), Refusal> {
        let mut random = [0; 24];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| "the system has no random numbers".to_owned())?;
        Ok(Self::with_nonce(
            mechanism,
            username,
            password,
            STANDARD.encode(random),
        ))
    }

    fn with_nonce(
        mechanism: SaslMechanism,
        username: &str,
        password: &str,
        nonce: String,
    ) -> (Self, Vec<u8>) {
        let hash = match mechanism {
            SaslMechanism::ScramSha256 => Hash::Sha256,
            SaslMechanism::ScramSha512 => Hash::Sha512,
            SaslMechanism::Plain | SaslMechanism::OAuthBearer => {
                unreachable!("{mechanism:?} is no SCRAM")
            }
        };
        let name = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        let first = format!("n,,{first_bare}").into_bytes();
        let begun = Self {
            hash,
            password: password.to_owned(),
            nonce,
            first_bare,
            expected: None,
        };
        (begun, first)
    }

    /// Answers the broker; `None`: the exchange has ended well.
    pub(super) fn next(&mut self, challenge: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let text = std::str::from_utf8(challenge)
            .map_err(|_| "the broker's message is no text".to_owned())?;
        match self.expected.take() {
            None => self.prove(text).map(Some),
            Some(expected) => check(text, &expected).map(|()| None),
        }
    }

    fn prove(&mut self, server_first: &str) -> Result<Vec<u8>, Refusal> {
        let strange = || "the broker's first message is not SCRAM's".to_owned();
        let mut attributes = server_first.split(',');
        let mut next = |name: &str| {
            let attribute = attributes.next()?.strip_prefix(name)?;
            attribute.strip_prefix('=')
        };
        let nonce = next("r").ok_or_else(strange)?;
        let salt = next("s").and_then(|salt| STANDARD.decode(salt).ok());
        let salt = salt.filter(|salt| !salt.is_empty()).ok_or_else(strange)?;
        let iterations = next("i").and_then(|count| count.parse::<u32>().ok());
        let iterations = iterations.ok_or_else(strange)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("the broker's message belongs to another exchange".to_owned());
        }
        let rounds = NonZeroU32::new(iterations)
            .filter(|_| (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations));
        let rounds = rounds.ok_or_else(|| {
            format!("the broker asks for {iterations} rounds, expected {ITERATIONS_MIN} to {ITERATIONS_MAX}")
        })?;
        let mut salted = vec![0; self.hash.digest().output_len()];
        let password = self.password.as_bytes();
        pbkdf2::derive(self.hash.pbkdf2(), rounds, &salt, password, &mut salted);
        let client_key = self.hash.sign(&salted, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        // biws: "n,,", no channel binding.
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{server_first},{without_proof}", self.first_bare);
        let signature = self.hash.sign(stored_key.as_ref(), message.as_bytes());
        let pairs = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(key, signature)| key ^ signature).collect();
        let server_key = self.hash.sign(&salted, b"Server Key");
        self.expected = Some(self.hash.sign(server_key.as_ref(), message.as_bytes()));
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)).into_bytes())
    }
}

fn check(server_final: &str, expected: &hmac::Tag) -> Result<(), Refusal> {
    if let Some(error) = server_final.strip_prefix("e=") {
        return Err(format!("the broker answers {error}"));
    }
    let signature = server_final
        .split(',')
        .next()
        .and_then(|it| it.strip_prefix("v="));
    let signature = signature.and_then(|it| STANDARD.decode(it).ok());
    // Nothing secret depends on how long this takes: the signature is the broker's.
    match signature.is_some_and(|signature| signature == expected.as_ref()) {
        true => Ok(()),
        false => Err("the broker does not know the password that it asks a proof of".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn begun() -> Scram {
        let nonce = NONCE.to_owned();
        let (scram, first) = Scram::with_nonce(SaslMechanism::ScramSha256, "user", "pencil", nonce);
        assert_eq!(first, format!("n,,n=user,r={NONCE}").as_bytes());
        scram
    }

    #[test]
    fn the_exchange_of_the_rfc() {
        let mut scram = begun();
        let answer = scram.next(SERVER_FIRST.as_bytes()).unwrap().unwrap();
        assert_eq!(String::from_utf8(answer).unwrap(), CLIENT_FINAL);
        assert_eq!(scram.next(SERVER_FINAL.as_bytes()), Ok(None));
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_refused() {
        for wrong in ["v=AAAA", "", "e=invalid-proof", "v=!!"] {
            let mut scram = begun();
            scram.next(SERVER_FIRST.as_bytes()).unwrap();
            let error = scram.next(wrong.as_bytes()).unwrap_err();
            assert!(
                error.contains("password") || error.contains("invalid-proof"),
                "{error}"
            );
        }
    }

    #[test]
    fn weak_and_foreign_challenges_are_refused() {
        for (wrong, told) in [
            (SERVER_FIRST.replace("i=4096", "i=4095"), "4095 rounds"),
            (
                SERVER_FIRST.replace("i=4096", "i=99999999"),
                "99999999 rounds",
            ),
            (SERVER_FIRST.replace("r=rOpr", "r=x"), "another exchange"),
            (format!("r={NONCE},s=W22Z,i=4096"), "another exchange"),
            (SERVER_FIRST.replace(",s=", ",z="), "not SCRAM's"),
            ("m=ext".to_owned(), "not SCRAM's"),
            (String::new(), "not SCRAM's"),
        ] {
            let error = begun().next(wrong.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
        assert!(begun().next(&[0xff]).is_err());
    }

    #[test]
    fn names_are_escaped() {
        let (_, first) = Scram::begin(SaslMechanism::ScramSha512, "a=b,c", "x").unwrap();
        let first = String::from_utf8(first).unwrap();
        assert!(first.starts_with("n,,n=a=3Db=2Cc,r="), "{first}");
    }
}
