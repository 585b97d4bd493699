//! One thread a core, each with a listener of its own: together they serve one port.

use crate::lab::Lab;

#[tokio::test]
async fn on_one_port() {
    let mut lab = Lab::plan().threads(3).start().await;
    let client = lab.client(&lab.root.agent("a"));
    let mut connections = Vec::new();
    // The kernel spreads them by their ports: that all forty meet one of three threads, does not happen.
    for _ in 0..40 {
        let mut connection = client.h1().await;
        connection.get("/").await.assert_ok();
        connections.push(connection);
    }
    assert_eq!(lab.sessions(), 40);
    let ids: std::collections::BTreeSet<String> = lab
        .upstream
        .seen()
        .iter()
        .map(|seen| seen.header("x-request-id").unwrap()[..16].to_owned())
        .collect();
    assert!(ids.len() > 1, "one thread served all: {ids:?}");
    let names: Vec<String> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    for name in ["gate-0", "gate-1", "gate-2", "operations", "journal"] {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
    }
    let ended =
        lab.applied(serde_json::json!({"action": "revoke", "level": "principal", "target": "a"})).await;
    assert_eq!((ended, lab.sessions()), (40, 0));
}
