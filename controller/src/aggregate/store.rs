//! Families, series and sources, without clocks and locks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashTable;

use super::series::{Change, Last, Series, Total, lines};
use super::{KEPT, ObjectName, Owner, REMEMBERED, Source};
use crate::exporter::{Escape, Escaped};
use crate::exposition::{Family, Kind, Label, Point, Value};

/// What a push leaves of what its source said before of gauges and untyped values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replace {
    /// `PUT`: nothing that is not in it.
    All,
    /// `POST`: nothing of the families that are in it.
    Named,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is in.
    Yes,
    /// It is older than what is known of its source, and changed nothing; the reason names a series.
    Late(String),
}

/// Why a push was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{0}")]
    Invalid(String),
    #[error("{held} samples are held and the push would add {added}, of at most {max}")]
    Full {
        held: usize,
        added: usize,
        max: usize,
    },
}

/// How much is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Lines of exposition.
    pub(crate) samples: usize,
    /// Sources that have not ended.
    pub(crate) sources: usize,
}

/// Place of a series: its family's, and its own within it.
type Place = (u32, u32);

pub(super) struct Store {
    max_samples: usize,
    pub(super) families: Vec<FamilyState>,
    by_name: HashMap<Box<str>, u32>,
    /// Names of samples, and the family that they belong to.
    reserved: HashMap<Box<str>, u32>,
    sources: HashMap<Box<str>, SourceState>,
    next_number: u64,
    hasher: RandomState,
    samples: usize,
    /// Samples that sources remember, which are bounded as those that are exposed are.
    remembered: usize,
}

pub(super) struct FamilyState {
    pub(super) name: Box<str>,
    pub(super) kind: Kind,
    pub(super) help: Box<str>,
    /// With empty places, so that a place stays a series' own.
    pub(super) series: Vec<Option<Series>>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// Of the last histogram that was new; others mostly have the same, and then share them.
    bounds: Arc<[f64]>,
}

struct SourceState {
    number: u64,
    object: Option<Arc<ObjectName>>,
    job: Option<Box<str>>,
    pushed: Instant,
    is_ended: bool,
    /// By place.
    last: Vec<(Place, Last)>,
}

/// One point of a push, and what is to be done with it.
struct Step<'p> {
    family: usize,
    place: Option<Place>,
    labels: Box<str>,
    point: &'p Point<'p>,
    start: Option<f64>,
    relation: Relation,
}

/// What a point is to what its source said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// It counts from nothing: the first one, or that of a new process.
    Fresh,
    /// It goes on.
    Continued,
}

impl Store {
    pub(super) fn new(max_samples: usize) -> Self {
        Self {
            max_samples,
            families: Vec::new(),
            by_name: HashMap::new(),
            reserved: HashMap::new(),
            sources: HashMap::new(),
            next_number: 0,
            hasher: RandomState::new(),
            samples: 0,
            remembered: 0,
        }
    }

    pub(super) fn held(&self) -> Held {
        Held {
            samples: self.samples,
            sources: self
                .sources
                .values()
                .filter(|source| !source.is_ended)
                .count(),
        }
    }

