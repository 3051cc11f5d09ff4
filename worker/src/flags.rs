//! The object that flags describe, as a user would have written it in YAML.

use std::collections::BTreeMap;

use kafka_backup_shared::crd::{GROUP, VERSION};
use serde_json::{Map, Value, json};

use crate::args::{
    BackupArgs, ChoiceArgs, ClusterArgs, NameArgs, ObjectArgs, OffsetsCommand, RateArgs, ResetArgs,
    RestoreArgs, RetentionArgs, SecurityArgs, SelectionArgs, SnapshotArgs, StorageArgs, VerifyArgs,
};

/// The KafkaBackup of `backup`.
pub fn backup(args: &BackupArgs) -> Value {
    let mut spec = Map::new();
    spec.insert("kafkaCluster".into(), cluster(&args.cluster));
    spec.insert("topics".into(), json!(args.topics));
    selection(&mut spec, &args.selection);
    set(&mut spec, "consumerGroups", args.groups.asked());
    set(
        &mut spec,
        "sourceClusterId",
        args.source_cluster_id.as_ref(),
    );
    set(&mut spec, "isolationLevel", args.isolation_level.as_ref());
    set(&mut spec, "compression", args.compression.as_ref());
    set(&mut spec, "compressionLevel", args.compression_level);
    set(&mut spec, "rateLimit", rate_limit(&args.rate));
    set(
        &mut spec,
        "checkpointIntervalSecs",
        args.checkpoint_interval_secs,
    );
    set(&mut spec, "segmentMaxBytes", args.segment_max_bytes);
    let headers = args.include_offset_headers;
    spec.insert("includeOffsetHeaders".into(), json!(headers));
    set(&mut spec, "retention", retention(&args.retention));
    set(&mut spec, "storage", storage(&args.storage));
    object("KafkaBackup", &args.object, spec)
}

/// The KafkaRestore of `restore`.
pub fn restore(args: &RestoreArgs) -> Value {
    let mut spec = Map::new();
    spec.insert("backupId".into(), json!(args.backup_id));
    set(&mut spec, "archive", args.archive.as_ref());
    spec.insert("targetCluster".into(), cluster(&args.cluster));
    spec.insert("topics".into(), json!(args.topics));
    selection(&mut spec, &args.selection);
    let mapping: Map<String, Value> = args
        .topic_mapping
        .iter()
        .map(|(source, target)| (source.clone(), json!(target)))
        .collect();
    spec.insert("topicMapping".into(), Value::Object(mapping));
    set(&mut spec, "partitionMapping", partition_mapping(args));
    set(&mut spec, "repartition", args.placing.repartition.as_ref());
    let choice = &args.choice;
    set(&mut spec, "from", choice.from.as_ref());
    set(&mut spec, "pitr", pitr(choice));
    let headers = choice.include_original_offset_header;
    set(&mut spec, "includeOriginalOffsetHeader", headers);
    let target = &args.target;
    spec.insert("createTopics".into(), json!(!target.no_create_topics));
    let replicas = target.default_replication_factor;
    set(&mut spec, "defaultReplicationFactor", replicas);
    set(&mut spec, "topicConfig", target.topic_config.as_ref());
    let filled = target.if_topic_not_empty.as_ref();
    set(&mut spec, "ifTopicNotEmpty", filled);
    let carry = &args.carry;
    if carry.offset_reset {
        let mut reset = Map::from_iter([("enabled".to_owned(), json!(true))]);
        set(&mut reset, "consumerGroups", carry.offset_groups.as_ref());
        set(&mut reset, "strategy", carry.offset_strategy.as_ref());
        set(&mut reset, "timestamp", carry.offset_timestamp.as_ref());
        set(&mut reset, "offset", carry.offset);
        let source = carry.offset_source_cluster.as_ref();
        set(&mut reset, "sourceCluster", source);
        spec.insert("offsetReset".into(), Value::Object(reset));
    }
    if let Some(id) = &carry.rollback_snapshot {
        let mut rollback = Map::from_iter([("enabled".to_owned(), json!(true))]);
        set(&mut rollback, "snapshotId", id.as_ref());
        spec.insert("rollback".into(), Value::Object(rollback));
    }
    set(&mut spec, "rateLimit", rate_limit(&args.rate));
    spec.insert("dryRun".into(), json!(args.dry_run));
    set(&mut spec, "storage", storage(&args.storage));
    object("KafkaRestore", &args.object, spec)
}

