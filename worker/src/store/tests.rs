use std::sync::Arc;

use bytes::Bytes;
use kafka_backup_shared::report::Fault as Meant;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::conformance::{conforms, listings_have_more_than_a_page};
use super::faulty_store::{Fault, FaultyStore};
use super::*;

const CONTENT: Bytes = Bytes::from_static(b"content");

fn folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_folder(folder.path()).unwrap();
    (folder, store)
}

fn store(inner: &FaultyStore) -> Store {
    Store::new(Arc::new(inner.clone()), "a test", Some("some/prefix")).unwrap()
}

fn faulty(puts: &[Fault]) -> FaultyStore {
    FaultyStore::new(Arc::new(InMemory::new())).with_puts(puts)
}

#[tokio::test]
async fn a_folder_keeps_the_promises() {
    let (_folder, store) = folder();
    conforms(store.clone()).await;
    listings_have_more_than_a_page(&store, 1005).await;
}

#[tokio::test]
async fn a_folder_has_no_bytes_beyond_the_end_of_a_file() {
    let (_folder, store) = folder();
    store.create("k", CONTENT).await.unwrap();
    let end = CONTENT.len() as u64;
    for beyond in [end..end + 1, end + 100..end + 200] {
        let found = store.get_range("k", beyond.clone()).await.unwrap();
        assert_eq!(found, Some(Bytes::new()));
        let found = store.crc32c("k", beyond, 5).await.unwrap();
        assert_eq!(found, Some((5, 0)));
    }
}

#[tokio::test]
async fn a_folder_without_hard_links_keeps_the_promises() {
    let (_folder, mut store) = folder();
    store.check().await.unwrap();
    store.folder.as_mut().unwrap().hard_links = Arc::new(false.into());
    conforms(store).await;
}

#[tokio::test]
async fn a_store_with_a_prefix_keeps_the_promises() {
    let inner = faulty(&[]);
    conforms(store(&inner)).await;
    let outside = inner.list_with_delimiter(None).await.unwrap();
    assert_eq!(
        outside.common_prefixes,
        [object_store::path::Path::from("some")]
    );
}

#[tokio::test]
async fn a_lost_answer_is_no_second_write() {
    let inner = faulty(&[Fault::LostAnswer]);
    assert_eq!(
        store(&inner).create("k", CONTENT).await.unwrap(),
        Created::Same
    );
    assert_eq!(inner.writes(), 1);
    let inner = faulty(&[Fault::LostAnswer]);
    store(&inner)
        .create_segment("k", PutPayload::from_static(b"abc"))
        .await
        .unwrap();
    assert_eq!(inner.writes(), 1);
}

#[tokio::test]
async fn what_passes_is_repeated() {
    for fault in [Fault::Unavailable, Fault::Conflict] {
        let inner = faulty(&[fault, fault, fault]);
        assert_eq!(
            store(&inner).create("k", CONTENT).await.unwrap(),
            Created::New,
            "{fault:?}"
        );
        let inner = faulty(&[fault, fault, fault]);
        store(&inner)
            .create_segment("k", PutPayload::from_static(b"abc"))
            .await
            .unwrap();
        assert_eq!(inner.writes(), 1, "{fault:?}");
    }
    let inner = faulty(&[]).with_gets(&[Fault::Unavailable; 3]);
    assert_eq!(store(&inner).get("k").await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for() {
    let limited = |inner: &FaultyStore| {
        let mut store = store(inner);
        store.time_limit = Duration::from_millis(50);
        store
    };
    let inner = faulty(&[Fault::Stalled; 2]).with_gets(&[Fault::Stalled; 2]);
    let created = limited(&inner).create("k", CONTENT).await.unwrap();
    assert_eq!(created, Created::New);
    assert_eq!(inner.writes(), 1);
    let inner = faulty(&[Fault::Stalled; 1000]);
    let store = limited(&inner).with_patience(Duration::from_millis(200));
    let error = store.create("k", CONTENT).await.unwrap_err();
    assert_eq!(error.fault(), Meant::Unavailable);
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_full_store_is_told_at_once_and_mends() {
    let inner = faulty(&[Fault::Full]);
    let store = store(&inner);
    let error = store.create("k", CONTENT).await.unwrap_err();
    assert_eq!(error.fault(), Meant::Unavailable);
    assert!(error.to_string().contains("no space is left"), "{error}");
    assert_eq!(store.create("k", CONTENT).await.unwrap(), Created::New);
}

#[tokio::test]
async fn what_does_not_pass_ends_after_a_while() {
    let inner = faulty(&[Fault::Unavailable; 1000]);
    let store = store(&inner).with_patience(Duration::from_millis(500));
    let error = store.create("k", CONTENT).await.unwrap_err();
    assert_eq!(error.fault(), Meant::Unavailable);
    assert!(
        error.to_string().contains("failed to create k in a test"),
        "{error}"
    );
}

#[tokio::test]
async fn refusals_are_told_at_once() {
    let inner = faulty(&[Fault::Denied]);
    let error = store(&inner).create("k", CONTENT).await.unwrap_err();
    assert_eq!(error.fault(), Meant::Denied);
    let inner = faulty(&[]).with_gets(&[Fault::Denied]);
    assert_eq!(
        store(&inner).get("k").await.unwrap_err().fault(),
        Meant::Denied
    );
    assert_eq!(inner.writes(), 0);
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused() {
    let error = store(&faulty(&[Fault::Overwrite; 3]))
        .check()
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Meant::Spec);
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    // An unclear answer is no proof of either.
    store(&faulty(&[Fault::LostAnswer])).check().await.unwrap();
    store(&faulty(&[Fault::Unavailable])).check().await.unwrap();
}

#[tokio::test]
async fn an_update_whose_answer_is_lost_is_known_as_ours() {
    let inner = faulty(&[]);
    let store = store(&inner);
    store.create("lease", CONTENT).await.unwrap();
    let (_, version) = store.get_versioned("lease").await.unwrap().unwrap();
    let inner = inner.with_puts(&[Fault::LostAnswer]);
    let updated = store
        .update("lease", Bytes::from_static(b"mine"), &version)
        .await
        .unwrap();
    assert!(matches!(updated, Updated::Done(_)));
    assert_eq!(inner.writes(), 2);
}
