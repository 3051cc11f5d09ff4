//! What the controller and the worker agree on.
//!
//! # Guarantees
//! - No IO and no async: everything here is plain data and pure functions.
//! - The spec types of the custom resources are the same structs that a [`plan::Plan`] carries to the worker; there is no second copy.
//!
//! | module | holds |
//! |---|---|
//! | [`crd`] | the custom resources and their status |
//! | [`spec`] | the parts that several kinds share: cluster, storage, topics, Job settings |
//! | [`cluster`] | where a Kafka cluster is and how it is spoken to (part of [`spec`]) |
//! | [`restore_spec`] | how records are brought back (part of [`spec`]) |
//! | [`offset_spec`] | what becomes of committed offsets (part of [`spec`]) |
//! | [`pod_template`] | what a user may add to a worker's pod (part of [`spec`]) |
//! | [`storage`] | where an archive is kept (part of [`spec`]) |
//! | [`plan`] | what one run must do, and the pure functions that make it from an object |
//! | [`pod`] | what a worker finds in its pod |
//! | [`report`] | how a run ended: counts, [`report::Fault`], exit code |
//! | [`selector`] | which topics are meant by names and globs |
//! | [`schedule`] | when a five-field cron line is due |
//! | [`archive`] | keys, manifests and record batches of a backup in its store |
//! | [`metrics`] | the metric families, declared once |
//! | [`object`] | reads an object as the API server would admit it |
#![warn(missing_docs)]

pub mod archive;
pub mod cluster;
pub mod crd;
pub mod metrics;
pub mod object;
pub mod offset_spec;
pub mod plan;
pub mod pod;
pub mod pod_template;
pub mod report;
pub mod restore_spec;
pub mod schedule;
pub mod selector;
pub mod spec;
pub mod status;
pub mod storage;
