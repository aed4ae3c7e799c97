//! Values under `config/` are put and removed.

use std::sync::Arc;

use super::Tx;
use crate::command::{Answer, Outcome, Refusal};
use crate::ids::ConfigName;
use crate::records::{CONFIG_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, ConfigRecord};
use crate::state::config_key;

impl Tx<'_> {
    pub(super) fn put_config(
        &mut self,
        name: &ConfigName,
        value: &Arc<str>,
        if_modified: Option<u64>,
    ) -> Outcome {
        if value.len() > CONFIG_VALUE_BYTES_MAX {
            return Err(Refusal::BadOption {
                what: "value".to_owned(),
                given: format!("{} bytes", value.len()),
                expected: format!("at most {CONFIG_VALUE_BYTES_MAX} bytes long"),
            });
        }
        let known = self.check_config(name, if_modified)?;
        let index = self.index();
        let record = ConfigRecord {
            name: name.clone(),
            value: value.clone(),
            actor: self.actor.to_owned(),
            wall_ms: self.state.meta.wall_ms,
            created: known.as_ref().map_or(index, |known| known.created),
            modified: index,
        };
        let freed = known.map_or(0, |known| known.bytes());
        if self.state.config_bytes() - freed + record.bytes() > CONFIG_BYTES_MAX {
            return Err(Refusal::TooMany {
                what: "bytes under config/".to_owned(),
                most: CONFIG_BYTES_MAX,
            });
        }
        self.state.put_config(record);
        Ok(Answer::default())
    }

    pub(super) fn remove_config(&mut self, name: &ConfigName, if_modified: Option<u64>) -> Outcome {
        if self.check_config(name, if_modified)?.is_none() {
            return Err(Refusal::UnknownKey { key: config_key(name) });
        }
        self.state.remove_config(name);
        Ok(Answer::default())
    }

    /// The record there is, if it is the one that was expected.
    fn check_config(
        &self,
        name: &ConfigName,
        if_modified: Option<u64>,
    ) -> Result<Option<Arc<ConfigRecord>>, Refusal> {
        let known = self.state.config.get(name).cloned();
        let actual = known.as_ref().map_or(0, |known| known.modified);
        match if_modified {
            Some(expected) if expected != actual => {
                Err(Refusal::KeyModified { key: config_key(name), expected, actual })
            }
            _ => Ok(known),
        }
    }
}
