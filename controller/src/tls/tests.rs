//! Certificates that openssl has made, in files that change.

use std::process::Command;

use super::*;
use crate::aggregate::Format;

/// A CA, and what it has signed, in a folder of their own.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    /// `ca.crt`, and `tls.crt` and `tls.key` of a server on loopback.
    pub(crate) fn new(name: &str) -> Self {
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let script = format!(
            "set -e
            new='req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -batch'
            openssl $new -x509 -days 2 -subj '/CN={name}' -keyout ca.key -out ca.crt
            openssl $new -subj /CN=push -keyout tls.key -out tls.csr
            printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > ext
            openssl x509 -req -days 2 -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext -out tls.crt"
        );
        let made = Command::new("sh")
            .args(["-c", &script])
            .current_dir(authority.folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        authority
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    /// Takes files of another one in the place of its own.
    pub(crate) fn takes(&self, files: &[&str], other: &Self) {
        for file in files {
            std::fs::copy(other.path(file), self.path(file)).unwrap();
        }
    }

    pub(crate) fn certificate(&self) -> Result<PushCertificate, TlsError> {
        PushCertificate::open(self.path("tls.crt"), self.path("tls.key"))
    }
}

fn told<T>(result: Result<T, TlsError>) -> String {
    error_chain(&result.err().expect("a refusal"))
}

#[test]
fn a_certificate_is_refused_with_what_is_wrong_and_where() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let [certificate, key] = ["tls.crt", "tls.key"].map(|file| own.path(file));
    let open = |certificate: &Path, key: &Path| {
        told(PushCertificate::open(certificate.into(), key.into()))
    };
    let of_other = other.path("tls.key");
    let cases = [
        (
            open(&own.path("none"), &key),
            format!(
                "failed to read {}: No such file",
                own.path("none").display()
            ),
        ),
        (
            open(&key, &key),
            format!("{} holds no certificate in PEM", key.display()),
        ),
        (
            open(&certificate, &certificate),
            format!("failed to read {} as PEM: ", certificate.display()),
        ),
        (
            open(&certificate, &of_other),
            format!(
                "failed to use certificate {} with key {}: ",
                certificate.display(),
                of_other.display()
            ),
        ),
    ];
    for (found, expected) in cases {
        assert!(found.starts_with(&expected), "{found}\n{expected}");
    }
    std::fs::write(&certificate, own.text("tls.crt").replace("-----END", "---")).unwrap();
    let cut = format!("failed to read {} as PEM: ", certificate.display());
    let found = open(&certificate, &key);
    assert!(found.starts_with(&cut), "{found}");
}

#[test]
fn the_pair_is_changed_as_a_whole_and_trouble_passes() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let certificate = own.certificate().unwrap();
    let first = certificate.current();
    assert_eq!(certificate.read_again(), Ok(()));
    assert!(Arc::ptr_eq(&first, &certificate.current()));

    // Between the writing of the one and of the other.
    own.takes(&["tls.crt"], &other);
    let trouble = certificate.read_again().unwrap_err();
    assert!(
        trouble.starts_with("failed to use certificate "),
        "{trouble}"
    );
    assert!(Arc::ptr_eq(&first, &certificate.current()));
    own.takes(&["tls.key"], &other);
    assert_eq!(certificate.read_again(), Ok(()));
    let second = certificate.current();
    assert!(!Arc::ptr_eq(&first, &second));

    std::fs::remove_file(own.path("tls.key")).unwrap();
    let trouble = certificate.read_again().unwrap_err();
    assert!(trouble.starts_with("failed to read "), "{trouble}");
    own.takes(&["tls.key"], &other);
    assert_eq!(certificate.read_again(), Ok(()));
    assert!(Arc::ptr_eq(&second, &certificate.current()));
}

#[test]
fn of_the_file_of_the_ca_only_certificates_are_passed_on() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let path = own.path("bundle");
    let bundle = format!(
        "subject=/CN=own\r\n{}{}\n{}",
        own.text("ca.key"),
        own.text("ca.crt").replace('\n', "\r\n"),
        other.text("ca.crt")
    );
    std::fs::write(&path, bundle).unwrap();
    let ca = PushCa::open(path.clone()).unwrap();
    assert_eq!(*ca.current(), own.text("ca.crt") + &other.text("ca.crt"));

    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        ca.read_again().unwrap_err()
    };
    let none = refused(&own.text("ca.key"));
    assert!(none.ends_with("holds no certificate in PEM"), "{none}");
    let many = refused(&own.text("ca.crt").repeat(200));
    assert!(many.ends_with("workers can be given 65536"), "{many}");
    let other_thing = format!("{BEGIN}\nAAAA\n{END}\n");
    let other_thing = refused(&other_thing);
    assert!(other_thing.contains("as that of a CA"), "{other_thing}");
    assert_eq!(*ca.current(), own.text("ca.crt") + &other.text("ca.crt"));
}

#[tokio::test]
async fn the_page_tells_whether_the_files_are_in_use() {
    let own = Authority::new("own");
    let certificate = Arc::new(own.certificate().unwrap());
    for (text, value) in [(own.text("tls.key"), 1), ("nothing of the kind".into(), 0)] {
        std::fs::write(own.path("tls.key"), text).unwrap();
        let exporter = Exporter::new(Box::new(Default::default), 1);
        let stop = CancellationToken::new();
        stop.cancel();
        // Looks before it waits.
        certificate.clone().follow(exporter.clone(), stop).await;
        let page = exporter.page(Format::Text).await;
        let line =
            format!("kafka_backup_operator_push_tls_current{{files=\"certificate\"}} {value}\n");
        let text = String::from_utf8_lossy(&page.text);
        assert!(text.contains(&line), "{text}");
    }
}
