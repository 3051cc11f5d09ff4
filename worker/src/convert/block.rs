//! A block of their manifests, out of which one field after another is taken.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::ConvertError;

/// A block of theirs, out of which one field after another is taken.
pub(super) struct Block<'a> {
    pub(super) object: String,
    pub(super) path: String,
    pub(super) fields: Map<String, Value>,
    pub(super) notes: &'a RefCell<Vec<String>>,
}

impl<'a> Block<'a> {
    /// A field that says something: API servers return empty maps for those that were left out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        self.fields
            .remove(name)
            .filter(|value| !value.is_null() && !is_empty(value))
    }

    /// Fields that are the same here.
    pub(super) fn same(&mut self, to: &mut Map<String, Value>, names: &[&str]) {
        for name in names {
            self.renamed(to, name, name);
        }
    }

    pub(super) fn renamed(&mut self, to: &mut Map<String, Value>, theirs: &str, ours: &str) {
        if let Some(value) = self.take(theirs) {
            to.insert(ours.into(), value);
        }
    }

    /// Fields without counterpart.
    pub(super) fn none(&mut self, names: &[&str], why: &str) {
        for name in names {
            if self.take(name).is_some() {
                self.note(name, why);
            }
        }
    }

    pub(super) fn note(&self, name: &str, text: &str) {
        let note = format!("{}.{name}: {text}", self.path);
        self.notes.borrow_mut().push(note);
    }

    pub(super) fn wrong(&self, name: &str, expected: &'static str, found: &Value) -> ConvertError {
        ConvertError::Field {
            object: self.object.clone(),
            path: format!("{}.{name}", self.path),
            expected,
            found: found.to_string(),
        }
    }

    pub(super) fn block(&mut self, name: &str) -> Result<Option<Block<'a>>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Block {
                object: self.object.clone(),
                path: format!("{}.{name}", self.path),
                fields,
                notes: self.notes,
            })),
            Some(other) => Err(self.wrong(name, "a block", &other)),
        }
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong(name, "true or false", &other)),
        }
    }

    pub(super) fn number(&mut self, name: &str) -> Result<Option<u64>, ConvertError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.as_u64();
        number
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a number, 0 or more", &value))
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, ConvertError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(name, "a text", &other)),
        }
    }

    /// A list of which an empty one means all.
    pub(super) fn list(&mut self, name: &str) -> Option<Value> {
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        self.take(name).filter(|value| !is_empty(value))
    }

    /// All of the block was taken, and `made` of it becomes a field of ours.
    pub(super) fn becomes(
        self,
        ours: &mut Map<String, Value>,
        name: &str,
        made: Map<String, Value>,
    ) -> Result<(), ConvertError> {
        self.end()?;
        ours.insert(name.into(), made.into());
        Ok(())
    }

    /// All of the block was taken.
    pub(super) fn end(self) -> Result<(), ConvertError> {
        if self.fields.is_empty() {
            return Ok(());
        }
        let path = |name: &String| format!("{}.{name}", self.path);
        Err(ConvertError::Unknown {
            fields: self.fields.keys().map(path).collect(),
            object: self.object,
        })
    }
}
