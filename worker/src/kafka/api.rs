//! The requests that this client speaks, and the versions of each.

use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest, DeleteRecordsResponse,
    DescribeConfigsRequest, DescribeConfigsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse, FetchRequest, FetchResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    InitProducerIdRequest, InitProducerIdResponse, ListGroupsRequest, ListGroupsResponse,
    ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse, SaslAuthenticateRequest,
    SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, VersionRange};

/// A request with its answer, and the versions that this client knows to fill in and to read.
pub(crate) trait Api: Encodable + HeaderVersion + 'static {
    /// The answer.
    type Response: Decodable + HeaderVersion + Send + 'static;
    /// The API.
    const KEY: ApiKey;
    /// Ours; the newest one that the broker knows too is spoken.
    const VERSIONS: VersionRange;
    /// The first Kafka release that speaks the oldest of our versions, for the message to the user.
    const SINCE: &'static str;
    /// How long the broker asks to be left alone, in milliseconds (KIP-219).
    fn throttle_time_ms(response: &Self::Response) -> i32;
}

macro_rules! apis {
    ($($request:ty => $response:ty, $key:ident, $min:literal ..= $max:literal, since $since:literal;)*) => {$(
        impl Api for $request {
            type Response = $response;
            const KEY: ApiKey = ApiKey::$key;
            const VERSIONS: VersionRange = VersionRange { min: $min, max: $max };
            const SINCE: &'static str = $since;
            fn throttle_time_ms(response: &Self::Response) -> i32 {
                response.throttle_time_ms
            }
        }
    )*};
}

apis! {
    // With the configs that a topic would have.
    CreateTopicsRequest => CreateTopicsResponse, CreateTopics, 5..=7, since "2.4";
    DeleteRecordsRequest => DeleteRecordsResponse, DeleteRecords, 1..=2, since "2.0";
    DescribeConfigsRequest => DescribeConfigsResponse, DescribeConfigs, 1..=4, since "2.0";
    DescribeLogDirsRequest => DescribeLogDirsResponse, DescribeLogDirs, 1..=4, since "2.0";
    // By topic id, which came with version 13.
    FetchRequest => FetchResponse, Fetch, 13..=16, since "3.1";
    // Several keys in one request.
    FindCoordinatorRequest => FindCoordinatorResponse, FindCoordinator, 4..=5, since "3.0";
    IncrementalAlterConfigsRequest => IncrementalAlterConfigsResponse, IncrementalAlterConfigs, 0..=1, since "2.3";
    InitProducerIdRequest => InitProducerIdResponse, InitProducerId, 2..=4, since "2.4";
    ListGroupsRequest => ListGroupsResponse, ListGroups, 3..=5, since "2.4";
    // With the current leader epoch.
    ListOffsetsRequest => ListOffsetsResponse, ListOffsets, 4..=9, since "2.1";
    // With topic ids.
    MetadataRequest => MetadataResponse, Metadata, 10..=12, since "2.8";
    // With the leader epoch; from 10 by topic id. Kafka demands 9 of members of the new protocol (KIP-848) only: who is no
    // member commits for any kind of group in any version (`ConsumerGroup.validateOffsetCommit`).
    OffsetCommitRequest => OffsetCommitResponse, OffsetCommit, 6..=9, since "2.1";
    // KIP-496.
    OffsetDeleteRequest => OffsetDeleteResponse, OffsetDelete, 0..=0, since "2.4";
    // Several groups in one request.
    OffsetFetchRequest => OffsetFetchResponse, OffsetFetch, 8..=9, since "3.0";
    // With the replica id that marks a consumer.
    OffsetForLeaderEpochRequest => OffsetForLeaderEpochResponse, OffsetForLeaderEpoch, 3..=4, since "2.3";
    // The flexible layout; from 13 by topic id.
    ProduceRequest => ProduceResponse, Produce, 9..=13, since "2.5";
}

/// The exchange that says who we are: nobody is throttled (KIP-219) before it.
macro_rules! sasl_apis {
    ($($request:ty => $response:ty, $key:ident, $min:literal ..= $max:literal;)*) => {$(
        impl Api for $request {
            type Response = $response;
            const KEY: ApiKey = ApiKey::$key;
            const VERSIONS: VersionRange = VersionRange { min: $min, max: $max };
            const SINCE: &'static str = "2.2";
            fn throttle_time_ms(_: &Self::Response) -> i32 {
                0
            }
        }
    )*};
}

sasl_apis! {
    SaslHandshakeRequest => SaslHandshakeResponse, SaslHandshake, 1..=1;
    // With the session's lifetime (KIP-368).
    SaslAuthenticateRequest => SaslAuthenticateResponse, SaslAuthenticate, 1..=2;
}

/// The version to speak: the newest that both sides know.
pub(crate) fn negotiate(ours: VersionRange, theirs: Option<VersionRange>) -> Option<i16> {
    let common = ours.intersect(&theirs?);
    (!common.is_empty()).then_some(common.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_common_version_is_spoken() {
        let range = |min, max| VersionRange { min, max };
        let cases = [
            (range(13, 16), Some(range(4, 17)), Some(16)),
            (range(13, 16), Some(range(4, 13)), Some(13)),
            (range(13, 16), Some(range(4, 12)), None),
            (range(9, 12), Some(range(13, 14)), None),
            (range(9, 12), Some(range(12, 14)), Some(12)),
            (range(0, 1), Some(range(0, 0)), Some(0)),
            (range(0, 1), None, None),
        ];
        for (ours, theirs, spoken) in cases {
            assert_eq!(
                negotiate(ours, theirs),
                spoken,
                "ours {ours}, theirs {theirs:?}"
            );
        }
    }
}
