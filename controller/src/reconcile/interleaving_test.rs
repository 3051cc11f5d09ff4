//! Two controllers and an API server in memory: whatever happens between any two of their requests, each tick takes effect once
//! and each run is counted once.
//!
//! Either controller may be stale: its caches are as old as the test wants, it may be paused before any request and send that
//! later, and it may crash. The server does what a real one does: it refuses a status that was decided upon an older object
//! (409), a Job whose name exists (AlreadyExists), whatever names another UID, and the deletion of a Job that has changed (409).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kafka_backup_shared::crd::{ConcurrencyPolicy, KafkaBackup, KafkaBackupStatus};
use kafka_backup_shared::schedule::Schedule;
use kafka_backup_shared::status::RunReason;
use kube::ResourceExt;
use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, at, ended_pod, job_view, success_report};
use crate::reconcile::due::TRIGGER;
use crate::reconcile::tidy::LOST_AFTER;
use crate::reconcile::view::JobState;

const HOLD: Duration = Duration::from_secs(90);
const LINE: &str = "*/10 * * * *";
const KEEP: SignedDuration = SignedDuration::from_mins(10);

/// What happens next. Controllers are 0 and 1.
#[derive(Clone, Debug)]
enum Step {
    Wait(i64),
    /// The watch of objects, or of Jobs, catches up.
    SyncObject(usize),
    SyncJobs(usize),
    /// It decides; what follows from it is sent later. A look needs the answers to the requests of the one before.
    Look(usize),
    /// Its next request arrives.
    Send(usize),
    /// Caches, answers that it waits for, and reports that were pushed to it are gone.
    Crash(usize),
    /// The running Job ends; the report is in its pod, or was pushed, or both, or neither.
    EndJob {
        is_success: bool,
        in_pod: bool,
        pushed_to: usize,
    },
    DeleteJob,
    /// The TTL controller takes an accounted Job away.
    Expire,
    Trigger,
    ChangeSpec,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..2usize;
    prop_oneof![
        3 => (1..900i64).prop_map(Step::Wait),
        3 => who.clone().prop_map(Step::SyncObject),
        6 => who.clone().prop_map(Step::SyncJobs),
        8 => who.clone().prop_map(Step::Look),
        10 => who.clone().prop_map(Step::Send),
        1 => who.prop_map(Step::Crash),
        5 => (any::<bool>(), any::<bool>(), 0..3usize)
            .prop_map(|(is_success, in_pod, pushed_to)| Step::EndJob { is_success, in_pod, pushed_to }),
        1 => Just(Step::DeleteJob),
        1 => Just(Step::Expire),
        3 => Just(Step::Trigger),
        1 => Just(Step::ChangeSpec),
    ]
}

/// A request, and the object that it was decided upon.
#[derive(Clone, Debug)]
enum Request {
    Status(Box<KafkaBackup>, Box<KafkaBackupStatus>),
    Job(Box<KafkaBackup>, JobAction),
}

#[derive(Default)]
struct Controller {
    limits: Limits,
    /// Where it finds the run that waits.
    place: Option<Place>,
    object: Option<KafkaBackup>,
    jobs: Vec<JobView>,
    pending: VecDeque<Request>,
    /// Reports by the UID of their Job.
    pushed: BTreeMap<String, Report>,
}

struct Server {
    now: Timestamp,
    object: KafkaBackup,
    version: u64,
    /// Whether it compares resource versions, as real ones do.
    is_guarded: bool,
    jobs: BTreeMap<String, JobView>,
    pods: BTreeMap<String, PodView>,
    created: u32,
    /// Keys of the runs that were decided; a second one of the same key is a tick or a trigger that takes effect twice.
    started: Vec<String>,
    /// Run ids that were accounted.
    accounted: Vec<String>,
}

fn counted(status: &KafkaBackupStatus) -> u64 {
    let totals = &status.life.totals;
    totals.success.runs + totals.failure.runs + totals.held.len() as u64
}

/// Every change of a Job has a version of its own.
fn next_version(job: &JobView) -> Option<String> {
    let version: u64 = job.version.as_ref().unwrap().parse().unwrap();
    Some((version + 1).to_string())
}

impl Server {
    fn new(policy: ConcurrencyPolicy, deadline: Option<u32>) -> Self {
        let mut object = fixtures::backup();
        object.spec.schedule = Some(LINE.into());
        object.spec.concurrency_policy = policy;
        object.spec.starting_deadline_seconds = deadline;
        // Jobs are removed as soon as they may be.
        object.spec.successful_runs_history_limit = 1;
        object.spec.failed_runs_history_limit = 0;
        Self {
            now: at("2026-01-01T00:00:01Z"),
            object,
            version: 1,
            is_guarded: true,
            jobs: BTreeMap::new(),
            pods: BTreeMap::new(),
            created: 0,
            started: Vec::new(),
            accounted: Vec::new(),
        }
    }

