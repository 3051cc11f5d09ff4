//! What was found, for people.

use super::Comparisons;
use super::compare::{Difference, Field};
use crate::human::{self, Align, table};

/// A table of topics; what differs stands below it.
pub fn comparisons(found: &Comparisons) -> String {
    let rows: Vec<[String; 6]> = found
        .topics
        .iter()
        .map(|topic| {
            let state = if topic.problems == 0 {
                "equal"
            } else {
                "differs"
            };
            [
                topic.topic.clone(),
                topic.source.clone(),
                human::count(topic.partitions),
                human::count(topic.records),
                human::count(topic.compacted),
                state.into(),
            ]
        })
        .collect();
    let columns = [
        ("TOPIC", Align::Left),
        ("SOURCE", Align::Left),
        ("PARTITIONS", Align::Right),
        ("COMPARED", Align::Right),
        ("COMPACTED", Align::Right),
        ("STATE", Align::Left),
    ];
    let mut text = table(columns, &rows);
    text.push('\n');
    for difference in &found.problems {
        text.push_str(&line(difference));
    }
    if found.problems_not_listed > 0 {
        let more = human::counted(found.problems_not_listed, "more problem", "more problems");
        text.push_str(&format!("differs: {more}\n"));
    }
    let headers: u64 = found.topics.iter().map(|t| t.headers_not_compared).sum();
    if headers > 0 {
        let records = human::counted(headers, "record was", "records were");
        text.push_str(&format!(
            "{records} compared without headers: librdkafka cannot give header keys that are not UTF-8 or contain NUL.\n"
        ));
    }
    if !found.complete {
        text.push_str("The restore is not complete: it goes on, or has stopped.\n");
    }
    let records = found.topics.iter().map(|topic| topic.records).sum();
    let compared = format!(
        "restore {} of backup {}: compared {} of {}",
        found.restore_name,
        found.backup_id,
        human::counted(records, "record", "records"),
        human::counted(found.topics.len() as u64, "topic", "topics"),
    );
    if found.problems.is_empty() {
        text.push_str(&format!("{compared}: the target has what was restored.\n"));
        return text;
    }
    let problems = found.problems.len() as u64 + found.problems_not_listed;
    let problems = human::counted(problems, "problem", "problems");
    text.push_str(&format!("{compared}: {problems}.\n"));
    text
}

fn line(difference: &Difference) -> String {
    let mut place = difference.topic.clone();
    if let Some(partition) = difference.partition {
        place.push_str(&format!(" partition {partition}"));
    }
    if let Some(offset) = difference.offset {
        place.push_str(&format!(" offset {offset}"));
    }
    if let Some(object) = &difference.object {
        place.push_str(&format!(", {object}"));
    }
    let found = &difference.found;
    match &difference.expected {
        Some(expected) => {
            let field = name(difference.field);
            format!("differs: {place}: {field}: expected {expected}, found {found}\n")
        }
        None => format!("differs: {place}: {found}\n"),
    }
}

fn name(field: Field) -> &'static str {
    match field {
        Field::Topic => "topic",
        Field::TopicId => "topic id",
        Field::Segment => "segment",
        Field::LogStart => "log start",
        Field::LogEnd => "log end",
        Field::Batch => "batch",
        Field::Record => "record",
        Field::Key => "key",
        Field::Value => "value",
        Field::Headers => "headers",
        Field::Timestamp => "timestamp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::against::ComparedTopic;

    fn found() -> Comparisons {
        Comparisons {
            archive: "shop/orders".into(),
            restore: "9b0c".into(),
            restore_name: "orders-back".into(),
            backup_id: "orders-20260102-030405".into(),
            cluster_id: "c".into(),
            complete: true,
            topics: vec![ComparedTopic {
                topic: "orders-back".into(),
                source: "orders".into(),
                partitions: 3,
                records: 1234,
                ..ComparedTopic::default()
            }],
            problems: vec![],
            problems_not_listed: 0,
        }
    }

    #[test]
    fn what_is_equal_is_said_in_one_line_below_the_table() {
        let expected = "\
TOPIC        SOURCE  PARTITIONS  COMPARED  COMPACTED  STATE
orders-back  orders           3     1,234          0  equal

restore orders-back of backup orders-20260102-030405: compared 1,234 records of 1 topic: the target has what was restored.
";
        assert_eq!(comparisons(&found()), expected);
    }

    #[test]
    fn what_differs_and_what_was_left_out_is_named() {
        let mut found = found();
        found.complete = false;
        found.topics[0].problems = 9;
        found.topics[0].headers_not_compared = 2;
        found.problems_not_listed = 7;
        let value = Difference {
            topic: "orders-back".into(),
            partition: Some(2),
            offset: Some(5),
            field: Field::Value,
            expected: Some("\"a\"".into()),
            found: "null".into(),
            object: None,
        };
        found.problems = vec![
            value.clone(),
            Difference {
                field: Field::Segment,
                expected: None,
                found: "it is missing".into(),
                object: Some("shop/orders/x".into()),
                ..value
            },
        ];
        let text = comparisons(&found);
        for expected in [
            "orders-back  orders           3     1,234          0  differs\n",
            "\ndiffers: orders-back partition 2 offset 5: value: expected \"a\", found null\n",
            "\ndiffers: orders-back partition 2 offset 5, shop/orders/x: it is missing\n",
            "\ndiffers: 7 more problems\n",
            "\n2 records were compared without headers: ",
            "\nThe restore is not complete",
            "1,234 records of 1 topic: 9 problems.\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }
}
