//! The documents: tables that are made from the CRDs, and whether YAML, command lines and links hold.
//! `every_yaml_block_is_taken_by_the_api_server` needs `cargo lab up` and the installed operator, the others need no lab.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;
use golden::{assert_golden_part, read, root};
use kafka_backup_tests::lab::{Lab, LabError};
use kafka_backup_tests::operator;
use kafka_backup_worker::args::Cli;
use serde_json::{Value, json};

const NAMESPACE: &str = "t-docs";
const KINDS: &str = "docs/kinds.md";
const INDEX: &str = "docs/README.md";

/// Blocks that have a table of their own, and where they stand in the spec of a KafkaBackup. A kind that has the very same block
/// only names it.
const SHARED: [(&str, &str); 7] = [
    ("azure", "/properties/storage/properties/azure"),
    ("cluster", "/properties/kafkaCluster"),
    ("gcs", "/properties/storage/properties/gcs"),
    ("job", "/properties/job"),
    ("podTemplate", "/properties/podTemplate"),
    ("pvc", "/properties/storage/properties/pvc"),
    ("s3", "/properties/storage/properties/s3"),
];

/// What is Kubernetes' own, or the controller's bookkeeping: named, and not told in full.
const CLOSED: [&str; 18] = [
    "affinity",
    "conditions",
    "dnsConfig",
    "env",
    "hostAliases",
    "imagePullSecrets",
    "resources",
    "securityContext",
    "tolerations",
    "topologySpreadConstraints",
    "totals",
    "volumeMounts",
    "volumes[].configMap",
    "volumes[].csi",
    "volumes[].emptyDir",
    "volumes[].persistentVolumeClaim",
    "volumes[].projected",
    "volumes[].secret",
];

/// Spec and status of each kind.
fn crds() -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&read("manifests/crds.yaml")).unwrap();
    let crds = documents
        .into_iter()
        .filter(|document| document["kind"] == "CustomResourceDefinition");
    crds.map(|crd| {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        (kind, schema["properties"].clone())
    })
    .collect()
}

fn table(schema: &Value, shared: &BTreeMap<&str, Value>) -> String {
    let mut text = String::from("| path | type | default | description |\n|---|---|---|---|\n");
    add_rows("", schema, shared, &mut text);
    text
}

/// A row for each field of `schema`, which stands at `path`, and for what is in it.
fn add_rows(path: &str, schema: &Value, shared: &BTreeMap<&str, Value>, text: &mut String) {
    let required = schema["required"].as_array().into_iter().flatten();
    let required: BTreeSet<&str> = required.filter_map(Value::as_str).collect();
    let fields = schema["properties"].as_object().into_iter().flatten();
    // Whatever order the map has.
    let fields: BTreeMap<&String, &Value> = fields.collect();
    for (name, field) in fields {
        let path = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let fields = &field["properties"];
        let block = shared
            .iter()
            .find(|(_, block)| fields.is_object() && block["properties"] == *fields);
        let kind = match block {
            Some((name, _)) => format!("[{name}](#block-{})", name.to_lowercase()),
            None => type_of(field),
        };
        let default = default_of(field, required.contains(name.as_str()));
        let says = field["description"].as_str().unwrap_or_default();
        let says: Vec<&str> = says.split_whitespace().collect();
        let says = says.join(" ").replace('|', "\\|");
        text.push_str(&format!("| `{path}` | {kind} | {default} | {says} |\n"));
        if block.is_some() || CLOSED.contains(&path.as_str()) {
            continue;
        }
        add_rows(&path, field, shared, text);
        add_rows(&format!("{path}[]"), &field["items"], shared, text);
        let values = &field["additionalProperties"];
        add_rows(&format!("{path}.*"), values, shared, text);
    }
}

fn type_of(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str);
        let values: Vec<String> = values.map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    match field["type"].as_str().unwrap_or_default() {
        "array" => format!("list of {}", many(&field["items"])),
        "object" if field["additionalProperties"].is_object() => {
            format!("map of {}", many(&field["additionalProperties"]))
        }
        "object" => "block".to_owned(),
        "string" if field["format"] == "date-time" => "time".to_owned(),
        "integer" => integer(field),
        other => other.to_owned(),
    }
}

