//! `aether context …`, and what the other verbs make of it.

use std::os::unix::fs::PermissionsExt;

use super::answers::{old, slices};
use super::scene::Scene;
use aether_proto::v1;

/// Where the file is below the home.
const FILE: &str = ".config/aether/config.toml";

impl Scene {
    /// Runs a line without a node in the environment.
    async fn bare_line(&mut self, line: &str) {
        let command = self.bare(line.split_whitespace());
        self.run_command(&format!("aether {line}"), command).await;
    }
}

#[tokio::test]
async fn made_used_and_removed() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Slices/List", &slices(Vec::new()));
    let address = scene.address().to_owned();
    for line in [
        "context list",
        "context show",
        "context set prod",
        &format!("context set prod --addr {address},10.0.0.2:8090 --timeout 5s"),
        "context set dev --addr 127.0.0.1:1 --actor dev -o json",
        "context show",
        "context use nothing",
        "context use prod",
        "context list",
        "context list -o json",
        "context show",
        "context show dev -o yaml",
        "slices",
        "--context prod slices -o json",
        "--context other slices",
        "--context ../x slices",
        "context set prod --unset timeout",
        "context set prod --addr 127.0.0.1:70000",
        "context remove nothing",
        "context remove prod",
        "context list",
        "context remove",
    ] {
        scene.bare_line(line).await;
    }
    let text = std::fs::read_to_string(scene.dir().join(FILE)).unwrap();
    scene.note(&format!("{FILE}:\n{text}"));
    scene.ends("contexts");
}

#[tokio::test]
async fn a_file_that_makes_no_sense() {
    let mut scene = Scene::new().await;
    scene
        .node
        .will_answer("Slices/List", &v1::ListSlicesResponse { as_of: old(), ..slices(vec![]) });
    for text in [
        "current = 'prod'\n[contexts.prod]\nadress = ['10.0.0.1:8090']\n",
        "[contexts.prod]\naddr = ['nowhere']\n",
        "current = 'gone'\n",
        "current =\n",
    ] {
        scene.note(&format!("{FILE}:\n{text}"));
        scene.file(FILE, text);
        scene.run("slices").await;
    }
    scene.bare_line("context list").await;
    // It matters to nobody who asks no cluster.
    scene.bare_line("node --config /nowhere.toml").await;
    let path = scene.file(FILE, "");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    scene.run("slices").await;
    scene.ends("contexts_bad");
}

#[tokio::test]
async fn the_environment_stands_in_for_options() {
    let mut scene = Scene::new().await;
    scene.node.will_answer("Slices/List", &slices(Vec::new()));
    scene.node.will_answer("Slices/Undeploy", &v1::UndeployResponse::default());
    let file =
        scene.file("elsewhere.toml", "[contexts.a]\nactor = 'of-context'\noutput = 'yaml'\n");
    let address = scene.address().to_owned();
    let file = file.to_str().unwrap();
    for (variables, line) in [
        (vec![("AETHER_OUTPUT", "JSON")], "slices"),
        (vec![("AETHER_OUTPUT", "json")], "slices -o table"),
        (vec![("AETHER_CONFIG", file), ("AETHER_CONTEXT", "a")], "undeploy a.b:c"),
        (
            vec![("AETHER_CONFIG", file), ("AETHER_CONTEXT", "a"), ("AETHER_ACTOR", "of-variable")],
            "undeploy a.b:c",
        ),
        (vec![("USER", "of-system"), ("AETHER_ACTOR", "")], "undeploy a.b:c"),
        (vec![("AETHER_OUTPUT", "xml")], "slices"),
        (vec![("AETHER_TIMEOUT", "5")], "slices"),
        (vec![("AETHER_TIMEOUT", "0s")], "slices"),
        (vec![("AETHER_ADDR", "nowhere")], "slices"),
        (vec![("AETHER_CONTEXT", "b")], "slices"),
        // A variable that is meant for the client keeps no node from starting.
        (vec![("AETHER_TIMEOUT", "5")], "node --config /nowhere.toml"),
    ] {
        let mut command = scene.bare(line.split_whitespace());
        command.env("AETHER_ADDR", &address).envs(variables.clone());
        let shown: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        scene.run_command(&format!("{} aether {line}", shown.join(" ")), command).await;
    }
    scene.ends("environment");
}
