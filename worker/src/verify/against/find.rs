//! Which restore is meant: `plan.json` of all archives, by uid, by name, or by `<namespace>.<name>`.

use std::cmp::Reverse;

use futures::{StreamExt, TryStreamExt, stream};
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::layout::{Layout, unescape};
use kafka_backup_shared::archive::manifest::from_json;
use kafka_backup_shared::archive::restore::RestoreDecision;
use kafka_backup_shared::plan::{ArchiveName, RunRef};

use super::AgainstError;
use crate::runs;
use crate::store::Store;

/// Plans that are read at the same time.
const CONCURRENCY: usize = 16;
/// Restores that a message lists.
const LISTED: usize = 10;

/// A restore that has begun to write.
#[derive(Debug)]
pub(crate) struct Found {
    /// The archive it restores from.
    pub(crate) archive: ArchiveName,
    /// Keys of the archive.
    pub(crate) layout: Layout,
    /// What it does.
    pub(crate) decision: RestoreDecision,
}

/// Finds the restore that is called `name`, in `archive` or in all archives.
///
/// # Errors
/// None or several are; both errors list what is there.
pub(crate) async fn restore(
    store: &Store,
    archive: Option<&ArchiveName>,
    name: &str,
) -> Result<Found, AgainstError> {
    let archives = match archive {
        Some(archive) => vec![archive.clone()],
        None => runs::archives(store).await?,
    };
    let (mut there, mut unreadable) = (Vec::new(), None);
    for archive in archives {
        let layout = Layout::new(&archive);
        for plan in plans(store, &layout).await? {
            match plan {
                Ok(decision) => there.push(Found {
                    archive: archive.clone(),
                    layout: layout.clone(),
                    decision,
                }),
                Err(error) => {
                    unreadable.get_or_insert(error);
                }
            }
        }
    }
    // The newest first, as they are looked for.
    there.sort_by_key(|found| Reverse(found.decision.start_time));
    let names = list(there.iter());
    let is_meant = |found: &Found| is_called(&found.decision.run, name);
    let (mut meant, _): (Vec<Found>, Vec<Found>) = there.into_iter().partition(is_meant);
    if meant.len() > 1 {
        return Err(AgainstError::Ambiguous {
            restore: name.into(),
            there: list(meant.iter()),
        });
    }
    match (meant.pop(), unreadable) {
        (Some(found), _) => Ok(found),
        // It may be the one.
        (None, Some(error)) => Err(error.into()),
        (None, None) => Err(AgainstError::NoRestore {
            restore: name.into(),
            store: store.place().into(),
            there: names,
        }),
    }
}

/// Whether `run` is what a user calls `name`.
fn is_called(run: &RunRef, name: &str) -> bool {
    run.uid == name || run.name == name || format!("{}.{}", run.namespace, run.name) == name
}

/// The restores of an archive that have a plan, or why it cannot be read.
async fn plans(
    store: &Store,
    layout: &Layout,
) -> Result<Vec<Result<RestoreDecision, FormatError>>, AgainstError> {
    let folders = store.list_dirs(&layout.restores()).await?;
    let uids = folders
        .iter()
        .filter_map(|folder| unescape(folder.rsplit('/').next()?));
    let read = stream::iter(uids).map(|uid| async move {
        let key = layout.restore_plan(&uid);
        let found = store.get(&key).await?;
        // One without a plan has written nothing.
        Ok::<_, AgainstError>(found.map(|bytes| from_json(&key, &bytes)))
    });
    let plans: Vec<_> = read.buffered(CONCURRENCY).try_collect().await?;
    Ok(plans.into_iter().flatten().collect())
}

