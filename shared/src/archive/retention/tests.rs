use proptest::prelude::*;

use super::*;
use crate::archive::chain::{OffsetRange, chain, uncovered};
use crate::archive::layout::TopicId;

const HOUR: i64 = 3600;

fn at(hour: i64) -> Timestamp {
    Timestamp::from_second(hour * HOUR).unwrap()
}

/// Run ids that sort by their number.
fn id(number: usize) -> String {
    format!("r-20260101-{number:06}")
}

fn run(number: usize, state: RunState, hour: i64) -> KnownRun {
    KnownRun {
        id: id(number),
        state,
        start_time: at(hour),
        bases: number.checked_sub(1).map(id).into_iter().collect(),
    }
}

fn keep(backups: u32) -> Policy {
    Policy {
        backups: Some(backups),
        max_age_hours: None,
    }
}

fn numbers(ids: &BTreeSet<String>) -> Vec<usize> {
    ids.iter()
        .map(|id| id[id.len() - 6..].parse().unwrap())
        .collect()
}

#[test]
fn runs_go_by_number_and_by_age() {
    use RunState::{Complete, Dying, Partial, Unfinished};
    let runs = |states: &[RunState]| -> Vec<KnownRun> {
        // one a day
        (0..)
            .zip(states)
            .map(|(n, state)| run(n, *state, n as i64 * 24))
            .collect()
    };
    let five = runs(&[Complete; 5]);
    let mixed = runs(&[
        Complete, Partial, Complete, Unfinished, Complete, Partial, Complete,
    ]);
    let old = |days_old: u32| Policy {
        backups: None,
        max_age_hours: Some(24 * days_old),
    };
    let both = Policy {
        backups: Some(4),
        max_age_hours: Some(24 * 2),
    };
    let dying = runs(&[Dying, Complete, Complete]);
    let begun = runs(&[Complete, Complete, Complete, Unfinished]);
    let nothing = runs(&[Unfinished, Partial]);
    let year = 365 * 24;
    let cases: [(&str, &[KnownRun], Policy, i64, &[usize]); 12] = [
        ("as many as there are", &five, keep(5), 100, &[]),
        ("the oldest", &five, keep(3), 100, &[0, 1]),
        ("never the newest", &five, keep(1), year, &[0, 1, 2, 3]),
        ("by age", &five, old(2), 100, &[0, 1, 2]),
        (
            "never the newest, however old",
            &five,
            old(2),
            year,
            &[0, 1, 2, 3],
        ),
        (
            "whichever limit is reached first",
            &five,
            both,
            100,
            &[0, 1, 2],
        ),
        (
            "a partial one with its age",
            &mixed,
            keep(3),
            year,
            &[0, 1, 3],
        ),
        (
            "a young one without end holds its base",
            &mixed,
            keep(1),
            3 * 24 + 167,
            &[0, 1],
        ),
        ("what was given up", &mixed, keep(9), year, &[3]),
        (
            "what broke off while it was deleted",
            &dying,
            keep(9),
            50,
            &[0],
        ),
        (
            "newer than all that is complete",
            &begun,
            keep(1),
            year,
            &[0, 1],
        ),
        ("nothing is complete", &nothing, keep(1), year, &[]),
    ];
    for (case, runs, policy, hour, expected) in cases {
        let decision = decide_runs(runs, &[], &policy, at(hour));
        assert_eq!(numbers(&decision.expired), expected, "{case}");
    }
}

#[test]
fn a_restore_under_way_holds_its_run() {
    let runs: Vec<KnownRun> = (0..4)
        .map(|n| run(n, RunState::Complete, n as i64))
        .collect();
    let restore = |hour| OpenRestore {
        backup_id: id(1),
        last_seen: at(hour),
    };
    for (hour, expected) in [
        (10, &[0, 2][..]),
        (10 + 7 * 24, &[0, 2]),
        (11 + 7 * 24, &[0, 1, 2]),
    ] {
        let decision = decide_runs(&runs, &[restore(10)], &keep(1), at(hour));
        assert_eq!(numbers(&decision.expired), expected, "at {hour}");
    }
}

