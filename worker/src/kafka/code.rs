//! What Kafka's error codes mean for a run and for the next attempt.

use kafka_backup_shared::report::Fault;
use kafka_protocol::error::ResponseError;

/// What a code means when it is final: after the retries of whoever asked.
///
/// Every code is named, so that one which a later release of the protocol adds is a decision and not a default.
pub fn fault_of(code: ResponseError) -> Fault {
    match code {
        // Asked for something that cannot be, until somebody changes the object, the topic or the cluster.
        ResponseError::InvalidTopicException
        | ResponseError::InvalidPartitions
        | ResponseError::InvalidReplicationFactor
        | ResponseError::InvalidReplicaAssignment
        | ResponseError::InvalidConfig
        | ResponseError::PolicyViolation
        | ResponseError::TopicAlreadyExists
        | ResponseError::UnknownTopicOrPartition
        | ResponseError::UnknownTopicId
        | ResponseError::InconsistentTopicId
        | ResponseError::MessageTooLarge
        | ResponseError::RecordListTooLarge
        | ResponseError::InvalidTimestamp
        | ResponseError::UnsupportedForMessageFormat
        | ResponseError::UnsupportedVersion
        | ResponseError::UnsupportedCompressionType
        | ResponseError::UnsupportedSaslMechanism
        | ResponseError::IllegalSaslState
        | ResponseError::SecurityDisabled
        | ResponseError::DelegationTokenAuthDisabled
        | ResponseError::TopicDeletionDisabled
        | ResponseError::NonEmptyGroup
        | ResponseError::GroupIdNotFound
        | ResponseError::GroupSubscribedToTopic
        // We are never a member: these are said of groups that have live ones, until somebody stops them.
        | ResponseError::UnknownMemberId
        | ResponseError::IllegalGeneration
        | ResponseError::FencedInstanceId
        | ResponseError::FencedMemberEpoch
        | ResponseError::StaleMemberEpoch
        | ResponseError::RebalanceInProgress
        | ResponseError::InvalidGroupId
        | ResponseError::OffsetMetadataTooLarge
        | ResponseError::InvalidCommitOffsetSize
        | ResponseError::GroupMaxSizeReached
        | ResponseError::InconsistentClusterId
        | ResponseError::ResourceNotFound
        | ResponseError::InvalidTransactionTimeout => Fault::Spec,
        // Credentials or permissions.
        ResponseError::TopicAuthorizationFailed
        | ResponseError::GroupAuthorizationFailed
        | ResponseError::ClusterAuthorizationFailed
        | ResponseError::TransactionalIdAuthorizationFailed
        | ResponseError::SaslAuthenticationFailed
        | ResponseError::DelegationTokenNotFound
        | ResponseError::DelegationTokenOwnerMismatch
        | ResponseError::DelegationTokenRequestNotAllowed
        | ResponseError::DelegationTokenAuthorizationFailed
        | ResponseError::DelegationTokenExpired
        | ResponseError::InvalidPrincipalType
        | ResponseError::UnacceptableCredential
        | ResponseError::PrincipalDeserializationFailure => Fault::Denied,
        // The broker read the record batch and refused it, or cannot read its own.
        ResponseError::CorruptMessage | ResponseError::InvalidRecord => Fault::Corrupt,
        // May be different when the next attempt asks again. Lost sequence numbers and fenced producers are here: the next
        // attempt goes by the log end, not by them.
        ResponseError::UnknownServerError
        | ResponseError::OffsetOutOfRange
        | ResponseError::LeaderNotAvailable
        | ResponseError::NotLeaderOrFollower
        | ResponseError::RequestTimedOut
        | ResponseError::BrokerNotAvailable
        | ResponseError::ReplicaNotAvailable
        | ResponseError::StaleControllerEpoch
        | ResponseError::NetworkException
        | ResponseError::CoordinatorLoadInProgress
        | ResponseError::CoordinatorNotAvailable
        | ResponseError::NotCoordinator
        | ResponseError::NotEnoughReplicas
        | ResponseError::NotEnoughReplicasAfterAppend
        | ResponseError::NotController
        | ResponseError::OutOfOrderSequenceNumber
        | ResponseError::DuplicateSequenceNumber
        | ResponseError::InvalidProducerEpoch
        | ResponseError::ProducerFenced
        | ResponseError::UnknownProducerId
        | ResponseError::ConcurrentTransactions
        | ResponseError::TransactionCoordinatorFenced
        | ResponseError::OperationNotAttempted
        | ResponseError::KafkaStorageError
        | ResponseError::LogDirNotFound
        | ResponseError::ReassignmentInProgress
        | ResponseError::ListenerNotFound
        | ResponseError::FencedLeaderEpoch
        | ResponseError::UnknownLeaderEpoch
        | ResponseError::StaleBrokerEpoch
        | ResponseError::OffsetNotAvailable
        | ResponseError::PreferredLeaderNotAvailable
        | ResponseError::EligibleLeadersNotAvailable
        | ResponseError::ElectionNotNeeded
        | ResponseError::UnstableOffsetCommit
        | ResponseError::ThrottlingQuotaExceeded
        | ResponseError::OffsetMovedToTieredStorage
        | ResponseError::NewLeaderElected
        | ResponseError::UnreleasedInstanceId
        | ResponseError::RebootstrapRequired
        | ResponseError::FetchSessionIdNotFound
        | ResponseError::InvalidFetchSessionEpoch
        | ResponseError::FetchSessionTopicIdError
        | ResponseError::MemberIdRequired
        | ResponseError::BrokerIdNotRegistered
        | ResponseError::UnknownControllerId => Fault::Unavailable,
        // Answers to what we never ask, or never ask in this form; also codes that this client does not know.
        ResponseError::Unknown(_)
        | ResponseError::InvalidFetchSize
        | ResponseError::InvalidRequiredAcks
        | ResponseError::InconsistentGroupProtocol
        | ResponseError::InvalidSessionTimeout
        | ResponseError::InvalidRequest
        | ResponseError::InvalidTxnState
        | ResponseError::InvalidProducerIdMapping
        | ResponseError::NoReassignmentInProgress
        | ResponseError::DuplicateResource
        | ResponseError::InconsistentVoterSet
        | ResponseError::InvalidUpdateVersion
        | ResponseError::FeatureUpdateFailed
        | ResponseError::SnapshotNotFound
        | ResponseError::PositionOutOfRange
        | ResponseError::DuplicateBrokerRegistration
        | ResponseError::TransactionalIdNotFound
        | ResponseError::IneligibleReplica
        | ResponseError::UnsupportedAssignor
        | ResponseError::MismatchedEndpointType
        | ResponseError::UnsupportedEndpointType
        | ResponseError::UnknownSubscriptionId
        | ResponseError::TelemetryTooLarge
        | ResponseError::InvalidRegistration
        | ResponseError::TransactionAbortable
        | ResponseError::InvalidRecordState
        | ResponseError::ShareSessionNotFound
        | ResponseError::InvalidShareSessionEpoch
        | ResponseError::FencedStateEpoch
        | ResponseError::InvalidVoterKey
        | ResponseError::DuplicateVoter
        | ResponseError::VoterNotFound
        | ResponseError::InvalidRegularExpression
        | ResponseError::StreamsInvalidTopology
        | ResponseError::StreamsInvalidTopologyEpoch
        | ResponseError::StreamsTopologyFenced
        | ResponseError::ShareSessionLimitReached => Fault::Bug,
    }
}

