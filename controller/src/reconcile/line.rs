//! Who may start a run when not all may at once: a pure function of who runs and who waits.
//!
//! # Guarantees
//! - Those who wait stand in one order: by the time that they are due since, then namespace, then name.
//! - Somebody whose namespace is full holds up nobody of another one.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::kind::ObjectKind;

/// How many runs may be going on; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of all objects.
    pub(crate) runs: Option<u32>,
    /// Of the objects of one namespace.
    pub(crate) runs_per_namespace: Option<u32>,
}

impl Limits {
    /// Whether anybody may ever have to wait.
    pub(crate) fn are_set(&self) -> bool {
        self.runs.is_some() || self.runs_per_namespace.is_some()
    }
}

/// Somebody who waits. The order of the fields is that of the line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiter {
    /// Since when the run is due.
    pub(crate) due: Timestamp,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) kind: ObjectKind,
    pub(crate) uid: String,
}

/// Where somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The run may start.
    Free,
    /// So many of those that are before it, and itself, cannot start.
    Waits(u32),
}

/// Everybody who waits with their place, in the order of the line. `running` has the number of runs of each namespace.
pub(crate) fn places(
    limits: Limits,
    mut running: BTreeMap<String, u32>,
    mut waiting: Vec<Waiter>,
) -> Vec<(Waiter, Place)> {
    waiting.sort();
    let mut all: u32 = running.values().sum();
    let mut held_up = 0;
    let place = |waiter: Waiter| {
        let here = running.entry(waiter.namespace.clone()).or_default();
        let has_room = limits.runs.is_none_or(|most| all < most)
            && limits.runs_per_namespace.is_none_or(|most| *here < most);
        if has_room {
            all += 1;
            *here += 1;
            return (waiter, Place::Free);
        }
        held_up += 1;
        (waiter, Place::Waits(held_up))
    };
    waiting.into_iter().map(place).collect()
}

/// A place in words. Of a long line only tens are told: each step of each of a thousand would be a write.
pub(crate) fn words(place: u32, limits: Limits) -> String {
    let place = match place {
        0..=10 => place.to_string(),
        more => format!("about {}", more.div_ceil(10) * 10),
    };
    let limit = |name: &str, most: Option<u32>| most.map(|most| format!("{name} {most}"));
    let limits: Vec<String> = [
        limit("limits.runs", limits.runs),
        limit("limits.runsPerNamespace", limits.runs_per_namespace),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!(
        "place {place} of those that wait for a run ({})",
        limits.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;

    fn waiter(due: &str, namespace: &str, name: &str) -> Waiter {
        Waiter {
            due: at(&format!("2026-01-01T{due}:00Z")),
            namespace: namespace.into(),
            name: name.into(),
            kind: ObjectKind::Backup,
            uid: format!("{namespace}/{name}"),
        }
    }

    #[test]
    fn the_line_is_by_due_time_then_namespace_then_name_and_each_namespace_has_its_own_room() {
        let waiting = || {
            vec![
                waiter("02:00", "b", "x"),
                waiter("02:00", "a", "z"),
                waiter("02:00", "a", "y"),
                waiter("01:00", "c", "late"),
                waiter("03:00", "b", "new"),
            ]
        };
        // limits, running; each in the order of the line: c/late a/y a/z b/x b/new
        let cases: [(_, _, &[(&str, u32)], [u32; 5]); 7] = [
            (None, None, &[("a", 9)], [0, 0, 0, 0, 0]),
            (Some(3), None, &[], [0, 0, 0, 1, 2]),
            (Some(3), None, &[("z", 1)], [0, 0, 1, 2, 3]),
            (Some(3), None, &[("z", 7)], [1, 2, 3, 4, 5]),
            (None, Some(1), &[], [0, 0, 1, 0, 2]),
            (None, Some(1), &[("c", 1), ("b", 1)], [1, 0, 2, 3, 4]),
            (Some(2), Some(1), &[("c", 1)], [1, 0, 2, 3, 4]),
        ];
        for (runs, runs_per_namespace, running, expected) in cases {
            let limits = Limits {
                runs,
                runs_per_namespace,
            };
            let running = running
                .iter()
                .map(|(name, runs)| ((*name).to_owned(), *runs))
                .collect();
            let found = places(limits, running, waiting());
            let names: Vec<&str> = found
                .iter()
                .map(|(waiter, _)| waiter.uid.as_str())
                .collect();
            assert_eq!(names, ["c/late", "a/y", "a/z", "b/x", "b/new"]);
            let number = |(_, place): &(Waiter, Place)| match place {
                Place::Free => 0,
                Place::Waits(number) => *number,
            };
            assert_eq!(
                found.iter().map(number).collect::<Vec<_>>(),
                expected,
                "{limits:?}"
            );
        }
    }

    #[test]
    fn a_long_line_is_told_in_tens() {
        let limits = Limits {
            runs: Some(4),
            runs_per_namespace: None,
        };
        assert_eq!(
            words(3, limits),
            "place 3 of those that wait for a run (limits.runs 4)"
        );
        assert!(words(11, limits).starts_with("place about 20 of"));
        assert!(words(20, limits).starts_with("place about 20 of"));
    }
}
