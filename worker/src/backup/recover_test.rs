//! Answers that real brokers give only after hours of compaction, from a leader made up for them.

use bytes::{Buf, BufMut};
use kafka_backup_shared::archive::batch;
use kafka_backup_shared::archive::layout::{ChainKey, TopicId};
use kafka_backup_shared::spec::KafkaCluster;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backup::budget::Budget;
use crate::backup::fetch::Shared;
use crate::backup::work::{Hole, PartitionWork};
use crate::kafka::{Client, ClientConfig, LedPartition};
use crate::rate::Rate;

const TOPIC_ID: [u8; 16] = [7; 16];
const FETCH: i16 = 1;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
/// Where a Fetch of version 16 from the client "test" has its isolation level: after a header of 15 bytes and 3 numbers.
const ISOLATION_LEVEL: usize = 15 + 12;

/// What the leader shows from the position on: nothing under `read_committed`, else what follows.
#[derive(Clone, Copy, Debug)]
enum Following {
    Nothing,
    Batch { base_offset: i64 },
    Error,
}

/// Where the leader listens; it leads one partition, whose committed part is empty from the position on.
async fn leader(following: Following) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, port, following));
        }
    });
    format!("127.0.0.1:{port}")
}

async fn serve(mut stream: TcpStream, port: u16, following: Following) {
    while let Ok(length) = stream.read_i32().await {
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await.unwrap();
        let mut header = &request[..];
        let (api, _version, id) = (header.get_i16(), header.get_i16(), header.get_i32());
        let body = match api {
            API_VERSIONS => versions(),
            METADATA => metadata(port),
            FETCH => fetched(request[ISOLATION_LEVEL], following),
            other => panic!("{other}"),
        };
        let mut answer = Vec::new();
        answer.put_i32(body.len() as i32 + 4);
        answer.put_i32(id);
        answer.put_slice(&body);
        stream.write_all(&answer).await.unwrap();
    }
}

/// ApiVersions' answer, version 3.
fn versions() -> Vec<u8> {
    let mut body = vec![0, 0, 4];
    for (api, version) in [(API_VERSIONS, 3), (METADATA, 12), (FETCH, 16)] {
        body.put_i16(api);
        body.put_i16(version);
        body.put_i16(version);
        body.put_u8(0);
    }
    body.put_i32(0);
    body.put_u8(0);
    body
}

/// Metadata's answer, version 12: one broker, no topics.
fn metadata(port: u16) -> Vec<u8> {
    let mut body = vec![0]; // header tags
    body.put_i32(0);
    body.put_u8(2);
    body.put_i32(1);
    put_string(&mut body, "127.0.0.1");
    body.put_i32(port.into());
    body.put_slice(&[0, 0]); // no rack, no tags
    put_string(&mut body, "made-up");
    body.put_i32(1);
    body.put_slice(&[1, 0]);
    body
}

fn put_string(body: &mut Vec<u8>, text: &str) {
    body.put_u8(text.len() as u8 + 1);
    body.put_slice(text.as_bytes());
}

/// Fetch's answer, version 16.
fn fetched(isolation: u8, following: Following) -> Vec<u8> {
    let mut error = 0;
    let mut records = Vec::new();
    match (isolation, following) {
        (0, Following::Error) => error = ResponseError::NotLeaderOrFollower.code(),
        (0, Following::Batch { base_offset }) => {
            records = batch::build(0, 1, 1, 2, b"");
            batch::set_base_offset(&mut records, base_offset);
        }
        (_, Following::Nothing | Following::Error | Following::Batch { .. }) => {}
    }
    let mut body = vec![0]; // header tags
    body.put_i32(0);
    body.put_i16(0);
    body.put_i32(0);
    body.put_u8(2);
    body.put_slice(&TOPIC_ID);
    body.put_u8(2);
    body.put_i32(0);
    body.put_i16(error);
    body.put_i64(20); // high watermark
    body.put_i64(10); // last stable offset
    body.put_i64(0);
    body.put_u8(0);
    body.put_i32(-1);
    body.put_u8(records.len() as u8 + 1);
    body.put_slice(&records);
    body.put_slice(&[0, 0, 0]);
    body
}

/// A lane, its events, and work on offsets 5 to 10 of the leader's partition.
async fn rig(
    following: Following,
    isolation: IsolationLevel,
) -> (Lane, mpsc::UnboundedReceiver<Event>, PartitionWork) {
    let cluster = KafkaCluster::plaintext(vec![leader(following).await]);
    let client = Client::connect(ClientConfig::new(&cluster, Path::new(""), "test"))
        .await
        .unwrap();
    let (sender, events) = mpsc::unbounded_channel();
    let shared = Shared {
        client,
        budget: Budget::new(1 << 20),
        stop: CancellationToken::new(),
        isolation,
        encoding: None,
        rate: Arc::new(Rate::new(None)),
        fetch_bytes: 1 << 16,
        segment_bytes: 1 << 20,
        checkpoint_interval: Duration::from_secs(60),
        events: sender,
    };
    let work = PartitionWork {
        topic: 0,
        chain: ChainKey {
            topic: "t".into(),
            topic_id: TopicId(TOPIC_ID),
            partition: 0,
            generation: "g".into(),
        },
        led: LedPartition {
            topic: "t".into(),
            partition: 0,
            leader: 1,
            leader_epoch: 0,
        },
        holes: vec![hole()],
        fetch_before: None,
        max_message_bytes: 1 << 20,
    };
    (Lane::new(Arc::new(shared)), events, work)
}

fn hole() -> Hole {
    Hole {
        range: OffsetRange { start: 5, end: 10 },
        last_epoch: -1,
    }
}

#[tokio::test]
async fn only_a_batch_beyond_the_end_proves_that_nothing_is_before_it() {
    use IsolationLevel::{ReadCommitted, ReadUncommitted};
    let batch = |base_offset| Following::Batch { base_offset };
    let cases = [
        (batch(10), ReadCommitted, true),
        (batch(12), ReadCommitted, true),
        (batch(7), ReadCommitted, false),
        (batch(9), ReadCommitted, false),
        (Following::Nothing, ReadCommitted, false),
        (Following::Error, ReadCommitted, false),
        // What is shown is all there is to show: the next Fetch would have brought it.
        (batch(10), ReadUncommitted, false),
    ];
    for (following, isolation, proven) in cases {
        let (mut lane, _events, work) = rig(following, isolation).await;
        let cursor = Cursor::new(&work, hole(), (1, 0), 1 << 16);
        let found = lane.is_empty_to_end(&cursor).await;
        assert_eq!(found, proven, "{following:?} {isolation:?}");
    }
}

#[tokio::test]
async fn offsets_that_are_proven_empty_are_covered_by_an_empty_segment() {
    let following = Following::Batch { base_offset: 10 };
    let (mut lane, mut events, work) = rig(following, IsolationLevel::ReadCommitted).await;
    lane.capture(&work).await;
    let event = events.try_recv().unwrap();
    let Event::Segment(tile) = event else {
        panic!("{event:?}");
    };
    let name = tile.segment.name;
    assert_eq!((name.start, name.end, name.records), (5, 10, 0));
    assert!(events.try_recv().is_err());
}
