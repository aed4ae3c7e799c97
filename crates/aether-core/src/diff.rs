//! How two revisions of a slice differ, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::records::{Configuration, RevisionRecord};
use crate::state::State;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its dotted path, such as `manifest.run.env.MODE`.
    pub path: String,
    /// Its value in the one, as JSON; absent where there is none.
    pub before: Option<String>,
    /// Its value in the other.
    pub after: Option<String>,
}

/// A revision with what its configuration holds.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// The revision.
    pub revision: &'a RevisionRecord,
    /// What is laid over its artifact, if anything.
    pub config: Option<&'a Configuration>,
}

/// How a revision differs from another one, from nothing if that is absent.
/// Ordered by path. Numbers and dates of making are no difference. Each file of a
/// configuration is one field, `config.files.` and its path.
///
/// # Panics
/// Never: a manifest has text keys only.
pub fn revisions(before: Option<Whole<'_>>, after: Whole<'_>) -> Vec<Change> {
    let before = before.map(fields).unwrap_or_default();
    let after = fields(after);
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort_unstable();
    paths.dedup();
    let change = |path: &String| Change {
        path: path.clone(),
        before: before.get(path).cloned(),
        after: after.get(path).cloned(),
    };
    paths.into_iter().map(change).filter(|change| change.before != change.after).collect()
}

impl State {
    /// How a revision differs from another one, with what their configurations hold.
    pub fn differences(
        &self,
        before: Option<&RevisionRecord>,
        after: &RevisionRecord,
    ) -> Vec<Change> {
        let whole = |revision| {
            let config = self.config_of(revision).map(|config| &*config.content);
            Whole { revision, config }
        };
        revisions(before.map(whole), whole(after))
    }
}

fn fields(Whole { revision, config }: Whole<'_>) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    fields.insert("version".to_owned(), format!("\"{}\"", revision.version));
    fields.insert("digest".to_owned(), format!("\"{}\"", revision.digest));
    let manifest = serde_json::to_value(&*revision.manifest).expect("it has text keys only");
    flatten("manifest", &manifest, &mut fields);
    // Says the same as the version.
    fields.remove("manifest.artifact");
    if let Some(no) = revision.config {
        fields.insert("config".to_owned(), format!("\"{no}\""));
    }
    if revision.restarts > 0 {
        fields.insert("restarts".to_owned(), revision.restarts.to_string());
    }
    for (path, text) in config.iter().flat_map(|config| &config.files) {
        fields.insert(format!("config.files.{path}"), Value::from(&**text).to_string());
    }
    for (name, value) in config.iter().flat_map(|config| &config.env) {
        fields.insert(format!("config.env.{name}"), Value::from(&**value).to_string());
    }
    fields
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                flatten(&format!("{path}.{name}"), value, into);
            }
        }
        other => {
            into.insert(path.to_owned(), other.to_string());
        }
    }
}