#[test]
fn only_what_was_marked_a_day_ago_and_may_still_go_is_deleted() {
    let list = |hour, keys: &[&str]| Marked {
        format_version: 1,
        created: at(hour),
        keys: keys.iter().map(|key| key.to_string()).collect(),
    };
    let marked = BTreeMap::from([
        ("a".into(), list(0, &["old", "old-pinned-since"])),
        ("b".into(), list(20, &["young"])),
        // made by a clock that is ahead
        ("c".into(), list(1000, &["ahead"])),
    ]);
    let expired = ["old", "young", "new", "ahead"].map(str::to_owned);
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let step_at = |hour| step(&expired, &marked, at(hour));
    assert_eq!(
        step_at(25),
        Step {
            mark: words("new"),
            delete: words("old"),
            done: words("a")
        }
    );
    assert_eq!(
        step_at(24),
        Step {
            mark: words("new"),
            ..Step::default()
        }
    );
    assert_eq!(step_at(45).delete, words("old young"));
}

/// One partition with all that happened to it.
#[derive(Debug, Default)]
struct Model {
    hour: i64,
    there: BTreeMap<ChainKey, Sizes>,
    runs: Vec<ModelRun>,
    restores: Vec<OpenRestore>,
    crc: u32,
}

#[derive(Clone, Debug)]
struct ModelRun {
    known: KnownRun,
    /// The newest complete run when it began.
    complete: Option<String>,
    /// What it goes on from: that, or a newer partial run.
    base: Option<String>,
    generation: String,
    wanted: OffsetRange,
    pinned: Option<PinnedPartition>,
}

#[derive(Clone, Debug)]
enum Happens {
    Run {
        state: RunState,
        moves: i64,
        cut: i64,
        reopens: bool,
        epoch: i32,
    },
    /// A segment of a worker that nobody waits for.
    Stray {
        start: i64,
        length: i64,
        back: usize,
        epoch: i32,
    },
    Restore {
        back: usize,
    },
    Hours(i64),
}

fn happens() -> impl Strategy<Value = Happens> {
    let state = prop_oneof![
        4 => Just(RunState::Complete),
        1 => Just(RunState::Partial),
        2 => Just(RunState::Unfinished)
    ];
    prop_oneof![
        5 => (state, 0i64..40, 1i64..15, prop::bool::weighted(0.15), prop::bool::weighted(0.2))
            .prop_map(|(state, moves, cut, reopens, elected)| Happens::Run { state, moves, cut, reopens, epoch: elected.into() }),
        3 => (0i64..150, 1i64..30, 0usize..6, 0i32..3)
            .prop_map(|(start, length, back, epoch)| Happens::Stray { start, length, back, epoch }),
        1 => (0usize..6).prop_map(|back| Happens::Restore { back }),
        3 => (1i64..100).prop_map(Happens::Hours),
    ]
}

fn chain_of(generation: &str) -> ChainKey {
    ChainKey {
        topic: "t".into(),
        topic_id: TopicId([1; 16]),
        partition: 0,
        generation: generation.into(),
    }
}

impl Model {
    fn newest(&self) -> Option<&ModelRun> {
        self.runs
            .iter()
            .rev()
            .find(|run| run.known.state == RunState::Complete)
    }

    fn base_of(&self, run: &ModelRun) -> Option<PinnedPartition> {
        let base = run.base.as_ref()?;
        let base = self.runs.iter().find(|other| other.known.id == *base)?;
        base.pinned
            .clone()
            .filter(|pinned| pinned.generation == run.generation)
    }

