//! A soak in several labs of one machine, which share its rounds: most of a round is waiting for brokers that come back.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::{Doing, Lab, LabError, at_once};

/// A part of a soak.
#[derive(Debug, Clone, Copy)]
pub struct Share<'a> {
    /// What is played, as `--only` names it.
    pub kind: &'a str,
    pub rounds: u64,
    /// That of the first lab; each next one has the next.
    pub seed: u64,
    pub brokers: u16,
}

/// Plays `all` in `labs` labs, each a process of this program, and prints what they say behind their names. They are taken down when
/// their rounds went well, and are left as they are where not.
///
/// # Errors
/// A lab failed; the others have played their rounds.
pub fn play(lab: &Lab, labs: u16, all: Share<'_>) -> Result<(), LabError> {
    let program = &lab.program()?;
    let labs = u64::from(labs);
    let plays = (0..labs.min(all.rounds)).map(|number| {
        let more = u64::from(number < all.rounds % labs);
        let share = Share {
            rounds: all.rounds / labs + more,
            seed: all.seed.wrapping_add(number),
            ..all
        };
        let name = format!("{}-{}", lab.name, number + 1);
        move || play_one(program, &name, share)
    });
    let failed = at_once(plays);
    match failed.is_empty() {
        true => Ok(()),
        false => Err(LabError::Several(failed)),
    }
}

fn play_one(program: &Path, lab: &str, share: Share<'_>) -> Result<(), LabError> {
    let (rounds, seed) = (share.rounds.to_string(), share.seed.to_string());
    let brokers = share.brokers.to_string();
    let args = ["soak", "--only", share.kind, "--rounds", &rounds];
    let more = ["--seed", &seed, "--brokers", &brokers];
    run(program, lab, &[&args[..], &more].concat())?;
    run(program, lab, &["down"])
}

fn run(program: &Path, lab: &str, args: &[&str]) -> Result<(), LabError> {
    let doing = || format!("run `{}` in lab {lab}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .env("KAFKA_BACKUP_LAB", lab)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .doing(doing)?;
    let said = child.stdout.take().into_iter();
    for line in said.flat_map(|said| BufReader::new(said).lines()) {
        match line {
            Ok(line) => println!("{lab}: {line}"),
            // It plays on all the same.
            Err(error) => eprintln!("{lab}: {error}"),
        }
    }
    let status = child.wait().doing(doing)?;
    match status.success() {
        true => Ok(()),
        false => Err(LabError::State(format!(
            "lab {lab} ended `{}` with {status}; it is left as it is",
            args.join(" ")
        ))),
    }
}
