//! What can go wrong with a store, and what an answer of `object_store` means.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kafka_backup_shared::report::Fault;

use crate::secrets::SecretError;
use crate::tls::tls_error;

/// A failure of the store, named by the step.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A Secret's file is not where the kubelet, or the user at a terminal, should have put it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The storage block cannot be obeyed.
    #[error("{field}: {problem}")]
    Spec {
        /// Path of the field.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The folder of a volume cannot be used.
    #[error("failed to use the folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A key that no store would take: keys come from `shared::archive::layout`, which escapes names.
    #[error("{key:?} is no key")]
    Key {
        /// The key.
        key: String,
    },
    /// A request was refused, or failed for as long as it was tried.
    #[error("failed to {step} {key} in {store}{}", hint(.meaning))]
    Request {
        /// What was done.
        step: &'static str,
        /// The key.
        key: String,
        /// Which store.
        store: Arc<str>,
        /// What the answer means.
        meaning: Meaning,
        /// The answer.
        #[source]
        source: Answer,
    },
    /// Nothing was answered in time, for as long as it was tried.
    #[error("failed to {step} {key} in {store}: no answer within {seconds} s")]
    TimedOut {
        /// What was done.
        step: &'static str,
        /// The key.
        key: String,
        /// Which store.
        store: Arc<str>,
        /// The time-out of the last attempt.
        seconds: u64,
    },
    /// A segment's key names offsets and checksum, so two objects of one key are the same.
    #[error("{key} in {store} has {found} bytes where {expected} were written")]
    Conflict {
        /// The key.
        key: String,
        /// Which store.
        store: Arc<str>,
        /// Size of what was to be written.
        expected: u64,
        /// Size of what is there.
        found: u64,
    },
    /// The store overwrites where it was told to create.
    #[error(
        "{store} ignores create-only writes (If-None-Match: * and its like), so that two workers could overwrite each other: use a store that honours them"
    )]
    NotConditional {
        /// Which store.
        store: Arc<str>,
    },
}

impl StoreError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Secret(_) | Self::Spec { .. } | Self::NotConditional { .. } => Fault::Spec,
            Self::Folder { source, .. } => io_fault(source.kind()),
            Self::Key { .. } => Fault::Bug,
            Self::Request { meaning, .. } => match meaning {
                Meaning::Denied => Fault::Denied,
                Meaning::NoBucket | Meaning::Refused => Fault::Spec,
                // Where absence, existence or a lost race is an answer it is returned as one; here it is a surprise that
                // another attempt may not have.
                Meaning::Absent
                | Meaning::Exists
                | Meaning::Changed
                | Meaning::Full
                | Meaning::Passing => Fault::Unavailable,
            },
            Self::TimedOut { .. } => Fault::Unavailable,
            Self::Conflict { .. } => Fault::Corrupt,
        }
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the rest comes and goes with disks and networks"
)]
fn io_fault(kind: io::ErrorKind) -> Fault {
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Fault::Denied,
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Fault::Spec,
        _ => Fault::Unavailable,
    }
}

fn hint(meaning: &Meaning) -> &'static str {
    match meaning {
        Meaning::Denied => " (are the keys right, and may they list, read and write there?)",
        Meaning::NoBucket => " (bucket or container must exist)",
        Meaning::Full => {
            " (no space is left; what is stored stays, and the next attempt goes on from there)"
        }
        Meaning::Refused => {
            " (is it the right endpoint, and for S3 the right region and path style?)"
        }
        Meaning::Absent | Meaning::Exists | Meaning::Changed | Meaning::Passing => "",
    }
}

/// What an answer means for the next move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The object is not there.
    Absent,
    /// The object is there already, or somebody is writing it at this moment.
    Exists,
    /// The object is another one than the caller has seen.
    Changed,
    /// Credentials or permissions.
    Denied,
    /// The bucket is not there.
    NoBucket,
    /// There is no space left, which no quick repetition mends.
    Full,
    /// The store will never take this request.
    Refused,
    /// The same request may succeed later; whether this one had an effect is unknown.
    Passing,
}

/// An answer of `object_store`; displays the store's own words once, without the layers around them.
#[derive(Debug)]
pub struct Answer(pub(super) Box<object_store::Error>);

