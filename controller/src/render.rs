//! `render`: the Job that the controller would create for an object in a file.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kafka_backup_shared::object::{self, KINDS, Object};
use kafka_backup_shared::plan::{Referenced, SpecError, run_id};
use kafka_backup_shared::status::{ActiveRun, RunReason, time};
use serde_json::Value;

use crate::crds::yaml;
use crate::job::{self, WorkerSettings};
use crate::kind::Kind;

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is not YAML.
    #[error("failed to read {} as YAML", path.display())]
    Yaml {
        path: PathBuf,
        source: Box<serde_saphyr::Error>,
    },
    /// No object of ours is in it.
    #[error("{}: expected a {KINDS}, found none", path.display())]
    NoObject { path: PathBuf },
    /// An object cannot be obeyed.
    #[error("{}: {}", path.display(), errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid {
        path: PathBuf,
        errors: Vec<SpecError>,
    },
}

/// The Jobs for all objects of ours in the file, as a YAML stream.
pub(crate) fn render(
    path: &Path,
    settings: &WorkerSettings,
    now: Timestamp,
) -> Result<String, RenderError> {
    let text = std::fs::read_to_string(path).map_err(|source| RenderError::Read {
        path: path.into(),
        source,
    })?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|source| RenderError::Yaml {
            path: path.into(),
            source: Box::new(source),
        })?;
    let invalid = |errors| RenderError::Invalid {
        path: path.into(),
        errors,
    };
    let ours = documents
        .iter()
        .filter(|document| object::is_ours(document));
    let objects: Vec<Object> = ours
        .map(object::read)
        .collect::<Result<_, _>>()
        .map_err(invalid)?;
    let mut jobs = Vec::new();
    for object in &objects {
        let referenced = object.referenced(&objects);
        let job = match object {
            Object::Backup(backup) => first_job(&**backup, &referenced, settings, now),
            Object::Restore(restore) => first_job(&**restore, &referenced, settings, now),
            Object::OffsetReset(reset) => first_job(&**reset, &referenced, settings, now),
            Object::OffsetRollback(rollback) => first_job(&**rollback, &referenced, settings, now),
        };
        jobs.push(job.map_err(|error| invalid(vec![error]))?);
    }
    if jobs.is_empty() {
        return Err(RenderError::NoObject { path: path.into() });
    }
    Ok(jobs.join("---\n"))
}

/// The Job of a run that starts now.
fn first_job<K: Kind>(
    object: &K,
    referenced: &Referenced,
    settings: &WorkerSettings,
    now: Timestamp,
) -> Result<String, SpecError> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let key = "creation".to_owned();
    let run = ActiveRun {
        id: run_id(name, now),
        job: job::name(name, meta.uid.as_deref().unwrap_or_default(), &key, now),
        job_uid: None,
        reason: RunReason::OneShot,
        key,
        generation: meta.generation.unwrap_or(1),
        start_time: time(now),
        records: 0,
        bytes: 0,
        percent: None,
        checked_percent: None,
        bytes_per_second: None,
        seconds_left: None,
    };
    Ok(yaml(&job::build(object, &run, referenced, settings)?))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fixtures::at;

    fn rendered(text: &str) -> Result<String, RenderError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let settings = WorkerSettings {
            image: "worker:1".into(),
            push_url: "http://controller:8080".into(),
            push_ca: None,
        };
        render(file.path(), &settings, at("2026-01-02T03:04:05Z"))
    }

    const BACKUP: &str = "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {name: orders, namespace: shop, uid: u}\n\
        spec:\n  kafkaCluster: {bootstrapServers: [\"kafka:9092\"]}\n  topics: [orders]\n  \
        storage: {storageType: s3, s3: {bucket: backups, credentialsSecret: {name: keys}}}\n";

    #[test]
    fn the_whole_job_is_as_committed() {
        let golden = include_str!("../testdata/job.yaml");
        let found = rendered(BACKUP).unwrap();
        assert!(
            found == golden,
            "controller/testdata/job.yaml differs from:\n{found}"
        );
    }

    #[test]
    fn every_example_makes_a_job() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
        let settings = WorkerSettings {
            image: "worker:1".into(),
            push_url: "http://controller:8080".into(),
            push_ca: None,
        };
        let mut count = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            render(&path, &settings, at("2026-01-02T03:04:05Z"))
                .unwrap_or_else(|error| panic!("{error}"));
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = rendered(&BACKUP.replace("topics:", "topicz: []\n  topics:")).unwrap_err();
        assert!(error.to_string().contains("topicz"), "{error}");
    }

    #[test]
    fn a_file_without_an_object_of_ours_is_refused() {
        let error = rendered("kind: Secret\napiVersion: v1\n").unwrap_err();
        assert!(matches!(error, RenderError::NoObject { .. }));
    }
}
