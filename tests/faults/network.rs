//! A network, mounts and processes of one test's own, and what fails there.

use std::future::Future;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::support::{process::text, skipped};

/// Runs `test`, whose path in this program is `name`, in namespaces of its own: this program again,
/// which finds itself inside. One at a time: they measure.
pub(crate) fn inside<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(test());
        return;
    }
    if let Err(reason) = is_possible() {
        skipped(
            name,
            &reason,
            &format!("as root, with iproute2 and nftables: cargo test --test faults {name}"),
        );
        return;
    }
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut unshare = Command::new("unshare");
    unshare.env("PATH", PATH);
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    unshare.args(["sh", "-c", PREPARE, "sh"]).arg(std::env::current_exe().unwrap());
    unshare.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let output = unshare.output().unwrap();
    let said = text(&output);
    // Not captured: the table is what one wants to see when everything passes.
    for line in said.lines().filter(|line| line.starts_with("| F")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn is_possible() -> Result<(), String> {
    let tools = r#"ip netns add probe && nft list ruleset && tc qdisc show"#;
    let tried = Command::new("unshare")
        .env("PATH", PATH)
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(["sh", "-c", PREPARE, "sh", "sh", "-c", tools])
        .stdin(Stdio::null())
        .output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(text(&output).split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// Runs a line of shell.
///
/// # Panics
/// When it fails.
pub(crate) fn shell(line: &str) {
    let output = Command::new("sh").args(["-ec", line]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", text(&output));
}

/// A namespace `name` with two links: at 10.77.N.2 to the hub at 10.77.N.1, at 10.78.N.2 to its API
/// server at 10.78.N.1.
pub(crate) fn spoke(name: &str, number: u8) {
    shell(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    for (link, network) in [("hub", 77), ("api", 78)] {
        shell(&format!(
            "ip link add to-{link}-{name} type veth peer name of-{link} netns {name}
             ip addr add 10.{network}.{number}.1/24 dev to-{link}-{name}
             ip link set to-{link}-{name} up
             ip -n {name} addr add 10.{network}.{number}.2/24 dev of-{link}
             ip -n {name} link set of-{link} up"
        ));
    }
}

/// Drops what `rule` of nft says, on the link between the hub and `name`: packets from the agents, and
/// to them where `both` ways.
pub(crate) fn drop_packets(name: &str, rule: &str, both: bool) {
    shell(&format!(
        "nft add table inet faults
         nft 'add chain inet faults from {{ type filter hook input priority 0; }}'
         nft 'add chain inet faults to {{ type filter hook output priority 0; }}'
         nft 'add rule inet faults from iifname to-hub-{name} {rule} drop'"
    ));
    if both {
        shell(&format!("nft 'add rule inet faults to oifname to-hub-{name} {rule} drop'"));
    }
}

/// Ends what [`drop_packets`] did.
pub(crate) fn heal() {
    shell("nft delete table inet faults");
}

/// Where Debian has `ip`, `nft` and `tc`, whoever starts the tests.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Set inside.
const INSIDE: &str = "CLUSTER_PROXY_FAULTS_INSIDE";
/// `ip netns` keeps names in a folder: one of our own.
const PREPARE: &str =
    r#"mkdir -p /run/netns && mount -t tmpfs faults /run/netns && ip link set lo up && exec "$@""#;
