//! What the installed controller may do, as the API server says it: the list of docs/permissions.md. Needs the installed operator.
//! That it uses all of them is looked at when the suite ends (`kafka_backup_tests::permissions`).

mod golden;

use golden::assert_golden_part;
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::{operator, permissions};

#[test]
fn the_controllers_permissions_are_those_of_the_document() {
    let lab = Lab::open().unwrap();
    let table = |namespace: &str| {
        let ours = permissions::granted(&lab, operator::NAMESPACE, namespace).unwrap();
        assert!(ours.len() >= 2, "{ours:?}");
        let text = permissions::table(&ours);
        assert!(!text.contains("secrets"), "it reads no Secrets:\n{text}");
        text
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
