//! What is made from the verbs' own descriptions: the reference, the manual
//! pages and the completions.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::scene::Scene;

async fn printed(scene: &Scene, line: &str) -> String {
    let output = scene.bare(line.split_whitespace()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "'{line}': {output:?}");
    assert!(output.stderr.is_empty(), "'{line}': {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_reference_is_up_to_date() {
    let scene = Scene::new().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let made = printed(&scene, "reference").await;
    let differs = kept.lines().zip(made.lines()).position(|(kept, made)| kept != made);
    let line = differs.unwrap_or(kept.lines().count().min(made.lines().count())) + 1;
    assert!(
        kept == made,
        "docs/reference/cli.md is out of date from line {line} on; run 'cargo xtask docs'"
    );
}

#[tokio::test]
async fn there_is_a_manual_page_for_every_verb() {
    let mut scene = Scene::new().await;
    let page = printed(&scene, "man").await;
    assert!(page.contains(".TH aether 1") && page.contains("aether\\-update(1)"), "{page}");
    let dir = scene.dir().join("man/man1");
    scene.run(&format!("man --dir {}", dir.display())).await;
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let start = std::fs::read_to_string(dir.join("aether-update-start.1")).unwrap();
    assert!(start.contains("max\\-error\\-rate") && start.contains("Examples:"), "{start}");
    scene.note(&names.join("\n"));
    let file = scene.file("a-file", "");
    scene.run(&format!("man --dir {}", file.display())).await;
    scene.ends("man");
}

#[tokio::test]
async fn completions_complete() {
    let scene = Scene::new().await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&scene, &format!("completions {shell}")).await;
        assert!(script.contains("rollback") && script.contains("max-error-rate"), "{shell}");
    }
    // In bash, as it is on every machine that runs these tests.
    let script = scene.file("aether.bash", &printed(&scene, "completions bash").await);
    for (words, expected) in [
        ("aether upd", "update"),
        ("aether update ro", "rollback routing"),
        ("aether --output y", "yaml"),
        ("aether completions z", "zsh"),
    ] {
        let count = words.split(' ').count() - 1;
        let (previous, last) = words.rsplit_once(' ').unwrap();
        let previous = previous.rsplit(' ').next().unwrap();
        let program = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={count}; \
             _aether aether '{last}' '{previous}'; printf '%s\\n' \"${{COMPREPLY[@]}}\" | sort",
            script.display()
        );
        let bash = Command::new("bash")
            .args(["--norc", "-c", &program])
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let found =
            String::from_utf8_lossy(&bash.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(found, expected, "'{words}': {}", String::from_utf8_lossy(&bash.stderr));
    }
}
