//! What the chart's default installation (`manifests/install.yaml`) and the code have to agree on.

use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};

use crate::NAME;
use crate::args::{Arguments, Command};
use crate::leadership::{LABEL, lease_name, value};

fn installed() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/install.yaml");
    serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let found: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == kind)
        .collect();
    assert!(!found.is_empty(), "{kind}");
    found
}

#[test]
fn the_command_line_is_taken() {
    let objects = installed();
    let container =
        &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap());
    let arguments = Arguments::try_parse_from(["controller"].into_iter().chain(args)).unwrap();
    let Command::Run(run) = arguments.command else {
        panic!("{arguments:?}")
    };
    assert_eq!(
        run.metrics_addr.port(),
        container["ports"][0]["containerPort"]
    );
    assert_eq!(
        run.health_addr.port(),
        container["ports"][1]["containerPort"]
    );
    // Who the process is among the controllers, see leadership.
    for (place, name) in ["POD_NAME", "POD_UID"].into_iter().enumerate() {
        assert_eq!(container["env"][place]["name"], name);
    }
}

#[test]
fn the_service_leads_to_the_leader_where_workers_push() {
    let objects = installed();
    let service = of_kind(&objects, "Service")[0];
    assert_eq!(service["metadata"]["name"], NAME);
    assert_eq!(service["spec"]["selector"][LABEL], value(None));
    assert_eq!(service["spec"]["ports"][0]["port"], 8080);
}

#[test]
fn the_lease_may_be_renewed_by_its_name() {
    let objects = installed();
    let mut rules = of_kind(&objects, "Role").into_iter();
    let rules = rules.find_map(|role| role["rules"].as_array());
    let leases = rules.unwrap().iter();
    let names = leases.filter_map(|rule| rule["resourceNames"].as_array());
    assert_eq!(names.collect::<Vec<_>>(), [&vec![json!(lease_name(None))]]);
    // The chart writes the same for one namespace.
    assert_eq!(lease_name(Some("shop")), format!("{NAME}.shop"));
    assert_eq!(value(Some("shop")), "shop");
}
