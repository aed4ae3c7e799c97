//! What an update would do, and how revisions differ.

use aether_core::words::counted;
use aether_proto::v1;

use super::{fields, span, table};

/// A whole plan.
pub fn whole(plan: &v1::UpdatePlan) -> String {
    let old = plan.old_version.as_deref().unwrap_or("(none)");
    let now = counted(plan.instances_before, "instance");
    let refused = plan.refused.as_ref();
    let capacity = match refused {
        Some(_) => format!("{now} now"),
        None => {
            format!("{now}, {} at the peak, {} after", plan.instances_peak, plan.instances_after)
        }
    };
    let retires = plan.retires_version.as_ref().map(|version| {
        format!(
            "version {version}, which is kept warm: 'update undo' cannot go back to it any more"
        )
    });
    let ratios = plan.refused_ratios.iter().map(|ratio| {
        format!(
            "{} (takes {} of the new version, {} would be ready)",
            ratio.routing,
            counted(ratio.needed, "instance"),
            ratio.ready
        )
    });
    let mut text = fields(&[
        ("slice", plan.artifact_base.clone()),
        ("versions", format!("{old} -> {}", plan.new_version)),
        ("only", only(plan)),
        ("refused", refused.map(|reason| reason.message.clone()).unwrap_or_default()),
        ("capacity", capacity),
        ("removes", retires.unwrap_or_default()),
        ("refuses", ratios.collect::<Vec<_>>().join("\n")),
        ("least time", if refused.is_none() { span(plan.least_ms) } else { String::new() }),
        ("ends here", plan.stuck.clone()),
    ]);
    if !plan.changes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&changes(&plan.changes));
    }
    if !plan.steps.is_empty() {
        text.push_str("\n\n");
        text.push_str(&steps(&plan.steps));
    }
    if refused.is_none() && !plan.nodes.is_empty() {
        text.push_str("\n\n");
        text.push_str(&nodes(&plan.nodes));
    }
    text
}

/// What changes where the version does not.
fn only(plan: &v1::UpdatePlan) -> String {
    if !plan.same_version || !plan.has_changes {
        return String::new();
    }
    let is_config = plan.changes.iter().any(|change| is_of_config(&change.path));
    let is_restart = plan.changes.iter().any(|change| change.path == "restarts");
    let what = match (is_config, is_restart) {
        (true, true) => "the configuration, and every instance is started anew",
        (true, false) => "the configuration",
        (false, _) => "every instance is started anew",
    };
    format!("{what}; the version and its artifact stay")
}

fn is_of_config(path: &str) -> bool {
    path == "config" || path.starts_with("config.")
}

fn steps(steps: &[v1::PlanStep]) -> String {
    let row = |step: &v1::PlanStep| {
        vec![
            format!("+{}", span(step.after_ms)),
            if step.by_person { "you" } else { "cluster" }.to_owned(),
            step.state.clone(),
            step.routing.clone(),
            step.instances.to_string(),
            step.event.clone(),
        ]
    };
    let header = ["FROM", "BY", "STATE", "ROUTING", "INSTANCES", "STEP"];
    table(&header, steps.iter().map(row).collect())
}

fn nodes(nodes: &[v1::PlanNode]) -> String {
    let row = |node: &v1::PlanNode| {
        vec![
            node.node.clone(),
            node.before.to_string(),
            node.peak.to_string(),
            node.after.to_string(),
            format!("{}/{}", node.total_peak, node.instances_max),
        ]
    };
    let header = ["NODE", "BEFORE", "PEAK", "AFTER", "ALL SLICES AT PEAK"];
    table(&header, nodes.iter().map(row).collect())
}

/// Longest value shown; `-o json` has all of it.
const VALUE_CHARS_MAX: usize = 60;

/// Fields in a table, and below it the lines in which files differ.
fn changes(changes: &[v1::FieldChange]) -> String {
    let (files, changes): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| change.path.starts_with(FILES));
    let mut parts = Vec::new();
    if !changes.is_empty() {
        parts.push(table_of(&changes));
    }
    parts.extend(files.into_iter().map(file));
    parts.join("\n\n")
}

/// How the path of a file of a configuration begins.
const FILES: &str = "config.files.";

/// Lines around those that differ.
const CONTEXT_LINES: usize = 3;

/// The lines in which a file differs, as `diff -u` shows them.
fn file(change: &v1::FieldChange) -> String {
    let path = change.path.strip_prefix(FILES).unwrap_or(&change.path);
    let text = |value: &Option<String>| -> String {
        value.as_ref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    };
    let (before, after) = (text(&change.before), text(&change.after));
    let name = |value: &Option<String>| match value {
        Some(_) => path,
        None => "/dev/null",
    };
    let diff = similar::TextDiff::from_lines(&before, &after);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT_LINES).header(name(&change.before), name(&change.after));
    super::config::lines(&unified.to_string()).collect::<Vec<_>>().join("\n")
}