fn many(schema: &Value) -> String {
    match schema["type"].as_str().unwrap_or_default() {
        "array" => format!("lists of {}", many(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("maps of {}", many(&schema["additionalProperties"]))
        }
        "object" => "blocks".to_owned(),
        other => format!("{other}s"),
    }
}

fn integer(field: &Value) -> String {
    let bounds = (field["minimum"].as_f64(), field["maximum"].as_f64());
    match bounds {
        (Some(min), Some(max)) => format!("integer, {min} to {max}"),
        (Some(min), None) => format!("integer, at least {min}"),
        (None, Some(max)) => format!("integer, at most {max}"),
        (None, None) => "integer".to_owned(),
    }
}

fn default_of(field: &Value, is_required: bool) -> String {
    match &field["default"] {
        Value::Null if is_required => "*required*".to_owned(),
        // That of a block is made of those of its fields.
        Value::Null | Value::Object(_) => String::new(),
        Value::String(text) => format!("`{text}`"),
        value @ (Value::Bool(_) | Value::Number(_) | Value::Array(_)) => format!("`{value}`"),
    }
}

#[test]
fn field_tables_are_those_of_the_crds() {
    let crds = crds();
    assert_eq!(crds.len(), 4, "{:?}", crds.keys());
    let spec = &crds["KafkaBackup"]["spec"];
    let shared = SHARED.map(|(name, place)| (name, spec.pointer(place).expect(place).clone()));
    let shared = BTreeMap::from(shared);
    let keep = |what: &str, schema: &Value| {
        let begin = format!("<!-- {what} -->\n");
        let text = table(schema, &shared);
        assert_golden_part(KINDS, &begin, "<!-- end -->\n", &text);
    };
    for (kind, schema) in &crds {
        keep(&format!("fields {kind}"), &schema["spec"]);
        keep(&format!("status {kind}"), &schema["status"]);
    }
    for (name, schema) in &shared {
        keep(&format!("fields {name}"), schema);
    }
}

/// A fenced block.
struct Block {
    /// File and line.
    place: String,
    /// What stands behind the fence.
    info: String,
    text: String,
}

/// What a document is made of.
#[derive(Default)]
struct Document {
    blocks: Vec<Block>,
    /// Numbered lines outside of blocks.
    prose: Vec<(usize, String)>,
}

fn parse(path: &Path) -> Document {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut document = Document::default();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, open.take()) {
            (Some(_), Some(block)) => document.blocks.push(block),
            (Some(info), None) => {
                open = Some(Block {
                    place: format!("{}:{}", path.display(), index + 1),
                    info: info.trim().to_owned(),
                    text: String::new(),
                });
            }
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => document.prose.push((index + 1, line.to_owned())),
        }
    }
    assert!(open.is_none(), "{}: a block has no end", path.display());
    document
}

/// The documents in `docs/`.
fn docs() -> Vec<PathBuf> {
    let files = std::fs::read_dir(root().join("docs")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let is_document = |path: &PathBuf| path.extension().is_some_and(|name| name == "md");
    let mut files: Vec<PathBuf> = files.filter(is_document).collect();
    files.sort();
    assert!(files.len() > 15, "{files:?}");
    files
}

/// Those, and the ones at the root.
fn all() -> Vec<PathBuf> {
    let own = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    own.into_iter().chain(docs()).collect()
}

fn blocks() -> Vec<Block> {
    all().iter().flat_map(|path| parse(path).blocks).collect()
}

/// What stands in place of what a block does not say that is only a part of a spec.
fn minimal(kind: &str) -> Value {
    let cluster = json!({"bootstrapServers": ["kafka:9092"]});
    let storage = json!({"storageType": "s3", "s3": {"bucket": "backups"}});
    match kind {
        "KafkaBackup" => {
            json!({"schedule": "0 2 * * *", "kafkaCluster": cluster, "topics": ["orders"], "storage": storage})
        }
        "KafkaRestore" => {
            json!({"backupId": "latest", "targetCluster": cluster, "topics": ["orders"], "storage": storage})
        }
        "KafkaOffsetReset" => {
            json!({"kafkaCluster": cluster, "consumerGroups": ["billing"], "strategy": "earliest"})
        }
        "KafkaOffsetRollback" => {
            json!({"kafkaCluster": cluster, "operation": "rollback", "snapshotId": "before"})
        }
        other => panic!("{other} is none of our kinds"),
    }
}

/// The kind that the block's info string names, else the first one that has all of its fields.
fn kind_of(block: &Block, spec: &Value, crds: &BTreeMap<String, Value>) -> String {
    if let Some(kind) = block.info.split_whitespace().nth(1) {
        return kind.to_owned();
    }
    let written = spec.as_object().expect("a spec is a block of fields");
    let has_all = |schema: &Value| {
        let fields = &schema["spec"]["properties"];
        written.keys().all(|name| fields.get(name).is_some())
    };
    let found = crds.iter().find(|(_, schema)| has_all(schema));
    let (kind, _) = found.unwrap_or_else(|| panic!("{}: the spec of no kind", block.place));
    kind.clone()
}

fn completed(block: &Block, partial: &Value, crds: &BTreeMap<String, Value>) -> Value {
    let written = &partial["spec"];
    let kind = kind_of(block, written, crds);
    let mut spec = minimal(&kind);
    let fields = spec.as_object_mut().unwrap();
    if written.get("backupRef").is_some() {
        fields.remove("backupId");
        fields.remove("storage");
    }
    for (name, value) in written.as_object().into_iter().flatten() {
        fields.insert(name.clone(), value.clone());
    }
    json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind,
        "metadata": {"name": "partial"}, "spec": spec
    })
}

