//! What of a process' memory leaves it when it dies, or when somebody looks.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::api::FakeApi;
use crate::support::process::{Process, command, free_port, text};
use crate::support::{PATIENCE, eventually};

/// Hub and agent as an ordinary user, whose other processes must not read them; root's may read all.
#[tokio::test]
async fn hub_and_agent_leave_no_core_and_show_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    // Where a checkout lies, others may not look.
    let program = directory.join("cluster-proxy");
    fs::copy(env!("CARGO_BIN_EXE_cluster-proxy"), &program).unwrap();
    let start = |name: &str, args: &[&str]| {
        Process::spawn(name, directory, as_user(directory, &program, args))
    };
    let run = |args: &[&str]| {
        let output = as_user(directory, &program, args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["pki", "init", "--dir", "hub", "--name", "localhost"]);
    let [user, agents, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    #[rustfmt::skip]
    let mut hub = start("hub", &[
        "hub", "--dir", "hub", "--listen", &user, "--agent-listen", &agents, "--admin-address", &admin,
        "--drain-timeout", "2s",
    ]);
    hub.wait_for("listening", PATIENCE).await;
    let agents = agents.replace("127.0.0.1", "localhost");
    let printed = run(&["join", "token", "c1", "--dir", "hub", "--hub", &agents]);
    run(&printed.split_whitespace().skip(1).collect::<Vec<_>>());
    let api = FakeApi::start("c1").await;
    let kubeconfig = directory.join("kubeconfig");
    api.write_kubeconfig(&kubeconfig);
    fs::set_permissions(&kubeconfig, fs::Permissions::from_mode(0o644)).unwrap();
    #[rustfmt::skip]
    let mut agent = start("agent", &[
        "agent", "--hub", &agents, "--dir", "agent", "--kubeconfig", "kubeconfig",
        "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ]);
    agent.wait_for("agent starts", PATIENCE).await;

    let mut other = Command::new("sleep");
    unprivileged(&mut other).arg("600").stdin(Stdio::null());
    let other = Process::spawn("other", directory, other);
    for (process, is_ours) in [(&hub, true), (&agent, true), (&other, false)] {
        let proc = format!("/proc/{}", process.id());
        let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let core: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
        // Root owns the files of a process that is not dumpable (proc(5)).
        let owner = || fs::metadata(format!("{proc}/environ")).unwrap().uid();
        if is_ours {
            assert_eq!(core, ["0", "0"]);
            assert_eq!(owner(), 0, "others of its user may read it");
        } else {
            eventually("the other one runs as its user", PATIENCE, || {
                let is_own = owner() != 0;
                async move { is_own.then_some(()) }
            })
            .await;
        }
    }
    assert!(agent.stop(PATIENCE).await.success());
    assert!(hub.stop(PATIENCE).await.success());
}

fn as_user(directory: &Path, program: &Path, args: &[&str]) -> Command {
    let ours = command(directory, args);
    let mut command = Command::new(program);
    command.args(ours.get_args()).current_dir(directory).env_clear().env("RUST_LOG", "info");
    unprivileged(&mut command).stdin(Stdio::null());
    command
}

/// As `nobody` where the tests run as root.
fn unprivileged(command: &mut Command) -> &mut Command {
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

const NOBODY: u32 = 65_534;