/// The KafkaOffsetReset of `offsets reset`.
pub fn offset_reset(args: &ResetArgs) -> Value {
    let mut spec = Map::new();
    spec.insert("kafkaCluster".into(), cluster(&args.cluster));
    spec.insert("consumerGroups".into(), json!(args.consumer_groups));
    set(&mut spec, "topics", args.topics.as_ref());
    spec.insert("strategy".into(), json!(args.strategy));
    set(&mut spec, "timestamp", args.timestamp.as_ref());
    set(&mut spec, "timestampMillis", args.timestamp_millis);
    set(&mut spec, "offset", args.offset);
    set(&mut spec, "sourceCluster", args.source_cluster.as_ref());
    spec.insert("scanAllPartitions".into(), json!(args.scan_all_partitions));
    // File and restore are found in other ways: here they are only names.
    let mapping = args.mapping_file.as_ref().map(|_| json!({"name": "file"}));
    set(&mut spec, "mappingConfigMap", mapping);
    let restore = args.restore.as_ref().map(|name| json!({"name": name}));
    set(&mut spec, "restoreRef", restore);
    set(&mut spec, "parallelism", args.parallelism);
    spec.insert("dryRun".into(), json!(args.dry_run));
    spec.insert("createSnapshot".into(), json!(!args.no_snapshot));
    set(&mut spec, "snapshotId", args.snapshot_id.as_ref());
    if !args.no_snapshot {
        set(&mut spec, "storage", storage(&args.storage));
    }
    offset_object("KafkaOffsetReset", &args.object, spec)
}

/// The restore that `offsets reset --restore` names, as far as the plan asks for it.
pub fn restore_of(args: &ResetArgs) -> Option<Value> {
    let name = args.restore.as_ref()?;
    let mut spec = Map::new();
    spec.insert("backupId".into(), json!("latest"));
    spec.insert("targetCluster".into(), cluster(&args.cluster));
    spec.insert("topics".into(), json!(["*"]));
    set(&mut spec, "storage", storage(&args.storage));
    Some(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "KafkaRestore",
        // The worker finds it by whatever it is called.
        "metadata": {"name": name, "namespace": args.object.namespace, "uid": name},
        "spec": spec,
    }))
}

/// The KafkaOffsetRollback of the other verbs of `offsets`; `None`: there is none.
pub fn offset_rollback(command: &OffsetsCommand) -> Option<Value> {
    let (operation, dry_run, own) = match command {
        OffsetsCommand::Reset(_) | OffsetsCommand::List(_) => return None,
        OffsetsCommand::Snapshot(args) => ("snapshot", args.dry_run, None),
        // What it shows would want force.
        OffsetsCommand::Diff(_) => ("rollback", true, Some(("force", json!(true)))),
        OffsetsCommand::Rollback(args) => {
            ("rollback", args.dry_run, Some(("force", json!(args.force))))
        }
        OffsetsCommand::Verify(args) => {
            let verify = json!({"strict": args.strict});
            ("verify", false, Some(("verify", verify)))
        }
        OffsetsCommand::Delete(args) => ("delete", args.dry_run, None),
    };
    let SnapshotArgs {
        object,
        cluster: servers,
        snapshot_id,
        consumer_groups,
        storage: store,
        ..
    } = command.snapshot()?;
    let mut spec = Map::new();
    spec.insert("kafkaCluster".into(), cluster(servers));
    spec.insert("operation".into(), json!(operation));
    spec.insert("snapshotId".into(), json!(snapshot_id));
    set(&mut spec, "consumerGroups", consumer_groups.as_ref());
    set(&mut spec, "storage", storage(store));
    spec.insert("dryRun".into(), json!(dry_run));
    spec.extend(own.map(|(field, value)| (field.to_owned(), value)));
    Some(offset_object("KafkaOffsetRollback", object, spec))
}

fn offset_object(kind: &str, args: &NameArgs, spec: Map<String, Value>) -> Value {
    let NameArgs { name, namespace } = args;
    let (name, namespace) = (name.clone(), namespace.clone());
    object(kind, &ObjectArgs { name, namespace }, spec)
}

/// The `partitionMapping` block; `None` where no partition is moved.
fn partition_mapping(args: &RestoreArgs) -> Option<Value> {
    let mut topics: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (topic, source, target) in &args.placing.partition_mapping {
        let moves = topics.entry(topic).or_default();
        moves.insert(source.clone(), json!(target));
    }
    (!topics.is_empty()).then(|| json!(topics))
}

