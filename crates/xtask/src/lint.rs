//! The rules of this repository that no compiler knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::root;

/// Longest source file, in lines; past it there is a part with a name of its own.
const FILE_LINES_MAX: usize = 700;

/// Which of our crates a crate may name: the arrows of docs/architecture.md.
const EDGES: &[(&str, &[&str])] = &[
    ("aether-core", &[]),
    ("aether-proto", &["aether-core"]),
    ("aether-replica", &["aether-proto"]),
    ("aether-agent", &["aether-core", "aether-proto"]),
    ("aether-invoker", &["aether-core", "aether-proto"]),
    ("aether-ingress", &["aether-core", "aether-invoker"]),
    ("aether-server", &["aether-core", "aether-proto", "aether-replica", "aether-agent"]),
    ("aether-gateway", &["aether-core", "aether-proto"]),
    ("aether-example", &[]),
    ("aether-sim", &["aether-core"]),
    ("aether-frozen", &[]),
    ("aether-fuzz", &[]),
    ("aether-cluster", &["aether-invoker", "aether-proto"]),
    ("xtask", &[]),
];

/// What the pure core must not name.
const IMPURE: &[&str] = &[
    "SystemTime::now",
    "Instant::now",
    "std::fs",
    "std::net::Tcp",
    "std::thread",
    "tokio::",
    "rand::",
    "HashMap",
    "HashSet",
];

/// Checks all rules and lists every finding.
pub fn run() -> Result<()> {
    let files = tracked_files()?;
    let mut findings = Vec::new();
    edges(&files, &mut findings)?;
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "rs")) {
        let text = std::fs::read_to_string(root().join(file))
            .with_context(|| format!("cannot read {}", file.display()))?;
        source(file, &text, &mut findings);
    }
    if findings.is_empty() {
        return Ok(());
    }
    findings.iter().for_each(|finding| eprintln!("{finding}"));
    bail!("{} findings; see docs/architecture.md for the rules", findings.len())
}

fn tracked_files() -> Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("cannot run git")?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(names.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect())
}

fn edges(files: &[PathBuf], findings: &mut Vec<String>) -> Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for file in files.iter().filter(|file| file.ends_with("Cargo.toml")) {
        let text = std::fs::read_to_string(root().join(file))?;
        let name = text.lines().find_map(|line| line.strip_prefix("name = "));
        let Some(allowed) = name.and_then(|name| allowed.get(name.trim_matches('"'))) else {
            continue;
        };
        let normal = text.split("[dev-dependencies]").next().unwrap_or_default();
        let named = normal.lines().filter(|line| line.starts_with("aether-"));
        for dependency in named.filter_map(|line| line.split(['.', ' ', '=']).next()) {
            if !allowed.contains(&dependency) {
                findings.push(format!("{}: must not depend on {dependency}", file.display()));
            }
        }
    }
    Ok(())
}

fn source(file: &Path, text: &str, findings: &mut Vec<String>) {
    let shown = file.display();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        findings.push(format!("{shown}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if !text.trim_start().starts_with("//!") && !text.trim_start().starts_with("#!") {
        findings.push(format!("{shown}: says nothing of itself at its top"));
    }
    let core = file.starts_with("crates/aether-core/src");
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for word in IMPURE.iter().filter(|word| core && code.contains(**word)) {
            findings.push(format!("{shown}:{}: the pure core names {word}", number + 1));
        }
        // Put together, so that this very file does not break the rule.
        for stub in [concat!("todo", "!("), concat!("unimplemented", "!(")] {
            if code.contains(stub) {
                findings.push(format!("{shown}:{}: a stub", number + 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        source(Path::new(file), text, &mut findings);
        findings
    }

    #[test]
    fn planted_faults_are_found() {
        let core = "crates/aether-core/src/x.rs";
        assert!(findings(core, "//! x\nfn f() {}\n").is_empty());
        assert_eq!(findings(core, "//! x\nlet t = Instant::now();\n").len(), 1);
        assert!(findings("crates/a/src/x.rs", "//! x\nlet t = Instant::now();\n").is_empty());
        assert_eq!(findings(core, "fn f() {}\n").len(), 1);
        assert_eq!(findings(core, &format!("//! x\n{}", "\n".repeat(FILE_LINES_MAX))).len(), 1);
        assert_eq!(findings(core, concat!("//! x\ntodo", "!()\n")).len(), 1);
    }

    #[test]
    fn this_repository_keeps_its_rules() {
        run().unwrap();
    }
}
