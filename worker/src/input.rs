//! From what a user wrote, a file or flags, to the plan of one run.
//!
//! # Guarantees
//! - A file, flags and the controller make the same plan from the same object: see [`kafka_backup_shared::object`] and
//!   [`kafka_backup_shared::plan`].
//! - Nothing of the input is ignored: unknown fields and objects that cannot be meant are refused by name.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use kafka_backup_shared::object::{self, KINDS, Object};
use kafka_backup_shared::plan::{Plan, SpecError};
use kafka_backup_shared::report::Fault;
use serde_json::Value;

use crate::store::Places;

/// Input that no plan can be made from.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("failed to read {} as YAML", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// The plan of a Job is not what this release reads.
    #[error("failed to read the plan {} (are controller and worker of the same release?)", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no object of ours in the file.
    #[error("{}: expected a {KINDS}{}, found {found}", path.display(), named(.name.as_deref()))]
    NoObject {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        name: Option<String>,
        /// What is there.
        found: String,
    },
    /// There are several.
    #[error("{}: expected one {KINDS}, found {found}: choose one with --name [KIND/]NAME", path.display())]
    SeveralObjects {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The object is not one that the API server would admit.
    #[error("{origin}:{}", listed(.errors))]
    Invalid {
        /// File and object, or the command line.
        origin: String,
        /// All that is wrong.
        errors: Vec<SpecError>,
    },
    /// Nobody mounts a Secret at a terminal.
    #[error(
        "the Secret {secret:?} is needed: give --secrets-dir DIR, with the Secret's keys as files DIR/{secret}/<key>"
    )]
    SecretsDir {
        /// Name of the Secret.
        secret: String,
    },
    /// Nobody mounts a volume at a terminal.
    #[error(
        "spec.storage.pvc names the claim {claim:?}: give --volume-dir DIR, a folder in place of its volume"
    )]
    VolumeDir {
        /// Name of the claim.
        claim: String,
    },
}

impl InputError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            // The controller wrote it, not the user.
            Self::Plan { .. } => Fault::Bug,
            Self::Read { .. }
            | Self::Yaml { .. }
            | Self::NoObject { .. }
            | Self::SeveralObjects { .. }
            | Self::Invalid { .. }
            | Self::SecretsDir { .. }
            | Self::VolumeDir { .. } => Fault::Spec,
        }
    }
}

fn named(name: Option<&str>) -> String {
    name.map(|name| format!(" with the name {name:?}"))
        .unwrap_or_default()
}

/// One error on the same line, several each on its own.
fn listed(errors: &[SpecError]) -> String {
    match errors {
        [only] => format!(" {only}"),
        several => several.iter().map(|error| format!("\n  {error}")).collect(),
    }
}

/// Reads the plan of a Job.
///
/// # Errors
/// [`InputError`] names the file.
pub fn read_plan(path: &Path) -> Result<Plan, InputError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|source| InputError::Plan {
        path: path.into(),
        source,
    })
}

/// An object that a file or flags describe.
#[derive(Debug)]
pub struct Found {
    /// The one that is meant.
    pub object: Object,
    /// What it refers to, and what that refers to, as far as it is described too.
    beside: Vec<Object>,
    /// File and object, or the command line, for messages.
    origin: String,
}

impl Found {
    /// An object, and the one that it refers to.
    ///
    /// # Errors
    /// [`InputError::Invalid`] with all that is wrong.
    pub fn new(value: &Value, beside: Option<&Value>, origin: &str) -> Result<Self, InputError> {
        let read = |value| check(value, origin);
        Ok(Self {
            object: read(value)?,
            beside: beside.map(read).transpose()?.into_iter().collect(),
            origin: origin.into(),
        })
    }
}

/// Reads the object of a YAML (or JSON) file that may hold others; `-` is standard input.
///
/// # Errors
/// [`InputError`] names file, field, expected and found.
pub fn read_file(path: &Path, name: Option<&str>) -> Result<Found, InputError> {
    let text = read_text(path)?;
    pick(path, &text, name)
}