/// The `pitr` block; `None` where no time is given.
fn pitr(args: &ChoiceArgs) -> Option<Value> {
    let mut fields = Map::new();
    set(&mut fields, "timestamp", args.pitr_timestamp.as_ref());
    set(&mut fields, "timestampMillis", args.pitr_timestamp_millis);
    let start = args.pitr_start_timestamp.as_ref();
    set(&mut fields, "startTimestamp", start);
    let start = args.pitr_start_timestamp_millis;
    set(&mut fields, "startTimestampMillis", start);
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// The `retention` block; `None` where no flag speaks of it.
fn retention(args: &RetentionArgs) -> Option<Value> {
    let mut fields = Map::new();
    set(&mut fields, "backups", args.retention_backups);
    set(&mut fields, "maxAge", args.retention_max_age.as_ref());
    if args.retention_dry_run {
        fields.insert("dryRun".into(), json!(true));
    }
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// An object that is only good for its storage: what `list` and `describe` look into.
pub fn store(args: &StorageArgs) -> Value {
    let mut spec = Map::new();
    spec.insert(
        "kafkaCluster".into(),
        json!({"bootstrapServers": ["none:1"]}),
    );
    spec.insert("topics".into(), json!(["*"]));
    set(&mut spec, "storage", storage(args));
    object("KafkaBackup", &nobody(), spec)
}

/// The `storage` block; `None` where no store was named.
fn storage(args: &StorageArgs) -> Option<Value> {
    if args.folder.is_some() {
        // The folder itself is in the places: the claim is only a name.
        return Some(json!({"storageType": "pvc", "pvc": {"claimName": "folder"}}));
    }
    let secret = |name: &Option<String>| name.as_ref().map(|name| json!({"name": name}));
    let mut block = Map::new();
    let kind = if let Some(bucket) = &args.s3_bucket {
        block.insert("bucket".into(), json!(bucket));
        set(&mut block, "prefix", args.s3_prefix.as_ref());
        set(&mut block, "region", args.s3_region.as_ref());
        set(&mut block, "endpoint", args.s3_endpoint.as_ref());
        block.insert("pathStyle".into(), json!(args.s3_path_style));
        block.insert("allowHttp".into(), json!(args.s3_allow_http));
        let keys = secret(&args.s3_credentials_secret);
        set(&mut block, "credentialsSecret", keys);
        set(&mut block, "caSecret", secret(&args.s3_ca_secret));
        if let Some(kind) = &args.s3_sse {
            let mut encryption = Map::from_iter([("type".to_owned(), json!(kind))]);
            set(&mut encryption, "kmsKeyId", args.s3_kms_key_id.as_ref());
            block.insert("serverSideEncryption".into(), Value::Object(encryption));
        }
        "s3"
    } else if let Some(container) = &args.azure_container {
        block.insert("container".into(), json!(container));
        set(&mut block, "accountName", args.azure_account_name.as_ref());
        set(&mut block, "prefix", args.azure_prefix.as_ref());
        set(&mut block, "endpoint", args.azure_endpoint.as_ref());
        let workload = args.azure_use_workload_identity;
        block.insert("useWorkloadIdentity".into(), json!(workload));
        for (field, name) in [
            ("credentialsSecret", &args.azure_credentials_secret),
            ("sasTokenSecret", &args.azure_sas_token_secret),
            (
                "servicePrincipalSecret",
                &args.azure_service_principal_secret,
            ),
        ] {
            set(&mut block, field, secret(name));
        }
        "azure"
    } else {
        block.insert("bucket".into(), json!(args.gcs_bucket.as_ref()?));
        set(&mut block, "prefix", args.gcs_prefix.as_ref());
        set(&mut block, "endpoint", args.gcs_endpoint.as_ref());
        let key = secret(&args.gcs_credentials_secret);
        set(&mut block, "credentialsSecret", key);
        "gcs"
    };
    Some(json!({"storageType": kind, kind: block}))
}

fn object(kind: &str, args: &ObjectArgs, spec: Map<String, Value>) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind,
        "metadata": {"name": args.name, "namespace": args.namespace},
        "spec": spec,
    })
}