impl std::error::Error for Answer {}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = root_text(&self.0);
        match (
            element(&text, "Code"),
            element(&text, "Message"),
            status(&text),
        ) {
            (Some(code), Some(message), Some(status)) => write!(f, "{status} {code}: {message}"),
            (Some(code), _, Some(status)) => write!(f, "{status} {code}"),
            _ if text.contains("169.254.") => write!(
                f,
                "no keys in credentialsSecret or environment, and no identity of the machine answers: {text}"
            ),
            _ => match tls_error(&self.0) {
                // Above it stands only that there is no connection.
                Some(tls) if !text.contains(&tls.to_string()) => {
                    write!(f, "{}: {tls}", text.trim())
                }
                Some(_) | None => f.write_str(text.trim()),
            },
        }
    }
}

/// What `error` means.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the enum is non-exhaustive; a failed task is the other one, and both may pass"
)]
pub(super) fn meaning(error: &object_store::Error) -> Meaning {
    use object_store::Error;
    let text = root_text(error);
    match error {
        // A missing bucket and a missing object are both 404.
        Error::NotFound { .. } if element(&text, "Code").is_some_and(is_no_bucket) => {
            Meaning::NoBucket
        }
        Error::NotFound { .. } => Meaning::Absent,
        Error::AlreadyExists { .. } => Meaning::Exists,
        Error::Precondition { .. } | Error::NotModified { .. } => Meaning::Changed,
        // Ceph says so with a 403.
        Error::PermissionDenied { .. } if element(&text, "Code").is_some_and(is_full) => {
            Meaning::Full
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Meaning::Denied,
        Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::InvalidPath { .. }
        | Error::UnknownConfigurationKey { .. } => Meaning::Refused,
        Error::Generic { .. } => generic(error, &text),
        _ => Meaning::Passing,
    }
}

fn generic(error: &object_store::Error, text: &str) -> Meaning {
    // The server's certificate is not trusted, expired, or another host's.
    if matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_))) {
        return Meaning::Denied;
    }
    if let Some(kind) = io_kind(error) {
        if matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Meaning::Full;
        }
        return match io_fault(kind) {
            Fault::Denied => Meaning::Denied,
            Fault::Spec => Meaning::Refused,
            Fault::Interrupted | Fault::Unavailable | Fault::Corrupt | Fault::Bug => {
                Meaning::Passing
            }
        };
    }
    let code = element(text, "Code");
    match code {
        Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => return Meaning::Denied,
        Some("RequestTimeout" | "SlowDown" | "OperationAborted" | "InternalError") => {
            return Meaning::Passing;
        }
        Some(code) if is_no_bucket(code) => return Meaning::NoBucket,
        Some(code) if is_full(code) => return Meaning::Full,
        Some(_) | None => {}
    }
    // OAuth (RFC 6749, section 5.2) refuses credentials with 400.
    let refused = ["invalid_client", "invalid_grant", "unauthorized_client"];
    if refused
        .iter()
        .any(|code| text.contains(&format!("\"{code}\"")))
    {
        return Meaning::Denied;
    }
    match status(text).and_then(|status| status.get(..3)?.parse::<u16>().ok()) {
        // Listings come without the type of the answer.
        Some(401 | 403) => Meaning::Denied,
        Some(404) => Meaning::Absent,
        Some(408 | 425 | 429) => Meaning::Passing,
        Some(507) => Meaning::Full,
        Some(300..=499 | 501) => Meaning::Refused,
        Some(_) => Meaning::Passing,
        None if text.contains("Received redirect") => Meaning::Refused,
        // Azure deletes in batches, whose single answers have no more than this.
        None if text.contains("(code: 403)") => Meaning::Denied,
        None => Meaning::Passing,
    }
}

/// Codes of Amazon and Google, and of Azure.
fn is_no_bucket(code: &str) -> bool {
    matches!(code, "NoSuchBucket" | "ContainerNotFound")
}

/// Codes of Ceph, MinIO and others for a bucket or disk without space.
fn is_full(code: &str) -> bool {
    matches!(
        code,
        "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded"
    )
}

