//! `convert`: manifests of OSO's kafka-backup operator (`kafka.oso.sh/v1alpha1`) as objects of ours, by the tables of
//! docs/migration.md.
//!
//! # Guarantees
//! - Nothing is dropped without a word: what has no counterpart becomes a note, and a field that is not known is an error by its path.
//! - What comes out can be applied: it is checked as `run -f` checks its file.

use std::cell::RefCell;

use kafka_backup_shared::report::Fault;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::input::{self, Found, InputError};

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

/// A block of theirs, out of which one field after another is taken.
struct Block<'a> {
    object: String,
    path: String,
    fields: Map<String, Value>,
    notes: &'a RefCell<Vec<String>>,
}

impl<'a> Block<'a> {
    /// A field that says something: API servers return empty maps for those that were left out.
    fn take(&mut self, name: &str) -> Option<Value> {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        self.fields
            .remove(name)
            .filter(|value| !value.is_null() && !is_empty(value))
    }

    /// Fields that are the same here.
    fn same(&mut self, to: &mut Map<String, Value>, names: &[&str]) {
        for name in names {
            self.renamed(to, name, name);
        }
    }

    fn renamed(&mut self, to: &mut Map<String, Value>, theirs: &str, ours: &str) {
        if let Some(value) = self.take(theirs) {
            to.insert(ours.into(), value);
        }
    }

    /// Fields without counterpart.
    fn none(&mut self, names: &[&str], why: &str) {
        for name in names {
            if self.take(name).is_some() {
                self.note(name, why);
            }
        }
    }

    fn note(&self, name: &str, text: &str) {
        let note = format!("{}.{name}: {text}", self.path);
        self.notes.borrow_mut().push(note);
    }

    fn wrong(&self, name: &str, expected: &'static str, found: &Value) -> ConvertError {
        ConvertError::Field {
            object: self.object.clone(),
            path: format!("{}.{name}", self.path),
            expected,
            found: found.to_string(),
        }
    }

    fn block(&mut self, name: &str) -> Result<Option<Block<'a>>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Block {
                object: self.object.clone(),
                path: format!("{}.{name}", self.path),
                fields,
                notes: self.notes,
            })),
            Some(other) => Err(self.wrong(name, "a block", &other)),
        }
    }

    fn boolean(&mut self, name: &str) -> Result<Option<bool>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, ConvertError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.as_u64();
        number
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a number, 0 or more", &value))
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a text", &other)),
        }
    }

    /// A list of which an empty one means all.
    fn list(&mut self, name: &str) -> Option<Value> {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        self.take(name).filter(|value| !is_empty(value))
    }

    /// All of the block was taken, and `made` of it becomes a field of ours.
    fn becomes(
        self,
        ours: &mut Map<String, Value>,
        name: &str,
        made: Map<String, Value>,
    ) -> Result<(), ConvertError> {
        self.end()?;
        ours.insert(name.into(), made.into());
        Ok(())
    }

    /// All of the block was taken.
    fn end(self) -> Result<(), ConvertError> {
        if self.fields.is_empty() {
            return Ok(());
        }
        let path = |name: &String| format!("{}.{name}", self.path);
        Err(ConvertError::Unknown {
            fields: self.fields.keys().map(path).collect(),
            object: self.object,
        })
    }
}

type Spec = Result<Map<String, Value>, ConvertError>;

const NOTHING_TO_TUNE: &str = "left out, there is nothing to tune";
const METRICS: &str = "left out: the controller serves all metrics";
const REPEATED: &str = "left out: requests are repeated with growing pauses, then attempts by the Job (job.backoffLimit)";

