//! The lab: real Kafka, Kubernetes, stores and Prometheus; and what runs on it: demo, test suite, benchmarks.

pub mod alerts;
pub mod bench;
pub mod demo;
pub mod lab;
pub mod operator;
pub mod permissions;
pub mod restore_soak;
pub mod soak;
pub mod suite;
pub mod worker;
