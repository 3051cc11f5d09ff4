//! What an archive holds, and what of it may go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId, unescape};
use kafka_backup_shared::archive::manifest::{
    Begin, Manifest, PinnedPartition, TopicPart, from_json, from_json_zst,
};
use kafka_backup_shared::archive::restore::{Lease, RestoreDecision};
use kafka_backup_shared::archive::retention::{
    Continuation, KnownRun, Marked, OpenRestore, Policy, RunDecision, RunState, decide_runs,
    expired_segments,
};
use kafka_backup_shared::archive::tiles::{Foundation, Sizes};

use super::merge::Merge;
use super::{CONCURRENCY, RetentionError, Scope};
use crate::inspect::{Ledger, ledger};
use crate::store::Store;

/// Topics that are looked at together: each holds its listing and its parts.
const TOPICS: usize = 8;

/// What of an archive matters to retention.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Lists of marks, by id.
    pub(super) marked: BTreeMap<String, Marked>,
    /// What may go: keys relative to the archive's folder, with sizes.
    pub(super) expired: BTreeMap<String, u64>,
    /// What is worth merging.
    pub(super) merges: Vec<Merge>,
    /// Keys of the expired runs' `begin.json`, with their ids.
    begins: BTreeMap<String, String>,
}

impl View {
    /// The run whose `begin.json` a relative key is.
    pub(super) fn run_of_begin(&self, key: &str) -> Option<String> {
        self.begins.get(key).cloned()
    }
}

/// A run with the topics that it has, and the runs whose folders hold their parts.
struct Run {
    known: KnownRun,
    parts: BTreeMap<Arc<str>, Arc<str>>,
    /// Of a run without manifest: what it set out to do.
    begin: Option<Begin>,
}

/// Reads the archive.
pub(super) async fn look(
    store: &Store,
    layout: &Layout,
    policy: &Policy,
    scope: Scope,
    now: Timestamp,
) -> Result<View, RetentionError> {
    let marked = marked(store, layout).await?;
    let (runs, folders) = runs(store, layout, &marked).await?;
    let restores = restores(store, layout, now).await?;
    let known: Vec<KnownRun> = runs.values().map(|run| run.known.clone()).collect();
    let open: Vec<OpenRestore> = restores
        .iter()
        .map(|restore| restore.open.clone())
        .collect();
    let decision = decide_runs(&known, &open, policy, now);
    let mut view = View {
        marked,
        ..View::default()
    };
    let Some(newest) = decision.newest.as_ref().and_then(|id| runs.get(&**id)) else {
        return Ok(view);
    };
    let archive = Archive {
        store,
        layout,
        runs: &runs,
        decision: &decision,
        newest,
        restores: &restores,
    };
    let touched = archive.touched(&view.marked);
    let topics = match scope {
        Scope::All => archive.all_topics().await?,
        Scope::Touched => touched.topics,
    };
    let looks = stream::iter(topics).map(|topic| archive.topic(topic));
    let mut looks = looks.buffer_unordered(TOPICS);
    while let Some(topic) = looks.try_next().await? {
        view.expired.extend(topic.expired);
        view.merges.extend(topic.merges);
    }
    drop(looks);
    let goes = |run: &&String| {
        let left_over = !runs.contains_key(&***run);
        let touched = scope == Scope::All || touched.folders.contains(*run);
        decision.expired.contains(*run) || (left_over && touched)
    };
    for run in folders.iter().filter(goes) {
        view.expired.extend(archive.folder(run).await?);
        view.begins
            .insert(relative(layout, &layout.begin(run)).to_owned(), run.clone());
    }
    Ok(view)
}

/// A key without the archive's folder, so that an archive may be copied elsewhere.
pub(super) fn relative<'a>(layout: &Layout, key: &'a str) -> &'a str {
    key.strip_prefix(layout.root())
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(key)
}