fn backup(mut theirs: Block<'_>) -> Spec {
    let mut ours = Map::new();
    cluster(&mut theirs, &mut ours, "kafkaCluster")?;
    topics(&mut theirs, &mut ours);
    if let Some(line) = theirs.text("schedule")? {
        let (line, note) =
            schedule(&line).map_err(|expected| theirs.wrong("schedule", expected, &json!(line)))?;
        if let Some(note) = note {
            theirs.note("schedule", note);
        }
        ours.insert("schedule".into(), line.into());
    }
    if theirs.boolean("stopAtCurrentOffsets")? == Some(false) {
        theirs.note(
            "stopAtCurrentOffsets",
            "left out: a run ends where the partitions ended when it began",
        );
    }
    if theirs.boolean("continuous")? == Some(true) {
        theirs.note("continuous", "left out: give a schedule that runs often");
    }
    theirs.none(
        &["pollIntervalMs"],
        "left out: give a schedule that runs often",
    );
    let names = [
        "segmentMaxBytes",
        "includeOffsetHeaders",
        "sourceClusterId",
        "suspend",
    ];
    theirs.same(&mut ours, &names);
    if !ours.contains_key("includeOffsetHeaders") {
        theirs.note(
            "includeOffsetHeaders",
            "left out there it is true; here restores then add no headers",
        );
    }
    compression(&mut theirs, &mut ours)?;
    if let Some(mut checkpoint) = theirs.block("checkpoint")? {
        checkpoint.renamed(&mut ours, "intervalSecs", "checkpointIntervalSecs");
        if checkpoint.boolean("enabled")? == Some(false) {
            checkpoint.note(
                "enabled",
                "left out: what is durable is always gone on with",
            );
        }
        checkpoint.none(&["storage"], "left out: it is kept with the archive");
        checkpoint.end()?;
    }
    if let Some(millis) = theirs.number("segmentMaxIntervalMs")? {
        let seconds = millis.div_ceil(1000).max(1);
        match ours.contains_key("checkpointIntervalSecs") {
            true => theirs.note(
                "segmentMaxIntervalMs",
                "left out: checkpointIntervalSecs is the one interval here",
            ),
            false => drop(ours.insert("checkpointIntervalSecs".into(), seconds.into())),
        }
    }
    if !theirs.boolean("consumerGroupSnapshot")?.unwrap_or(false) {
        theirs.note(
            "consumerGroupSnapshot",
            "none are saved, as there; leave consumerGroups out to save all, which costs little",
        );
        ours.insert("consumerGroups".into(), json!([]));
    }
    rate(&mut theirs, &mut ours)?;
    if let Some(mut retention) = theirs.block("retention")? {
        let enabled = retention.boolean("enabled")?.unwrap_or(false);
        let mut kept = Map::new();
        let days = retention.number("maxAgeDays")?;
        match retention.take("keepLast") {
            // There the last ones stay whatever their age, and all others go.
            Some(last) => drop(kept.insert("backups".into(), last)),
            None => drop(days.map(|days| kept.insert("maxAge".into(), format!("{days}d").into()))),
        }
        if kept.contains_key("backups") && days.is_some() {
            retention.note("maxAgeDays", "left out beside keepLast: here a run must be within both, there the last ones stay at any age");
        }
        retention.same(&mut kept, &["dryRun"]);
        retention.end()?;
        match enabled {
            true => drop(ours.insert("retention".into(), kept.into())),
            false => theirs.note(
                "retention",
                "left out, it is not enabled: nothing is deleted",
            ),
        }
    }
    storage(&mut theirs, &mut ours)?;
    theirs.none(&["circuitBreaker"], REPEATED);
    theirs.none(&["metrics"], METRICS);
    theirs.end()?;
    Ok(ours)
}