    fn changed(&mut self) {
        self.version += 1;
        self.object.metadata.resource_version = Some(self.version.to_string());
    }

    /// A status write, as guarded as a real one. What it changes is checked.
    fn write(&mut self, base: &KafkaBackup, status: &KafkaBackupStatus) -> bool {
        if self.is_guarded
            && base.metadata.resource_version != self.object.metadata.resource_version
        {
            return false;
        }
        let before = self.object.status();
        let (old, new) = (&before.life.active_run, &status.life.active_run);
        let ended = old
            .as_ref()
            .filter(|old| new.as_ref().is_none_or(|new| new.id != old.id));
        let begun = new
            .as_ref()
            .filter(|new| old.as_ref().is_none_or(|old| new.id != old.id));
        let increase = counted(status) - counted(&before);
        assert_eq!(
            increase,
            u64::from(ended.is_some()),
            "counters move with the end of a run only"
        );
        if let Some(ended) = ended {
            assert!(
                !self.accounted.contains(&ended.id),
                "{} is accounted twice",
                ended.id
            );
            let is_told = status
                .backup_history
                .iter()
                .any(|run| run.backup_id == ended.id);
            assert!(is_told, "{} ended without a place in the history", ended.id);
            self.accounted.push(ended.id.clone());
        }
        if let Some(begun) = begun {
            let key = format!("{:?} {}", begun.reason == RunReason::Trigger, begun.key);
            assert!(!self.started.contains(&key), "{key} takes effect twice");
            self.started.push(key);
        }
        self.object.status = Some(status.clone());
        self.changed();
        true
    }

    fn create(&mut self, run: &ActiveRun) {
        if self.jobs.contains_key(&run.job) {
            return;
        }
        self.created += 1;
        let uid = format!("job-{}", self.created);
        let is_scheduled = run.reason != RunReason::Trigger;
        let job = JobView {
            name: run.job.clone(),
            run: Some(run.id.clone()),
            created: self.now,
            started: self.now,
            scheduled_at: is_scheduled.then(|| run.key.parse().unwrap()),
            ..job_view(&uid)
        };
        self.jobs.insert(run.job.clone(), job);
        let pod = PodView {
            name: format!("pod-of-{uid}"),
            created: self.now,
            terminated: None,
            ..ended_pod(0, "", "")
        };
        self.pods.insert(uid, pod);
    }

    fn remove(&mut self, name: &str, uid: &str) {
        if self.jobs.get(name).is_some_and(|job| job.uid == uid) {
            self.jobs.remove(name);
            self.pods.remove(uid);
        }
    }

    /// A Job that a controller deletes because its run is over must be one of a run that is.
    fn check_delete(&self, name: &str, uid: &str) {
        let Some(job) = self.jobs.get(name).filter(|job| job.uid == uid) else {
            return;
        };
        let status = self.object.status();
        let is_active = status
            .life
            .active_run
            .is_some_and(|run| run.job == name && run.job_uid.is_none_or(|known| known == uid));
        assert!(!is_active, "the Job of the active run is deleted");
        if job.is_finished()
            && let Some(accounted) = job.accounted
        {
            assert!(
                accounted + KEEP <= self.now,
                "{name} is removed {accounted} + 10 minutes early"
            );
        }
    }

    fn end_job(&mut self, is_success: bool, in_pod: bool) -> Option<(String, Report)> {
        let job = self.jobs.values_mut().find(|job| !job.is_finished())?;
        let report = success_report(5);
        job.ended_pods = 1;
        job.version = next_version(job);
        job.state = if is_success {
            JobState::Complete { at: self.now }
        } else {
            JobState::Failed {
                at: self.now,
                reason: "BackoffLimitExceeded".into(),
                message: "job words".into(),
            }
        };
        let message = report.to_termination_message();
        let pod = if is_success {
            ended_pod(0, "Completed", &message)
        } else {
            ended_pod(69, "Error", "")
        };
        if in_pod {
            self.pods.insert(job.uid.clone(), pod);
        } else {
            self.pods.remove(&job.uid);
        }
        is_success.then(|| (job.uid.clone(), report))
    }
}