/// Reads a file, or standard input as `-`.
///
/// # Errors
/// [`InputError::Read`].
pub fn read_text(path: &Path) -> Result<String, InputError> {
    let failed = |source| InputError::Read {
        path: path.into(),
        source,
    };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// The one object that is meant in `text`.
fn pick(path: &Path, text: &str, name: Option<&str>) -> Result<Found, InputError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|source| InputError::Yaml {
            path: path.into(),
            source: Box::new(source),
        })?;
    let documents: Vec<Value> = documents
        .into_iter()
        .flat_map(items)
        .filter(|value| !value.is_null())
        .collect();
    let meant: Vec<&Value> = documents
        .iter()
        .filter(|value| is_ours(value))
        .filter(|value| name.is_none_or(|name| is_called(value, name)))
        .collect();
    match meant[..] {
        [value] => {
            let origin_of = |value| format!("{}, {}", path.display(), describe(value));
            let origin = origin_of(value);
            let object = check(value, &origin)?;
            let mut beside: Vec<Object> = Vec::new();
            while let Some((kind, name)) = beside.last().unwrap_or(&object).reference() {
                let is_near = |value: &&Value| {
                    let namespace = value["metadata"]["namespace"].as_str();
                    is_ours(value) && namespace.unwrap_or("default") == object.namespace()
                };
                let mut near = documents.iter().filter(is_near);
                let named =
                    near.find(|value| value["kind"] == kind && value["metadata"]["name"] == name);
                let Some(value) = named else { break };
                let referenced = check(value, &origin_of(value))?;
                beside.push(referenced);
            }
            Ok(Found {
                object,
                beside,
                origin,
            })
        }
        [] => Err(InputError::NoObject {
            path: path.into(),
            name: name.map(str::to_owned),
            found: enumerate(&documents.iter().collect::<Vec<_>>()),
        }),
        _ => Err(InputError::SeveralObjects {
            path: path.into(),
            found: enumerate(&meant),
        }),
    }
}

/// The objects of a document: `kubectl get -o yaml` of several makes a List.
pub fn items(mut document: Value) -> Vec<Value> {
    if document["kind"] != "List" {
        return vec![document];
    }
    match document["items"].take() {
        Value::Array(items) => items,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Vec::new()
        }
    }
}

/// By its name, or by kind and name as kubectl takes it.
fn is_called(value: &Value, name: &str) -> bool {
    let own = &value["metadata"]["name"];
    match name.split_once('/') {
        Some((kind, name)) => {
            let own_kind = value["kind"].as_str().unwrap_or_default();
            own_kind.eq_ignore_ascii_case(kind) && own == name
        }
        None => own == name,
    }
}

/// One with a mistaken apiVersion is meant too, and told so.
fn is_ours(value: &Value) -> bool {
    let kind = value["kind"].as_str();
    object::is_ours(value)
        || kind.is_some_and(|kind| KINDS.split([' ', ',']).any(|known| known == kind))
}

fn describe(value: &Value) -> String {
    let kind = value["kind"].as_str().unwrap_or("a document without kind");
    match value["metadata"]["name"].as_str() {
        Some(name) => format!("{kind} {name}"),
        None => kind.to_owned(),
    }
}

