//! Who runs and who waits, as this process knows it: the caches, and the places that it has given and they do not show yet.
//!
//! # Assumptions
//! - One controller gives places. What a stale one gives beside it is refused with its status write.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};

use super::line::{Limits, Place, Waiter, places};
use crate::kind::Kind;
use crate::objects::Objects;

/// A place whose run no cache shows after this time was not taken.
const GIVEN: Duration = Duration::from_secs(30);
/// How many of those who wait are called when a run ends; each that starts or ends calls more.
const CALLED: usize = 8;

/// Places that were given, by the UID of the object.
#[derive(Debug, Default)]
pub(super) struct Places {
    given: HashMap<String, (String, Instant)>,
}

impl Places {
    /// Gives `own` its place, if it has one.
    pub(super) fn place(
        &mut self,
        limits: Limits,
        objects: &Objects,
        own: Waiter,
    ) -> Option<Place> {
        let (running, mut waiting) = self.line(objects, &own.uid);
        waiting.push(own.clone());
        let found = places(limits, running, waiting)
            .into_iter()
            .find(|(waiter, _)| waiter.uid == own.uid);
        let (_, place) = found?;
        if place == Place::Free {
            let given = (own.namespace, Instant::now());
            self.given.insert(own.uid, given);
        }
        Some(place)
    }

    /// Those who wait and might start.
    pub(super) fn next(&mut self, limits: Limits, objects: &Objects) -> Vec<Waiter> {
        let (_, waiting) = self.line(objects, "");
        let of_empty = places(limits, BTreeMap::new(), waiting).into_iter();
        of_empty
            .filter(|(_, place)| *place == Place::Free)
            .map(|(waiter, _)| waiter)
            .take(CALLED)
            .collect()
    }

    /// Runs per namespace and everybody who waits, but for the object with the UID `own`.
    fn line(&mut self, objects: &Objects, own: &str) -> (BTreeMap<String, u32>, Vec<Waiter>) {
        self.given.retain(|_, (_, since)| since.elapsed() < GIVEN);
        let mut running = BTreeMap::new();
        let mut waiting = Vec::new();
        self.add::<KafkaBackup>(objects, own, &mut running, &mut waiting);
        self.add::<KafkaRestore>(objects, own, &mut running, &mut waiting);
        self.add::<KafkaOffsetReset>(objects, own, &mut running, &mut waiting);
        self.add::<KafkaOffsetRollback>(objects, own, &mut running, &mut waiting);
        for (uid, (namespace, _)) in &self.given {
            if uid != own {
                *running.entry(namespace.clone()).or_default() += 1;
            }
        }
        (running, waiting)
    }

    fn add<K: Kind>(
        &mut self,
        objects: &Objects,
        own: &str,
        running: &mut BTreeMap<String, u32>,
        waiting: &mut Vec<Waiter>,
    ) {
        for object in K::store(objects).state() {
            let meta = object.meta();
            let uid = meta.uid.as_deref().unwrap_or_default();
            let namespace = || meta.namespace.clone().unwrap_or_default();
            let status = object.status();
            let life = K::life(&status);
            if life.active_run.is_some() {
                self.given.remove(uid);
                *running.entry(namespace()).or_default() += 1;
            } else if let Some(run) = &life.waiting_run
                && uid != own
                && !self.given.contains_key(uid)
                && meta.deletion_timestamp.is_none()
            {
                waiting.push(Waiter {
                    due: run.due.0,
                    namespace: namespace(),
                    name: meta.name.clone().unwrap_or_default(),
                    kind: K::KIND,
                    uid: uid.to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use kafka_backup_shared::status::{RunReason, WaitingRun, time};
    use kube::runtime::reflector::store;
    use kube::runtime::reflector::store::Writer;
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::fixtures::{self, at};
    use crate::kind::ObjectKind;
    use crate::objects::Caches;

    fn backup(name: &str, minute: i64) -> KafkaBackup {
        let mut object = fixtures::backup();
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(format!("uid-{name}"));
        let due = at("2026-01-01T00:00:00Z") + SignedDuration::from_mins(minute);
        let mut status = object.status();
        status.life.waiting_run = Some(WaitingRun {
            reason: RunReason::Schedule,
            key: due.to_string(),
            at: time(due),
            due: time(due),
        });
        object.status = Some(status);
        object
    }

    fn begin(object: &KafkaBackup, writer: &mut Writer<KafkaBackup>) {
        let mut object = object.clone();
        let mut status = object.status();
        status.life.waiting_run = None;
        status.life.active_run = Some(fixtures::active_run(&object));
        object.status = Some(status);
        writer.apply_watcher_event(&Event::Apply(object));
    }

    fn waiter(object: &KafkaBackup) -> Waiter {
        Waiter {
            due: object.status().life.waiting_run.unwrap().due.0,
            namespace: "shop".into(),
            name: object.metadata.name.clone().unwrap(),
            kind: ObjectKind::Backup,
            uid: object.metadata.uid.clone().unwrap(),
        }
    }

    #[test]
    fn a_place_is_given_once_also_before_the_cache_shows_it() {
        let (backups, mut writer) = store();
        let objects = Objects::new(Caches {
            backups,
            ..Caches::empty()
        });
        let limits = Limits {
            runs: Some(2),
            runs_per_namespace: None,
        };
        let three = [backup("a", 0), backup("b", 1), backup("c", 2)];
        for object in &three {
            writer.apply_watcher_event(&Event::Apply(object.clone()));
        }
        let mut places = Places::default();
        let mut place =
            |object: &KafkaBackup| places.place(limits, &objects, waiter(object)).unwrap();
        // The last one asks first, and waits for the two before it.
        assert_eq!(place(&three[2]), Place::Waits(1));
        assert_eq!(
            (place(&three[0]), place(&three[1])),
            (Place::Free, Place::Free)
        );
        assert_eq!(place(&three[2]), Place::Waits(1));
        // Who asks again after a refused write keeps the place.
        assert_eq!(place(&three[0]), Place::Free);
        begin(&three[0], &mut writer);
        begin(&three[1], &mut writer);
        assert_eq!(place(&three[2]), Place::Waits(1));
        let mut ended = three[0].clone();
        ended.status = None;
        writer.apply_watcher_event(&Event::Apply(ended));
        assert_eq!(place(&three[2]), Place::Free);
    }
}