fn list<'a>(restores: impl ExactSizeIterator<Item = &'a Found>) -> String {
    let count = restores.len();
    if count == 0 {
        return "none".into();
    }
    let listed = restores.take(LISTED).map(|found| {
        let RunRef {
            namespace,
            name,
            uid,
            ..
        } = &found.decision.run;
        format!(
            "{uid} ({namespace}.{name}, of {}, begun {})",
            found.archive, found.decision.start_time
        )
    });
    let mut text = listed.collect::<Vec<_>>().join(", ");
    if count > LISTED {
        text.push_str(&format!(" and {} more", count - LISTED));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use jiff::Timestamp;
    use kafka_backup_shared::archive::FORMAT_VERSION;
    use kafka_backup_shared::archive::manifest::to_json;
    use kafka_backup_shared::plan::{RestoreRequest, Topics};
    use kafka_backup_shared::report::Fault;
    use kafka_backup_shared::spec::MissingTopics;

    fn decision(namespace: &str, name: &str, uid: &str) -> RestoreDecision {
        let topics = Topics {
            include: vec!["*".into()],
            exclude: vec![],
            missing: MissingTopics::Fail,
        };
        RestoreDecision {
            format_version: FORMAT_VERSION,
            run: RunRef {
                kind: "KafkaRestore".into(),
                namespace: namespace.into(),
                name: name.into(),
                uid: uid.into(),
                run: format!("{name}-20260102-030405"),
            },
            start_time: Timestamp::UNIX_EPOCH,
            backup_id: "orders-20260101-000000".into(),
            request: RestoreRequest::new("latest", topics),
            provenance: None,
            target_cluster_id: "c".into(),
            producer_id: 1,
            producer_epoch: 0,
            topics: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn a_restore_is_found_by_uid_and_name_and_errors_list_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let archive = |name: &str| ArchiveName {
            namespace: "shop".into(),
            name: name.into(),
        };
        for (of, namespace, name, uid) in [
            ("orders", "shop", "back", "shop.back"),
            ("orders", "shop", "twice", "u1"),
            ("invoices", "bank", "twice", "u2"),
        ] {
            let plan = decision(namespace, name, uid);
            let key = Layout::new(&archive(of)).restore_plan(uid);
            store.create(&key, to_json(&plan).into()).await.unwrap();
        }
        // Begun, and given up before anything was decided.
        let lease = Layout::new(&archive("orders")).restore_lease("u3");
        store.create(&lease, b"{}"[..].into()).await.unwrap();
        for (name, uid) in [
            ("back", "shop.back"),
            ("shop.back", "shop.back"),
            ("u2", "u2"),
            ("bank.twice", "u2"),
        ] {
            let found = restore(&store, None, name).await.unwrap();
            assert_eq!(found.decision.run.uid, uid, "{name}");
        }
        let of_orders = Some(archive("orders"));
        let found = restore(&store, of_orders.as_ref(), "twice").await.unwrap();
        assert_eq!(found.decision.run.uid, "u1");

        let several = restore(&store, None, "twice").await.unwrap_err();
        let text = several.to_string();
        assert!(text.contains("u1 (shop.twice, of shop/orders"), "{text}");
        assert!(text.contains("u2 (bank.twice, of shop/invoices"), "{text}");
        assert!(!text.contains("back"), "{text}");
        let none = restore(&store, None, "u3").await.unwrap_err();
        let text = none.to_string();
        assert!(
            text.contains("shop.back (") && text.contains("u2 ("),
            "{text}"
        );
        assert_eq!((several.fault(), none.fault()), (Fault::Spec, Fault::Spec));
    }

    #[tokio::test]
    async fn a_plan_that_cannot_be_read_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let layout = Layout::new(&ArchiveName {
            namespace: "shop".into(),
            name: "orders".into(),
        });
        let good = decision("shop", "good", "u1");
        let key = layout.restore_plan("u1");
        store.create(&key, to_json(&good).into()).await.unwrap();
        let key = layout.restore_plan("u2");
        store.create(&key, b"{"[..].into()).await.unwrap();
        assert!(restore(&store, None, "good").await.is_ok());
        let error = restore(&store, None, "u2").await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt);
        assert!(error.to_string().contains("u2/plan.json"), "{error}");
        let nowhere = ArchiveName {
            namespace: "no".into(),
            name: "where".into(),
        };
        let error = restore(&store, Some(&nowhere), "good").await.unwrap_err();
        assert!(error.to_string().ends_with("there is none"), "{error}");
    }
}
