//! The worker: moves the data of one run between Kafka and an object store.
//!
//! Imports go one way: `main -> verbs -> {run, doctor} -> {offsets, verify, retention} -> {inspect, backup, restore} -> {groups, push, reader, runs} -> kafka -> store -> buffers -> shared`.

pub mod args;
pub mod backup;
mod buffers;
pub mod context;
pub mod convert;
pub mod doctor;
pub mod flags;
mod groups;
pub mod human;
pub mod input;
pub mod inspect;
pub mod kafka;
pub mod log;
mod measure;
pub mod offsets;
pub mod outcome;
pub mod progress;
pub mod push;
pub mod rate;
pub mod reader;
pub mod restore;
pub mod retention;
pub mod run;
mod runs;
pub mod secrets;
pub mod signal;
pub mod store;
pub mod summary;
mod tls;
pub mod verbs;
pub mod verify;
