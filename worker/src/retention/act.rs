//! Marks and deletes.

use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::to_json;
use kafka_backup_shared::archive::retention::{Marked, Step};

use super::RetentionError;
use crate::store::Store;

/// Keys in one list of marks.
const LIST_MAX: usize = 10_000;

/// Writes the new marks, then deletes what is due.
pub(super) async fn act(
    store: &Store,
    layout: &Layout,
    step: &Step,
    now: Timestamp,
) -> Result<(), RetentionError> {
    for keys in step.mark.chunks(LIST_MAX) {
        let list = to_json(&Marked {
            format_version: FORMAT_VERSION,
            created: now,
            keys: keys.to_vec(),
        });
        // Named by time and content: two retentions that mark the same write the same.
        let id = format!("{}-{:08x}", now.strftime("%Y%m%d-%H%M%S"), crc::of(&list));
        store.create(&layout.trash_list(&id), list.into()).await?;
    }
    for rank in Rank::IN_ORDER {
        let keys = step.delete.iter().filter(|key| Rank::of(key) == rank);
        let keys: Vec<String> = keys.map(|key| format!("{}/{key}", layout.root())).collect();
        store.delete(&keys).await?;
    }
    let done: Vec<String> = step.done.iter().map(|id| layout.trash_list(id)).collect();
    Ok(store.delete(&done).await?)
}

/// In which order objects go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Manifests: whoever reads one finds its parts and segments.
    Manifest,
    /// What manifests point to.
    Data,
    /// As long as it is there the run is known, and what is left of it with it.
    Begin,
}

impl Rank {
    const IN_ORDER: [Self; 3] = [Self::Manifest, Self::Data, Self::Begin];

    /// By a key relative to the archive's folder.
    fn of(key: &str) -> Self {
        match key
            .strip_prefix("runs/")
            .and_then(|rest| rest.split_once('/'))
        {
            Some((_, "manifest.json" | "partial.json")) => Self::Manifest,
            Some((_, "begin.json")) => Self::Begin,
            Some(_) | None => Self::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_go_first_and_begins_last() {
        for (key, rank) in [
            ("runs/r/manifest.json", Rank::Manifest),
            ("runs/r/partial.json", Rank::Manifest),
            ("runs/r/begin.json", Rank::Begin),
            ("runs/r/begin.json.json.zst", Rank::Data),
            ("topics/begin.json/x", Rank::Data),
        ] {
            assert_eq!(Rank::of(key), rank, "{key}");
        }
    }
}
