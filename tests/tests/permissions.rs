//! What the installed controller may do, as the API server says it: the list of docs/permissions.md. Needs the installed operator.
//! Which of them it uses is told at the end of the suite (`kafka_backup_tests::permissions`).

mod golden;

use golden::assert_golden_part;
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::{operator, permissions};

#[test]
fn the_controllers_permissions_are_those_of_the_document() {
    let lab = Lab::open().unwrap();
    let table = |namespace: &str| {
        let mut text = String::from("\n| resource | named | verbs |\n|---|---|---|\n");
        let ours = permissions::granted(&lab, namespace).unwrap();
        assert!(ours.len() >= 2, "{ours:?}");
        for line in ours {
            let verbs = line.verbs.join(", ");
            text.push_str(&format!(
                "| `{}` | {} | {verbs} |\n",
                line.resource, line.names
            ));
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
