//! What the installed controller may do, and what of it it does.
//!
//! The API server of the lab keeps an audit log of the controller's requests. A permission that no test makes it use is one too many;
//! one that is taken away has a request refused. The suite fails for both at its end ([`check`]).

use std::collections::BTreeSet;
use std::fs;

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

/// What the controller that is installed in `home` may do in a namespace, without what every ServiceAccount may.
///
/// # Errors
/// The API server does not say.
pub fn granted(lab: &Lab, home: &str, namespace: &str) -> Result<Vec<Line>, LabError> {
    let everybodys = lines(lab, "system:serviceaccount:default:default", namespace)?;
    let account = format!("system:serviceaccount:{home}:{NAME}");
    let ours = lines(lab, &account, namespace)?;
    Ok(ours.difference(&everybodys).cloned().collect())
}

/// The lines as docs/permissions.md has them.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::from("\n| resource | named | verbs |\n|---|---|---|\n");
    for line in lines {
        let verbs = line.verbs.join(", ");
        text += &format!("| `{}` | {} | {verbs} |\n", line.resource, line.names);
    }
    text + "\n"
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

/// What is wrong with the permissions of the installed controller, by what it has asked for since the cluster came up: those that
/// it did not use, and requests that were forbidden.
///
/// # Errors
/// The log or the permissions cannot be read.
pub fn check(lab: &Lab) -> Result<Vec<String>, LabError> {
    let path = kubernetes::audit_log(lab);
    let log = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let permitted = |namespace: &str| -> Result<Permissions, LabError> {
        let lines = granted(lab, NAMESPACE, namespace)?.into_iter();
        let each = lines.flat_map(|line| {
            let resource = line.resource;
            line.verbs
                .into_iter()
                .map(move |verb| (resource.clone(), verb))
        });
        Ok(each.collect())
    };
    wrong(&log, &permitted("default")?, &permitted(NAMESPACE)?)
        .map_err(|line| LabError::State(format!("no line of an audit log: {line}")))
}

/// Resources, each with a verb.
type Permissions = BTreeSet<(String, String)>;

/// What an audit log says of what is permitted everywhere, and in the controller's own namespace; the line that cannot be read.
fn wrong(log: &str, everywhere: &Permissions, in_own: &Permissions) -> Result<Vec<String>, String> {
    // With whether it was in the controller's own namespace.
    let mut used = BTreeSet::new();
    let mut refused = BTreeSet::new();
    // The last line may be about to be written.
    let (whole, _) = log.rsplit_once('\n').unwrap_or_default();
    for line in whole.lines() {
        let event: Value = serde_json::from_str(line).map_err(|_| line.to_owned())?;
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
            Some(_) => drop(refused.insert(((resource, verb), event["requestURI"].to_string()))),
            // It did not come to a decision.
            None => {}
        }
    }
    // An API server that has just started may refuse what is permitted: it serves before it knows all roles.
    let refused = refused.iter().filter(|(what, _)| !in_own.contains(what));
    let mut wrong: Vec<String> = refused
        .map(|((resource, verb), uri)| format!("{verb} {resource} was forbidden: {uri}"))
        .collect();
    let own: Permissions = in_own.difference(everywhere).cloned().collect();
    let in_namespace = format!("in {NAMESPACE}");
    let places = [
        (false, "everywhere", everywhere),
        (true, &*in_namespace, &own),
    ];
    for (is_own, place, permitted) in places {
        let unused = permitted
            .iter()
            .filter(|(resource, verb)| !used.contains(&(is_own, resource.clone(), verb.clone())));
        wrong.extend(unused.map(|(resource, verb)| {
            format!("{verb} {resource} is permitted {place} and was never used there")
        }));
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(decision: &str, namespace: &str, verb: &str, resource: &str) -> String {
        let event = json!({
            "verb": verb, "requestURI": "/uri", "annotations": {"authorization.k8s.io/decision": decision},
            "objectRef": {"namespace": namespace, "resource": resource, "apiGroup": "batch"},
        });
        format!("{event}\n")
    }

    #[test]
    fn what_is_unused_or_missing_is_told_and_nothing_else() {
        let of = |verbs: &[&str]| -> Permissions {
            let each = verbs
                .iter()
                .map(|verb| ("jobs.batch".to_owned(), (*verb).to_owned()));
            each.collect()
        };
        let (everywhere, in_own) = (of(&["get", "list"]), of(&["get", "list", "patch"]));
        let told = |log: &str| wrong(log, &everywhere, &in_own).unwrap();
        let used = [
            line("allow", "shop", "get", "jobs"),
            line("allow", "shop", "list", "jobs"),
            line("allow", NAMESPACE, "patch", "jobs"),
        ]
        .concat();
        assert_eq!(told(&used), Vec::<String>::new());
        let late = format!("{used}{}", line("forbid", "shop", "get", "jobs"));
        assert_eq!(told(&late), Vec::<String>::new(), "it is permitted");
        let torn = format!("{used}{{\"verb\"");
        assert_eq!(told(&torn), Vec::<String>::new());
        let more = format!("{used}{}", line("forbid", "shop", "delete", "jobs"));
        assert_eq!(told(&more), ["delete jobs.batch was forbidden: \"/uri\""]);
        let less = [
            line("allow", NAMESPACE, "get", "jobs"),
            line("allow", "shop", "list", "jobs"),
            line("allow", "shop", "patch", "jobs"),
        ];
        assert_eq!(
            told(&less.concat()),
            [
                "get jobs.batch is permitted everywhere and was never used there".to_owned(),
                format!("patch jobs.batch is permitted in {NAMESPACE} and was never used there"),
            ]
        );
        assert!(wrong("{\n{\n", &everywhere, &in_own).is_err());
    }
}
