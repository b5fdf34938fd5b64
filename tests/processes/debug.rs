//! `kubectl debug`: a container added to a Pod that runs.

use pty_process::Size;

use crate::fleet::{CLUSTERS, Fleet};
use crate::streams::Way;
use crate::support::process::{Kubectl, text};
use crate::support::{PATIENCE, within};
use crate::terminal::Terminal;

#[tokio::test]
async fn a_debug_container_is_added_once_and_is_read_by_name() {
    let test = "a_debug_container_is_added_once_and_is_read_by_name";
    if !Kubectl::is_at_least(test, KNOWS_WHAT_IS_THERE) {
        return;
    }
    let Some(fleet) = Fleet::start(test).await else { return };
    for cluster in CLUSTERS {
        let kubectl = fleet.kubectl(cluster);
        let debug = ["debug", "hello", "--image=busybox", "-c", "probe", "--attach=false"];
        kubectl.run(&debug);
        // It runs when its status says so.
        let running = "--for=jsonpath={.status.ephemeralContainerStatuses[0].state.running}";
        kubectl.run(&["wait", "pod/hello", running, "--timeout=30s"]);
        let described = kubectl.run(&["describe", "pod", "hello"]);
        assert!(described.contains("Ephemeral Containers:\n  probe:"), "{described}");
        let log = kubectl.run(&["logs", "hello", "-c", "probe"]);
        assert!(log.starts_with("container probe"), "{log}");
        // A name is asked for only where the Pod has several containers of its own.
        kubectl.run(&["logs", "hello"]);

        let missing = kubectl.output(&["logs", "hello", "-c", "other"]);
        assert!(text(&missing).contains("other"), "{}", text(&missing));
        assert!(!missing.status.success());
        let again = ["debug", "hello", "--image=other", "-c", "probe", "--attach=false"];
        assert!(!kubectl.output(&again).status.success(), "it may not be changed");
        let image = "jsonpath={.spec.ephemeralContainers[*].image}";
        assert_eq!(kubectl.run(&["get", "pod", "hello", "-o", image]), "busybox");
    }
}

#[tokio::test]
async fn debug_attaches_with_a_terminal_and_without() {
    let test = "debug_attaches_with_a_terminal_and_without";
    let Some(fleet) = Fleet::start(test).await else { return };
    for (number, way) in Way::through(&fleet).into_iter().enumerate() {
        let how = &way.name;
        let name = format!("shell-{number}");
        let command = way.command(&["debug", "-it", "hello", "--image=busybox", "-c", &name]);
        let (mut terminal, mut kubectl) = Terminal::run(command, Size::new(24, 80));
        // What is typed before it is attached would be read by nobody.
        terminal.shows("tick", how).await;
        terminal.press("who\r").await;
        terminal.shows("read who\r\n", how).await;
        terminal.press("\u{3}").await;
        let ended = within("kubectl ends", PATIENCE, kubectl.wait()).await.unwrap();
        assert!(ended.success(), "{how}: {ended}");
    }
}

/// The minor version of a kubectl that refuses a container whose name is taken: 1.32 says that it was
/// added, and adds nothing.
const KNOWS_WHAT_IS_THERE: u32 = 37;
