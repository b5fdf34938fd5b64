//! README.md.

use super::{Page, Shell};
use crate::support::process::{Kubectl, Process, free_port};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn every_command_of_the_readme_works() {
    let test = "every_command_of_the_readme_works";
    let folder = tempfile::tempdir().unwrap();
    let Some(_) = Kubectl::new(test, folder.path()) else { return };
    let page = Page::read("README.md");
    let made = |name: &str| {
        let made = folder.path().join(name);
        std::fs::create_dir(&made).unwrap();
        Shell::new(&made)
    };
    sandbox(&page, made("sandbox")).await;
    by_hand(&page, made("hand")).await;
    on_secrets(&page, made("secrets")).await;
    // What compiles, what is only said to a shell, and what wants an issuer in the Internet.
    let others =
        ["cargo test ", "cargo run --release -- sandbox --apiserver", "export PATH", "--oidc-"];
    page.is_done_but(&others);
}

async fn sandbox(page: &Page, shell: Shell) {
    let port = free_port();
    let mut sandbox = shell.start("sandbox", &format!("cluster-proxy sandbox --port {port}"));
    sandbox.wait_for_start("ready", 4 * PATIENCE).await;
    let shell = shell.instead("127.0.0.1:9092", format!("127.0.0.1:{port}"));
    let pods = shell.run(page.block("--kubeconfig cluster-proxy-sandbox/kubeconfig"));
    assert!(pods.contains("hello") && pods.contains("Running"), "{pods}");
    let account = page.block("kind: ManagedServiceAccount");
    // The account is known a moment before its rights are.
    let (made, last) = account.trim_end().rsplit_once('\n').unwrap();
    shell.run(made);
    let inside = Shell { directory: shell.directory.join("cluster-proxy-sandbox"), ..shell };
    eventually("the account reads", PATIENCE, || {
        let output = inside.command(last).output().unwrap();
        let pods = String::from_utf8(output.stdout).unwrap();
        async move { pods.contains("hello").then_some(()) }
    })
    .await;
    let me = inside.run(page.block("auth whoami"));
    assert!(me.contains("cluster:hub:system:serviceaccount:default:visitor"), "{me}");
    inside.run(page.block("cluster-proxy auth check"));
    let hello = inside.run(page.block("services/web/proxy-service/"));
    assert!(hello.contains("hello from hello"), "{hello}");
    let profile = inside.run(page.block("get clusterprofile cluster1"));
    assert!(profile.contains(&format!("https://127.0.0.1:{port}/cluster1")), "{profile}");
    assert!(sandbox.stop(PATIENCE).await.success());
}

async fn by_hand(page: &Page, shell: Shell) {
    let mut cluster = miniapi(&shell).await;
    let kubeconfigs = shell.directory.join("miniapi");
    std::fs::create_dir(shell.directory.join(".kube")).unwrap();
    std::fs::copy(kubeconfigs.join("agent.kubeconfig"), shell.directory.join(".kube/config"))
        .unwrap();
    let (shell, user, agents) = listening(shell);
    let shell = shell
        .with("KUBECONFIG", kubeconfigs.join("kubeconfig").display().to_string())
        .instead("hub.example.com:8091", format!("localhost:{agents}"))
        .instead("hub.example.com:9092", format!("localhost:{user}"))
        .instead("hub.example.com", "localhost");
    let block = page.block("cluster-proxy pki init --dir certs");
    shell.run(page.line(block, "cluster-proxy pki init"));
    let mut hub = shell.start("hub", page.line(block, "cluster-proxy hub"));
    hub.wait_for("listening", PATIENCE).await;
    let enrol = shell.run(page.line(block, "cluster-proxy join token"));
    shell.run(&enrol);
    let mut agent = shell.start("agent", page.block("cluster-proxy agent --hub"));
    shell.run(page.block("kubectl create serviceaccount reader"));
    let block = page.block("--cluster edge-1 --token-file token");
    shell.run(page.line(block, "cluster-proxy kubeconfig"));
    let pods = page.line(block, "kubectl");
    for command in [pods, "kubectl --kubeconfig edge-1.kubeconfig get namespaces"] {
        eventually(command, PATIENCE, || {
            let output = shell.command(command).output().unwrap();
            async move { output.status.success().then_some(()) }
        })
        .await;
    }
    for process in [&mut agent, &mut hub, &mut cluster] {
        assert!(process.stop(2 * PATIENCE).await.success());
    }
}

async fn on_secrets(page: &Page, shell: Shell) {
    let mut cluster = miniapi(&shell).await;
    let directory = shell.directory.clone();
    std::fs::create_dir(directory.join(".kube")).unwrap();
    std::fs::copy(directory.join("miniapi/kubeconfig"), directory.join(".kube/config")).unwrap();
    let (shell, ..) = listening(shell);
    let block = page.block("--state-namespace cluster-proxy --hub-kubeconfig");
    shell.run(page.line(block, "kubectl create namespace"));
    shell.run(page.line(block, "cluster-proxy pki init"));
    let mut hub = shell.start("hub", page.line(block, "cluster-proxy hub"));
    hub.wait_for("listening", PATIENCE).await;
    assert!(hub.stop(2 * PATIENCE).await.success());
    assert!(cluster.stop(PATIENCE).await.success());
}

/// Ports that nobody has, instead of the usual ones; those of clients and agents.
fn listening(shell: Shell) -> (Shell, u16, u16) {
    let [user, agents] = [(); 2].map(|()| free_port());
    let shell = shell
        .with("CLUSTER_PROXY_LISTEN", format!("127.0.0.1:{user}"))
        .with("CLUSTER_PROXY_AGENT_LISTEN", format!("127.0.0.1:{agents}"))
        .with("CLUSTER_PROXY_ADMIN_ADDRESS", "127.0.0.1:0");
    (shell, user, agents)
}

/// "No cluster at hand?"
async fn miniapi(shell: &Shell) -> Process {
    let line = format!("cluster-proxy miniapi --name edge-1 --address 127.0.0.1:{}", free_port());
    let mut cluster = shell.start("miniapi", &line);
    cluster.wait_for_start("ready", PATIENCE).await;
    cluster
}
