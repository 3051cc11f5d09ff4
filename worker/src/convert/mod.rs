//! `convert`: manifests of OSO's kafka-backup operator (`kafka.oso.sh/v1alpha1`) as objects of ours, by the tables of
//! docs/migration.md.
//!
//! # Guarantees
//! - Nothing is dropped without a word: what has no counterpart becomes a note, and a field that is not known is an error by its path.
//! - What comes out can be applied: it is checked as `run -f` checks its file.

mod block;
mod kinds;
mod parts;
mod schedule;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use kafka_backup_shared::report::Fault;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::input::{self, Found, InputError};
use block::Block;
use kinds::{backup, offset_reset, offset_rollback, restore};

const GROUP: &str = "kafka.oso.sh/";

/// An object of ours, and what its reader should know.
#[derive(Debug, Serialize)]
pub struct Converted {
    /// The object.
    pub object: Value,
    /// Each begins with the path of a field of the original.
    pub notes: Vec<String>,
}

/// A manifest that cannot be taken over as it stands.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It is no YAML.
    #[error("failed to read the manifests as YAML")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// Nothing in it is theirs.
    #[error("expected objects of {GROUP}v1alpha1, found none")]
    Nothing,
    /// A kind without counterpart.
    #[error("{object}: there is no counterpart of this kind, see docs/migration.md")]
    Kind {
        /// Kind and name.
        object: String,
    },
    /// A field is not what it must be.
    #[error("{object}: {path}: expected {expected}, found {found}")]
    Field {
        /// Kind and name.
        object: String,
        /// Path of the field.
        path: String,
        /// What would be right.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// Fields of a release that is not known here, or mistakes.
    #[error("{object}: fields that are not known: {}", fields.join(", "))]
    Unknown {
        /// Kind and name.
        object: String,
        /// Their paths.
        fields: Vec<String>,
    },
    /// What came out cannot be meant.
    #[error("what was made of it is not valid")]
    Invalid(#[source] InputError),
}

impl ConvertError {
    /// What it means.
    pub fn fault(&self) -> Fault {
        Fault::Spec
    }
}

/// Converts all objects of theirs in a text of YAML documents; others are left out, and counted.
///
/// # Errors
/// The first object that cannot be taken over.
pub fn convert(text: &str) -> Result<(Vec<Converted>, usize), ConvertError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ConvertError::Yaml(Box::new(error)))?;
    let is_theirs = |object: &Value| {
        let version = object["apiVersion"].as_str();
        version.is_some_and(|version| version.starts_with(GROUP))
    };
    let items = documents.into_iter().flat_map(input::items);
    let (theirs, others): (Vec<Value>, Vec<Value>) = items.partition(is_theirs);
    if theirs.is_empty() {
        return Err(ConvertError::Nothing);
    }
    let others = others.iter().filter(|other| !other.is_null()).count();
    let converted: Result<Vec<Converted>, ConvertError> = theirs.into_iter().map(one).collect();
    Ok((converted?, others))
}

/// As YAML documents, the notes as comments above each.
pub fn show(converted: &[Converted]) -> String {
    let document = |one: &Converted| {
        let notes = one.notes.iter().map(|note| format!("# {note}\n"));
        let yaml = serde_saphyr::to_string(&one.object).expect("JSON is YAML");
        format!("---\n{}{yaml}", notes.collect::<String>())
    };
    converted.iter().map(document).collect()
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
fn one(object: Value) -> Result<Converted, ConvertError> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let notes = RefCell::new(Vec::new());
    let fields = match &object["spec"] {
        Value::Object(fields) => fields.clone(),
        _ => Map::new(),
    };
    let spec = Block {
        object: format!("{kind} {name}"),
        path: "spec".into(),
        fields,
        notes: &notes,
    };
    let spec = match &*kind {
        "KafkaBackup" => backup(spec)?,
        "KafkaRestore" => restore(spec, object["metadata"]["namespace"].as_str())?,
        "KafkaOffsetReset" => offset_reset(spec)?,
        "KafkaOffsetRollback" => offset_rollback(spec)?,
        _ => {
            let object = spec.object;
            return Err(ConvertError::Kind { object });
        }
    };
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels", "annotations"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        // The whole of the old object, which kubectl compares with.
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    let object = json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
    });
    let origin = format!("{kind} {name}, converted");
    let checked = input::check(&object, &origin).and_then(|_| {
        let whole = Found::new(&whole(&object), None, &origin)?;
        input::plan(&whole, "converted")
    });
    checked.map_err(ConvertError::Invalid)?;
    Ok(Converted {
        object,
        notes: notes.into_inner(),
    })
}

/// The object with stand-ins for what it refers to, which is not here: all else of it can then be held against the rules.
fn whole(object: &Value) -> Value {
    let mut whole = object.clone();
    if let Some(spec) = whole["spec"].as_object_mut() {
        if spec.remove("backupRef").is_some() {
            spec.insert("backupId".into(), "latest".into());
            let storage = json!({"storageType": "pvc", "pvc": {"claimName": "any"}});
            spec.insert("storage".into(), storage);
        }
        if spec.get("strategy") == Some(&json!("fromRestore"))
            && spec.remove("restoreRef").is_some()
        {
            spec.insert("strategy".into(), "earliest".into());
        }
    }
    whole
}