impl Controller {
    fn observe(&self, server: &Server, exposed: Duration) -> Option<Observed<KafkaBackup>> {
        let object = self.object.clone()?;
        let active = object.status().life.active_run;
        // As `observe` does: what is in the cache is believed, what is not there is asked for.
        let active_job = active.as_ref().and_then(|run| {
            let cached = self.jobs.iter().find(|job| job.name == run.job);
            cached.or_else(|| server.jobs.get(&run.job)).cloned()
        });
        let pods = active_job
            .iter()
            .filter_map(|job| server.pods.get(&job.uid))
            .cloned()
            .collect();
        let job_uid = active.and_then(|run| run.job_uid);
        Some(Observed {
            object,
            referenced: Referenced::default(),
            jobs: self.jobs.clone(),
            active_job,
            pods,
            trouble: None,
            is_refused: false,
            pushed: job_uid.and_then(|uid| self.pushed.get(&uid).cloned()),
            exposed: Exposed {
                success: exposed,
                failure: exposed,
            },
            hold: HOLD,
            lost_after: LOST_AFTER,
            limits: self.limits,
            place: self.place,
        })
    }

    /// Whether there was anything to decide.
    fn look(&mut self, server: &Server, exposed: Duration) -> bool {
        let Some(observed) = self.observe(server, exposed) else {
            return false;
        };
        let decision = decide(&observed, server.now);
        let base = Box::new(observed.object);
        let status = decision
            .status
            .map(|status| Request::Status(base.clone(), Box::new(status)));
        let jobs = decision
            .jobs
            .into_iter()
            .map(|action| Request::Job(base.clone(), action));
        self.pending = status.into_iter().chain(jobs).collect();
        !self.pending.is_empty()
    }

    fn send(&mut self, server: &mut Server) {
        match self.pending.pop_front() {
            None => {}
            Some(Request::Status(base, status)) => {
                server.write(&base, &status);
                // Taken or refused: the object is read again.
                self.object = Some(server.object.clone());
            }
            Some(Request::Job(base, action)) => self.send_job(server, &base, action),
        }
    }

    fn send_job(&mut self, server: &mut Server, base: &KafkaBackup, action: JobAction) {
        match action {
            JobAction::Create => {
                if let Some(run) = &base.status().life.active_run {
                    server.create(run);
                }
            }
            JobAction::Mark { name, uid, .. } => {
                let now = server.now;
                if let Some(job) = server.jobs.get_mut(&name).filter(|job| job.uid == uid) {
                    assert!(job.is_finished(), "a Job that runs is marked");
                    job.accounted = Some(now);
                    job.version = next_version(job);
                }
            }
            JobAction::Delete { name, uid, version } => {
                let job = server.jobs.get(&name);
                if job.is_some_and(|job| job.version == version) {
                    server.check_delete(&name, &uid);
                    server.remove(&name, &uid);
                }
            }
            JobAction::DeleteStray { name, uid } => {
                let job = server.jobs.get(&name).filter(|job| job.uid == uid);
                let status = server.object.status();
                let stray = job.filter(|job| !tidy::is_known::<KafkaBackup>(&status, job));
                if let Some(version) = stray.map(|job| job.version.clone()) {
                    // Its deletion is another request.
                    self.pending.push_front(Request::Job(
                        Box::new(base.clone()),
                        JobAction::Delete { name, uid, version },
                    ));
                }
            }
            JobAction::GiveUpPod { .. } => panic!("no node is lost here"),
        }
    }

    fn sync(&mut self, server: &Server) {
        self.object = Some(server.object.clone());
        self.jobs = server.jobs.values().cloned().collect();
    }
}

fn take(step: Step, server: &mut Server, controllers: &mut [Controller; 2], count: usize) {
    match step {
        Step::Wait(seconds) => server.now += SignedDuration::from_secs(seconds),
        Step::SyncObject(who) => controllers[who].object = Some(server.object.clone()),
        Step::SyncJobs(who) => controllers[who].jobs = server.jobs.values().cloned().collect(),
        Step::Look(who) => {
            if controllers[who].pending.is_empty() {
                let exposed = if count.is_multiple_of(3) {
                    Duration::ZERO
                } else {
                    HOLD
                };
                let is_free = count.is_multiple_of(2);
                controllers[who].place = Some(if is_free {
                    Place::Free
                } else {
                    Place::Waits(1)
                });
                controllers[who].look(server, exposed);
            }
        }
        Step::Send(who) => controllers[who].send(server),
        Step::Crash(who) => {
            controllers[who] = Controller {
                limits: controllers[who].limits,
                ..Controller::default()
            };
            controllers[who].sync(server);
        }
        Step::EndJob {
            is_success,
            in_pod,
            pushed_to,
        } => {
            if let Some((uid, report)) = server.end_job(is_success, in_pod)
                && let Some(controller) = controllers.get_mut(pushed_to)
            {
                controller.pushed.insert(uid, report);
            }
        }
        Step::DeleteJob => {
            if let Some(job) = server
                .jobs
                .values()
                .find(|job| job.accounted.is_none())
                .cloned()
            {
                server.remove(&job.name, &job.uid);
            }
        }
        Step::Expire => {
            let now = server.now;
            let is_due = |job: &&JobView| {
                job.accounted
                    .is_some_and(|accounted| accounted + KEEP <= now)
            };
            if let Some(job) = server.jobs.values().find(is_due).cloned() {
                server.remove(&job.name, &job.uid);
            }
        }
        Step::Trigger => {
            let value = (TRIGGER.to_owned(), count.to_string());
            server.object.annotations_mut().extend([value]);
            server.changed();
        }
        Step::ChangeSpec => {
            server.object.spec.topics = vec![format!("topic-{count}")];
            let generation = server.object.metadata.generation.unwrap_or(0);
            server.object.metadata.generation = Some(generation + 1);
            server.changed();
        }
    }
}

