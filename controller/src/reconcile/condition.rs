//! Conditions: Ready, Suspended, Progressing, Succeeded; CaptureHeldByTransaction and RetentionHeld once a run has told of them.
//!
//! # Guarantees
//! - `lastTransitionTime` moves only with `status`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kafka_backup_shared::status::time;

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(is_true: bool) -> Self {
        if is_true { Self::True } else { Self::False }
    }
}

/// The spec is valid and nothing blocks a run.
pub(crate) const READY: &str = "Ready";
/// Runs are held back by the spec.
pub(crate) const SUSPENDED: &str = "Suspended";
/// A run exists.
pub(crate) const PROGRESSING: &str = "Progressing";
/// The last run succeeded; Unknown while one exists.
pub(crate) const SUCCEEDED: &str = "Succeeded";

/// An open transaction has kept the last two complete runs from the same records.
pub(crate) const CAPTURE_HELD: &str = "CaptureHeldByTransaction";

/// The retention of restored topics is held, for it would expire restored records.
pub(crate) const RETENTION_HELD: &str = "RetentionHeld";

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saying {
    pub(crate) truth: Truth,
    /// CamelCase.
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Saying {
    pub(crate) fn new(
        truth: impl Into<Truth>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            truth: truth.into(),
            reason: reason.into(),
            message: message.into(),
        }
    }
}

/// The condition of that type.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Sets the condition of that type.
pub(crate) fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    saying: Saying,
    generation: Option<i64>,
    now: Timestamp,
) {
    let status = saying.truth.as_str();
    let unchanged = find(conditions, type_).filter(|condition| condition.status == status);
    let condition = Condition {
        type_: type_.into(),
        status: status.into(),
        reason: saying.reason,
        message: saying.message,
        observed_generation: generation,
        last_transition_time: unchanged.map_or_else(
            || time(now),
            |condition| condition.last_transition_time.clone(),
        ),
    };
    match conditions
        .iter_mut()
        .find(|condition| condition.type_ == type_)
    {
        Some(place) => *place = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::at;

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        let cases = [
            (
                Truth::False,
                "a",
                "2026-01-01T00:00:00Z",
                "2026-01-01T00:00:00Z",
            ),
            (
                Truth::False,
                "b",
                "2026-01-01T00:01:00Z",
                "2026-01-01T00:00:00Z",
            ),
            (
                Truth::True,
                "b",
                "2026-01-01T00:02:00Z",
                "2026-01-01T00:02:00Z",
            ),
            (
                Truth::Unknown,
                "b",
                "2026-01-01T00:03:00Z",
                "2026-01-01T00:03:00Z",
            ),
        ];
        for (truth, reason, now, moved) in cases {
            set(
                &mut conditions,
                READY,
                Saying::new(truth, reason, ""),
                Some(1),
                at(now),
            );
            assert_eq!(conditions.len(), 1);
            assert_eq!(conditions[0].reason, reason);
            assert_eq!(
                conditions[0].last_transition_time.0,
                at(moved),
                "{reason} at {now}"
            );
        }
    }
}
