//! What every store promises; one suite for all of them.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a module of a test"
)]

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kafka_backup_shared::archive::layout::escape;
use kafka_backup_shared::report::Fault;

use super::{Created, PutPayload, Store, Updated};

const CONTENT: Bytes = Bytes::from_static(b"content");

/// Tries every promise on a store without objects.
pub async fn conforms(store: Store) {
    store.check().await.unwrap();
    store.check().await.unwrap();
    objects_are_created_once(&store).await;
    of_many_creators_one_wins(&store).await;
    of_many_updaters_one_wins(&store).await;
    every_character_of_a_key_survives(&store).await;
    large_segments_are_whole(&store, 20 << 20).await;
}

async fn objects_are_created_once(store: &Store) {
    assert_eq!(store.get("a/b").await.unwrap(), None);
    assert_eq!(store.head("a/b").await.unwrap(), None);
    assert_eq!(store.get_range("a/b", 0..1).await.unwrap(), None);
    assert_eq!(store.list_dirs("a").await.unwrap(), Vec::<String>::new());

    assert_eq!(store.create("a/b", CONTENT).await.unwrap(), Created::New);
    assert_eq!(store.create("a/b", CONTENT).await.unwrap(), Created::Same);
    let other = Bytes::from_static(b"other");
    assert_eq!(
        store.create("a/b", other.clone()).await.unwrap(),
        Created::Exists(CONTENT)
    );
    assert_eq!(store.get("a/b").await.unwrap(), Some(CONTENT));
    assert_eq!(store.head("a/b").await.unwrap(), Some(7));
    parts_are_read(store).await;

    let segment: PutPayload = [Bytes::from_static(b"ab"), Bytes::from_static(b"cd")]
        .into_iter()
        .collect();
    store
        .create_segment("a/c/1.log", segment.clone())
        .await
        .unwrap();
    store.create_segment("a/c/1.log", segment).await.unwrap();
    store
        .create_segment("a/c/2.log", PutPayload::new())
        .await
        .unwrap();
    assert_eq!(
        store.get("a/c/1.log").await.unwrap(),
        Some(Bytes::from_static(b"abcd"))
    );
    let conflict = store
        .create_segment("a/c/1.log", PutPayload::from_static(b"abcde"))
        .await
        .unwrap_err();
    assert_eq!(conflict.fault(), Fault::Corrupt);

    store.create("ab/c", CONTENT).await.unwrap();
    let mut listed = store
        .list("a", |key, size| Some((key.to_owned(), size)))
        .await
        .unwrap();
    listed.sort();
    assert_eq!(
        listed,
        [
            ("a/b".into(), 7),
            ("a/c/1.log".into(), 4),
            ("a/c/2.log".into(), 0)
        ]
    );
    assert_eq!(store.list_dirs("a").await.unwrap(), ["a/c"]);

    store.create("lease", CONTENT).await.unwrap();
    let (_, first) = store.get_versioned("lease").await.unwrap().unwrap();
    let Updated::Done(second) = store.update("lease", other.clone(), &first).await.unwrap() else {
        panic!("nobody else has changed it");
    };
    assert_eq!(
        store.update("lease", CONTENT, &first).await.unwrap(),
        Updated::Changed
    );
    assert!(matches!(
        store.update("lease", CONTENT, &second).await.unwrap(),
        Updated::Done(_)
    ));

    store
        .delete(&["a/b".into(), "not/there".into()])
        .await
        .unwrap();
    assert_eq!(store.get("a/b").await.unwrap(), None);
}

async fn of_many_creators_one_wins(store: &Store) {
    let writers = (0..8u8).map(|i| async move {
        let created = store.create("race/create", vec![i; 1000].into()).await;
        (i, created.unwrap())
    });
    let answers: Vec<(u8, Created)> = stream::iter(writers).buffer_unordered(8).collect().await;
    let winners = answers.iter().filter(|(_, got)| *got == Created::New);
    let winners: Vec<u8> = winners.map(|(i, _)| *i).collect();
    let [winner] = winners[..] else {
        panic!("{winners:?} all created it");
    };
    let content = Bytes::from(vec![winner; 1000]);
    for (i, created) in answers.iter().filter(|(i, _)| *i != winner) {
        assert_eq!(*created, Created::Exists(content.clone()), "{i}");
    }
    assert_eq!(store.get("race/create").await.unwrap(), Some(content));
}

