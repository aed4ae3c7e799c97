//! Scenarios that people wrote, and the transcripts that are kept of them.
//!
//! `AETHER_GOLDEN=write` writes them anew; what changed is then in the diff.

use std::fs;
use std::path::Path;

#[test]
fn transcripts_are_what_they_were() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let write = std::env::var("AETHER_GOLDEN").is_ok_and(|value| value == "write");
    let mut scripts: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut changed = Vec::new();
    for script in scripts {
        let text = fs::read_to_string(&script).unwrap();
        let said = aether_sim::script::play(&text)
            .unwrap_or_else(|problem| panic!("{}: {problem}", script.display()));
        let kept = script.with_extension("out");
        if write {
            fs::write(&kept, &said).unwrap();
        } else if fs::read_to_string(&kept).unwrap_or_default() != said {
            changed.push(format!("{}:\n{said}", kept.display()));
        }
    }
    assert!(
        changed.is_empty(),
        "other transcripts than those kept; AETHER_GOLDEN=write writes them anew\n{}",
        changed.join("\n")
    );
}
