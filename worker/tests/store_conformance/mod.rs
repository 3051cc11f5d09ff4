//! What every store promises; one suite for all of them.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a module of a test"
)]

use bytes::Bytes;
use kafka_backup_shared::report::Fault;

use super::{Created, PutPayload, Store, Updated};

const CONTENT: Bytes = Bytes::from_static(b"content");

/// Tries every promise on a store without objects.
pub async fn conforms(store: Store) {
    store.check().await.unwrap();
    store.check().await.unwrap();
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
    assert_eq!(
        store.get_range("a/b", 1..3).await.unwrap(),
        Some(Bytes::from_static(b"on"))
    );

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