fn restore(mut theirs: Block<'_>, namespace: Option<&str>) -> Spec {
    let mut ours = Map::new();
    if let Some(mut backup) = theirs.block("backupRef")? {
        let name = backup.text("name")?.unwrap_or_default();
        backup.note(
            "name",
            "the old tool's backups cannot be read: restore one that was made here",
        );
        backup.none(&["backupId"], "left out: the newest run is taken");
        let elsewhere = backup
            .text("namespace")?
            .filter(|other| Some(&**other) != namespace);
        storage(&mut backup, &mut ours)?;
        match (
            ours.contains_key("storage"),
            elsewhere.as_deref().or(namespace),
            &elsewhere,
        ) {
            (true, Some(namespace), _) => {
                ours.insert("backupId".into(), "latest".into());
                ours.insert("archive".into(), format!("{namespace}/{name}").into());
            }
            (true, None, _) => {
                backup.note("name", "archive is left out, for the object has no namespace: add <namespace>/<name> where the store has several");
                ours.insert("backupId".into(), "latest".into());
            }
            (false, _, Some(other)) => {
                let expected = "storage beside it: a reference never leaves the namespace";
                return Err(backup.wrong("namespace", expected, &json!(other)));
            }
            (false, _, None) => drop(ours.insert("backupRef".into(), json!({"name": name}))),
        }
        backup.end()?;
    }
    cluster(&mut theirs, &mut ours, "targetCluster")?;
    topics(&mut theirs, &mut ours);
    if let Some(mut pitr) = theirs.block("pitr")? {
        let mut range = Map::new();
        pitr.renamed(&mut range, "endTime", "timestamp");
        pitr.renamed(&mut range, "endTimestamp", "timestampMillis");
        pitr.renamed(&mut range, "startTime", "startTimestamp");
        pitr.renamed(&mut range, "startTimestamp", "startTimestampMillis");
        pitr.becomes(&mut ours, "pitr", range)?;
    }
    theirs.same(
        &mut ours,
        &["topicMapping", "defaultReplicationFactor", "dryRun"],
    );
    if let Some(mapping) = theirs.take("partitionMapping") {
        let topics = ours
            .get("topics")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let names: Vec<&str> = topics.iter().filter_map(Value::as_str).collect();
        if names.iter().any(|name| name.contains(['*', '?'])) {
            return Err(theirs.wrong(
                "partitionMapping",
                "topics that are named one by one, for here each has a mapping of its own",
                &mapping,
            ));
        }
        let each = names
            .iter()
            .map(|name| ((*name).to_owned(), mapping.clone()));
        ours.insert("partitionMapping".into(), Value::Object(each.collect()));
    }
    if theirs.take("repartitioning").is_some() {
        theirs.note("repartitioning", "ByKey for all topics; the numbers of partitions are those that the target's topics have: make them before");
        ours.insert("repartition".into(), "ByKey".into());
    }
    // There topics are not created unless it is said.
    let create = theirs.boolean("createTopics")?.unwrap_or(false);
    ours.insert("createTopics".into(), create.into());
    if theirs.boolean("purgeTopics")? == Some(true) {
        ours.insert("ifTopicNotEmpty".into(), "Purge".into());
    }
    let mut carries = theirs.boolean("autoConsumerGroups")?.unwrap_or(false);
    let mut reset = Map::new();
    if let Some(mut block) = theirs.block("offsetReset")? {
        let enabled = block.boolean("enabled")?.unwrap_or(false);
        if let Some(groups) = block.list("consumerGroups") {
            reset.insert("consumerGroups".into(), groups);
        }
        let strategy = block.text("strategy")?;
        match strategy.as_deref() {
            Some("auto") => carries |= enabled,
            // They only tell what would be done.
            _ if enabled && !carries => block.note(
                "strategy",
                "left out, for it commits nothing there; offsetReset: {enabled: true} commits here",
            ),
            _ => {}
        }
        block.end()?;
    }
    if carries {
        reset.insert("enabled".into(), true.into());
        ours.insert("offsetReset".into(), reset.into());
    }
    if let Some(mut rollback) = theirs.block("rollback")? {
        let snapshot = rollback.boolean("snapshotBeforeRestore")?.unwrap_or(true);
        match snapshot && carries {
            true => drop(ours.insert("rollback".into(), json!({"enabled": true}))),
            false if snapshot => rollback.note(
                "snapshotBeforeRestore",
                "left out: it is of committed offsets, and none are changed without offsetReset",
            ),
            false => {}
        }
        rollback.none(
            &["autoRollbackOnFailure"],
            "left out: a failed restore goes on by the annotation kafka-backup.dev/retry",
        );
        rollback.none(
            &["snapshotRetentionHours"],
            "left out: nothing deletes a snapshot by itself",
        );
        rollback.none(
            &["snapshotStorage"],
            "left out: the snapshot is kept beside the archive",
        );
        rollback.end()?;
    }
    rate(&mut theirs, &mut ours)?;
    theirs.none(&["circuitBreaker"], REPEATED);
    theirs.none(
        &["produceBatchSize", "produceAcks", "produceTimeoutMs"],
        "left out: all in-sync replicas acknowledge every batch",
    );
    theirs.none(&["metrics"], METRICS);
    theirs.end()?;
    Ok(ours)
}

