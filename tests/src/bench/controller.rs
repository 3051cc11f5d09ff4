//! `cargo lab bench controller`: what many objects cost the controller, at a real API server.

use crate::lab::components::{self, Options};
use crate::lab::{Lab, LabError, cargo, images, kubernetes, net, process, step};
use crate::operator;

/// Measures a controller with `objects` KafkaBackups.
///
/// # Errors
/// The lab does not come up, or the measuring program fails.
pub fn controller(lab: &Lab, objects: u32) -> Result<(), LabError> {
    components::up(lab, &[kubernetes::NAME], Options::default())?;
    images::compile(lab)?;
    step("compiled the load", || {
        let mut build = cargo::release(lab, "build")?;
        process::run(build.args(["--example", "controller_load"])).map(drop)
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