fn table_of(changes: &[&v1::FieldChange]) -> String {
    let shown = |value: &Option<String>| match value {
        None => "-".to_owned(),
        Some(text) if text.chars().count() > VALUE_CHARS_MAX => {
            text.chars().take(VALUE_CHARS_MAX).chain(['…']).collect()
        }
        Some(text) => text.clone(),
    };
    let row = |change: &&v1::FieldChange| {
        vec![change.path.clone(), shown(&change.before), shown(&change.after)]
    };
    table(&["FIELD", "BEFORE", "AFTER"], changes.iter().map(row).collect())
}

/// How two revisions differ.
pub fn diff(diff: &v1::RevisionDiff) -> String {
    let named = |revision: &v1::Revision| {
        let config = revision.config.map_or_else(String::new, |no| format!(", c{no}"));
        format!("r{} ({}{config})", revision.number, revision.version)
    };
    let from = diff.from.as_ref().map_or_else(|| "(none)".to_owned(), named);
    let to = diff.to.as_ref().map(named).unwrap_or_default();
    let head = format!("{}: {from} -> {to}", diff.slice);
    match diff.changes.as_slice() {
        [] => format!("{head}\n\nno difference"),
        some => format!("{head}\n\n{}", changes(some)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_its_schedule_its_peak_and_what_changes() {
        let step = |after_ms, by_person, state: &str| v1::PlanStep {
            after_ms,
            state: state.into(),
            routing: "0:1".into(),
            event: "something".into(),
            by_person,
            instances: 6,
        };
        let plan = v1::UpdatePlan {
            artifact_base: "a.b:c".into(),
            old_version: Some("1.0.0".into()),
            new_version: "2.0.0".into(),
            instances: 1,
            has_changes: true,
            changes: vec![v1::FieldChange {
                path: "version".into(),
                before: None,
                after: Some("\"2.0.0\"".into()),
            }],
            steps: vec![step(0, true, "PENDING"), step(1_000, false, "DEPLOYED")],
            refused_ratios: vec![v1::PlanRefusedRatio {
                routing: "1:1".into(),
                needed: 2,
                ready: 1,
            }],
            retires_version: Some("0.9.0".into()),
            instances_before: 3,
            instances_peak: 6,
            instances_after: 3,
            nodes: vec![v1::PlanNode {
                node: "n1".into(),
                before: 1,
                peak: 2,
                after: 1,
                total_peak: 5,
                instances_max: 64,
            }],
            least_ms: 1_000,
            ..Default::default()
        };
        assert_eq!(
            whole(&plan),
            "\
slice       a.b:c
versions    1.0.0 -> 2.0.0
capacity    3 instances, 6 at the peak, 3 after
removes     version 0.9.0, which is kept warm: 'update undo' cannot go back to it any more
refuses     1:1 (takes 2 instances of the new version, 1 would be ready)
least time  1s

FIELD    BEFORE  AFTER
version  -       \"2.0.0\"

FROM  BY       STATE     ROUTING  INSTANCES  STEP
+0ms  you      PENDING   0:1      6          something
+1s   cluster  DEPLOYED  0:1      6          something

NODE  BEFORE  PEAK  AFTER  ALL SLICES AT PEAK
n1    1       2     1      5/64"
        );
    }

    #[test]
    fn files_differ_by_their_lines_and_a_plan_says_that_nothing_else_does() {
        let change = |path: &str, before: Option<&str>, after: Option<&str>| v1::FieldChange {
            path: path.into(),
            before: before.map(Into::into),
            after: after.map(Into::into),
        };
        let all = [
            change("config", Some("\"c1\""), Some("\"c2\"")),
            change("config.env.MODE", None, Some("\"fast\"")),
            change("config.files.app.conf", Some(r#""a\nb\nc\n""#), Some(r#""a\nx\nc\n""#)),
            change("config.files.new", None, Some(r#""one""#)),
        ];
        assert_eq!(
            changes(&all),
            "\
FIELD            BEFORE  AFTER
config           \"c1\"    \"c2\"
config.env.MODE  -       \"fast\"

--- app.conf
+++ app.conf
@@ -1,3 +1,3 @@
 a
-b
+x
 c

--- /dev/null
+++ new
@@ -0,0 +1 @@
+one
\\ No newline at end of file"
        );
        let plan = v1::UpdatePlan {
            old_version: Some("1.0.0".into()),
            new_version: "1.0.0".into(),
            same_version: true,
            has_changes: true,
            changes: all.to_vec(),
            ..Default::default()
        };
        let said = "only        the configuration; the version and its artifact stay";
        assert!(whole(&plan).contains(said), "{}", whole(&plan));
        let changes = vec![change("restarts", None, Some("1"))];
        let restart = v1::UpdatePlan { changes, ..plan.clone() };
        assert!(whole(&restart).contains("every instance is started anew"));
        let nothing = v1::UpdatePlan { has_changes: false, ..plan };
        assert!(!whole(&nothing).contains("only"));
    }

    #[test]
    fn revisions_that_are_the_same_are_said_to_be() {
        let revision = v1::Revision { number: 3, version: "1.0.0".into(), ..Default::default() };
        let same = v1::RevisionDiff {
            slice: "a.b:c".into(),
            from: Some(revision.clone()),
            to: Some(revision),
            ..Default::default()
        };
        assert_eq!(diff(&same), "a.b:c: r3 (1.0.0) -> r3 (1.0.0)\n\nno difference");
    }
}
