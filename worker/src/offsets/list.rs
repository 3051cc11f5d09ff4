//! The snapshots of a store.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kafka_backup_shared::archive::snapshot::{self, Snapshot};
use serde::Serialize;

use super::error::OffsetsError;
use crate::human::{Align, table};
use crate::store::Store;

/// Snapshots that are read at the same time.
const CONCURRENCY: usize = 8;

/// A snapshot in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Namespace of the object that has taken it.
    pub namespace: String,
    /// Its id.
    pub id: String,
    /// When it was taken.
    pub time: Option<Timestamp>,
    /// Id of the cluster.
    pub cluster_id: Option<String>,
    /// The run that has taken it.
    pub run: Option<String>,
    /// Groups in it.
    pub groups: Option<u64>,
    /// Committed offsets in it.
    pub partitions: Option<u64>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// The snapshots of a namespace, or of all, the oldest first.
///
/// # Errors
/// The store's. One that is damaged is among them.
pub async fn list(store: &Store, namespace: Option<&str>) -> Result<Vec<Listed>, OffsetsError> {
    let names = store.list(snapshot::FOLDER, |key, _| snapshot::parse_key(key));
    let names = names.await?.into_iter();
    let names = names.filter(|(found, _)| namespace.is_none_or(|wanted| wanted == found));
    let read = stream::iter(names).map(|(namespace, id)| async move {
        let key = snapshot::key(&namespace, &id);
        let Some(bytes) = store.get(&key).await? else {
            // Deleted meanwhile.
            return Ok(None);
        };
        let read = Snapshot::from_bytes(&key, &bytes);
        let damage = read.as_ref().err().map(ToString::to_string);
        let header = read.ok().map(|snapshot| snapshot.header);
        Ok::<_, OffsetsError>(Some(Listed {
            namespace,
            id,
            time: header.as_ref().map(|header| header.time),
            cluster_id: header.as_ref().map(|header| header.cluster_id.clone()),
            run: header.as_ref().map(|header| header.run.run.clone()),
            groups: header.as_ref().map(|header| header.group_count),
            partitions: header.as_ref().map(|header| header.offset_count),
            damage,
        }))
    });
    let found: Vec<Option<Listed>> = read.buffered(CONCURRENCY).try_collect().await?;
    let mut found: Vec<Listed> = found.into_iter().flatten().collect();
    found.sort_by(|a, b| {
        let key = |one: &Listed| (one.time, one.namespace.clone(), one.id.clone());
        key(a).cmp(&key(b))
    });
    Ok(found)
}

/// A table of snapshots of the store that messages call `place`.
pub fn show(found: &[Listed], place: &str) -> String {
    if found.is_empty() {
        return format!("There are no snapshots of committed offsets in {place}.\n");
    }
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let rows: Vec<[String; 6]> = found
        .iter()
        .map(|one| {
            [
                one.namespace.clone(),
                one.id.clone(),
                one.time
                    .map_or("damaged".to_owned(), |time| format!("{time:.0}")),
                number(one.groups),
                number(one.partitions),
                one.damage.clone().or(one.run.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    let columns = [
        ("NAMESPACE", Align::Left),
        ("SNAPSHOT", Align::Left),
        ("TAKEN", Align::Left),
        ("GROUPS", Align::Right),
        ("OFFSETS", Align::Right),
        ("RUN", Align::Left),
    ];
    table(columns, &rows)
}
