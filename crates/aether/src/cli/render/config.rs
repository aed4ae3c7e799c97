//! Configurations of slices.

use aether_core::words::counted;
use aether_proto::v1;

use super::{fields, or_dash, table};

/// What there is to say of one beside its texts.
pub fn outline(config: &v1::SliceConfig) -> String {
    fields(&[
        ("slice", config.slice.clone()),
        ("number", format!("c{}", config.number)),
        ("holds", holds(config)),
        ("sha256", config.sha256.clone()),
        ("pushed by", format!("{}, at log index {}", config.actor, config.index)),
        ("revisions", revisions(config)),
        ("state", state(config)),
    ])
}

fn holds(config: &v1::SliceConfig) -> String {
    let (files, env) = (config.files_count, config.env_count);
    format!("{}, {}", counted(files, "file"), counted(env, "variable"))
}

fn revisions(config: &v1::SliceConfig) -> String {
    let named: Vec<String> = config.revisions.iter().map(|no| format!("r{no}")).collect();
    named.join(", ")
}

fn state(config: &v1::SliceConfig) -> String {
    let words = [("latest", config.latest), ("current", config.current)];
    let said: Vec<&str> = words.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
    said.join(", ")
}

/// One with its texts.
pub fn whole(config: &v1::SliceConfig) -> String {
    let mut text = outline(config);
    if !config.env.is_empty() {
        let row = |(name, value): (&String, &String)| vec![name.clone(), value.clone()];
        text.push_str("\n\n");
        text.push_str(&table(&["VARIABLE", "VALUE"], config.env.iter().map(row).collect()));
    }
    for (path, content) in &config.files {
        text.push_str(&format!("\n\n--- {path}\n"));
        text.push_str(&lines(content).collect::<Vec<_>>().join("\n"));
    }
    text
}

/// Lines of somebody's text, without what could move the cursor.
pub(super) fn lines(text: &str) -> impl Iterator<Item = String> {
    let shown = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
    text.lines().map(move |line| line.chars().map(shown).collect())
}

/// All of a slice, a row each.
pub fn list(list: &v1::ListConfigsResponse) -> String {
    let row = |config: &v1::SliceConfig| {
        vec![
            format!("c{}", config.number),
            holds(config),
            or_dash(&revisions(config)),
            or_dash(&state(config)),
            config.actor.clone(),
            config.index.to_string(),
        ]
    };
    let header = ["CONFIG", "HOLDS", "REVISIONS", "STATE", "BY", "INDEX"];
    table(&header, list.configs.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_shown_with_its_texts_and_listed_without() {
        let config = v1::SliceConfig {
            slice: "a.b:c".into(),
            number: 3,
            files: [("etc/app.conf".into(), "one\n\u{1b}[2Jtwo\n".into())].into(),
            env: [("MODE".into(), "fast".into())].into(),
            files_count: 1,
            env_count: 1,
            sha256: "ab".into(),
            actor: "ann".into(),
            index: 7,
            latest: true,
            revisions: vec![2, 4],
            current: true,
            ..Default::default()
        };
        assert_eq!(
            whole(&config),
            "\
slice      a.b:c
number     c3
holds      1 file, 1 variable
sha256     ab
pushed by  ann, at log index 7
revisions  r2, r4
state      latest, current

VARIABLE  VALUE
MODE      fast

--- etc/app.conf
one
 [2Jtwo"
        );
        let other = v1::SliceConfig { number: 2, actor: "bob".into(), ..Default::default() };
        let all = v1::ListConfigsResponse { configs: vec![other, config], as_of: None };
        assert_eq!(
            list(&all),
            "\
CONFIG  HOLDS                 REVISIONS  STATE            BY   INDEX
c2      0 files, 0 variables  -          -                bob  0
c3      1 file, 1 variable    r2, r4     latest, current  ann  7"
        );
    }
}