/// Whether a code says that leaders, epochs, topic ids or coordinators are not where the metadata said.
pub fn is_stale_metadata(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::NotLeaderOrFollower
            | ResponseError::LeaderNotAvailable
            | ResponseError::FencedLeaderEpoch
            | ResponseError::UnknownLeaderEpoch
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::UnknownTopicId
            | ResponseError::InconsistentTopicId
            | ResponseError::ReplicaNotAvailable
            | ResponseError::BrokerNotAvailable
            | ResponseError::KafkaStorageError
            | ResponseError::ListenerNotFound
            | ResponseError::RebootstrapRequired
            | ResponseError::NotCoordinator
            | ResponseError::CoordinatorNotAvailable
    )
}

/// Whether a code says that a group has live members, to somebody who is none of them.
///
/// Kafka's `ClassicGroup`, `ConsumerGroup` and `StreamsGroup` answer commits in their `validateOffsetCommit`, deletions of
/// offsets in their `validateOffsetDelete` and `isSubscribedToTopic`.
pub(crate) fn is_group_in_use(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::UnknownMemberId
            | ResponseError::IllegalGeneration
            | ResponseError::FencedInstanceId
            | ResponseError::FencedMemberEpoch
            | ResponseError::StaleMemberEpoch
            | ResponseError::RebalanceInProgress
            | ResponseError::NonEmptyGroup
            | ResponseError::GroupSubscribedToTopic
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_fault_of_their_kind() {
        let cases = [
            (ResponseError::TopicAuthorizationFailed, Fault::Denied),
            (ResponseError::SaslAuthenticationFailed, Fault::Denied),
            (ResponseError::NotLeaderOrFollower, Fault::Unavailable),
            (ResponseError::NotEnoughReplicas, Fault::Unavailable),
            (ResponseError::OutOfOrderSequenceNumber, Fault::Unavailable),
            (ResponseError::CorruptMessage, Fault::Corrupt),
            (ResponseError::InvalidReplicationFactor, Fault::Spec),
            (ResponseError::MessageTooLarge, Fault::Spec),
            (ResponseError::UnknownMemberId, Fault::Spec),
            (ResponseError::GroupSubscribedToTopic, Fault::Spec),
            (ResponseError::InvalidRequest, Fault::Bug),
            (ResponseError::Unknown(999), Fault::Bug),
        ];
        for (code, fault) in cases {
            assert_eq!(fault_of(code), fault, "{code}");
        }
    }

    #[test]
    fn every_code_that_is_retriable_for_kafka_is_retried_by_us_or_named_here() {
        // A missing topic is retriable while metadata spreads, and the user's matter when it stays missing; a CRC error is
        // fetched a second time, and is corruption when it stays.
        let final_all_the_same = [
            ResponseError::UnknownTopicOrPartition,
            ResponseError::UnknownTopicId,
            ResponseError::InconsistentTopicId,
            ResponseError::CorruptMessage,
        ];
        for number in -1..=133 {
            let Some(code) = ResponseError::try_from_code(number) else {
                continue;
            };
            let share_groups = (122..=123).contains(&number) || number == 133;
            if code.is_retriable() && !final_all_the_same.contains(&code) && !share_groups {
                assert_eq!(fault_of(code), Fault::Unavailable, "{code}");
            }
        }
    }

    #[test]
    fn live_members_are_the_users_matter_and_not_waited_for() {
        for number in -1..=133 {
            let Some(code) = ResponseError::try_from_code(number) else {
                continue;
            };
            if is_group_in_use(code) {
                assert_eq!(fault_of(code), Fault::Spec, "{code}");
                assert!(!code.is_retriable() && !is_stale_metadata(code), "{code}");
            }
        }
    }

    #[test]
    fn leader_changes_are_stale_metadata_and_refusals_are_not() {
        assert!(is_stale_metadata(ResponseError::NotLeaderOrFollower));
        assert!(is_stale_metadata(ResponseError::FencedLeaderEpoch));
        assert!(is_stale_metadata(ResponseError::UnknownLeaderEpoch));
        assert!(!is_stale_metadata(ResponseError::TopicAuthorizationFailed));
        assert!(!is_stale_metadata(ResponseError::OffsetOutOfRange));
        assert!(!is_stale_metadata(ResponseError::NotEnoughReplicas));
    }
}
