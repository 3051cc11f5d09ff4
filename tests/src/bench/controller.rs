//! `cargo lab bench controller`: what many objects cost the controller, at a real API server.

use std::process::Command;

use crate::lab::components::{self, Options};
use crate::lab::{Lab, LabError, images, kubernetes, net, packages, process, step};
use crate::operator;

/// Measures a controller with `objects` KafkaBackups.
///
/// # Errors
/// The lab does not come up, or the measuring program fails.
pub fn controller(lab: &Lab, objects: u32) -> Result<(), LabError> {
    components::up(lab, &[kubernetes::NAME], Options::default())?;
    images::compile(lab)?;
    let cargo = packages::toolchain("cargo", "Rust 1.89 or newer (https://rustup.rs)")?;
    step("compiled the load", || {
        let mut build = Command::new(cargo);
        build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", lab.target())
            .args(["build", "--release", "--quiet", "--workspace"])
            .args([
                "--example",
                "controller_load",
                "--features",
                images::FEATURES,
            ]);
        process::run(&mut build).map(drop)
    })?;
    operator::apply_crds(lab)?;
    let load = lab.target().join("release/examples/controller_load");
    let mut command = net::command(lab, load)?;
    command
        .arg(objects.to_string())
        .env("KUBECONFIG", kubernetes::kubeconfig(lab));
    print!("{}", process::run(&mut command)?);
    Ok(())
}
