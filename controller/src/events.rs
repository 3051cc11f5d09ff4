//! Events on our objects: what `kubectl describe` shows.
//!
//! # Guarantees
//! - One Event per object, reason and message: its name is made from them, so that a repetition moves its time instead of
//!   adding another one, also after a restart.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::digest::sha256_hex;
use crate::reconcile::decide::Note;
use crate::reconcile::write::{FIELD_MANAGER, is_conflict};

/// Bytes that the API server takes as a message.
const MESSAGE_MAX: usize = 1024;
const NAME_PART: usize = 200;

/// Writes an Event on `object`.
///
/// # Errors
/// What the API server answered.
pub(crate) async fn publish(
    client: &Client,
    object: &ObjectReference,
    note: &Note,
) -> Result<(), kube::Error> {
    let event = event(object, note, Timestamp::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let name = event.metadata.name.clone().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let created = api.create(&PostParams::default(), &event).await;
    match created {
        Err(error) if is_conflict(&error) => {
            let again = json!({ "lastTimestamp": event.last_timestamp });
            let patch = Patch::Merge(&again);
            let patched = api.patch(&name, &PatchParams::default(), &patch).await;
            patched.map(drop)
        }
        other => other.map(drop),
    }
}

fn event(object: &ObjectReference, note: &Note, now: Timestamp) -> Event {
    let name = object.name.clone().unwrap_or_default();
    let uid = object.uid.clone().unwrap_or_default();
    let hash = sha256_hex(format!("{uid}/{}/{}", note.reason, note.message).as_bytes());
    let short: String = name.chars().take(NAME_PART).collect();
    let short = short.trim_end_matches(['.', '-']);
    let cut = (0..=MESSAGE_MAX.min(note.message.len()))
        .rev()
        .find(|at| note.message.is_char_boundary(*at));
    let message = note.message[..cut.unwrap_or(0)].to_owned();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{short}.{}", &hash[..16])),
            namespace: object.namespace.clone(),
            ..ObjectMeta::default()
        },
        involved_object: object.clone(),
        reason: Some(note.reason.clone()),
        message: Some(message),
        type_: Some(if note.is_warning { "Warning" } else { "Normal" }.into()),
        source: Some(EventSource {
            component: Some(FIELD_MANAGER.into()),
            host: None,
        }),
        reporting_component: Some(FIELD_MANAGER.into()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, reason: &str, message: &str) -> Event {
        let object = ObjectReference {
            name: Some(name.into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        let note = Note {
            is_warning: true,
            reason: reason.into(),
            message: message.into(),
        };
        event(&object, &note, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn the_same_news_is_the_same_event_and_other_news_another() {
        let name = |reason, message| named("orders", reason, message).metadata.name.unwrap();
        assert_eq!(name("A", "x"), name("A", "x"));
        assert_ne!(name("A", "x"), name("A", "y"));
        assert_ne!(name("A", "x"), name("B", "x"));
    }

    #[test]
    fn long_names_and_messages_stay_within_what_the_api_server_takes() {
        let event = named(&"x".repeat(253), "A", &"ä".repeat(2000));
        assert!(event.metadata.name.unwrap().len() <= 253);
        assert!(event.message.unwrap().len() <= MESSAGE_MAX);
    }
}