async fn of_many_updaters_one_wins(store: &Store) {
    store.create("race/update", CONTENT).await.unwrap();
    let (_, version) = store.get_versioned("race/update").await.unwrap().unwrap();
    let writers = (0..8u8).map(|i| {
        let version = version.clone();
        async move {
            let updated = store.update("race/update", vec![i; 1000].into(), &version);
            (i, updated.await.unwrap())
        }
    });
    let answers: Vec<(u8, Updated)> = stream::iter(writers).buffer_unordered(8).collect().await;
    let winners = answers
        .iter()
        .filter(|(_, got)| matches!(got, Updated::Done(_)));
    let winners: Vec<u8> = winners.map(|(i, _)| *i).collect();
    let [winner] = winners[..] else {
        panic!("{winners:?} all updated the same version");
    };
    let content = Bytes::from(vec![winner; 1000]);
    assert_eq!(store.get("race/update").await.unwrap(), Some(content));
}

/// Names come escaped; the `%` of the escape must not be taken for the store's own.
async fn every_character_of_a_key_survives(store: &Store) {
    let characters = (0x20..0x7f).map(|b| char::from(b).to_string());
    let odd = ["..", "a b%20+c", "Ä/ö", "x=y&z#1?"].map(str::to_owned);
    let names = characters.chain(odd);
    let mut folders: Vec<String> = names
        .map(|name| format!("names/{}", escape(&name)))
        .collect();
    folders.sort();
    let mut keys: Vec<String> = folders.iter().map(|key| format!("{key}/x")).collect();
    keys.sort();
    let writes = keys.iter().map(|key| store.create(key, key.clone().into()));
    let created: Vec<Created> = stream::iter(writes)
        .buffered(8)
        .try_collect()
        .await
        .unwrap();
    assert!(created.iter().all(|created| *created == Created::New));
    for key in &keys {
        assert_eq!(store.get(key).await.unwrap(), Some(key.clone().into()));
    }
    assert_eq!(listed(store, "names").await, keys);
    assert_eq!(store.list_dirs("names").await.unwrap(), folders);
    store.delete(&keys).await.unwrap();
    assert_eq!(listed(store, "names").await, Vec::<String>::new());
}

async fn listed(store: &Store, folder: &str) -> Vec<String> {
    let found = store.list(folder, |key, _| Some(key.to_owned())).await;
    let mut keys = found.unwrap();
    keys.sort();
    keys
}

/// Writes and reads a segment of `size` bytes, whole and in parts.
pub async fn large_segments_are_whole(store: &Store, size: usize) {
    let pieces = (0..size >> 20).map(|i| Bytes::from(vec![i as u8; 1 << 20]));
    let content: PutPayload = pieces.collect();
    store
        .create_segment("large", content.clone())
        .await
        .unwrap();
    store
        .create_segment("large", content.clone())
        .await
        .unwrap();
    let read = store.get("large").await.unwrap().unwrap();
    assert!(
        read == Bytes::from(content),
        "{size} bytes are not the same"
    );
    let middle = (2 << 20) - 1..(2 << 20) + 1;
    assert_eq!(
        store.get_range("large", middle).await.unwrap(),
        Some(Bytes::from_static(&[1, 2]))
    );
    store.delete(&["large".into()]).await.unwrap();
}

/// Of the object `a/b`, which has [`CONTENT`].
async fn parts_are_read(store: &Store) {
    for part in [0..7, 1..3, 6..7, 5..9] {
        let expected = &CONTENT[part.start..part.end.min(7)];
        let range = part.start as u64..part.end as u64;
        let found = store.get_range("a/b", range.clone()).await.unwrap();
        assert_eq!(found.as_deref(), Some(expected), "{part:?}");
        let before = crc32c::crc32c(b"before");
        let expected = (
            crc32c::crc32c_append(before, expected),
            expected.len() as u64,
        );
        let found = store.crc32c("a/b", range, before).await.unwrap();
        assert_eq!(found, Some(expected), "{part:?}");
    }
    assert_eq!(store.crc32c("a/c", 0..1, 0).await.unwrap(), None);
}

/// Lists more keys and folders than a page of any store has (S3 and Google 1,000, Azure 5,000).
pub async fn listings_have_more_than_a_page(store: &Store, count: usize) {
    let keys: Vec<String> = (0..count).map(|i| format!("many/{i:05}/x")).collect();
    let writes = keys.iter().map(|key| store.create(key, CONTENT));
    let created = stream::iter(writes).buffer_unordered(32);
    created.try_for_each(|_| async { Ok(()) }).await.unwrap();
    assert_eq!(listed(store, "many").await, keys);
    let folders = store.list_dirs("many").await.unwrap();
    assert_eq!(folders.len(), count);
    assert_eq!(folders[count - 1], format!("many/{:05}", count - 1));
}
