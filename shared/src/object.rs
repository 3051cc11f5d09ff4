//! Reads an object as the API server would admit it.
//!
//! The worker's command line and the controller's `render` take files that no API server has seen. They are held against the
//! schema of the custom resource itself, so that a file is refused for exactly what admission would refuse it for, and an
//! enum or a range is not written a second time.
//!
//! # Guarantees
//! - An unknown field, an unknown enum value, a missing field, a wrong type, a value out of range: each is an error that names
//!   field, expected and found. All of them are told at once.
//! - CEL rules and patterns are not interpreted here: their like stands in [`crate::plan`], whose functions come next.
//!
//! # Assumptions
//! - The schema is structural, as Kubernetes wants it: no `anyOf`, no `$ref`. A test holds the list of keywords.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{CustomResourceExt, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crd::{
    GROUP, KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore, VERSION,
};
use crate::plan::{self, Plan, Referenced, SpecError};
use crate::schedule::Schedule;
use crate::spec::is_dns_label;

/// An object of one of our kinds.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A `KafkaBackup`.
    Backup(Box<KafkaBackup>),
    /// A `KafkaRestore`.
    Restore(Box<KafkaRestore>),
    /// A `KafkaOffsetReset`.
    OffsetReset(Box<KafkaOffsetReset>),
    /// A `KafkaOffsetRollback`.
    OffsetRollback(Box<KafkaOffsetRollback>),
}

/// The kinds, for messages.
pub const KINDS: &str = "KafkaBackup, KafkaRestore, KafkaOffsetReset or KafkaOffsetRollback";

impl Object {
    /// `metadata.name`.
    pub fn name(&self) -> String {
        match self {
            Self::Backup(object) => object.name_any(),
            Self::Restore(object) => object.name_any(),
            Self::OffsetReset(object) => object.name_any(),
            Self::OffsetRollback(object) => object.name_any(),
        }
    }

    /// `metadata.namespace`; `default` where it has none.
    pub fn namespace(&self) -> String {
        match self {
            Self::Backup(object) => plan::namespace(&**object),
            Self::Restore(object) => plan::namespace(&**object),
            Self::OffsetReset(object) => plan::namespace(&**object),
            Self::OffsetRollback(object) => plan::namespace(&**object),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backup(_) => "KafkaBackup",
            Self::Restore(_) => "KafkaRestore",
            Self::OffsetReset(_) => "KafkaOffsetReset",
            Self::OffsetRollback(_) => "KafkaOffsetRollback",
        }
    }

    /// Kind and name of the object of its namespace that it refers to.
    pub fn reference(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Restore(object) => {
                let reference = object.spec.backup_ref.as_ref()?;
                Some(("KafkaBackup", &reference.name))
            }
            Self::OffsetReset(object) => {
                let reference = object.spec.restore_ref.as_ref()?;
                Some(("KafkaRestore", &reference.name))
            }
            Self::Backup(_) | Self::OffsetRollback(_) => None,
        }
    }

    /// What it refers to, of the objects that lie beside it.
    pub fn referenced(&self, beside: &[Object]) -> Referenced {
        let mut referenced = Referenced::default();
        let mut from = self;
        while let Some((kind, name)) = from.reference() {
            let mut near = beside
                .iter()
                .filter(|other| other.namespace() == self.namespace());
            let named = near.find(|other| other.kind() == kind && other.name() == name);
            let Some(found) = named else { break };
            match found {
                Self::Backup(backup) => referenced.backup = Some(KafkaBackup::clone(backup)),
                Self::Restore(restore) => referenced.restore = Some(KafkaRestore::clone(restore)),
                Self::OffsetReset(_) | Self::OffsetRollback(_) => {}
            }
            from = found;
        }
        referenced
    }

    /// The plan of its run with the id `run`; what it refers to lies `beside` it.
    ///
    /// # Errors
    /// [`SpecError`] names the field that cannot be obeyed.
    pub fn plan(&self, run: &str, beside: &[Object]) -> Result<Plan, SpecError> {
        match self {
            Self::Backup(object) => plan::backup(object, run),
            Self::Restore(object) => plan::restore(object, &self.referenced(beside), run),
            Self::OffsetReset(object) => plan::offset_reset(object, &self.referenced(beside), run),
            Self::OffsetRollback(object) => plan::offset_rollback(object, run),
        }
    }
}

/// Whether `value` claims to be of our group, whatever its kind and version.
pub fn is_ours(value: &Value) -> bool {
    value["apiVersion"]
        .as_str()
        .is_some_and(|version| version == GROUP || version.starts_with(&format!("{GROUP}/")))
}

