//! The four kinds, field by field.

use serde_json::{Map, Value, json};

use super::ConvertError;
use super::block::Block;
use super::parts::{cluster, compression, rate, storage, topics};
use super::schedule::schedule;

pub(super) type Spec = Result<Map<String, Value>, ConvertError>;

const METRICS: &str = "left out: the controller serves all metrics";
const REPEATED: &str = "left out: requests are repeated with growing pauses, then attempts by the Job (job.backoffLimit)";

pub(super) fn backup(mut theirs: Block<'_>) -> Spec {
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

pub(super) fn restore(mut theirs: Block<'_>, namespace: Option<&str>) -> Spec {
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

pub(super) fn offset_reset(mut theirs: Block<'_>) -> Spec {
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

pub(super) fn offset_rollback(mut theirs: Block<'_>) -> Spec {
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