/// The kind of the innermost system error of a folder; HTTP errors have theirs too, which says nothing about the request.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let object_store::Error::Generic { store, .. } = error else {
        return None;
    };
    if *store != "LocalFileSystem" {
        return None;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    None
}

/// The text of the first source that is the store's own: the layers above repeat it.
fn root_text(error: &object_store::Error) -> String {
    let own = error.to_string();
    let mut text = own.clone();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Layers quote what is below them. One that does not is the last that knows more than its source.
        if !text.contains(&inner_text) {
            return format!("{text}: {inner_text}");
        }
        if inner_text.len() >= 12 {
            text = inner_text;
        }
        cause = inner.source();
    }
    text
}

/// Content of the first XML element of this name.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    Some(content)
}

/// `404 Not Found` out of object_store's message.
fn status(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("status code: ")?;
    let (status, _) = rest.split_once(": ").unwrap_or((rest, ""));
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    #[test]
    fn answers_mean_what_the_next_move_needs() {
        let said = |status: &str, code: &str| {
            generic(&format!(
                "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code><Message>m</Message></Error>"
            ))
        };
        let not_found = |text: &str| object_store::Error::NotFound {
            path: "k".into(),
            source: text.to_owned().into(),
        };
        let cases = [
            (
                not_found(
                    "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchKey</Code>",
                ),
                Meaning::Absent,
            ),
            (
                not_found(
                    "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>",
                ),
                Meaning::NoBucket,
            ),
            (said("400 Bad Request", "ExpiredToken"), Meaning::Denied),
            (said("400 Bad Request", "RequestTimeout"), Meaning::Passing),
            (
                said("400 Bad Request", "AuthorizationHeaderMalformed"),
                Meaning::Refused,
            ),
            (
                said("403 Forbidden", "SignatureDoesNotMatch"),
                Meaning::Denied,
            ),
            (said("429 Too Many Requests", "X"), Meaning::Passing),
            (
                said("500 Internal Server Error", "InternalError"),
                Meaning::Passing,
            ),
            (
                said("501 Not Implemented", "NotImplemented"),
                Meaning::Refused,
            ),
            (
                not_found(
                    "Server returned non-2xx status code: 404 Not Found: <Code>ContainerNotFound</Code>",
                ),
                Meaning::NoBucket,
            ),
            (said("404 Not Found", "ContainerNotFound"), Meaning::NoBucket),
            (
                generic(
                    "Server returned non-2xx status code: 400 Bad Request: {\"error\":\"invalid_client\"}",
                ),
                Meaning::Denied,
            ),
            (
                generic(
                    "Bulk delete request failed for key k: This request is not authorized (code: 403)",
                ),
                Meaning::Denied,
            ),
            (
                said("507 Insufficient Storage", "XMinioStorageFull"),
                Meaning::Full,
            ),
            (
                object_store::Error::PermissionDenied {
                    path: "k".into(),
                    source: "Server returned non-2xx status code: 403 Forbidden: <Code>QuotaExceeded</Code>".into(),
                },
                Meaning::Full,
            ),
            (generic("error sending request"), Meaning::Passing),
            (
                object_store::Error::Generic {
                    store: "S3",
                    source: Box::new(io::Error::other(rustls::Error::InvalidCertificate(
                        rustls::CertificateError::UnknownIssuer,
                    ))),
                },
                Meaning::Denied,
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(meaning(&error), expected, "{error}");
        }
    }

    #[test]
    fn an_answer_says_status_code_and_message_once() {
        let error = generic(
            "Server returned non-2xx status code: 403 Forbidden: <?xml?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>",
        );
        assert_eq!(
            Answer(error.into()).to_string(),
            "403 Forbidden AccessDenied: No."
        );
    }

    #[test]
    fn a_full_disk_and_a_forbidden_one_are_told_apart() {
        let folder = |kind: io::ErrorKind| object_store::Error::Generic {
            store: "LocalFileSystem",
            source: Box::new(io::Error::from(kind)),
        };
        assert_eq!(meaning(&folder(io::ErrorKind::StorageFull)), Meaning::Full);
        assert_eq!(
            meaning(&folder(io::ErrorKind::PermissionDenied)),
            Meaning::Denied
        );
    }
}