fn offset_reset(mut theirs: Block<'_>) -> Spec {
    let mut ours = Map::new();
    cluster(&mut theirs, &mut ours, "kafkaCluster")?;
    theirs.same(&mut ours, &["consumerGroups", "dryRun"]);
    if let Some(topics) = theirs.list("topics") {
        ours.insert("topics".into(), topics);
    }
    let mapping = theirs.block("offsetMappingRef")?;
    let of_restore = mapping
        .as_ref()
        .is_some_and(|mapping| mapping.fields.contains_key("restoreName"));
    if let Some(strategy) = theirs.take("resetStrategy") {
        let strategy = match strategy.as_str() {
            Some("to-earliest") => "earliest",
            Some("to-latest") => "latest",
            Some("to-timestamp") => "timestamp",
            Some("to-offset") => "offset",
            Some("from-mapping") if of_restore => "fromRestore",
            Some("from-mapping") => "fromMapping",
            _ => {
                let expected = "to-earliest, to-latest, to-timestamp, to-offset or from-mapping";
                return Err(theirs.wrong("resetStrategy", expected, &strategy));
            }
        };
        ours.insert("strategy".into(), strategy.into());
    }
    if let Some(mut mapping) = mapping {
        if let Some(name) = mapping.take("restoreName") {
            ours.insert("restoreRef".into(), json!({"name": name}));
        }
        for field in ["path", "pvcName"] {
            if let Some(found) = mapping.take(field) {
                return Err(mapping.wrong(
                    field,
                    "a mapping in a ConfigMap (mappingConfigMap), see docs/offsets.md",
                    &found,
                ));
            }
        }
        mapping.end()?;
    }
    match theirs.take("resetTimestamp") {
        Some(Value::String(time)) => drop(ours.insert("timestamp".into(), time.into())),
        Some(millis) => drop(ours.insert("timestampMillis".into(), millis)),
        None => {}
    }
    theirs.renamed(&mut ours, "resetOffset", "offset");
    if let Some(parallelism) = theirs.number("parallelism")? {
        ours.insert("parallelism".into(), parallelism.clamp(1, 64).into());
        if parallelism > 64 {
            theirs.note("parallelism", "64, which is the most here");
        }
    }
    if theirs.boolean("continueOnError")? == Some(false) {
        theirs.note(
            "continueOnError",
            "left out: a group that fails never stops the others, and the run then fails",
        );
    }
    theirs.renamed(&mut ours, "snapshotBeforeReset", "createSnapshot");
    theirs.none(&["metrics"], METRICS);
    theirs.end()?;
    Ok(ours)
}

fn offset_rollback(mut theirs: Block<'_>) -> Spec {
    let mut ours = Map::new();
    cluster(&mut theirs, &mut ours, "kafkaCluster")?;
    ours.insert("operation".into(), "rollback".into());
    if let Some(mut snapshot) = theirs.block("snapshotRef")? {
        snapshot.renamed(&mut ours, "name", "snapshotId");
        let elsewhere = "left out: give storage, where the snapshot is kept, unless it is a ConfigMap; its id stands in the status of the object that took it";
        snapshot.none(
            &["pvcName", "path", "restoreRef", "offsetResetRef"],
            elsewhere,
        );
        snapshot.end()?;
    }
    if let Some(groups) = theirs.list("consumerGroups") {
        ours.insert("consumerGroups".into(), groups);
    }
    if theirs.boolean("verifyAfterRollback")? == Some(false) {
        theirs.note(
            "verifyAfterRollback",
            "left out: a rollback is always read back",
        );
    }
    theirs.same(&mut ours, &["dryRun"]);
    theirs.end()?;
    Ok(ours)
}

