//! `cargo lab test`: every test of the project, on real parts, with one closing line.
//!
//! # Guarantees
//! - Test programs are compiled outside of the lab's network namespace and run inside it: what they send cannot leave the machine.
//! - A program that does not end within its limit, or dies without a result, counts as a failed test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::components::{self, Options};
use crate::lab::kafka::{self, SOURCE, TARGET};
use crate::lab::{
    Doing, Lab, LabError, azurite, cargo, chain, gateways, helm, kubernetes, net, push_clients,
    step, store, versitygw,
};
use crate::{operator, permissions};

/// No test program may take longer.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A compiled test program.
struct Program {
    package: String,
    target: String,
    path: PathBuf,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs all tests whose target or name contains `filter`; true when none failed.
///
/// # Errors
/// The lab does not come up, or the tests do not compile.
pub fn run(lab: &Lab, filter: Option<&str>) -> Result<bool, LabError> {
    let start = Instant::now();
    let programs = step("compiled the tests", || compile(lab))?;
    let programs: Vec<&Program> = programs
        .iter()
        .filter(|program| filter.is_none_or(|filter| program.name().contains(filter)))
        .collect();
    // Tests of a crate's own sources need no lab: they come first, and their failure comes early.
    let (own, integration): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| program.is_unit());
    let mut total = Count::default();
    let mut failures = Vec::new();
    for program in &own {
        run_program(lab, program, &mut total, &mut failures)?;
    }
    if !integration.is_empty() {
        components::up(lab, &components::all(), Options { brokers: 1 })?;
        // Tests cannot fetch anything where they run.
        push_clients::prepare(lab)?;
        gateways::prepare(lab)?;
        helm::prepare(lab)?;
        operator::install(lab)?;
    }
    for program in &integration {
        run_program(lab, program, &mut total, &mut failures)?;
    }
    if filter.is_none() {
        check_permissions(lab, &mut total, &mut failures);
    }
    println!("\n{:.0} s", start.elapsed().as_secs_f64());
    for failure in &failures {
        println!("FAILED {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(total.failed == 0 && total.passed > 0)
}

/// Counts as one test: the controller used all its permissions in the others, and missed none. Where another one has failed, what it
/// did not come to may be missing here.
fn check_permissions(lab: &Lab, total: &mut Count, failures: &mut Vec<String>) {
    println!("\npermissions of the controller");
    let wrong = permissions::check(lab).unwrap_or_else(|error| vec![chain(&error)]);
    wrong.iter().for_each(|line| println!("  {line}"));
    if wrong.is_empty() {
        total.passed += 1;
    } else {
        total.failed += 1;
        failures.push("permissions of the controller".to_owned());
    }
    println!(
        "  {} that are wrong since the cluster came up (`cargo lab down` begins anew)",
        wrong.len()
    );
}

impl Program {
    fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }

    fn is_unit(&self) -> bool {
        self.target.starts_with("src/")
    }
}

fn compile(lab: &Lab) -> Result<Vec<Program>, LabError> {
    let output = cargo::release(lab, "test")?
        .args(["--no-run", "--message-format=json"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .doing(|| "run cargo test --no-run".to_owned())?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages: Vec<Value> = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if !output.status.success() {
        for message in &messages {
            if let Some(text) = message["message"]["rendered"].as_str() {
                eprint!("{text}");
            }
        }
        return Err(LabError::State("the tests do not compile".to_owned()));
    }
    Ok(programs(&messages))
}

fn programs(messages: &[Value]) -> Vec<Program> {
    messages
        .iter()
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let source = message["target"]["src_path"].as_str()?;
            let package = Path::new(message["manifest_path"].as_str()?).parent()?;
            Some(Program {
                package: package.file_name()?.to_string_lossy().into_owned(),
                target: Path::new(source)
                    .strip_prefix(package)
                    .ok()?
                    .display()
                    .to_string(),
                path: PathBuf::from(message["executable"].as_str()?),
            })
        })
        .collect()
}

fn run_program(
    lab: &Lab,
    program: &Program,
    total: &mut Count,
    failures: &mut Vec<String>,
) -> Result<(), LabError> {
    let name = program.name();
    println!("\n{name}");
    let start = Instant::now();
    let mut command = if program.is_unit() {
        Command::new(&program.path)
    } else {
        inside(lab, &program.path)?
    };
    let package = cargo::workspace().join(&program.package);
    command
        .current_dir(package)
        .env("CARGO_TARGET_DIR", lab.target());
    let text = output_within(&mut command, LIMIT)?;
    kafka::down_others(lab)?;
    let (count, failed) = parse(&text);
    let ended = text.lines().any(|line| line.starts_with("test result: "));
    if !ended || count.failed > 0 {
        println!("{text}");
    }
    println!(
        "  {} passed, {} failed in {:.1} s",
        count.passed,
        count.failed,
        start.elapsed().as_secs_f64()
    );
    total.passed += count.passed;
    total.failed += count.failed;
    failures.extend(failed.into_iter().map(|test| format!("{name} {test}")));
    if !ended {
        total.failed += 1;
        failures.push(format!(
            "{name} (ended without a result, or took longer than {} s)",
            LIMIT.as_secs()
        ));
    }
    Ok(())
}

/// The command in the lab's network namespace, told where the real parts are.
fn inside(lab: &Lab, path: &Path) -> Result<Command, LabError> {
    let restart = format!(
        "{} kill-broker {}",
        lab.program()?.display(),
        TARGET.broker(1)
    );
    let mut command = net::command(lab, "timeout")?;
    command
        .arg("--kill-after=10")
        .arg(LIMIT.as_secs().to_string())
        .arg(path)
        .env("KUBECONFIG", kubernetes::kubeconfig(lab))
        .env("KAFKA_BACKUP_LAB_SOURCE", SOURCE.bootstrap(lab))
        .env("KAFKA_BACKUP_LAB_TARGET", TARGET.bootstrap(lab))
        .env("KAFKA_BACKUP_LAB_RESTART", restart)
        .env(
            "KAFKA_BACKUP_LAB_S3",
            [
                store::ENDPOINT,
                store::BUCKET,
                store::ACCESS_KEY,
                store::SECRET_KEY,
            ]
            .join(","),
        )
        .env("KAFKA_BACKUP_LAB_S3_DOMAIN", store::DOMAIN)
        .env(
            "KAFKA_BACKUP_LAB_VERSITYGW",
            [
                versitygw::ENDPOINT,
                versitygw::BUCKET,
                versitygw::ACCESS_KEY,
                versitygw::SECRET_KEY,
            ]
            .join(","),
        )
        .env(
            "KAFKA_BACKUP_LAB_AZURE",
            [
                azurite::ENDPOINT,
                azurite::ACCOUNT,
                azurite::CONTAINER,
                azurite::KEY,
                &azurite::sas(lab)?,
            ]
            .join(","),
        );
    Ok(command)
}

/// Standard output and error of a command.
fn output_within(command: &mut Command, limit: Duration) -> Result<String, LabError> {
    let what = format!("run {:?}", command.get_program());
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().doing(|| what)?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if start.elapsed() >= limit {
        text.push_str("\nstopped: it took too long\n");
    }
    Ok(text)
}

/// Counts and names of failed tests, from what Rust's test harness prints.
fn parse(text: &str) -> (Count, Vec<String>) {
    let mut count = Count::default();
    let mut failed = Vec::new();
    for line in text.lines() {
        let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        match result.split_whitespace().next() {
            Some("ok") => count.passed += 1,
            Some("FAILED") => {
                count.failed += 1;
                failed.push(name.to_owned());
            }
            Some(_) | None => {}
        }
    }
    (count, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_counted_by_test() {
        let text = "running 3 tests\ntest a::b ... ok\ntest c ... FAILED\ntest d ... ignored\ntest result: FAILED. 1 passed; 1 failed\n";
        assert_eq!(
            parse(text),
            (
                Count {
                    passed: 1,
                    failed: 1
                },
                vec!["c".to_owned()]
            )
        );
    }
}
