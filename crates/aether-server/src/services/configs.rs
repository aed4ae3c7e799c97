//! Configurations of slices: pushed, shown and listed for the `Slices` service.

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::{ConfigNo, RevisionNo};
use aether_core::records::{ConfigPick, ConfigRevisionRecord};
use aether_core::state::State;
use aether_proto::v1;
use tonic::Status;

use crate::control::Read;
use crate::deadline::Deadline;
use crate::status;
use crate::views::Views;

/// Which configuration a start asks for; none if it does not say.
///
/// # Errors
/// The text is neither `latest` nor a number.
pub fn pick(text: &str) -> Result<Option<ConfigPick>, String> {
    match text {
        "" => Ok(None),
        "latest" => Ok(Some(ConfigPick::Latest {})),
        // People write it as it is shown.
        text => match text.strip_prefix('c').unwrap_or(text).parse::<u32>() {
            Ok(no) if no > 0 => Ok(Some(ConfigPick::Number { no: ConfigNo(no) })),
            _ => {
                let short: String = text.chars().take(40).collect();
                Err(format!("'{short}' is neither 'latest' nor the number of a configuration"))
            }
        },
    }
}

/// Keeps a configuration.
///
/// # Errors
/// It was refused, or it is not known whether it was kept.
pub async fn push(
    views: &Views,
    deadline: Deadline,
    request: v1::PushConfigRequest,
) -> Result<v1::SliceConfig, Status> {
    let slice: SliceName = status::parsed("slice", &request.slice)?;
    let files = request.files.into_iter().map(|(path, text)| (path, text.into())).collect();
    let env = request.env.into_iter().collect();
    let if_latest = request.if_latest.map(ConfigNo);
    let command = Command::PushConfig { slice: slice.clone(), files, env, if_latest };
    let control = &views.control;
    let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
    let no = answer.config.ok_or_else(|| status::internal("the answer names no configuration"))?;
    let read = Read::after_write(control.local());
    let state = &read.published.state;
    // Of many pushes at once the first may have made room for the last by now.
    let record = state.config_revisions.get(&(slice.clone(), no)).ok_or_else(|| {
        status::internal(format!("{no} of {slice} was kept, and is forgotten already"))
    })?;
    let as_of = Some(control.as_of(&read));
    let note = answer.note.unwrap_or_default();
    Ok(v1::SliceConfig { note, as_of, ..whole(state, record) })
}

/// One configuration, with its texts.
///
/// # Errors
/// There is none such.
pub async fn get(
    views: &Views,
    deadline: Deadline,
    request: v1::GetConfigRequest,
) -> Result<v1::SliceConfig, Status> {
    let slice: SliceName = status::parsed("slice", &request.slice)?;
    let read = views.control.read(request.stale, deadline).await;
    let state = &read.published.state;
    let pick = match request.number {
        0 => ConfigPick::Latest {},
        no => ConfigPick::Number { no: ConfigNo(no) },
    };
    let record = state.picked_config(&slice, pick).map_err(|refusal| status::refused(&refusal));
    let record = record.map(|no| &state.config_revisions[&(slice, no)]);
    let record = record.map_err(|missing| read.missing(missing))?;
    Ok(v1::SliceConfig { as_of: Some(views.control.as_of(&read)), ..whole(state, record) })
}

/// All configurations of a slice, without their texts.
///
/// # Errors
/// There is no such slice.
pub async fn list(
    views: &Views,
    deadline: Deadline,
    request: v1::ListConfigsRequest,
) -> Result<v1::ListConfigsResponse, Status> {
    let slice: SliceName = status::parsed("slice", &request.slice)?;
    let read = views.control.read(request.stale, deadline).await;
    let state = &read.published.state;
    if !state.slices.contains_key(&slice) {
        return Err(read.missing(super::slices::unknown(&slice)));
    }
    let configs = state.configs_of(&slice).map(|record| outline(state, record)).collect();
    Ok(v1::ListConfigsResponse { configs, as_of: Some(views.control.as_of(&read)) })
}

fn outline(state: &State, record: &ConfigRevisionRecord) -> v1::SliceConfig {
    let slice = state.slices.get(&record.slice);
    let key = |no| (record.slice.clone(), RevisionNo(no));
    let all = state.revisions.range(key(0)..=key(u32::MAX)).map(|(_, revision)| revision);
    let has_it = all.filter(|revision| revision.config == Some(record.no));
    let revisions: Vec<u32> = has_it.map(|revision| revision.no.0).collect();
    let current = slice.and_then(|slice| slice.current);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    v1::SliceConfig {
        slice: record.slice.to_string(),
        number: record.no.0,
        files_count: count(record.content.files.len()),
        env_count: count(record.content.env.len()),
        sha256: record.digest.clone(),
        actor: record.actor.clone(),
        index: record.created,
        wall_ms: record.wall_ms,
        latest: slice.is_some_and(|slice| slice.last_config == record.no),
        current: current.is_some_and(|current| revisions.contains(&current.0)),
        revisions,
        ..Default::default()
    }
}

fn whole(state: &State, record: &ConfigRevisionRecord) -> v1::SliceConfig {
    let files = record.content.files.iter();
    v1::SliceConfig {
        files: files.map(|(path, text)| (path.clone(), text.to_string())).collect(),
        env: record.content.env.clone(),
        ..outline(state, record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_named_by_its_number_or_as_the_latest() {
        assert_eq!(pick(""), Ok(None));
        assert_eq!(pick("latest"), Ok(Some(ConfigPick::Latest {})));
        for text in ["3", "c3"] {
            assert_eq!(pick(text), Ok(Some(ConfigPick::Number { no: ConfigNo(3) })), "{text}");
        }
        for text in ["0", "c", "-1", "cc1", "Latest", "4294967296", "1.5", &"9".repeat(10_000)] {
            let problem = pick(text).unwrap_err();
            assert!(problem.len() < 120, "{problem}");
        }
    }
}
