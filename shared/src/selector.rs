//! Which names are meant by names and globs.
//!
//! A pattern without `*` and `?` is a literal name. `*` stands for any number of characters, `?` for one. Topics that begin
//! with `__` are internal to Kafka: no glob matches them.

use std::collections::BTreeSet;

use crate::plan::{SpecError, Topics};

/// Whether a topic is internal to Kafka.
pub fn is_internal(topic: &str) -> bool {
    topic.starts_with("__")
}

/// Whether `name` is one of `patterns`, or matches a glob of them; without patterns every name is meant.
pub fn is_meant(patterns: Option<&[String]>, name: &str) -> bool {
    let matches = |pattern: &String| glob(pattern.as_bytes(), name.as_bytes());
    patterns.is_none_or(|patterns| patterns.iter().any(matches))
}

/// Parsed names and globs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    patterns: Vec<String>,
}

/// Which consumer groups are meant. Their ids may hold any character, and no name is internal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSelector {
    patterns: Vec<String>,
}

impl GroupSelector {
    /// Parses the patterns of `field`.
    ///
    /// # Errors
    /// [`SpecError`] when a pattern is empty.
    pub fn parse(field: &str, patterns: &[String]) -> Result<Self, SpecError> {
        if patterns.iter().any(String::is_empty) {
            let expected = "ids of consumer groups or globs with * and ?";
            return Err(SpecError::new(field, expected, "an empty one"));
        }
        Ok(Self {
            patterns: patterns.to_vec(),
        })
    }

    /// Whether `group` is meant.
    pub fn matches(&self, group: &str) -> bool {
        is_meant(Some(&self.patterns), group)
    }

    /// The patterns that are no globs.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        let patterns = self.patterns.iter().map(String::as_str);
        patterns.filter(|pattern| is_literal(pattern))
    }
}

/// The topics that a run takes, and the literal names that do not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Topics to take, sorted.
    pub topics: Vec<String>,
    /// Literal names that are not there, sorted; whether that is an error is the plan's `missing`.
    pub missing: Vec<String>,
}

impl Selector {
    /// Parses the patterns of `field`.
    ///
    /// # Errors
    /// [`SpecError`] when a pattern holds a character that no topic name can have.
    pub fn parse(field: &str, patterns: &[String]) -> Result<Self, SpecError> {
        for pattern in patterns {
            let valid = !pattern.is_empty()
                && pattern.len() <= 249
                && pattern.bytes().all(|b| {
                    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*' | b'?')
                });
            if !valid {
                return Err(SpecError::new(
                    field,
                    "topic names (1 to 249 of a-z A-Z 0-9 . _ -) or globs with * and ?",
                    format!("{pattern:?}"),
                ));
            }
        }
        Ok(Self {
            patterns: patterns.to_vec(),
        })
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| {
            if is_literal(pattern) {
                return pattern == name;
            }
            !is_internal(name) && glob(pattern.as_bytes(), name.as_bytes())
        })
    }
}

impl Topics {
    /// Which of the `existing` topics are meant.
    ///
    /// # Errors
    /// [`SpecError`] when a pattern is not valid.
    pub fn select<'a>(
        &self,
        existing: impl IntoIterator<Item = &'a str>,
    ) -> Result<Selection, SpecError> {
        let include = Selector::parse("spec.topics", &self.include)?;
        let exclude = Selector::parse("spec.excludeTopics", &self.exclude)?;
        let existing: BTreeSet<&str> = existing.into_iter().collect();
        let missing: BTreeSet<String> = self
            .include
            .iter()
            .filter(|name| is_literal(name) && !existing.contains(name.as_str()))
            .filter(|name| !exclude.matches(name))
            .cloned()
            .collect();
        let topics = existing
            .into_iter()
            .filter(|name| include.matches(name) && !exclude.matches(name))
            .map(str::to_owned)
            .collect();
        Ok(Selection {
            topics,
            missing: missing.into_iter().collect(),
        })
    }
}

/// Whether one of `patterns` is a glob, which means whatever there is.
pub fn has_glob(patterns: &[String]) -> bool {
    !patterns.iter().all(|pattern| is_literal(pattern))
}

fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

/// Greedy match with one point of return: linear in pattern times name, never exponential.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            Some(_) | None => match retry {
                Some((after_star, from)) => {
                    p = after_star;
                    n = from + 1;
                    retry = Some((after_star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MissingTopics;

    #[test]
    fn globs_match_as_a_shell_does() {
        let cases = [
            ("*", "orders", true),
            ("orders*", "orders", true),
            ("orders*", "orders-eu", true),
            ("*-eu", "orders-eu", true),
            ("o?ders", "orders", true),
            ("o?ders", "oders", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZd", false),
            ("orders", "orders2", false),
            ("*", "__consumer_offsets", false),
            ("orders.v1", "ordersxv1", false),
        ];
        for (pattern, name, expected) in cases {
            let selector = Selector::parse("f", &[pattern.to_owned()]).unwrap();
            assert_eq!(selector.matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn groups_may_have_any_name() {
        let patterns = ["a b/\u{1F980}".to_owned(), "__x*".to_owned()];
        let selector = GroupSelector::parse("f", &patterns).unwrap();
        assert!(selector.matches("a b/\u{1F980}") && selector.matches("__x1"));
        assert!(!selector.matches("a b"));
        assert_eq!(selector.literals().collect::<Vec<_>>(), ["a b/\u{1F980}"]);
    }

    #[test]
    fn selection_names_what_is_missing() {
        let topics = Topics {
            include: vec!["a".into(), "b*".into(), "gone".into(), "left-out".into()],
            exclude: vec!["b2".into(), "left-*".into()],
            missing: MissingTopics::Fail,
        };
        let selection = topics.select(["a", "b1", "b2", "c", "__b"]).unwrap();
        assert_eq!(selection.topics, ["a", "b1"]);
        assert_eq!(selection.missing, ["gone"]);
    }
}
