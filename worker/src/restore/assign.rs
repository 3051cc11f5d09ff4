//! Which source partitions go into which target partition: a pure function of what is asked for and what is there.

use std::collections::BTreeMap;

use kafka_backup_shared::plan::{RestoreRequest, SpecError};
use kafka_backup_shared::spec::Repartition;

/// How the partitions of a source topic go into those of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    /// Partitions that the target has, or is created with.
    pub(super) partitions: i32,
    /// As many, where records are dealt out among them by their keys.
    pub(super) by_key: Option<u32>,
    /// Target partitions that are written, ascending, each with its sources, ascending.
    pub(super) written: BTreeMap<i32, Vec<i32>>,
}

/// Assigns the partitions of topic `source`, which has `sources`, to those of `target`, which has `existing` if it exists.
///
/// # Errors
/// The mapping does not fit the source, two partitions meet, or the target has another number of them.
pub(super) fn assign(
    source: &str,
    sources: i32,
    target: &str,
    existing: Option<i32>,
    request: &RestoreRequest,
) -> Result<Assignment, SpecError> {
    let moves = request.partition_mapping.get(source);
    let moves: BTreeMap<i32, i32> = moves
        .into_iter()
        .flatten()
        .map(|moved| (moved.source, moved.target))
        .collect();
    if let Some(unknown) = moves.keys().find(|number| **number >= sources) {
        return Err(SpecError::new(
            format!("spec.partitionMapping.{source}.{unknown}"),
            format!("a partition of topic {source}, which has {sources} in the backup"),
            unknown.to_string(),
        ));
    }
    if let Some(partitions) = existing.filter(|existing| *existing != sources)
        && request.repartition == Repartition::ByKey
    {
        let all: Vec<i32> = (0..sources).collect();
        return Ok(Assignment {
            partitions,
            by_key: Some(partitions.unsigned_abs()),
            written: (0..partitions)
                .map(|number| (number, all.clone()))
                .collect(),
        });
    }
    let mut written: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for number in 0..sources {
        let to = moves.get(&number).copied().unwrap_or(number);
        let here = written.entry(to).or_default();
        if let [other] = here[..] {
            return Err(SpecError::new(
                format!("spec.partitionMapping.{source}"),
                "a target partition of its own for each source partition (those that are not named keep their number)",
                format!("{to} for both {other} and {number}"),
            ));
        }
        here.push(number);
    }
    let needed = written.keys().last().map_or(0, |last| last + 1);
    match existing {
        Some(found) if moves.is_empty() && found != sources => Err(SpecError::new(
            format!("target topic {target}"),
            format!(
                "{sources} partitions, as the source has (spec.repartition: ByKey deals records out by their keys, \
                 spec.partitionMapping says where each partition goes)"
            ),
            found.to_string(),
        )),
        Some(found) if found < needed => Err(SpecError::new(
            format!("target topic {target}"),
            format!("at least {needed} partitions, for spec.partitionMapping.{source}"),
            found.to_string(),
        )),
        found => Ok(Assignment {
            partitions: found.unwrap_or(needed),
            by_key: None,
            written,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::plan::{PartitionMove, Topics};
    use kafka_backup_shared::spec::MissingTopics;

    fn request(moves: &[(i32, i32)], repartition: Repartition) -> RestoreRequest {
        let moves = moves
            .iter()
            .map(|&(source, target)| PartitionMove { source, target });
        let topics = Topics {
            include: vec!["*".into()],
            exclude: vec![],
            missing: MissingTopics::Fail,
        };
        RestoreRequest {
            partition_mapping: BTreeMap::from([("t".into(), moves.collect())]),
            repartition,
            ..RestoreRequest::new("latest", topics)
        }
    }

    fn assigned(
        sources: i32,
        existing: Option<i32>,
        moves: &[(i32, i32)],
    ) -> Result<Vec<(i32, i32)>, String> {
        let request = request(moves, Repartition::Refuse);
        let assignment =
            assign("t", sources, "t2", existing, &request).map_err(|error| error.to_string())?;
        assert_eq!(assignment.by_key, None);
        let pairs = assignment.written.iter().map(|(to, from)| (from[0], *to));
        Ok(pairs.collect())
    }

    #[test]
    fn partitions_keep_their_number_unless_they_are_moved() {
        assert_eq!(assigned(2, None, &[]), Ok(vec![(0, 0), (1, 1)]));
        assert_eq!(assigned(2, Some(2), &[]), Ok(vec![(0, 0), (1, 1)]));
        assert_eq!(
            assigned(2, None, &[(0, 1), (1, 0)]),
            Ok(vec![(1, 0), (0, 1)])
        );
        assert_eq!(assigned(2, Some(9), &[(0, 5)]), Ok(vec![(1, 1), (0, 5)]));
        let moved = request(&[(0, 5)], Repartition::Refuse);
        assert_eq!(assign("t", 2, "t2", None, &moved).unwrap().partitions, 6);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (sources, existing, moves, part) in [
            (
                2,
                Some(3),
                &[][..],
                "target topic t2: expected 2 partitions",
            ),
            (2, Some(5), &[(0, 5)], "expected at least 6 partitions"),
            (2, None, &[(2, 5)], "spec.partitionMapping.t.2"),
            (2, None, &[(0, 1)], "1 for both 0 and 1"),
        ] {
            let error = assigned(sources, existing, moves).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn keys_decide_only_where_the_numbers_differ() {
        let request = request(&[], Repartition::ByKey);
        for same in [None, Some(2)] {
            assert_eq!(assign("t", 2, "t2", same, &request).unwrap().by_key, None);
        }
        let dealt = assign("t", 2, "t2", Some(3), &request).unwrap();
        assert_eq!((dealt.partitions, dealt.by_key), (3, Some(3)));
        assert!((0..3).all(|number| dealt.written[&number] == [0, 1]));
    }
}
