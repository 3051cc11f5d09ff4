//! Blocks that several kinds have.

use serde_json::{Map, Value, json};

use super::ConvertError;
use super::block::Block;

pub(super) const NOTHING_TO_TUNE: &str = "left out, there is nothing to tune";

pub(super) fn cluster(
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
pub(super) fn compression(
    theirs: &mut Block<'_>,
    ours: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
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

pub(super) fn topics(theirs: &mut Block<'_>, ours: &mut Map<String, Value>) {
    let topics = theirs.list("topics").unwrap_or_else(|| json!(["*"]));
    ours.insert("topics".into(), topics);
}

pub(super) fn rate(
    theirs: &mut Block<'_>,
    ours: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
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

pub(super) fn storage(
    theirs: &mut Block<'_>,
    ours: &mut Map<String, Value>,
) -> Result<(), ConvertError> {
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