/// The objects of a block, all in the tests' namespace; none of a block that is something else.
fn objects(block: &Block, crds: &BTreeMap<String, Value>) -> Vec<Value> {
    let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple(&block.text);
    let documents = documents.unwrap_or_else(|error| panic!("{}: {error}", block.place));
    let mut objects = Vec::new();
    for document in documents {
        let mut object = match (document.get("kind"), document.get("spec")) {
            (Some(_), _) => document,
            (None, Some(_)) => completed(block, &document, crds),
            (None, None) => continue,
        };
        let is_of_cluster = ["Namespace", "ClusterRole", "ClusterRoleBinding"]
            .iter()
            .any(|kind| object["kind"] == *kind);
        if !is_of_cluster {
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
        objects.push(object);
    }
    objects
}

#[test]
fn every_yaml_block_is_taken_by_the_api_server() {
    let lab = Lab::open().unwrap();
    operator::fresh_namespace(&lab, NAMESPACE).unwrap();
    let crds = crds();
    let (mut wrong, mut taken) = (Vec::new(), 0);
    let blocks = blocks();
    let is_yaml = |block: &&Block| block.info.split_whitespace().next() == Some("yaml");
    for block in blocks.iter().filter(is_yaml) {
        let objects = objects(block, &crds);
        if objects.is_empty() {
            continue;
        }
        let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
        let text = texts.join("\n---\n");
        let file = lab.write_private("applied/docs.yaml", &text).unwrap();
        let file = file.display().to_string();
        let args = ["apply", "--server-side", "--force-conflicts"];
        let args = [&args[..], &["--dry-run=server", "-f", file.as_str()]].concat();
        match operator::kubectl(&lab, &args) {
            Ok(_) => taken += 1,
            Err(LabError::Program { output, .. }) => {
                wrong.push(format!("{}: {output}", block.place));
            }
            Err(other) => panic!("{}: {other}", block.place),
        }
    }
    operator::kubectl(&lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(taken > 30, "{taken}");
}

/// The words that a shell makes of a line, up to what ends the command.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                // Also of nothing between the marks.
                word = Some(word.take().unwrap_or_default());
            }
            (None, '|' | '>' | ';' | '&') => break,
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn words_are_those_of_a_shell() {
    let cases: [(&str, &[&str]); 5] = [
        ("a  b 'c d' \"e \\\" f\"", &["a", "b", "c d", "e \" f"]),
        ("a --topics '*' | less", &["a", "--topics", "*"]),
        ("a b#c # d", &["a", "b#c"]),
        ("a '' \"\"", &["a", "", ""]),
        ("a b\\ c 'd'e", &["a", "b c", "de"]),
    ];
    for (line, expected) in cases {
        assert_eq!(words(line), expected, "{line}");
    }
}

#[test]
fn every_command_line_is_one_that_the_worker_parses() {
    let (mut wrong, mut parsed) = (Vec::new(), 0);
    for block in blocks() {
        let text = block.text.replace("\\\n", " ");
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| line.starts_with("kafka-backup-worker ")) {
            let is_help = |kind| matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            match Cli::try_parse_from(words(line)) {
                Ok(_) => parsed += 1,
                Err(error) if is_help(error.kind()) => parsed += 1,
                Err(error) => wrong.push(format!("{}: {line}\n{error}", block.place)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed > 30, "{parsed}");
}

/// Targets of the links in a line; what stands in backticks is none.
fn links(line: &str) -> Vec<String> {
    let outside: Vec<&str> = line.split('`').step_by(2).collect();
    let text = outside.join("");
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(path: &Path) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in parse(path).prose {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let title = title.trim().to_lowercase().replace(' ', "-");
        let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_');
        let slug: String = title.chars().filter(is_kept).collect();
        let times = seen.entry(slug.clone()).or_default();
        anchors.insert(match *times {
            0 => slug,
            times => format!("{slug}-{times}"),
        });
        *times += 1;
    }
    anchors
}

#[test]
fn every_link_leads_somewhere() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    for path in all() {
        for (number, line) in parse(&path).prose {
            for link in links(&line) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                found += 1;
                let (file, anchor) = match link.split_once('#') {
                    Some((file, anchor)) => (file, Some(anchor)),
                    None => (link.as_str(), None),
                };
                let target = match file {
                    "" => path.clone(),
                    file => path.parent().unwrap().join(file),
                };
                let is_there = target.exists()
                    && anchor.is_none_or(|anchor| anchors(&target).contains(anchor));
                if !is_there {
                    wrong.push(format!("{}:{number}: {link}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(found > 50, "{found}");
}

#[test]
fn the_index_names_every_document() {
    let index = parse(&root().join(INDEX)).prose;
    let named: BTreeSet<String> = index.iter().flat_map(|(_, line)| links(line)).collect();
    for path in docs() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_named = name == "README.md" || named.contains(&name);
        assert!(is_named, "{INDEX} does not name {name}");
    }
}