/// What the paused controller still wanted arrives; then one healthy controller is left, nothing new becomes due, and every Job
/// ends.
///
/// Returns whether a tick was in line that the suspension takes out of it.
fn settle(server: &mut Server, controllers: &mut [Controller; 2]) -> bool {
    let [healthy, paused] = controllers;
    healthy.place = Some(Place::Free);
    let waiting = server.object.status().life.waiting_run;
    let is_dropped = waiting.is_some_and(|run| run.reason != RunReason::Trigger);
    server.object.spec.suspend = true;
    server.object.annotations_mut().clear();
    server.changed();
    for round in 0..60 {
        server.now += SignedDuration::from_mins(2);
        if round == 5 {
            while !paused.pending.is_empty() {
                paused.send(server);
            }
        }
        server.end_job(true, true);
        healthy.sync(server);
        let mut looks = 0;
        while healthy.look(server, HOLD) {
            while !healthy.pending.is_empty() {
                healthy.send(server);
            }
            healthy.sync(server);
            looks += 1;
            assert!(looks < 20, "it never comes to rest");
        }
    }
    is_dropped
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_tick_takes_effect_once_and_each_run_is_counted_once(
        steps in prop::collection::vec(step(), 1..300),
        is_replacing in any::<bool>(),
        is_limited in any::<bool>(),
        deadline in prop_oneof![Just(None), Just(Some(300u32))],
    ) {
        let policy = if is_replacing { ConcurrencyPolicy::Replace } else { ConcurrencyPolicy::Forbid };
        let mut server = Server::new(policy, deadline);
        let mut controllers = [Controller::default(), Controller::default()];
        for controller in &mut controllers {
            controller.sync(&server);
            controller.limits.runs = is_limited.then_some(1);
        }
        for (count, step) in steps.into_iter().enumerate() {
            take(step, &mut server, &mut controllers, count);
        }
        let is_dropped = settle(&mut server, &mut controllers);

        let status = server.object.status();
        prop_assert_eq!(&status.life.active_run, &None);
        let totals = &status.life.totals;
        prop_assert_eq!(totals.held.len(), 0);
        prop_assert_eq!(server.started.len(), server.accounted.len());
        prop_assert_eq!(totals.success.runs + totals.failure.runs, server.accounted.len() as u64);
        let ids: BTreeSet<&String> = server.accounted.iter().collect();
        prop_assert_eq!(ids.len(), server.accounted.len());
        let unmarked: Vec<&JobView> = server.jobs.values().filter(|job| job.accounted.is_none()).collect();
        prop_assert!(unmarked.is_empty(), "{:?}", unmarked);

        // Every tick since the creation was run or missed, and none both; the last one may have been taken out of the line.
        let scheduled = server.started.iter().filter(|key| key.starts_with("false")).count() as u64;
        let schedule = Schedule::parse(LINE, None).unwrap();
        let from = at("2026-01-01T00:00:00Z");
        let until = status.last_schedule_time.map_or(from, |tick| tick.0);
        let ticks = std::iter::successors(schedule.next_after(from), |tick| schedule.next_after(*tick));
        let ticks = ticks.take_while(|tick| *tick <= until).count() as u64;
        prop_assert_eq!(scheduled + status.missed_runs + u64::from(is_dropped), ticks);
    }
}

/// Two controllers see the same tick at the same time.
fn one_tick_seen_by_two(is_guarded: bool) -> Server {
    let mut server = Server::new(ConcurrencyPolicy::Forbid, None);
    server.is_guarded = is_guarded;
    server.now = at("2026-01-01T00:10:00Z");
    let mut controllers = [Controller::default(), Controller::default()];
    for controller in &mut controllers {
        controller.sync(&server);
        assert!(controller.look(&server, HOLD));
    }
    for controller in &mut controllers {
        controller.send(&mut server);
    }
    server
}

#[test]
fn the_guard_of_status_writes_is_what_makes_a_tick_take_effect_once() {
    assert_eq!(one_tick_seen_by_two(true).version, 2, "one write was taken");
    assert_eq!(one_tick_seen_by_two(false).version, 3, "both were");
}