    /// What a run has, as the backup looks at it.
    fn links(&self, run: &ModelRun) -> Vec<crate::archive::chain::Link> {
        let there = self
            .there
            .get(&chain_of(&run.generation))
            .cloned()
            .unwrap_or_default();
        match self.base_of(run) {
            Some(base) => chain(Foundation::new(&base).usable(&there)),
            None => chain(there.into_keys().collect()),
        }
    }

    fn write(&mut self, generation: &str, start: i64, end: i64, leader_epoch: i32) {
        self.crc += 1;
        let name = SegmentName {
            start,
            end,
            leader_epoch,
            records: (end - start) as u64,
            max_timestamp: 0,
            crc32c: self.crc,
        };
        self.there
            .entry(chain_of(generation))
            .or_default()
            .insert(name, 1);
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Hours(hours) => self.hour += hours,
            Happens::Restore { back } => {
                if let Some(run) = self
                    .runs
                    .iter()
                    .rev()
                    .nth(back)
                    .filter(|run| run.pinned.is_some())
                {
                    self.restores.push(OpenRestore {
                        backup_id: run.known.id.clone(),
                        last_seen: at(self.hour),
                    });
                }
            }
            Happens::Stray {
                start,
                length,
                back,
                epoch,
            } => {
                if let Some(run) = self.runs.iter().rev().nth(back) {
                    self.write(&run.generation.clone(), start, start + length, epoch);
                }
            }
            Happens::Run {
                state,
                moves,
                cut,
                reopens,
                epoch,
            } => {
                let run = self.begin(state, moves, reopens);
                let last = self
                    .links(&run)
                    .last()
                    .map_or(0, |link| link.name.leader_epoch);
                for hole in uncovered(&self.links(&run), run.wanted) {
                    let mut start = hole.start;
                    while start < hole.end {
                        let end = hole.end.min(start + cut);
                        self.write(&run.generation, start, end, last + epoch);
                        start = end;
                        // an attempt that is not done has not stored all
                        if state == RunState::Unfinished {
                            break;
                        }
                    }
                }
                let pinned = (state != RunState::Unfinished).then(|| self.pin(&run));
                self.runs.push(ModelRun { pinned, ..run });
            }
        }
    }

    fn begin(&self, state: RunState, moves: i64, reopens: bool) -> ModelRun {
        let number = self.runs.len();
        let complete = self.newest().map(|run| run.known.id.clone());
        let newer = self
            .runs
            .iter()
            .rev()
            .take_while(|run| run.known.state != RunState::Complete);
        let mut partial = newer.filter(|run| run.pinned.is_some() && run.complete == complete);
        let base = partial.next().or(self.newest());
        let end = base.map_or(0, |run| run.wanted.end);
        let continued = base.filter(|_| !reopens).map(|run| run.generation.clone());
        let base = base.map(|run| run.known.id.clone());
        ModelRun {
            known: KnownRun {
                id: id(number),
                state,
                start_time: at(self.hour),
                bases: base.iter().chain(&complete).cloned().collect(),
            },
            complete,
            base,
            generation: continued.unwrap_or_else(|| id(number)),
            wanted: OffsetRange {
                start: 0,
                end: end + moves,
            },
            pinned: None,
        }
    }

    fn pin(&self, run: &ModelRun) -> PinnedPartition {
        let links = self.links(run);
        let segments = links
            .iter()
            .filter(|link| link.range.start < run.wanted.end);
        PinnedPartition {
            partition: 0,
            log_start: 0,
            end: run.wanted.end,
            high_watermark: run.wanted.end,
            generation: run.generation.clone(),
            segments: segments.map(|link| link.name).collect(),
            gaps: vec![],
        }
    }

    fn continuation(&self, run: &ModelRun) -> Continuation {
        Continuation {
            chain: chain_of(&run.generation),
            base: self.base_of(run),
        }
    }

    fn without(&self, gone: &[(ChainKey, SegmentName, u64)]) -> Model {
        let mut there = self.there.clone();
        for (chain, name, _) in gone {
            there.get_mut(chain).unwrap().remove(name).unwrap();
        }
        Model {
            hour: self.hour,
            there,
            runs: self.runs.clone(),
            restores: self.restores.clone(),
            crc: self.crc,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_that_anybody_may_need_goes(
        history in prop::collection::vec(happens(), 1..25),
        backups in prop::option::of(1u32..4), max_age in prop::option::of(1u32..15)
    ) {
        let mut model = Model::default();
        history.into_iter().for_each(|what| model.happen(what));
        let now = at(model.hour);
        let policy = Policy { backups, max_age_hours: max_age.map(|days| days * 24) };
        let known: Vec<KnownRun> = model.runs.iter().map(|run| run.known.clone()).collect();
        let decision = decide_runs(&known, &model.restores, &policy, now);
        let Some(newest) = model.newest().cloned() else {
            prop_assert_eq!(decision, RunDecision::default());
            return Ok(());
        };
        let stays = |run: &&ModelRun| !decision.expired.contains(&run.known.id);
        let mut pinned: BTreeMap<ChainKey, BTreeSet<SegmentName>> = BTreeMap::new();
        for run in model.runs.iter().filter(stays).filter(|run| run.pinned.is_some()) {
            let segments = &run.pinned.as_ref().unwrap().segments;
            pinned.entry(chain_of(&run.generation)).or_default().extend(segments);
        }
        let next = model.begin(RunState::Complete, 50, false);
        let live = model.runs.iter().filter(|run| decision.live.contains(&run.known.id));
        let mut continuations: Vec<Continuation> = live.map(|run| model.continuation(run)).collect();
        continuations.push(Continuation { chain: chain_of(&newest.generation), base: newest.pinned.clone() });
        let gone = expired_segments(&model.there, &pinned, &continuations);
        let after = model.without(&gone);

        // the newest stays, and as many as the policy keeps
        prop_assert!(!decision.expired.contains(&newest.known.id));
        let complete: Vec<_> = model.runs.iter().rev().filter(|run| run.known.state == RunState::Complete).collect();
        for (place, run) in complete.iter().enumerate() {
            let young = max_age.is_none_or(|age| now.duration_since(run.known.start_time).as_hours() <= i64::from(age) * 24);
            if young && backups.is_none_or(|count| place < count as usize) {
                prop_assert!(stays(run));
            }
        }
        // what stays is whole, also what a restore under way reads
        for run in model.runs.iter() {
            let held = model.restores.iter().any(|restore| restore.backup_id == run.known.id && restore.is_live(now));
            prop_assert!(!held || stays(&run));
            if let Some(pins) = run.pinned.as_ref().filter(|_| stays(&run)) {
                let there = after.there.get(&chain_of(&run.generation));
                prop_assert!(pins.segments.iter().all(|name| there.is_some_and(|there| there.contains_key(name))));
            }
        }
        // who goes on, or begins now, finds what was there before
        let young = |run: &&ModelRun| run.pinned.is_none() && now.duration_since(run.known.start_time).as_hours() <= 7 * 24;
        for run in model.runs.iter().filter(young).chain([&next]) {
            let mut bases = model.runs.iter().filter(|base| run.known.bases.contains(&base.known.id));
            prop_assert!(bases.all(|base| stays(&base)));
            prop_assert_eq!(model.links(run), after.links(run));
        }
        // and nothing else stays
        let mut useful = pinned;
        for run in &continuations {
            let sizes = model.there.get(&run.chain).cloned().unwrap_or_default();
            let names = match &run.base {
                Some(base) => Foundation::new(base).usable(&sizes),
                None => sizes.into_keys().collect(),
            };
            useful.entry(run.chain.clone()).or_default().extend(names);
        }
        for (chain, sizes) in &after.there {
            prop_assert!(sizes.keys().all(|name| useful.get(chain).is_some_and(|useful| useful.contains(name))));
        }
    }
}