fn enumerate(values: &[&Value]) -> String {
    if values.is_empty() {
        return "nothing".into();
    }
    values
        .iter()
        .map(|value| describe(value))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads an object that flags or a file describe.
///
/// # Errors
/// [`InputError::Invalid`] with all that is wrong.
pub fn check(value: &Value, origin: &str) -> Result<Object, InputError> {
    object::read(value).map_err(|errors| InputError::Invalid {
        origin: origin.into(),
        errors,
    })
}

/// The plan of the object's run.
///
/// # Errors
/// [`InputError::Invalid`].
pub fn plan(found: &Found, run: &str) -> Result<Plan, InputError> {
    let plan = found.object.plan(run, &found.beside);
    plan.map_err(|error| InputError::Invalid {
        origin: found.origin.clone(),
        errors: vec![error],
    })
}

/// Whether there is a place for the Secrets that the object names.
///
/// # Errors
/// [`InputError`] names the flag that is missing.
pub fn check_secrets(plan: &Plan, places: &Places) -> Result<(), InputError> {
    match plan.secret_names().first() {
        Some(secret) if places.secrets_dir.as_os_str().is_empty() => Err(InputError::SecretsDir {
            secret: (*secret).to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Whether there are places for what the object only names.
///
/// # Errors
/// [`InputError`] names the flag that is missing.
pub fn check_places(plan: &Plan, places: &Places) -> Result<(), InputError> {
    check_secrets(plan, places)?;
    for storage in plan.storages() {
        if let Some(pvc) = &storage.pvc
            && places.volume_dir.is_none()
        {
            return Err(InputError::VolumeDir {
                claim: pvc.claim_name.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: &str = "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaBackup
metadata: {name: orders}
spec:
  kafkaCluster: {bootstrapServers: [kafka:9092]}
  topics: ['*']
  storage: {storageType: s3, s3: {bucket: backups}}
";
    const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\n";

    fn pick(text: &str, name: Option<&str>) -> Result<Object, String> {
        found(text, name).map(|found| found.object)
    }

    fn found(text: &str, name: Option<&str>) -> Result<Found, String> {
        super::pick(Path::new("x.yaml"), text, name).map_err(|error| error.to_string())
    }

    #[test]
    fn the_one_object_of_ours_is_meant() {
        let text = format!("---\n{SECRET}---\n{BACKUP}---\n");
        assert_eq!(pick(&text, None).unwrap().name(), "orders");
    }

    #[test]
    fn of_several_one_is_chosen_by_name() {
        let text = format!("{BACKUP}---\n{}", BACKUP.replace("orders", "payments"));
        let error = pick(&text, None).unwrap_err();
        assert!(
            error.contains("KafkaBackup orders, KafkaBackup payments") && error.contains("--name"),
            "{error}"
        );
        assert_eq!(pick(&text, Some("payments")).unwrap().name(), "payments");
        let error = pick(&text, Some("paymants")).unwrap_err();
        assert!(
            error.contains("\"paymants\"") && error.contains("KafkaBackup payments"),
            "{error}"
        );
    }

    #[test]
    fn a_file_without_ours_says_what_is_in_it() {
        let error = pick(SECRET, None).unwrap_err();
        assert!(
            error.contains("x.yaml") && error.contains("found Secret keys"),
            "{error}"
        );
        let error = pick("", None).unwrap_err();
        assert!(error.ends_with("found nothing"), "{error}");
    }

    #[test]
    fn a_list_as_kubectl_prints_it_is_looked_into() {
        let item = BACKUP.trim().replace('\n', "\n  ");
        let text = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n");
        assert_eq!(pick(&text, None).unwrap().name(), "orders");
    }

    #[test]
    fn an_unknown_field_is_refused_with_file_and_object() {
        let error = pick(&BACKUP.replace("topics", "topcs"), None).unwrap_err();
        assert!(
            error.starts_with("x.yaml, KafkaBackup orders:\n"),
            "{error}"
        );
        assert!(
            error.contains("spec.topcs: expected")
                && error.contains("spec.topics: expected a list"),
            "{error}"
        );
    }

    #[test]
    fn what_an_object_refers_to_is_found_in_the_same_file() {
        let restore = "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaRestore
metadata: {name: orders}
spec: {backupRef: {name: orders}, targetCluster: {bootstrapServers: [kafka:9092]}, topics: ['*']}
";
        let reset = "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaOffsetReset
metadata: {name: back}
spec:
  kafkaCluster: {bootstrapServers: [kafka:9092]}
  consumerGroups: [billing]
  strategy: fromRestore
  restoreRef: {name: orders}
";
        let all = format!("{BACKUP}---\n{restore}---\n{reset}");
        // Two have that name.
        assert!(pick(&all, Some("orders")).is_err());
        for (name, archive) in [
            ("kafkarestore/orders", "\"name\":\"orders\""),
            ("KafkaOffsetReset/back", "default.orders"),
            ("back", "default.orders"),
        ] {
            let found = found(&all, Some(name)).unwrap();
            let plan = plan(&found, "r").unwrap().to_json().unwrap();
            assert!(plan.contains(archive) && plan.contains("backups"), "{plan}");
        }
        // Without the other, and with one that cannot be read.
        let alone = found(restore, None).unwrap();
        let error = plan(&alone, "r").unwrap_err().to_string();
        assert!(error.contains("spec.backupRef.name: expected a KafkaBackup of namespace default in the cluster, or, by hand, in the same file"), "{error}");
        let broken = all.replace("topics: ['*']\n  storage", "topcs: ['*']\n  storage");
        let error = found(&broken, Some("back")).unwrap_err();
        assert!(
            error.starts_with("x.yaml, KafkaBackup orders:") && error.contains("spec.topcs"),
            "{error}"
        );
    }

    #[test]
    fn broken_yaml_says_where() {
        for text in ["a: [1", "a: b: c", "a: 1\na: 2"] {
            let error = super::pick(Path::new("x.yaml"), text, None).unwrap_err();
            let text = kafka_backup_shared::report::error_chain(&error);
            assert!(text.contains("x.yaml") && text.contains("line"), "{text}");
        }
    }

    #[test]
    fn a_rule_that_admission_has_in_cel_holds_here() {
        let found = found(&BACKUP.replace("storageType: s3", "storageType: pvc"), None).unwrap();
        let error = plan(&found, "r").unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        assert!(
            error
                .to_string()
                .contains("spec.storage: expected exactly the block spec.storage.pvc"),
            "{error}"
        );
    }
}
