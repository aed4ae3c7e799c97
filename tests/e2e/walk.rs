//! The main job as the demo runs it, with its figures checked.

use std::process::Stdio;

use aether_tests::binary;
use serde_json::Value;

#[tokio::test]
async fn a_full_update_under_load_with_a_leader_killed_loses_no_request() {
    let output = tokio::process::Command::new(binary())
        .args(["demo", "--json", "--rate", "1000", "--requests", "20000"])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}\n{talk}", String::from_utf8_lossy(&output.stdout)));
    println!("{report:#}");
    assert_eq!(report["failed"], 0, "{report:#}");
    assert!(report["requests"].as_u64() >= Some(20_000), "{report:#}");
    let steps = report["steps"].as_array().unwrap();
    for ratio in ["1:3", "1:1", "1:0"] {
        let step = steps.iter().find(|step| step["ratio"] == ratio).unwrap();
        let (new, old) = ratio.split_once(':').unwrap();
        let cycle = new.parse::<f64>().unwrap() + old.parse::<f64>().unwrap();
        assert!(step["deviation"].as_f64().unwrap() <= cycle, "{step}");
    }
    assert!(report["brokenVersionErrors"].as_u64() > Some(0), "{report:#}");
    assert!(report["threshold"].as_str().unwrap().contains("error rate"), "{report:#}");
    assert!(output.status.success(), "{talk}");
}