fn cluster(
    theirs: &mut Block<'_>,
    ours: &mut Map<String, Value>,
    name: &str,
) -> Result<(), ConvertError> {
    let Some(mut block) = theirs.block("kafkaCluster")? else {
        return Ok(());
    };
    let mut cluster = Map::new();
    block.same(
        &mut cluster,
        &[
            "bootstrapServers",
            "securityProtocol",
            "tlsSecret",
            "caSecret",
            "saslSecret",
        ],
    );
    block.none(&["connection"], NOTHING_TO_TUNE);
    if cluster.contains_key("caSecret")
        && let Some(Value::Object(secret)) = cluster.get_mut("tlsSecret")
        && secret.remove("caKey").is_some()
    {
        block.note("tlsSecret.caKey", "left out: caSecret counts");
    }
    block.becomes(ours, name, cluster)
}

/// There zstd is what is meant where nothing is said, and a level is zstd's.
fn compression(theirs: &mut Block<'_>, ours: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let codec = theirs.text("compression")?;
    let level = theirs.take("compressionLevel");
    match (codec.as_deref(), level) {
        (None, None) => {}
        (Some("zstd") | None, Some(level)) => {
            ours.insert("compression".into(), "zstd".into());
            ours.insert("compressionLevel".into(), level);
        }
        (Some(codec), level) => {
            ours.insert("compression".into(), codec.into());
            if level.is_some() {
                theirs.note("compressionLevel", "left out: it is zstd's");
            }
        }
    }
    Ok(())
}

fn topics(theirs: &mut Block<'_>, ours: &mut Map<String, Value>) {
    let topics = theirs.list("topics").unwrap_or_else(|| json!(["*"]));
    ours.insert("topics".into(), topics);
}

fn rate(theirs: &mut Block<'_>, ours: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let Some(mut block) = theirs.block("rateLimiting")? else {
        return Ok(());
    };
    let mut limit = Map::new();
    for (their, our) in [
        ("recordsPerSec", "recordsPerSecond"),
        ("bytesPerSec", "bytesPerSecond"),
    ] {
        // There 0 is no limit.
        if let Some(number) = block.number(their)?.filter(|number| *number > 0) {
            limit.insert(our.into(), number.into());
        }
    }
    block.none(&["maxConcurrentPartitions"], NOTHING_TO_TUNE);
    block.end()?;
    if !limit.is_empty() {
        ours.insert("rateLimit".into(), limit.into());
    }
    Ok(())
}

fn storage(theirs: &mut Block<'_>, ours: &mut Map<String, Value>) -> Result<(), ConvertError> {
    let Some(mut block) = theirs.block("storage")? else {
        return Ok(());
    };
    let kind = block.text("storageType")?.unwrap_or_else(|| "pvc".into());
    let mut storage = Map::new();
    if let Some(mut pvc) = block.block("pvc")? {
        let mut claim = Map::new();
        pvc.same(&mut claim, &["claimName", "subPath"]);
        pvc.none(&["create"], "left out: make the claim");
        pvc.becomes(&mut storage, "pvc", claim)?;
    }
    if let Some(mut s3) = block.block("s3")? {
        let mut bucket = Map::new();
        s3.same(
            &mut bucket,
            &[
                "bucket",
                "region",
                "endpoint",
                "pathStyle",
                "allowHttp",
                "prefix",
            ],
        );
        let keys = [
            ("accessKeyIdKey", "accessKeyKey", "AWS_ACCESS_KEY_ID"),
            (
                "secretAccessKeyKey",
                "secretKeyKey",
                "AWS_SECRET_ACCESS_KEY",
            ),
        ];
        credentials(&mut s3, &mut bucket, &keys)?;
        s3.becomes(&mut storage, "s3", bucket)?;
    }
    if let Some(azure) = block.take("azure") {
        storage.insert("azure".into(), azure);
    }
    if let Some(mut gcs) = block.block("gcs")? {
        let mut bucket = Map::new();
        gcs.same(&mut bucket, &["bucket", "prefix", "endpoint"]);
        let keys = [("serviceAccountJsonKey", "key", "SERVICE_ACCOUNT_JSON")];
        credentials(&mut gcs, &mut bucket, &keys)?;
        gcs.becomes(&mut storage, "gcs", bucket)?;
    }
    storage.insert("storageType".into(), kind.into());
    block.note(
        "storageType",
        "check the prefix: it must not be the old tool's, whose archives cannot be read",
    );
    block.becomes(ours, "storage", storage)
}

