//! What TLS costs a backup: the same topic of one broker, by a listener without it and by one with it.

use std::fs;

use super::{Bench, CODECS, OURS, Row, clear, median, print_row};
use crate::lab::kafka_tools::{self, Produce};
use crate::lab::secure::{Listener, Secured, pki, tokens};
use crate::lab::{Doing, LabError};

/// Names of the two cases of a codec.
pub(super) fn names(codec: &str) -> [String; 2] {
    ["plaintext", "TLS"].map(|way| format!("backup 1KB {codec} 16p by {way}"))
}

/// Measures backups of main topics from a cluster of its own.
///
/// # Errors
/// A part of the lab or a measured process fails.
pub(super) fn measure(
    at: &Bench<'_>,
    records: u64,
    repeat: u32,
    rows: &mut Vec<Row>,
) -> Result<(), LabError> {
    tokens::up(at.lab)?;
    let secured = Secured::one(at.lab);
    secured.up()?;
    let secrets = at.lab.run.join("bench").join("secrets");
    let authority = secrets.join("ca");
    fs::create_dir_all(&authority).doing(|| format!("create {}", authority.display()))?;
    fs::copy(pki::ca(at.lab), authority.join("ca.crt"))
        .doing(|| "copy the certificate of the authority".to_owned())?;
    let secrets = secrets.display().to_string();
    let tls = [
        "--security-protocol",
        "SSL",
        "--ca-secret",
        "ca",
        "--secrets-dir",
        &secrets,
    ];
    let (servers, name) = (secured.tools(), "bench-tls");
    let folder = at.folder.display().to_string();
    for codec in CODECS {
        at.forget(&servers, name)?;
        let what = Produce {
            topic: name,
            partitions: 16,
            records,
            size: 1000,
            compression: codec,
            ..Produce::default()
        };
        let produced = kafka_tools::produce(at.lab, &servers, &what)?;
        let gb = produced.bytes as f64 / 1e9;
        let ways = [(Listener::Plaintext, &[][..]), (Listener::Tls, &tls[..])];
        for (case, (listener, security)) in names(codec).into_iter().zip(ways) {
            let servers = secured.bootstrap(listener);
            let args = [
                "backup", "--name", "bench", "--topics", name, "--folder", &folder,
            ];
            let args = [&args[..], &["--bootstrap-servers", &servers], security].concat();
            let runs = (0..repeat).map(|_| {
                clear(&at.folder)?;
                at.measured(case.clone(), OURS, gb, &at.worker, &args)
            });
            let row = median(runs.collect::<Result<_, _>>()?, |run: &Row| run.cpu_s);
            print_row(&row, at.json);
            rows.push(row);
        }
    }
    at.forget(&servers, name)
}
