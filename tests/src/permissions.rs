//! What the installed controller may do, and what of it it does.
//!
//! The API server of the lab keeps an audit log of the controller's requests. A permission that no test makes it use is one too many;
//! one that is taken away is missed by the test that used it. The suite tells both at its end ([`check`]).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use serde_json::Value;

use crate::lab::{Doing, Lab, LabError, kubernetes};
use crate::operator::{NAME, NAMESPACE, kubectl};

/// A line of `kubectl auth can-i --list`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Resource, with its group and subresource.
    pub resource: String,
    /// Names of objects, where it is about these only.
    pub names: String,
    /// Ascending.
    pub verbs: Vec<String>,
}

/// The controller's account.
pub fn account() -> String {
    format!("system:serviceaccount:{NAMESPACE}:{NAME}")
}

/// What the controller may do in a namespace, without what every ServiceAccount may.
///
/// # Errors
/// The API server does not say.
pub fn granted(lab: &Lab, namespace: &str) -> Result<Vec<Line>, LabError> {
    let everybodys = lines(lab, "system:serviceaccount:default:default", namespace)?;
    let ours = lines(lab, &account(), namespace)?;
    Ok(ours.difference(&everybodys).cloned().collect())
}

fn lines(lab: &Lab, account: &str, namespace: &str) -> Result<BTreeSet<Line>, LabError> {
    let args = ["auth", "can-i", "--list", "--no-headers", "--as", account];
    let said = kubectl(lab, &[&args[..], &["--namespace", namespace]].concat())?;
    // Columns: resources, non-resource URLs, resource names, verbs; lists are in brackets.
    let columns = |line: &str| {
        let (resource, rest) = line.split_once(char::is_whitespace)?;
        let lists: Vec<&str> = rest
            .split('[')
            .skip(1)
            .filter_map(|list| list.split(']').next())
            .collect();
        let [urls, names, verbs] = lists[..] else {
            return None;
        };
        let mut verbs: Vec<String> = verbs.split(' ').map(str::to_owned).collect();
        verbs.sort_unstable();
        urls.is_empty().then(|| Line {
            resource: resource.to_owned(),
            names: names.to_owned(),
            verbs,
        })
    };
    Ok(said.lines().filter_map(columns).collect())
}

/// A place in the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// The end of the log.
///
/// # Errors
/// It cannot be read.
pub fn mark(lab: &Lab) -> Result<Mark, LabError> {
    Ok(Mark(log(lab)?.len()))
}

fn log(lab: &Lab) -> Result<String, LabError> {
    let path = kubernetes::audit_log(lab);
    match fs::read_to_string(&path) {
        // The API server makes it at the first request.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        text => text.doing(|| format!("read {}", path.display())),
    }
}

/// What is wrong with the controller's permissions, by what it has asked for since `mark`: those that it did not use, and requests
/// that were forbidden.
///
/// # Errors
/// The log or the permissions cannot be read.
pub fn check(lab: &Lab, mark: Mark) -> Result<Vec<String>, LabError> {
    let log = log(lab)?;
    let since = log.get(mark.0..).ok_or_else(|| {
        LabError::State("the audit log was made anew meanwhile, and what it had is lost".to_owned())
    })?;
    // With whether it was in the controller's own namespace.
    let mut used = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for line in since.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            return Err(LabError::State(format!("no line of an audit log: {line}")));
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let mut resource = text(&object["resource"]);
        for (sign, more) in [(".", &object["apiGroup"]), ("/", &object["subresource"])] {
            if let Some(more) = more.as_str() {
                resource = format!("{resource}{sign}{more}");
            }
        }
        let verb = text(&event["verb"]);
        match event["annotations"]["authorization.k8s.io/decision"].as_str() {
            Some("allow") => {
                let is_own = object["namespace"].as_str() == Some(NAMESPACE);
                used.insert((is_own, resource, verb));
            }
            Some(_) | None => drop(wrong.insert(format!(
                "{verb} {resource} was forbidden: {}",
                event["requestURI"]
            ))),
        }
    }
    let permitted = |namespace: &str| -> Result<BTreeSet<(String, String)>, LabError> {
        let lines = granted(lab, namespace)?.into_iter();
        let each = lines.flat_map(|line| {
            let resource = line.resource;
            line.verbs
                .into_iter()
                .map(move |verb| (resource.clone(), verb))
        });
        Ok(each.collect())
    };
    let everywhere = permitted("default")?;
    let own: BTreeSet<_> = permitted(NAMESPACE)?
        .difference(&everywhere)
        .cloned()
        .collect();
    for (is_own, where_, permitted) in [(false, "everywhere", everywhere), (true, NAMESPACE, own)] {
        for (resource, verb) in permitted {
            if !used.contains(&(is_own, resource.clone(), verb.clone())) {
                wrong.insert(format!(
                    "{verb} {resource} is permitted in {where_} and was never used there"
                ));
            }
        }
    }
    Ok(wrong.into_iter().collect())
}