async fn marked(
    store: &Store,
    layout: &Layout,
) -> Result<BTreeMap<String, Marked>, RetentionError> {
    let folder = layout.trash();
    let ids = store
        .list(&folder, |key, _| {
            let name = key.strip_prefix(&folder)?.strip_prefix('/')?;
            unescape(name.strip_suffix(".json")?)
        })
        .await?;
    let lists = stream::iter(ids).map(|id| async move {
        let key = layout.trash_list(&id);
        let Some(bytes) = store.get(&key).await? else {
            // Another retention is done with it.
            return Ok(None);
        };
        Ok::<_, RetentionError>(Some((id, from_json(&key, &bytes)?)))
    });
    let lists: Vec<_> = lists.buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

/// The runs that have begun, and the folders of all, also of those of which only parts are left.
async fn runs(
    store: &Store,
    layout: &Layout,
    marked: &BTreeMap<String, Marked>,
) -> Result<(BTreeMap<Arc<str>, Run>, Vec<String>), RetentionError> {
    let folders = store.list_dirs(&layout.runs()).await?;
    let folders: Vec<String> = folders
        .iter()
        .filter_map(|folder| unescape(folder.rsplit('/').next()?))
        .collect();
    let marks: BTreeSet<&str> = marked
        .values()
        .flat_map(|list| &list.keys)
        .map(String::as_str)
        .filter(|key| key.starts_with("runs/"))
        .collect();
    let read = stream::iter(&folders)
        .map(|id| async move { Ok::<_, RetentionError>((id, ledger(store, layout, id).await?)) });
    let mut read = read.buffer_unordered(CONCURRENCY);
    // A name that every manifest repeats is kept once.
    let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut shared = |name: &str| match names.get(name) {
        Some(known) => known.clone(),
        None => {
            let name: Arc<str> = Arc::from(name);
            names.insert(name.clone());
            name
        }
    };
    let mut runs = BTreeMap::new();
    while let Some((id, ledger)) = read.try_next().await? {
        let was_marked = [layout.manifest(id), layout.partial(id)]
            .iter()
            .any(|key| marks.contains(relative(layout, key)));
        let mut of_manifest = |manifest: &Manifest, state| Run {
            known: KnownRun {
                id: id.clone(),
                state,
                start_time: manifest.start_time,
                bases: BTreeSet::new(),
            },
            parts: manifest
                .topics
                .iter()
                .map(|(topic, summary)| (shared(topic), shared(&summary.part)))
                .collect(),
            begin: None,
        };
        let run = match ledger {
            None => continue,
            Some(Ledger::Complete(manifest)) => of_manifest(&manifest, RunState::Complete),
            Some(Ledger::Partial(manifest)) => {
                let mut run = of_manifest(&manifest, RunState::Partial);
                run.begin = begin(store, layout, id).await?;
                run.known.bases = run.begin.as_ref().map(Begin::bases).unwrap_or_default();
                run
            }
            Some(Ledger::Unfinished(begin)) => Run {
                known: KnownRun {
                    id: id.clone(),
                    state: match was_marked {
                        true => RunState::Dying,
                        false => RunState::Unfinished,
                    },
                    start_time: begin.start_time,
                    bases: begin.bases(),
                },
                parts: BTreeMap::new(),
                begin: Some(*begin),
            },
        };
        runs.insert(shared(id), run);
    }
    drop(read);
    Ok((runs, folders))
}

async fn begin(store: &Store, layout: &Layout, run: &str) -> Result<Option<Begin>, RetentionError> {
    let key = layout.begin(run);
    let found = store.get(&key).await?;
    Ok(found.map(|bytes| from_json(&key, &bytes)).transpose()?)
}

/// A restore under way.
struct Restore {
    open: OpenRestore,
    pinned: BTreeMap<ChainKey, Vec<SegmentName>>,
}

async fn restores(
    store: &Store,
    layout: &Layout,
    now: Timestamp,
) -> Result<Vec<Restore>, RetentionError> {
    let folders = store.list_dirs(&layout.restores()).await?;
    let uids = folders
        .iter()
        .filter_map(|folder| unescape(folder.rsplit('/').next()?));
    let read = stream::iter(uids).map(|uid| async move {
        if store.head(&layout.restore_done(&uid)).await?.is_some() {
            return Ok(None);
        }
        let key = layout.restore_plan(&uid);
        let Some(bytes) = store.get(&key).await? else {
            return Ok(None);
        };
        let plan: RestoreDecision = from_json(&key, &bytes)?;
        let key = layout.restore_lease(&uid);
        let lease = store.get(&key).await?;
        let lease: Option<Lease> = lease.map(|bytes| from_json(&key, &bytes)).transpose()?;
        let restore = Restore {
            open: OpenRestore {
                backup_id: plan.backup_id.clone(),
                last_seen: lease
                    .map_or(plan.start_time, |lease| lease.renewed.max(plan.start_time)),
            },
            pinned: pinned_by(&plan),
        };
        Ok::<_, RetentionError>(Some(restore).filter(|restore| restore.open.is_live(now)))
    });
    let read: Vec<Option<Restore>> = read.buffer_unordered(CONCURRENCY).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

fn pinned_by(plan: &RestoreDecision) -> BTreeMap<ChainKey, Vec<SegmentName>> {
    let partitions = plan.topics.iter().flat_map(|(name, topic)| {
        topic.sources.iter().map(|partition| {
            let chain = ChainKey {
                topic: name.clone(),
                topic_id: topic.source_topic_id,
                partition: partition.partition,
                generation: partition.generation.clone(),
            };
            (chain, partition.segments.clone())
        })
    });
    partitions.collect()
}

/// Where something may have become free, or worth merging.
#[derive(Default)]
struct Touched {
    topics: BTreeSet<String>,
    /// Runs of which only parts are left.
    folders: BTreeSet<String>,
}

/// What a look goes by.
struct Archive<'a> {
    store: &'a Store,
    layout: &'a Layout,
    runs: &'a BTreeMap<Arc<str>, Run>,
    decision: &'a RunDecision,
    newest: &'a Run,
    restores: &'a [Restore],
}

/// What of one topic may go, and what is worth merging.
struct Topic {
    expired: Vec<(String, u64)>,
    merges: Vec<Merge>,
}

impl Archive<'_> {
    fn stays(&self, run: &Run) -> bool {
        !self.decision.expired.contains(&run.known.id)
    }

    /// The runs in whose folders the parts of a topic stand that runs which stay point to.
    fn parts_of(&self, topic: &str) -> BTreeSet<&str> {
        let runs = self.runs.values().filter(|run| self.stays(run));
        runs.filter_map(|run| run.parts.get(topic))
            .map(|part| &**part)
            .collect()
    }

    async fn all_topics(&self) -> Result<BTreeSet<String>, RetentionError> {
        let folders = self.store.list_dirs(&self.layout.topics()).await?;
        let names = folders
            .iter()
            .filter_map(|folder| unescape(folder.rsplit('/').next()?));
        Ok(names.collect())
    }

    /// Elsewhere nothing can have become free since the look before.
    fn touched(&self, marked: &BTreeMap<String, Marked>) -> Touched {
        let (stay, go): (Vec<&Run>, Vec<&Run>) =
            self.runs.values().partition(|run| self.stays(run));
        let needed: BTreeSet<(&str, &str)> = stay.into_iter().flat_map(parts).collect();
        let freed: BTreeSet<(&str, &str)> = go.iter().copied().flat_map(parts).collect();
        let freed = freed.difference(&needed);
        let changed = parts(self.newest).filter(|(_, part)| *part == self.newest.known.id);
        let mut touched = Touched::default();
        for (topic, part) in freed.copied().chain(changed) {
            touched.topics.insert(topic.to_owned());
            touched.folders.insert(part.to_owned());
        }
        let given_up = go.iter().filter_map(|run| run.begin.as_ref());
        touched
            .topics
            .extend(given_up.flat_map(|begin| begin.topics.keys().cloned()));
        for key in marked.values().flat_map(|list| &list.keys) {
            let mut steps = key.split('/');
            match (steps.next(), steps.next().and_then(unescape)) {
                (Some("topics"), Some(topic)) => {
                    touched.topics.insert(topic);
                }
                (Some("runs"), Some(run)) => {
                    touched.folders.insert(run);
                }
                (Some(_) | None, Some(_) | None) => {}
            }
        }
        touched
    }

    async fn topic(&self, topic: String) -> Result<Topic, RetentionError> {
        let there = self.segments(&topic).await?;
        let continued = self.newest.parts.get(&*topic).map(|part| &**part);
        let mut parts: BTreeMap<&str, TopicPart> = BTreeMap::new();
        for run in self.parts_of(&topic) {
            parts.insert(run, self.part(run, &topic).await?);
        }
        let mut pinned: BTreeMap<ChainKey, BTreeSet<SegmentName>> = BTreeMap::new();
        for (part, partition) in parts.values().flat_map(partitions) {
            let chain = chain_of(part, partition);
            pinned.entry(chain).or_default().extend(&partition.segments);
        }
        for (chain, segments) in self.restores.iter().flat_map(|restore| &restore.pinned) {
            if chain.topic == topic {
                pinned.entry(chain.clone()).or_default().extend(segments);
            }
        }
        let mut continuations: Vec<Continuation> = self.live(&topic, &parts).collect();
        let mut merges = Vec::new();
        for (part, partition) in continued
            .and_then(|run| parts.get(run))
            .into_iter()
            .flat_map(partitions)
        {
            let chain = chain_of(part, partition);
            if let Some(there) = there.get(&chain) {
                let found = Foundation::new(partition).to_merge(there);
                merges.extend(found.into_iter().map(|pieces| Merge {
                    chain: chain.clone(),
                    pieces,
                }));
            }
            continuations.push(Continuation {
                chain,
                base: Some(partition.clone()),
            });
        }
        let expired = expired_segments(&there, &pinned, &continuations);
        Ok(Topic {
            expired: expired
                .into_iter()
                .map(|(chain, name, size)| {
                    let key = self.layout.segment(&chain, &name);
                    (relative(self.layout, &key).to_owned(), size)
                })
                .collect(),
            merges,
        })
    }

    async fn segments(&self, topic: &str) -> Result<BTreeMap<ChainKey, Sizes>, RetentionError> {
        let found = self
            .store
            .list(&self.layout.topic(topic), |key, size| {
                match self.layout.parse_segment(key) {
                    Ok((chain, name)) => Some((chain, name, size)),
                    Err(error) => {
                        tracing::warn!(error = %error, "a foreign object is among the segments: it stays");
                        None
                    }
                }
            })
            .await?;
        let mut there: BTreeMap<ChainKey, Sizes> = BTreeMap::new();
        for (chain, name, size) in found {
            there.entry(chain).or_default().insert(name, size);
        }
        Ok(there)
    }

    /// A part that a manifest which stays points to.
    async fn part(&self, run: &str, topic: &str) -> Result<TopicPart, RetentionError> {
        let key = self.layout.topic_part(run, topic);
        let Some(bytes) = self.store.get(&key).await? else {
            let reason = "it is missing, but a manifest needs it".to_owned();
            return Err(FormatError::Damaged {
                object: key,
                reason,
            }
            .into());
        };
        Ok(from_json_zst(&key, &bytes)?)
    }

    /// What the live runs continue or have opened of a topic.
    fn live<'a>(
        &'a self,
        topic: &'a str,
        parts: &'a BTreeMap<&str, TopicPart>,
    ) -> impl Iterator<Item = Continuation> + 'a {
        let live = self
            .decision
            .live
            .iter()
            .filter_map(|id| self.runs.get(&**id));
        live.flat_map(move |run| {
            let begun = run
                .begin
                .iter()
                .filter_map(|begin| Some((begin.topics.get(topic)?, begin.base_of(topic))));
            begun.flat_map(move |(begun, base)| {
                let id = begun.description.topic_id;
                begun.partitions.iter().map(move |partition| {
                    let chain = ChainKey {
                        topic: topic.to_owned(),
                        topic_id: id,
                        partition: partition.partition,
                        generation: partition.generation.clone(),
                    };
                    let base = base.and_then(|run| self.pinned_in(run, topic, id, &chain, parts));
                    Continuation { chain, base }
                })
            })
        })
    }

    /// What a run that stays has pinned of a chain.
    fn pinned_in(
        &self,
        run: &str,
        topic: &str,
        id: TopicId,
        chain: &ChainKey,
        parts: &BTreeMap<&str, TopicPart>,
    ) -> Option<PinnedPartition> {
        let part = parts.get(&**self.runs.get(run)?.parts.get(topic)?)?;
        let pinned = part.pinned(chain.partition, &chain.generation);
        pinned.filter(|_| part.description.topic_id == id).cloned()
    }

    /// What may go of the folder of a run that goes, or of which only parts are left.
    async fn folder(&self, run: &str) -> Result<Vec<(String, u64)>, RetentionError> {
        let staying = self.runs.values().filter(|other| self.stays(other));
        let needed: BTreeSet<String> = staying
            .flat_map(|other| &other.parts)
            .filter(|(_, part)| ***part == *run)
            .map(|(topic, _)| self.layout.topic_part(run, topic))
            .collect();
        let folder = self.layout.run(run);
        let found = self.store.list(&folder, |key, size| {
            let ours = [".json", ".json.zst", ".jsonl.zst"];
            let ours = ours.iter().any(|ending| key.ends_with(ending));
            (ours && !needed.contains(key)).then(|| (relative(self.layout, key).to_owned(), size))
        });
        Ok(found.await?)
    }
}

/// The topics of a run with the runs whose folders hold their parts.
fn parts(run: &Run) -> impl Iterator<Item = (&str, &str)> {
    run.parts.iter().map(|(topic, part)| (&**topic, &**part))
}

fn partitions(part: &TopicPart) -> impl Iterator<Item = (&TopicPart, &PinnedPartition)> {
    part.partitions
        .iter()
        .map(move |partition| (part, partition))
}

fn chain_of(part: &TopicPart, partition: &PinnedPartition) -> ChainKey {
    ChainKey {
        topic: part.topic.clone(),
        topic_id: part.description.topic_id,
        partition: partition.partition,
        generation: partition.generation.clone(),
    }
}