/// Reads an object.
///
/// # Errors
/// Every [`SpecError`] that was found, at least one.
pub fn read(value: &Value) -> Result<Object, Vec<SpecError>> {
    let version = format!("{GROUP}/{VERSION}");
    if value["apiVersion"] != version.as_str() {
        return Err(vec![SpecError::new(
            "apiVersion",
            version,
            shown(&value["apiVersion"]),
        )]);
    }
    let object = match value["kind"].as_str() {
        Some("KafkaBackup") => Object::Backup(Box::new(read_as(value)?)),
        Some("KafkaRestore") => Object::Restore(Box::new(read_as(value)?)),
        Some("KafkaOffsetReset") => Object::OffsetReset(Box::new(read_as(value)?)),
        Some("KafkaOffsetRollback") => Object::OffsetRollback(Box::new(read_as(value)?)),
        Some(_) | None => {
            let found = shown(&value["kind"]);
            return Err(vec![SpecError::new("kind", KINDS, found)]);
        }
    };
    check_schedule(&object).map_err(|error| vec![error])?;
    Ok(object)
}

fn check_schedule(object: &Object) -> Result<(), SpecError> {
    let Object::Backup(backup) = object else {
        return Ok(());
    };
    if let Some(schedule) = &backup.spec.schedule {
        Schedule::parse(schedule, backup.spec.time_zone.as_deref())?;
    }
    Ok(())
}

fn read_as<K: CustomResourceExt + DeserializeOwned>(value: &Value) -> Result<K, Vec<SpecError>> {
    let mut errors = Vec::new();
    check_metadata(&value["metadata"], &mut errors);
    let crd = serde_json::to_value(K::crd()).expect("a CRD has only string keys");
    let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
    // The API server adds these three to every custom resource; the status is not the user's to write, and is not read.
    for (field, kind) in [
        ("apiVersion", "string"),
        ("kind", "string"),
        ("metadata", "object"),
    ] {
        schema["properties"][field] = serde_json::json!({ "type": kind });
    }
    schema["properties"]["status"] = serde_json::json!({});
    check("", value, &schema, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut value = value.clone();
    if let Value::Object(fields) = &mut value {
        fields.remove("status");
    }
    serde_json::from_value(value).map_err(|error| {
        vec![SpecError::new(
            "spec",
            "what the custom resource's schema describes",
            error.to_string(),
        )]
    })
}

/// The schema says nothing of metadata; the API server knows it by heart.
fn check_metadata(metadata: &Value, errors: &mut Vec<SpecError>) {
    let parsed = match serde_json::from_value::<ObjectMeta>(metadata.clone()) {
        Ok(parsed) => parsed,
        Err(error) => {
            errors.push(SpecError::new(
                "metadata",
                "an object's metadata",
                error.to_string(),
            ));
            return;
        }
    };
    // Every field of ObjectMeta is optional: what it knows comes back, what it does not know is gone.
    let known = serde_json::to_value(&parsed).expect("metadata has only string keys");
    for (field, value) in metadata.as_object().into_iter().flatten() {
        if known.get(field).is_none() && !value.is_null() {
            errors.push(SpecError::new(
                format!("metadata.{field}"),
                "a field of metadata",
                "an unknown field",
            ));
        }
    }
    let name = parsed.name.unwrap_or_default();
    if !is_dns_name(&name) {
        errors.push(SpecError::new(
            "metadata.name",
            "1 to 253 of a-z 0-9 - . (a DNS name)",
            if metadata["name"].is_null() {
                "nothing".into()
            } else {
                shown(&metadata["name"])
            },
        ));
    }
    if parsed
        .namespace
        .as_deref()
        .is_some_and(|namespace| !is_dns_label(namespace))
    {
        let found = shown(&metadata["namespace"]);
        errors.push(SpecError::new(
            "metadata.namespace",
            "1 to 63 of a-z 0-9 -",
            found,
        ));
    }
}

/// RFC 1123 subdomain. Kubernetes bounds the whole name, and none of its labels.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Holds `value` at `path` against a structural schema.
fn check(path: &str, value: &Value, schema: &Value, errors: &mut Vec<SpecError>) {
    let mut refuse = |expected: String| errors.push(SpecError::new(path, expected, shown(value)));
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_i64() && !value.is_string() {
            refuse("a string or a whole number".into());
        }
        return;
    }
    let Some(kind) = schema["type"].as_str() else {
        return;
    };
    if !is_of_type(value, kind) {
        return refuse(named(kind).into());
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        return refuse(one_of(&allowed));
    }
    if let Some(expected) = out_of_bounds(value, schema) {
        return refuse(expected);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&format!("{path}[{index}]"), item, &schema["items"], errors);
    }
    if let Some(fields) = value.as_object() {
        check_fields(path, fields, schema, errors);
    }
}