/// A Secret whose keys are called otherwise here: their field, ours, and what the key is there where it is left out.
fn credentials(
    theirs: &mut Block<'_>,
    ours: &mut Map<String, Value>,
    keys: &[(&str, &str, &str)],
) -> Result<(), ConvertError> {
    let Some(mut secret) = theirs.block("credentialsSecret")? else {
        return Ok(());
    };
    let mut made = Map::new();
    secret.same(&mut made, &["name"]);
    for (their, our, default) in keys {
        made.insert((*our).into(), (*default).into());
        secret.renamed(&mut made, their, our);
    }
    secret.becomes(ours, "credentialsSecret", made)
}

const FIELDS: &str =
    "six or seven fields, seconds first, of which seconds are 0 and years are *, or five";

/// Their line (the crate `cron`: seconds first, a year at the end, Sunday is 1) as five fields (Sunday is 0), with a note where it is
/// another one.
fn schedule(line: &str) -> Result<(String, Option<&'static str>), &'static str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let five = match fields[..] {
        [_, _, _, _, _] => return Ok((fields.join(" "), None)),
        ["0", minute, hour, day, month, weekday]
        | ["0", minute, hour, day, month, weekday, "*"] => [minute, hour, day, month, weekday],
        _ => return Err(FIELDS),
    };
    let [minute, hour, day, month, weekday] = five;
    if ![day, weekday]
        .iter()
        .any(|field| matches!(*field, "*" | "?"))
    {
        return Err("a day of the month or of the week: there both must fit, here one is enough");
    }
    let weekday = weekdays(weekday)?;
    // `?` is Quartz's word for any.
    let any = |field: &str| field.replace('?', "*");
    let line = format!("{minute} {hour} {} {month} {}", any(day), any(&weekday));
    let note = "five fields; a Sunday, which is 1 there, is 0 here";
    let has_number = weekday.contains(|c: char| c.is_ascii_digit());
    Ok((line, has_number.then_some(note)))
}

