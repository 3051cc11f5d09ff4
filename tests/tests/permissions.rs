//! What the installed controller may do, as the API server says it: the list of docs/permissions.md. Needs the installed operator.

mod golden;

use std::collections::BTreeSet;

use golden::assert_golden_part;
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::operator;

/// Lines of `kubectl auth can-i --list`: resources, names of objects, verbs.
fn allowed(lab: &Lab, account: &str, namespace: &str) -> BTreeSet<(String, String, String)> {
    let args = ["auth", "can-i", "--list", "--no-headers", "--as", account];
    let said = operator::kubectl(lab, &[&args[..], &["--namespace", namespace]].concat()).unwrap();
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
        let mut verbs: Vec<&str> = verbs.split(' ').collect();
        verbs.sort_unstable();
        urls.is_empty()
            .then(|| (resource.to_owned(), names.to_owned(), verbs.join(", ")))
    };
    said.lines().filter_map(columns).collect()
}

#[test]
fn the_controllers_permissions_are_those_of_the_document() {
    let lab = Lab::open().unwrap();
    let account = format!(
        "system:serviceaccount:{}:{}",
        operator::NAMESPACE,
        operator::NAME
    );
    let nobody = "system:serviceaccount:default:default";
    let table = |namespace: &str| {
        let everybodys = allowed(&lab, nobody, namespace);
        let mut text = String::from("\n| resource | named | verbs |\n|---|---|---|\n");
        let ours = allowed(&lab, &account, namespace);
        let ours: Vec<_> = ours.difference(&everybodys).collect();
        assert!(ours.len() >= 2, "{ours:?}");
        for (resource, names, verbs) in ours {
            text.push_str(&format!("| `{resource}` | {names} | {verbs} |\n"));
        }
        assert!(!text.contains("secrets"), "it reads no Secrets:\n{text}");
        text + "\n"
    };
    let document = "docs/permissions.md";
    for (namespace, place) in [("default", "any"), (operator::NAMESPACE, "own")] {
        let (begin, end) = (
            format!("<!-- {place} -->\n"),
            format!("<!-- end {place} -->"),
        );
        assert_golden_part(document, &begin, &end, &table(namespace));
    }
}