fn cluster(args: &ClusterArgs) -> Value {
    let mut block = Map::new();
    block.insert("bootstrapServers".into(), json!(args.bootstrap_servers));
    block.extend(security(&args.security));
    Value::Object(block)
}

/// Everything of a cluster but its servers.
fn security(args: &SecurityArgs) -> Map<String, Value> {
    let mut block = Map::new();
    let protocol = args.security_protocol.as_ref();
    set(&mut block, "securityProtocol", protocol);
    for (field, name) in [
        ("caSecret", &args.ca_secret),
        ("tlsSecret", &args.tls_secret),
    ] {
        set(
            &mut block,
            field,
            name.as_ref().map(|name| json!({"name": name})),
        );
    }
    if let Some(name) = &args.sasl_secret {
        let mut oauth = Map::new();
        set(&mut oauth, "tokenKey", args.oauth_token_key.as_ref());
        let endpoint = args.oauth_token_endpoint.as_ref();
        set(&mut oauth, "tokenEndpoint", endpoint);
        set(&mut oauth, "scope", args.oauth_scope.as_ref());
        if args.oauth_allow_http {
            oauth.insert("allowHttp".into(), json!(true));
        }
        let mut sasl = Map::new();
        sasl.insert("name".into(), json!(name));
        set(&mut sasl, "mechanism", args.sasl_mechanism.as_ref());
        set(&mut sasl, "oauth", (!oauth.is_empty()).then_some(oauth));
        block.insert("saslSecret".into(), Value::Object(sasl));
    }
    block
}

/// An object that is only good for its cluster: what `verify --against` compares.
pub fn against(args: &VerifyArgs) -> Value {
    let mut cluster = security(&args.security);
    cluster.insert("bootstrapServers".into(), json!(args.against));
    let mut spec = Map::new();
    spec.insert("kafkaCluster".into(), Value::Object(cluster));
    spec.insert("topics".into(), json!(["*"]));
    let storage = json!({"storageType": "pvc", "pvc": {"claimName": "none"}});
    spec.insert("storage".into(), storage);
    object("KafkaBackup", &nobody(), spec)
}

/// The name of an object that is only good for a part of it.
fn nobody() -> ObjectArgs {
    ObjectArgs {
        name: "none".into(),
        namespace: "default".into(),
    }
}

fn selection(spec: &mut Map<String, Value>, args: &SelectionArgs) {
    spec.insert("excludeTopics".into(), json!(args.exclude_topics));
    set(spec, "missingTopics", args.missing_topics.as_ref());
}

/// The `rateLimit` block; `None` where nothing is limited.
fn rate_limit(args: &RateArgs) -> Option<Value> {
    let mut limit = Map::new();
    set(&mut limit, "bytesPerSecond", args.bytes_per_second);
    set(&mut limit, "recordsPerSecond", args.records_per_second);
    (!limit.is_empty()).then_some(Value::Object(limit))
}