/// Weekdays counted from 0; a step is no weekday.
fn weekdays(field: &str) -> Result<String, &'static str> {
    let day = |text: &str| match text.parse::<u8>() {
        Ok(number @ 1..=7) => Ok((number - 1).to_string()),
        Ok(_) => Err("weekdays from 1 (Sunday) to 7"),
        Err(_) => Ok(text.to_owned()),
    };
    let part = |part: &str| {
        let (days, step) = match part.split_once('/') {
            Some((days, step)) => (days, format!("/{step}")),
            None => (part, String::new()),
        };
        let days: Result<Vec<String>, _> = days.split('-').map(day).collect();
        Ok::<_, &'static str>(format!("{}{step}", days?.join("-")))
    };
    let parts: Result<Vec<String>, _> = field.split(',').map(part).collect();
    Ok(parts?.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(text: &str) -> (Value, Vec<String>) {
        let [one] = <[Converted; 1]>::try_from(convert(text).unwrap().0).unwrap();
        (one.object, one.notes)
    }

    fn refused(text: &str) -> String {
        kafka_backup_shared::report::error_chain(&convert(text).unwrap_err())
    }

    const BACKUP: &str = r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaBackup
metadata: {name: orders, namespace: shop, resourceVersion: "7", labels: {team: a}}
spec:
  kafkaCluster:
    bootstrapServers: ["kafka:9093"]
    securityProtocol: SASL_SSL
    saslSecret: {name: kafka-user, mechanism: SCRAM-SHA-512}
    connection: {keepaliveSecs: 60}
  topics: []
  schedule: "0 30 2 * * 2-6 *"
  compression: zstd
  compressionLevel: 3
  segmentMaxIntervalMs: 1500
  consumerGroupSnapshot: false
  rateLimiting: {recordsPerSec: 0, bytesPerSec: 1000000}
  circuitBreaker: {enabled: true}
  retention: {enabled: true, maxAgeDays: 30, keepLast: 5}
  storage:
    storageType: s3
    s3:
      bucket: backups
      region: eu-central-1
      credentialsSecret: {name: keys}
status: {phase: Running}
"#;

    #[test]
    fn a_backup_keeps_what_it_says_and_tells_what_it_cannot() {
        let (object, notes) = converted(BACKUP);
        assert_eq!(
            object,
            json!({
                "apiVersion": "kafka-backup.dev/v1alpha1",
                "kind": "KafkaBackup",
                "metadata": {"name": "orders", "namespace": "shop", "labels": {"team": "a"}},
                "spec": {
                    "kafkaCluster": {
                        "bootstrapServers": ["kafka:9093"],
                        "securityProtocol": "SASL_SSL",
                        "saslSecret": {"name": "kafka-user", "mechanism": "SCRAM-SHA-512"},
                    },
                    "topics": ["*"],
                    "schedule": "30 2 * * 1-5",
                    "compression": "zstd",
                    "compressionLevel": 3,
                    "checkpointIntervalSecs": 2,
                    "consumerGroups": [],
                    "rateLimit": {"bytesPerSecond": 1000000},
                    "retention": {"backups": 5},
                    "storage": {
                        "storageType": "s3",
                        "s3": {
                            "bucket": "backups",
                            "region": "eu-central-1",
                            "credentialsSecret": {
                                "name": "keys",
                                "accessKeyKey": "AWS_ACCESS_KEY_ID",
                                "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
                            },
                        },
                    },
                },
            })
        );
        for path in [
            "spec.kafkaCluster.connection",
            "spec.schedule",
            "spec.circuitBreaker",
            "spec.retention.maxAgeDays",
            "spec.storage.storageType",
        ] {
            assert!(
                notes.iter().any(|note| note.starts_with(path)),
                "{path}: {notes:?}"
            );
        }
    }

    #[test]
    fn what_is_shown_is_read_again_with_notes_as_comments() {
        let text = show(&convert(&format!("kind: Pod\n---\n{BACKUP}")).unwrap().0);
        assert!(text.starts_with("---\n# spec."), "{text}");
        let again: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(again, [converted(BACKUP).0]);
    }

    #[test]
    fn a_restore_and_offsets_follow_their_tables() {
        let (object, notes) = converted(
            r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaRestore
metadata: {name: back}
spec:
  backupRef: {name: orders, backupId: orders-1}
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  topics: [orders]
  pitr: {endTimestamp: 1700000000000}
  partitionMapping: {"0": 3}
  purgeTopics: true
  offsetReset: {enabled: true, strategy: auto}
  rollback: {snapshotBeforeRestore: true}
"#,
        );
        assert_eq!(
            object["spec"],
            json!({
                "backupRef": {"name": "orders"},
                "targetCluster": {"bootstrapServers": ["kafka:9092"]},
                "topics": ["orders"],
                "pitr": {"timestampMillis": 1_700_000_000_000u64},
                "partitionMapping": {"orders": {"0": 3}},
                "createTopics": false,
                "ifTopicNotEmpty": "Purge",
                "offsetReset": {"enabled": true},
                "rollback": {"enabled": true},
            })
        );
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(
            notes.iter().all(|note| note.starts_with("spec.backupRef.")),
            "{notes:?}"
        );
        let (object, _) = converted(
            r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaOffsetReset
metadata: {name: reset}
spec:
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  consumerGroups: [billing]
  resetStrategy: from-mapping
  offsetMappingRef: {restoreName: back}
  parallelism: 100
"#,
        );
        assert_eq!(object["spec"]["strategy"], "fromRestore");
        assert_eq!(object["spec"]["restoreRef"], json!({"name": "back"}));
        assert_eq!(object["spec"]["parallelism"], 64);
        let (object, _) = converted(
            r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaOffsetRollback
metadata: {name: rollback}
spec:
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  snapshotRef: {name: before}
  verifyAfterRollback: true
"#,
        );
        assert_eq!(object["spec"]["operation"], "rollback");
        assert_eq!(object["spec"]["snapshotId"], "before");
    }

    /// As the API server returns one: fields that were left out have their defaults.
    #[test]
    fn defaults_of_an_api_server_are_no_wishes() {
        let (object, notes) = converted(
            r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaRestore
metadata: {name: back, namespace: shop}
spec:
  backupRef: {name: orders, namespace: shop}
  kafkaCluster:
    bootstrapServers: ["kafka:9093"]
    securityProtocol: SSL
    caSecret: {name: ca}
    tlsSecret: {name: user, caKey: ca.crt, certKey: user.crt, keyKey: user.key}
  topics: []
  topicMapping: {}
  partitionMapping: {}
  repartitioning: {}
  createTopics: false
  offsetReset: {enabled: true, strategy: dry_run}
  rollback: {snapshotBeforeRestore: true}
"#,
        );
        assert_eq!(
            object["spec"],
            json!({
                "backupRef": {"name": "orders"},
                "targetCluster": {
                    "bootstrapServers": ["kafka:9093"],
                    "securityProtocol": "SSL",
                    "caSecret": {"name": "ca"},
                    "tlsSecret": {"name": "user", "certKey": "user.crt", "keyKey": "user.key"},
                },
                "topics": ["*"],
                "createTopics": false,
            })
        );
        for path in [
            "spec.offsetReset.strategy",
            "spec.rollback.snapshotBeforeRestore",
            "spec.kafkaCluster.tlsSecret.caKey",
        ] {
            assert!(
                notes.iter().any(|note| note.starts_with(path)),
                "{path}: {notes:?}"
            );
        }
        let lz4 = BACKUP
            .replace("compression: zstd", "compression: lz4")
            .replace("enabled: true, maxAgeDays", "maxAgeDays");
        let (object, notes) = converted(&lz4);
        let spec = &object["spec"];
        assert_eq!(
            (
                &spec["compression"],
                &spec["compressionLevel"],
                &spec["retention"]
            ),
            (&json!("lz4"), &Value::Null, &Value::Null)
        );
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("spec.retention: left out")),
            "{notes:?}"
        );
        let level = BACKUP.replace("  compression: zstd\n", "");
        assert_eq!(converted(&level).0["spec"]["compression"], "zstd");
    }

    #[test]
    fn what_cannot_be_taken_over_is_refused_by_path() {
        let unknown = BACKUP.replace("compression: zstd", "comprssion: zstd");
        assert!(
            refused(&unknown)
                .ends_with("KafkaBackup orders: fields that are not known: spec.comprssion"),
            "{}",
            refused(&unknown)
        );
        let line = BACKUP.replace("0 30 2 * * 2-6 *", "10 30 2 * * * *");
        assert!(
            refused(&line).contains("spec.schedule: expected six or seven"),
            "{}",
            refused(&line)
        );
        let both = BACKUP.replace("0 30 2 * * 2-6 *", "0 30 2 1 * 2 *");
        assert!(
            refused(&both).contains("here one is enough"),
            "{}",
            refused(&both)
        );
        let kind = BACKUP.replace("kind: KafkaBackup", "kind: KafkaBackupValidation");
        assert!(refused(&kind).contains("no counterpart of this kind"));
        assert!(refused("kind: Pod").contains("found none"));
        // Valid there, and not here.
        let elsewhere = "apiVersion: kafka.oso.sh/v1alpha1\nkind: KafkaRestore\nmetadata: {name: back, namespace: shop}\nspec:\n  backupRef: {name: orders, namespace: other}\n";
        assert!(
            refused(elsewhere).contains("spec.backupRef.namespace: expected storage"),
            "{}",
            refused(elsewhere)
        );
        let level = BACKUP.replace("compressionLevel: 3", "compressionLevel: 99");
        assert!(
            refused(&level).contains("compressionLevel"),
            "{}",
            refused(&level)
        );
    }

    #[test]
    fn lines_of_seven_fields_become_lines_of_five() {
        for (theirs, ours) in [
            ("0 0 2 * * * *", "0 2 * * *"),
            ("0 */15 * * * *", "*/15 * * * *"),
            ("0 0 2 ? * MON,FRI", "0 2 * * MON,FRI"),
            ("0 0 2 * * 1,7 *", "0 2 * * 0,6"),
            ("0 0 2 * * 2-6/2 *", "0 2 * * 1-5/2"),
            ("0 2 * * 1", "0 2 * * 1"),
        ] {
            assert_eq!(schedule(theirs).unwrap().0, ours, "{theirs}");
        }
        for wrong in ["0 0 2 * * * 2030", "* * * * * *", "0 0 2 * * 8", "2 *"] {
            assert!(schedule(wrong).is_err(), "{wrong}");
        }
    }
}