fn check_fields(
    path: &str,
    fields: &serde_json::Map<String, Value>,
    schema: &Value,
    errors: &mut Vec<SpecError>,
) {
    let at = |field: &str| {
        if path.is_empty() {
            field.to_owned()
        } else {
            format!("{path}.{field}")
        }
    };
    let properties = schema["properties"].as_object();
    for (field, value) in fields {
        if let Some(known) = properties.and_then(|known| known.get(field)) {
            check(&at(field), value, known, errors);
        } else if schema["additionalProperties"].is_object() {
            check(&at(field), value, &schema["additionalProperties"], errors);
        } else if let Some(known) = properties {
            let known: Vec<String> = known.keys().cloned().collect();
            errors.push(SpecError::new(
                at(field),
                one_of(&known),
                "an unknown field",
            ));
        }
    }
    for field in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(field) {
            let expected = properties
                .and_then(|known| known.get(field)?["type"].as_str())
                .map_or("a value", named);
            errors.push(SpecError::new(
                at(field),
                expected,
                "nothing (it is required)",
            ));
        }
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    }
}

fn named(kind: &str) -> &'static str {
    match kind {
        "object" => "a block of fields",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

/// What the bounds of `schema` want, where `value` breaks one.
fn out_of_bounds(value: &Value, schema: &Value) -> Option<String> {
    let (size, keys, unit) = match value {
        Value::String(text) => (
            text.chars().count() as f64,
            ["minLength", "maxLength"],
            " characters",
        ),
        Value::Array(items) => (items.len() as f64, ["minItems", "maxItems"], " entries"),
        Value::Number(number) => (number.as_f64()?, ["minimum", "maximum"], ""),
        Value::Object(fields) => (
            fields.len() as f64,
            ["minProperties", "maxProperties"],
            " fields",
        ),
        Value::Null | Value::Bool(_) => return None,
    };
    let [min, max] = keys.map(|key| schema[key].as_f64());
    let inside = min.is_none_or(|min| size >= min) && max.is_none_or(|max| size <= max);
    if inside {
        return None;
    }
    Some(match (min, max) {
        (Some(min), Some(max)) => format!("{min} to {max}{unit}"),
        (Some(min), None) => format!("at least {min}{unit}"),
        (None, max) => format!("at most {}{unit}", max.unwrap_or_default()),
    })
}

fn one_of(words: &[String]) -> String {
    match words {
        [] => "no field".into(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// A value as it is shown in an error: short, and never a whole block, which may hold what nobody should see in a log.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Array(items) if items.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a block of fields".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().count() > 80 => {
            format!(
                "{:?}",
                text.chars().take(79).chain(['…']).collect::<String>()
            )
        }
        Value::String(text) => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn example() -> Value {
        json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {
                "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
                "topics": ["orders*"],
                "storage": {"storageType": "s3", "s3": {"bucket": "backups"}},
                "resources": {"requests": {"cpu": 1, "memory": "256Mi"}},
            }
        })
    }

    /// Sets the field at a dotted path; `null` takes it away.
    fn set(object: &mut Value, path: &str, value: Value) {
        let pointer = format!("/{}", path.replace('.', "/"));
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let fields = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(field);
            return;
        }
        fields.insert(field.into(), value);
    }

    fn errors_with(path: &str, value: Value) -> Vec<SpecError> {
        let mut object = example();
        set(&mut object, path, value);
        read(&object).expect_err(path)
    }

    #[test]
    fn what_admission_takes_is_taken() {
        let object = read(&example()).unwrap();
        assert_eq!(object.name(), "orders");
        assert_eq!(
            object.plan("orders-1", &[]).unwrap().run().namespace,
            "shop"
        );
    }

    #[test]
    fn what_is_read_from_a_cluster_is_taken_with_its_status() {
        let mut object = example();
        object["status"] = json!({"phase": "SomethingNewer"});
        object["metadata"]["managedFields"] = json!([]);
        object["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
        read(&object).unwrap();
    }

    #[test]
    fn what_admission_refuses_is_refused_by_name() {
        let cases = [
            (
                "apiVersion",
                json!("kafka-backup.dev/v9"),
                "apiVersion",
                "kafka-backup.dev/v1alpha1",
                "v9",
            ),
            ("kind", json!("KafkaCopy"), "kind", KINDS, "KafkaCopy"),
            (
                "spec.topcs",
                json!([]),
                "spec.topcs",
                "topics",
                "unknown field",
            ),
            (
                "spec.storage.s3.buckt",
                json!("b"),
                "spec.storage.s3.buckt",
                "bucket",
                "unknown field",
            ),
            (
                "metadata.labls",
                json!({}),
                "metadata.labls",
                "metadata",
                "unknown field",
            ),
            (
                "metadata.name",
                json!("Orders"),
                "metadata.name",
                "a-z",
                "Orders",
            ),
            (
                "metadata.name",
                json!(null),
                "metadata.name",
                "a-z",
                "nothing",
            ),
            (
                "spec.storage.storageType",
                json!("s4"),
                "spec.storage.storageType",
                "s3, azure, gcs or pvc",
                "s4",
            ),
            (
                "spec.isolationLevel",
                json!("committed"),
                "spec.isolationLevel",
                "read_committed",
                "committed",
            ),
            (
                "spec.kafkaCluster",
                json!(null),
                "spec.kafkaCluster",
                "block",
                "required",
            ),
            (
                "spec.kafkaCluster.bootstrapServers",
                json!("kafka:9092"),
                "spec.kafkaCluster.bootstrapServers",
                "list",
                "kafka",
            ),
            (
                "spec.topics",
                json!([]),
                "spec.topics",
                "at least 1",
                "empty",
            ),
            (
                "spec.topics",
                json!(["a", 5]),
                "spec.topics[1]",
                "string",
                "5",
            ),
            (
                "spec.checkpointIntervalSecs",
                json!(0),
                "spec.checkpointIntervalSecs",
                "1 to 3600",
                "0",
            ),
            (
                "spec.checkpointIntervalSecs",
                json!(1.5),
                "spec.checkpointIntervalSecs",
                "whole number",
                "1.5",
            ),
            (
                "spec.segmentMaxBytes",
                json!(7),
                "spec.segmentMaxBytes",
                "65536 to 1073741824",
                "7",
            ),
            (
                "spec.storage.s3.bucket",
                json!("b"),
                "spec.storage.s3.bucket",
                "3 to 63",
                "\"b\"",
            ),
            (
                "spec.suspend",
                json!("yes"),
                "spec.suspend",
                "true or false",
                "yes",
            ),
            (
                "spec.schedule",
                json!("every day"),
                "spec.schedule",
                "",
                "every day",
            ),
            (
                "spec.resources.limit",
                json!({}),
                "spec.resources.limit",
                "limits",
                "unknown field",
            ),
        ];
        for (path, value, field, expected, found) in cases {
            let errors = errors_with(path, value.clone());
            let error = errors
                .iter()
                .find(|e| e.field == field)
                .unwrap_or_else(|| panic!("{path} = {value}: {errors:?}"));
            assert!(
                error.expected.contains(expected),
                "{path} = {value}: {error}"
            );
            assert!(error.found.contains(found), "{path} = {value}: {error}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut object = example();
        set(&mut object, "spec.topcs", json!([]));
        set(&mut object, "spec.suspend", json!(1));
        set(&mut object, "spec.storage", json!(null));
        let fields: BTreeSet<String> = read(&object)
            .unwrap_err()
            .into_iter()
            .map(|e| e.field)
            .collect();
        assert_eq!(
            fields,
            BTreeSet::from(["spec.topcs", "spec.suspend", "spec.storage"].map(String::from))
        );
    }

    #[test]
    fn every_keyword_of_our_schemas_is_known_here() {
        const CHECKED: [&str; 15] = [
            "type",
            "properties",
            "required",
            "additionalProperties",
            "items",
            "enum",
            "nullable",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "maxProperties",
            "x-kubernetes-int-or-string",
        ];
        // Rules and patterns: crate::plan. Formats: the Rust type. The others are no constraints.
        const ELSEWHERE: [&str; 6] = [
            "x-kubernetes-validations",
            "pattern",
            "format",
            "default",
            "description",
            "title",
        ];
        fn walk(schema: &Value, keywords: &mut BTreeSet<String>) {
            keywords.extend(
                schema
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.clone()),
            );
            let children = [&schema["items"], &schema["additionalProperties"]];
            let properties = schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, property)| property);
            for child in children
                .into_iter()
                .filter(|child| child.is_object())
                .chain(properties)
            {
                walk(child, keywords);
            }
        }
        let mut keywords = BTreeSet::new();
        for crd in [KafkaBackup::crd(), KafkaRestore::crd()] {
            let crd = serde_json::to_value(crd).unwrap();
            walk(
                &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
                &mut keywords,
            );
        }
        let unknown: Vec<_> = keywords
            .iter()
            .filter(|key| !CHECKED.contains(&key.as_str()) && !ELSEWHERE.contains(&key.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