/// What was left out stays out, so that the spec's own default holds.
fn set<T: serde::Serialize>(fields: &mut Map<String, Value>, field: &str, value: Option<T>) {
    if let Some(value) = value {
        fields.insert(field.into(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::input;
    use clap::Parser;
    use kafka_backup_shared::object::Object;

    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    fn object_of(args: &[&str]) -> Object {
        let line = [&["kafka-backup-worker"], args].concat();
        let value = match Cli::try_parse_from(line).unwrap().command {
            Command::Backup(args) => backup(&args),
            Command::Restore(args) => restore(&args),
            Command::Offsets(OffsetsCommand::Reset(args)) => offset_reset(&args),
            Command::Offsets(command) => offset_rollback(&command).unwrap(),
            other => panic!("{other:?}"),
        };
        input::check(&value, "the command line").unwrap()
    }

    fn object_from(yaml: &str) -> Object {
        let value: Value = serde_saphyr::from_str(yaml).unwrap();
        input::check(&value, "yaml").unwrap()
    }

    #[test]
    fn flags_of_a_backup_and_its_yaml_are_the_same_object() {
        let flags = object_of(&[
            "backup",
            "--name",
            "orders",
            "--namespace",
            "shop",
            "--bootstrap-servers",
            "a:1,b:2",
            "--topics",
            "o*,p",
            "--exclude-topics",
            "ox",
            "--missing-topics",
            "Ignore",
            "--consumer-groups",
            "billing,o*",
            "--source-cluster-id",
            "shop",
            "--isolation-level",
            "read_uncommitted",
            "--compression",
            "zstd",
            "--compression-level",
            "7",
            "--bytes-per-second",
            "1000000",
            "--records-per-second",
            "2000",
            "--checkpoint-interval-secs",
            "5",
            "--segment-max-bytes",
            "70000",
            "--retention-backups",
            "14",
            "--retention-max-age",
            "30d",
            "--retention-dry-run",
            "--s3-bucket",
            "backups",
            "--s3-prefix",
            "k",
            "--s3-region",
            "eu",
            "--s3-endpoint",
            "http://s3:1",
            "--s3-path-style",
            "--s3-allow-http",
            "--s3-credentials-secret",
            "keys",
        ]);
        let yaml = object_from("
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaBackup
metadata: {name: orders, namespace: shop}
spec:
  kafkaCluster: {bootstrapServers: ['a:1', 'b:2']}
  topics: ['o*', p]
  excludeTopics: [ox]
  missingTopics: Ignore
  consumerGroups: [billing, 'o*']
  sourceClusterId: shop
  isolationLevel: read_uncommitted
  compression: zstd
  compressionLevel: 7
  rateLimit: {bytesPerSecond: 1000000, recordsPerSecond: 2000}
  checkpointIntervalSecs: 5
  segmentMaxBytes: 70000
  retention: {backups: 14, maxAge: 30d, dryRun: true}
  storage:
    storageType: s3
    s3: {bucket: backups, prefix: k, region: eu, endpoint: 'http://s3:1', pathStyle: true, allowHttp: true, credentialsSecret: {name: keys}}
");
        assert_eq!(flags, yaml);
        assert_eq!(flags.plan("r", &[]).unwrap(), yaml.plan("r", &[]).unwrap());
    }

    #[test]
    fn flags_of_a_store_and_its_yaml_are_the_same_block() {
        let cases = [
            (
                "--azure-account-name acc --azure-container con --azure-prefix p --azure-endpoint http://a:1/acc --azure-credentials-secret k",
                "{storageType: azure, azure: {accountName: acc, container: con, prefix: p, endpoint: 'http://a:1/acc', credentialsSecret: {name: k}}}",
            ),
            (
                "--azure-account-name acc --azure-container con --azure-sas-token-secret k",
                "{storageType: azure, azure: {accountName: acc, container: con, sasTokenSecret: {name: k}}}",
            ),
            (
                "--azure-account-name acc --azure-container con --azure-service-principal-secret k",
                "{storageType: azure, azure: {accountName: acc, container: con, servicePrincipalSecret: {name: k}}}",
            ),
            (
                "--azure-account-name acc --azure-container con --azure-use-workload-identity",
                "{storageType: azure, azure: {accountName: acc, container: con, useWorkloadIdentity: true}}",
            ),
            (
                "--gcs-bucket buc --gcs-prefix p --gcs-endpoint http://g:1 --gcs-credentials-secret k",
                "{storageType: gcs, gcs: {bucket: buc, prefix: p, endpoint: 'http://g:1', credentialsSecret: {name: k}}}",
            ),
        ];
        for (flags, yaml) in cases {
            let line = "backup --name orders --bootstrap-servers a:1 --topics o";
            let args: Vec<&str> = line.split(' ').chain(flags.split(' ')).collect();
            let yaml = object_from(&format!(
                "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaBackup
metadata: {{name: orders, namespace: default}}
spec: {{kafkaCluster: {{bootstrapServers: ['a:1']}}, topics: [o], storage: {yaml}}}
"
            ));
            assert_eq!(object_of(&args), yaml, "{flags}");
        }
    }

    #[test]
    fn groups_are_left_out_given_or_refused_altogether() {
        let given = |more: &[&str]| {
            let common = [
                "backup",
                "--name",
                "orders",
                "--bootstrap-servers",
                "a:1",
                "--topics",
                "o",
                "--folder",
                "/b",
            ];
            match object_of(&[&common, more].concat()) {
                Object::Backup(object) => object.spec.consumer_groups,
                Object::Restore(_) | Object::OffsetReset(_) | Object::OffsetRollback(_) => None,
            }
        };
        assert_eq!(given(&[]), None);
        assert_eq!(given(&["--no-consumer-groups"]), Some(vec![]));
        assert_eq!(given(&["--consumer-groups", "g"]), Some(vec!["g".into()]));
    }

    #[test]
    fn flags_of_an_offset_reset_and_its_yaml_are_the_same_object() {
        let flags = object_of(&[
            "offsets",
            "reset",
            "--bootstrap-servers",
            "a:1",
            "--consumer-groups",
            "billing,o*",
            "--topics",
            "t*",
            "--strategy",
            "timestamp",
            "--timestamp-millis",
            "5",
            "--snapshot-id",
            "before",
            "--parallelism",
            "3",
            "--dry-run",
            "--folder",
            "/b",
        ]);
        let yaml = object_from(
            "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaOffsetReset
metadata: {name: offsets, namespace: default}
spec:
  kafkaCluster: {bootstrapServers: ['a:1']}
  consumerGroups: [billing, 'o*']
  topics: ['t*']
  strategy: timestamp
  timestampMillis: 5
  snapshotId: before
  parallelism: 3
  dryRun: true
  storage: {storageType: pvc, pvc: {claimName: folder}}
",
        );
        assert_eq!(flags, yaml);
    }

    #[test]
    fn verbs_about_a_snapshot_and_their_yaml_are_the_same_object() {
        let cases = [
            (
                "snapshot --consumer-groups g --dry-run",
                "operation: snapshot, consumerGroups: [g], dryRun: true",
            ),
            ("diff", "operation: rollback, dryRun: true, force: true"),
            (
                "rollback --force --consumer-groups g",
                "operation: rollback, force: true, consumerGroups: [g]",
            ),
            (
                "verify --strict",
                "operation: verify, verify: {strict: true}",
            ),
            ("delete", "operation: delete"),
        ];
        for (verb, fields) in cases {
            let line =
                format!("offsets {verb} --bootstrap-servers a:1 --snapshot-id s --folder /b");
            let args: Vec<&str> = line.split(' ').collect();
            let yaml = object_from(&format!(
                "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaOffsetRollback
metadata: {{name: offsets, namespace: default}}
spec: {{kafkaCluster: {{bootstrapServers: ['a:1']}}, snapshotId: s, {fields},
  storage: {{storageType: pvc, pvc: {{claimName: folder}}}}}}
"
            ));
            assert_eq!(object_of(&args), yaml, "{verb}");
        }
    }

    #[test]
    fn flags_of_a_restore_and_its_yaml_are_the_same_object() {
        let flags = object_of(&[
            "restore",
            "--name",
            "back",
            "--backup-id",
            "latest",
            "--archive",
            "shop/orders",
            "--bootstrap-servers",
            "a:1",
            "--topic-mapping",
            "orders=orders2,p=q",
            "--partition-mapping",
            "orders:0=4,orders:3=0,p:1=1",
            "--from",
            "archiveStart",
            "--pitr-timestamp",
            "2026-01-02T03:04:05Z",
            "--pitr-start-timestamp-millis",
            "5",
            "--include-original-offset-header",
            "--default-replication-factor",
            "2",
            "--topic-config",
            "target",
            "--if-topic-not-empty",
            "Purge",
            "--offset-reset",
            "--offset-groups",
            "billing,o*",
            "--offset-strategy",
            "timestamp",
            "--offset-timestamp",
            "2026-01-02T03:04:05Z",
            "--rollback-snapshot=before",
            "--bytes-per-second",
            "9",
            "--dry-run",
            "--folder",
            "/backups",
        ]);
        let yaml = object_from(
            "
apiVersion: kafka-backup.dev/v1alpha1
kind: KafkaRestore
metadata: {name: back, namespace: default}
spec:
  backupId: latest
  archive: shop/orders
  targetCluster: {bootstrapServers: ['a:1']}
  topics: ['*']
  topicMapping: {orders: orders2, p: q}
  partitionMapping: {orders: {'0': 4, '3': 0}, p: {'1': 1}}
  from: archiveStart
  pitr: {timestamp: '2026-01-02T03:04:05Z', startTimestampMillis: 5}
  includeOriginalOffsetHeader: true
  defaultReplicationFactor: 2
  topicConfig: target
  ifTopicNotEmpty: Purge
  offsetReset: {enabled: true, consumerGroups: [billing, 'o*'], strategy: timestamp, timestamp: '2026-01-02T03:04:05Z'}
  rollback: {enabled: true, snapshotId: before}
  rateLimit: {bytesPerSecond: 9}
  dryRun: true
  storage: {storageType: pvc, pvc: {claimName: folder}}
",
        );
        assert_eq!(flags, yaml);
    }
}