    /// Whether what is counted is what there is.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let series = self
            .families
            .iter()
            .flat_map(|family| family.series.iter().flatten());
        assert_eq!(
            self.samples,
            series.map(|series| series.value.lines()).sum::<usize>()
        );
        let last = self.sources.values().flat_map(|source| &source.last);
        assert_eq!(
            self.remembered,
            last.map(|(_, last)| last.lines()).sum::<usize>()
        );
    }

    pub(super) fn push(
        &mut self,
        source: &Source,
        replace: Replace,
        families: &[Family<'_>],
        now: Instant,
    ) -> Result<Taken, StoreError> {
        self.check_families(families)?;
        let mut steps = self.steps(source, families)?;
        if let Some(late) = self.relate(&source.id, &mut steps, families)? {
            return Ok(Taken::Late(late));
        }
        self.check_room(&source.id, &steps)?;
        self.apply(source, replace, families, steps, now);
        Ok(Taken::Yes)
    }

    /// Types, and names that two families would share.
    fn check_families(&self, families: &[Family<'_>]) -> Result<(), StoreError> {
        let mut pushed = HashMap::new();
        for family in families.iter().filter(|family| !family.points.is_empty()) {
            let name = family.name.as_ref();
            if let Some(known) = self.family(name) {
                if known.kind != family.kind {
                    let (held, kind) = (known.kind.as_str(), family.kind.as_str());
                    return Err(StoreError::Invalid(format!(
                        "{name} is a {kind} in this push, and a {held} by earlier ones"
                    )));
                }
                continue;
            }
            for reserved in reserved(name, family.kind) {
                let known = self.reserved.get(reserved.as_str());
                let known = known.map(|index| self.families[*index as usize].name.as_ref());
                let other = known.or(pushed.get(&reserved).copied());
                if let Some(other) = other.filter(|other| *other != name) {
                    return Err(StoreError::Invalid(format!(
                        "{name} has samples named {reserved}, as {other} has"
                    )));
                }
                pushed.insert(reserved, name);
            }
        }
        Ok(())
    }

    fn family(&self, name: &str) -> Option<&FamilyState> {
        let index = *self.by_name.get(name)?;
        Some(&self.families[index as usize])
    }

    /// The place and the complete labels of each point.
    fn steps<'p>(
        &self,
        source: &Source,
        families: &'p [Family<'p>],
    ) -> Result<Vec<Step<'p>>, StoreError> {
        let process = process_start(families);
        let guesses = self.last_series(&source.id);
        let points = families.iter().map(|family| family.points.len()).sum();
        let mut steps = Vec::with_capacity(points);
        let mut labels = String::new();
        for (index, family) in families.iter().enumerate() {
            let known = self.by_name.get(family.name.as_ref()).copied();
            for point in &family.points {
                labels.clear();
                write_labels(&mut labels, &point.labels, &source.labels);
                let place = known.and_then(|known| {
                    let (place, series) = guesses.get(steps.len())?;
                    let is_it = place.0 == known && *series.as_ref()?.labels == *labels;
                    is_it.then_some(*place)
                });
                let place = place
                    .or_else(|| known.and_then(|known| Some((known, self.find(known, &labels)?))));
                steps.push(Step {
                    family: index,
                    place,
                    // One that is known has its labels already.
                    labels: if place.is_none() {
                        labels.as_str().into()
                    } else {
                        Box::default()
                    },
                    point,
                    start: point.created.or(process),
                    relation: Relation::Fresh,
                });
            }
        }
        self.check_distinct(families, &steps)?;
        Ok(steps)
    }

    /// The series of which a source told last time, where they are still there: clients send their points in
    /// one order, so that they are mostly those of this time. With many series what costs most is spared by it: looks into an
    /// index, and waiting for one series after another, none of which is in a cache of the processor.
    fn last_series(&self, source: &str) -> Vec<(Place, Option<&Series>)> {
        let Some(state) = self.sources.get(source) else {
            return Vec::new();
        };
        let series = |(family, series): Place| {
            let series = self.families[family as usize].series.get(series as usize)?;
            series.as_ref()
        };
        let found = state.last.iter().map(|(place, _)| (*place, series(*place)));
        let found: Vec<_> = found.collect();
        // Memory is waited for here, for all of it at once, and not for one series after another where they are compared.
        let series = found.iter().filter_map(|(_, series)| *series);
        let asked = series.fold(0, |all, series| all ^ series.prefetch());
        let last = state.last.iter();
        std::hint::black_box(last.fold(asked, |all, (_, last)| all ^ last.prefetch()));
        found
    }

    fn find(&self, family: u32, labels: &str) -> Option<u32> {
        let state = &self.families[family as usize];
        let hash = self.hasher.hash_one(labels);
        let is_it = |place: &u32| {
            let series = state.series[*place as usize].as_ref();
            series.is_some_and(|series| &*series.labels == labels)
        };
        state.index.find(hash, is_it).copied()
    }

    fn check_distinct(
        &self,
        families: &[Family<'_>],
        steps: &[Step<'_>],
    ) -> Result<(), StoreError> {
        let mut known: Vec<Place> = steps.iter().filter_map(|step| step.place).collect();
        known.sort_unstable();
        let twice = known.windows(2).find(|pair| pair[0] == pair[1]);
        let twice = twice.map(|pair| &*self.families[pair[0].0 as usize].name);
        let mut unknown = HashSet::new();
        let steps = steps.iter().filter(|step| step.place.is_none());
        let mut again = steps.filter(|step| !unknown.insert((step.family, &*step.labels)));
        let twice = twice.or_else(|| Some(families[again.next()?.family].name.as_ref()));
        match twice {
            None => Ok(()),
            Some(name) => Err(StoreError::Invalid(format!(
                "a second sample of the same series of {name}, once it has the labels of the path"
            ))),
        }
    }

    /// Compares with what the source said before; tells why the push is late, if it is.
    fn relate(
        &self,
        source: &str,
        steps: &mut [Step<'_>],
        families: &[Family<'_>],
    ) -> Result<Option<String>, StoreError> {
        let Some(known) = self.sources.get(source) else {
            return Ok(None);
        };
        let mut is_repeat = known.is_ended;
        let mut is_compared = false;
        for (position, step) in steps.iter_mut().enumerate() {
            let Family { name, kind, .. } = &families[step.family];
            if !kind.adds_up() {
                continue;
            }
            let last = step.place.and_then(|place| known.last(place, position));
            let Some(before) = last.and_then(|last| last.compare(&step.point.value)) else {
                is_repeat = false;
                continue;
            };
            is_compared = true;
            let starts = before.start.zip(step.start);
            if starts.is_some_and(|(known, own)| own > known) {
                is_repeat = false;
                continue;
            }
            // What an ended source is followed by, and that is not its repeat, is another process.
            if known.is_ended && starts.is_none() {
                is_repeat &= before.is == Change::None;
                continue;
            }
            step.relation = Relation::Continued;
            let is_older = starts.is_some_and(|(known, own)| own < known);
            let since = match is_older {
                true => "a later start",
                false => "the same start",
            };
            if is_older || before.is == Change::Lower {
                return Ok(Some(format!(
                    "{name} is lower than before, or of an earlier process: it was {} from {since}; nothing was changed",
                    before.count
                )));
            }
            if before.is == Change::OtherBuckets {
                return Err(StoreError::Invalid(format!(
                    "{name} has other buckets than before, from {since}"
                )));
            }
            is_repeat &= before.is == Change::None;
        }
        if is_repeat && is_compared {
            let reason = "it repeats the last push of a source that has ended; nothing was changed";
            return Ok(Some(reason.into()));
        }
        Ok(None)
    }

    fn check_room(&self, source: &str, steps: &[Step<'_>]) -> Result<(), StoreError> {
        let added = steps.iter().filter(|step| step.place.is_none());
        let added: usize = added.map(|step| lines(&step.point.value)).sum();
        let known = self.sources.get(source);
        let remembered = steps.iter().enumerate().filter(|(position, step)| {
            let last = step.place.and_then(|place| known?.last(place, *position));
            last.is_none()
        });
        let remembered: usize = remembered.map(|(_, step)| lines(&step.point.value)).sum();
        // Each exposed sample may have several sources; twice as many for all of them are enough for a replacement of all.
        let max = self.max_samples;
        for (held, added, max) in [
            (self.samples, added, max),
            (self.remembered, remembered, max.saturating_mul(2)),
        ] {
            if added > 0 && held + added > max {
                return Err(StoreError::Full { held, added, max });
            }
        }
        Ok(())
    }

    fn apply(
        &mut self,
        source: &Source,
        replace: Replace,
        families: &[Family<'_>],
        steps: Vec<Step<'_>>,
        now: Instant,
    ) {
        let (id, mut state) = match self.sources.remove_entry(source.id.as_str()) {
            Some(known) => known,
            None => {
                self.next_number += 1;
                let state = SourceState::new(self.next_number, &source.owner, now);
                (source.id.as_str().into(), state)
            }
        };
        state.pushed = now;
        state.is_ended = false;
        let mut said = Vec::with_capacity(steps.len());
        for (position, step) in steps.into_iter().enumerate() {
            let family = &families[step.family];
            let place = match step.place {
                Some(place) => place,
                None => self.add(family, step.labels, &state, &step.point.value, now),
            };
            said.push(place);
            let series = self.families[place.0 as usize].series[place.1 as usize]
                .as_mut()
                .expect("a place that was found or made holds a series");
            series.writer = state.number;
            let (known, mut new) = (state.find(place, position), Last::Gauge);
            let last = match known {
                Ok(index) => &mut state.last[index].1,
                Err(_) => &mut new,
            };
            let lines = series.value.lines();
            self.remembered -= if known.is_ok() { last.lines() } else { 0 };
            series.add(family, &step.point.value, step.start, last, step.relation);
            // A histogram may have lost bounds.
            self.samples = self.samples - lines + series.value.lines();
            self.remembered += last.lines();
            if let Err(index) = known {
                state.last.insert(index, (place, new));
            }
        }
        said.sort_unstable();
        let is_named = |family: u32| {
            let at = said.partition_point(|place| place.0 < family);
            said.get(at).is_some_and(|place| place.0 == family)
        };
        let gone: Vec<Place> = state
            .last
            .iter()
            .filter(|(place, last)| {
                let is_replaced = replace == Replace::All || is_named(place.0);
                matches!(last, Last::Gauge) && is_replaced && said.binary_search(place).is_err()
            })
            .map(|(place, _)| *place)
            .collect();
        self.drop_gauges(&mut state, &gone);
        self.touch(&state, now);
        self.sources.insert(id, state);
    }

    /// A series is there for as long as a source remembers it, whether or not it is said again.
    fn touch(&mut self, state: &SourceState, now: Instant) {
        for (place, _) in &state.last {
            if let Some(series) = self.series_mut(*place) {
                series.pushed = now;
            }
        }
    }

    /// The series at a place that a source remembers. Another one may be there by now, or a family with fewer.
    fn series_mut(&mut self, (family, series): Place) -> Option<&mut Series> {
        let series = self.families[family as usize]
            .series
            .get_mut(series as usize)?;
        series.as_mut()
    }

    fn add(
        &mut self,
        family: &Family<'_>,
        labels: Box<str>,
        source: &SourceState,
        value: &Value,
        now: Instant,
    ) -> Place {
        let index = match self.by_name.get(family.name.as_ref()) {
            Some(index) => *index,
            None => self.add_family(family),
        };
        let hash = self.hasher.hash_one(&*labels);
        let state = &mut self.families[index as usize];
        let series = Series {
            labels,
            value: Total::of_nothing(value, &mut state.bounds),
            writer: source.number,
            pushed: now,
            object: source.object.clone(),
        };
        self.samples += lines(value);
        let place = match state.free.pop() {
            Some(place) => {
                state.series[place as usize] = Some(series);
                place
            }
            None => {
                state.series.push(Some(series));
                u32::try_from(state.series.len() - 1).expect("samples are bounded")
            }
        };
        let (all, hasher) = (&state.series, &self.hasher);
        state.index.insert_unique(hash, place, |place| {
            let series = all[*place as usize].as_ref();
            hasher.hash_one(series.map(|series| &*series.labels).unwrap_or_default())
        });
        (index, place)
    }

    fn add_family(&mut self, family: &Family<'_>) -> u32 {
        let name: Box<str> = family.name.as_ref().into();
        // A family that lost all of its series leaves its place.
        let empty = self.families.iter().position(|known| known.name.is_empty());
        let state = FamilyState {
            name: name.clone(),
            kind: family.kind,
            help: family.help.as_ref().into(),
            series: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            bounds: Arc::new([]),
        };
        let index = match empty {
            Some(index) => {
                self.families[index] = state;
                index
            }
            None => {
                self.families.push(state);
                self.families.len() - 1
            }
        };
        let index = u32::try_from(index).expect("samples are bounded");
        for reserved in reserved(&name, family.kind) {
            self.reserved.insert(reserved.into(), index);
        }
        self.by_name.insert(name, index);
        index
    }

    /// Removes gauges that the source was the last to write.
    fn drop_gauges(&mut self, state: &mut SourceState, gone: &[Place]) {
        for place in gone {
            let is_own = self
                .series_mut(*place)
                .is_some_and(|series| series.writer == state.number);
            if is_own {
                self.remove(*place);
            }
        }
        let gone: HashSet<Place> = gone.iter().copied().collect();
        let known = state.last.len();
        state.last.retain(|(place, _)| !gone.contains(place));
        self.remembered -= known - state.last.len();
    }

    fn remove(&mut self, (family, place): Place) {
        let state = &mut self.families[family as usize];
        let Some(series) = state.series[place as usize].take() else {
            return;
        };
        self.samples -= series.value.lines();
        let hash = self.hasher.hash_one(&*series.labels);
        if let Ok(entry) = state.index.find_entry(hash, |known| *known == place) {
            entry.remove();
        }
        state.free.push(place);
        if state.index.is_empty() {
            let name = std::mem::take(&mut state.name);
            for reserved in reserved(&name, state.kind) {
                self.reserved.remove(reserved.as_str());
            }
            self.by_name.remove(&name);
        }
    }

    pub(super) fn end(&mut self, source: &str, now: Instant) {
        let Some((id, mut state)) = self.sources.remove_entry(source) else {
            return;
        };
        let gauges = state.last.iter();
        let gauges: Vec<Place> = gauges
            .filter(|(_, last)| matches!(last, Last::Gauge))
            .map(|(place, _)| *place)
            .collect();
        self.drop_gauges(&mut state, &gauges);
        state.is_ended = true;
        state.pushed = now;
        self.touch(&state, now);
        self.sources.insert(id, state);
    }

    pub(super) fn sweep(&mut self, objects: &HashMap<ObjectName, Option<String>>, now: Instant) {
        let age = |pushed: Instant| now.saturating_duration_since(pushed);
        let mut forgotten = 0;
        self.sources.retain(|_, source| {
            let active = source.object.as_ref().map(|object| objects.get(&**object));
            let is_kept = match active {
                _ if source.is_ended => age(source.pushed) < REMEMBERED,
                None => age(source.pushed) < KEPT,
                Some(None) => false,
                Some(Some(job)) => {
                    job.as_deref() == source.job.as_deref() || age(source.pushed) < REMEMBERED
                }
            };
            if !is_kept {
                let last = source.last.iter();
                forgotten += last.map(|(_, last)| last.lines()).sum::<usize>();
            }
            is_kept
        });
        self.remembered -= forgotten;
        let is_live = |series: &Series| match &series.object {
            Some(object) => objects.contains_key(&**object),
            None => age(series.pushed) < KEPT,
        };
        let mut gone = Vec::new();
        for (family, state) in self.families.iter().enumerate() {
            for (place, series) in state.series.iter().enumerate() {
                let series = series.as_ref();
                if series.is_some_and(|series| !is_live(series)) {
                    gone.push((family as u32, place as u32));
                }
            }
        }
        for place in gone {
            self.remove(place);
        }
    }
}

impl SourceState {
    fn new(number: u64, owner: &Owner, now: Instant) -> Self {
        let (object, job) = match owner {
            Owner::Job { object, uid } => (Some(Arc::new(object.clone())), Some(uid.as_str())),
            Owner::Holder => (None, None),
        };
        Self {
            number,
            object,
            job: job.map(Box::from),
            pushed: now,
            is_ended: false,
            last: Vec::new(),
        }
    }

    /// Where `place` is in `last`, or belongs; clients send their points in one order, so `hint` is mostly right.
    fn find(&self, place: Place, hint: usize) -> Result<usize, usize> {
        if self
            .last
            .get(hint)
            .is_some_and(|(known, _)| *known == place)
        {
            return Ok(hint);
        }
        self.last.binary_search_by_key(&place, |(known, _)| *known)
    }

    fn last(&self, place: Place, hint: usize) -> Option<&Last> {
        let index = self.find(place, hint).ok()?;
        Some(&self.last[index].1)
    }
}

/// When the process that pushes started, in seconds since 1970-01-01 UTC, as client libraries tell it.
fn process_start(families: &[Family<'_>]) -> Option<f64> {
    let family = families
        .iter()
        .find(|family| family.name == "process_start_time_seconds")?;
    match family.points.as_slice() {
        [
            Point {
                value: Value::Number(start),
                ..
            },
        ] => Some(*start).filter(|start| start.is_finite()),
        _ => None, // none, or several processes
    }
}

/// All names that samples of a family have, and that no other family may have.
fn reserved(name: &str, kind: Kind) -> Vec<String> {
    // OpenMetrics names a counter's family without its suffix.
    let base = match kind {
        Kind::Counter => name.strip_suffix("_total"),
        Kind::Histogram | Kind::Summary => Some(name),
        Kind::Gauge | Kind::Untyped => None,
    };
    let base = base.map(|base| [base.to_owned(), format!("{base}_created")]);
    let samples = kind.suffixes().iter();
    let samples = samples.map(move |suffix| format!("{name}{suffix}"));
    base.into_iter().flatten().chain(samples).collect()
}

/// Writes pushed labels and those of the source, which win, in the order of their names.
fn write_labels(out: &mut String, pushed: &[Label<'_>], own: &BTreeMap<String, String>) {
    let mut own = own.iter().peekable();
    let mut write = |name: &str, value: &str| {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        if value.contains(['\\', '"', '\n']) {
            write!(out, "{}", Escaped(value, Escape::LabelValue)).expect("a String takes all");
        } else {
            out.push_str(value);
        }
        out.push('"');
    };
    for (name, value) in pushed {
        while let Some((before, value)) = own.next_if(|(own, _)| own.as_str() < name.as_ref()) {
            write(before, value);
        }
        match own.next_if(|(own, _)| own.as_str() == name.as_ref()) {
            Some((name, value)) => write(name, value),
            None => write(name, value),
        }
    }
    for (name, value) in own {
        write(name, value);
    }
}
