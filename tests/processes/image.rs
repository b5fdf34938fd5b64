//! The binary of the image, as a container runs it: user 65532 without capabilities, on a root that
//! holds nothing else and is read-only, with one writable volume.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::process::{Kubectl, Process, free_port, run, text};
use crate::support::{PATIENCE, eventually, skipped};

/// A root with the binary, and its volume.
struct Image {
    root: PathBuf,
    volume: PathBuf,
}

// === impl Image ===

impl Image {
    /// Says that `test` is skipped where the binary was not built.
    fn make(test: &str, directory: &Path) -> Option<Self> {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/static");
        let binary = format!("{}-unknown-linux-gnu/debug/cluster-proxy", std::env::consts::ARCH);
        let binary = built.join(binary);
        if !binary.is_file() {
            skipped(test, "there is no static binary", "tests/static/build");
            return None;
        }
        // Only root may mount.
        let can_mount = Command::new("unshare").args(["--mount", "true"]).status();
        if !can_mount.is_ok_and(|status| status.success()) {
            skipped(test, "nothing can be mounted here", "it as root");
            return None;
        }
        let image = Self { root: directory.join("root"), volume: directory.join("volume") };
        for folder in ["usr/local/bin", "etc", "proc", "dev", &VOLUME[1..]] {
            std::fs::create_dir_all(image.root.join(folder)).unwrap();
        }
        std::fs::copy(binary, image.root.join(&BINARY[1..])).unwrap();
        // What a container runtime adds. No other resolver knows the second name.
        let hosts = format!("127.0.0.1 localhost\n127.0.0.1 {NAME}\n");
        std::fs::write(image.root.join("etc/hosts"), hosts).unwrap();
        std::fs::create_dir(&image.volume).unwrap();
        chown(&image.volume, Some(USER), Some(USER)).unwrap();
        Some(image)
    }

    /// `cluster-proxy ARGS` in a container, not started.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", JAIL, "jail"]).arg(&self.root).arg(&self.volume);
        command.args([VOLUME, &USER.to_string(), BINARY]).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test]
async fn the_static_binary_serves_as_nobody_on_a_read_only_root() {
    let test = "the_static_binary_serves_as_nobody_on_a_read_only_root";
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path();
    let Some(image) = Image::make(test, directory) else { return };
    let Some(kubectl) = Kubectl::new(test, &directory.join("kubeconfig")) else { return };
    let elf = std::fs::read(image.root.join(&BINARY[1..])).unwrap();
    assert!(!has_interpreter(&elf), "it needs a dynamic linker");
    assert!(image.run(&["--version"]).starts_with("cluster-proxy "));
    let refused = text(&image.command(&["sandbox"]).output().unwrap());
    assert!(refused.contains("unrecognized subcommand"), "{refused}");
    let refused = text(&image.command(&["pki", "init", "--dir", "/certs"]).output().unwrap());
    assert!(refused.contains("Read-only file system"), "{refused}");

    let home = format!("{VOLUME}/hub");
    image.run(&["pki", "init", "--dir", &home, "--name", NAME, "--name", "localhost"]);
    let [user, agents] = [(); 2].map(|()| free_port());
    let address = |port: u16| format!("127.0.0.1:{port}");
    #[rustfmt::skip]
    let mut hub = Process::spawn("hub", directory, image.command(&[
        "hub", "--dir", &home, "--listen", &address(user), "--agent-listen", &address(agents),
        "--admin-address", "127.0.0.1:0", "--access-log", "off", "--drain-timeout", "2s",
    ]));
    hub.wait_for("listening", PATIENCE).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.id())).unwrap();
    for line in [
        "Uid:\t65532\t65532\t65532\t65532",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
    ] {
        assert!(status.contains(line), "{line} of {status}");
    }

    let api = address(free_port());
    let args = ["miniapi", "--address", &api, "--dir", "api", "--name", "edge-1"];
    let mut cluster = Process::start("api", directory, &args);
    cluster.wait_for_start("ready", PATIENCE).await;
    let kubeconfig = image.volume.join("kubeconfig");
    std::fs::copy(directory.join("api/agent.kubeconfig"), &kubeconfig).unwrap();
    chown(&kubeconfig, Some(USER), Some(USER)).unwrap();
    let hub_address = format!("{NAME}:{agents}");
    let printed = image.run(&["join", "token", "edge-1", "--dir", &home, "--hub", &hub_address]);
    let agent_home = format!("{VOLUME}/agent");
    let printed = printed.trim().replace("--dir agent", &format!("--dir {agent_home}"));
    image.run(&printed.split(' ').skip(1).collect::<Vec<_>>());
    let kubeconfig = format!("{VOLUME}/kubeconfig");
    #[rustfmt::skip]
    let mut agent = Process::spawn("agent", directory, image.command(&[
        "agent", "--hub", &hub_address, "--dir", &agent_home, "--kubeconfig", &kubeconfig,
        "--admin-address", "127.0.0.1:0", "--drain-timeout", "2s",
    ]));

    let server = format!("https://localhost:{user}");
    let ca = image.volume.join("hub/serving-ca.crt");
    #[rustfmt::skip]
    run(directory, &[
        "kubeconfig", "--server", &server, "--ca", ca.to_str().unwrap(), "--cluster", "edge-1",
        "--token-file", "api/tokens/test", "--output", "kubeconfig",
    ]);
    eventually("kubectl is served", PATIENCE, || {
        let output = kubectl.output(&["get", "nodes"]);
        async move { output.status.success().then_some(()) }
    })
    .await;
    for program in [&mut agent, &mut hub, &mut cluster] {
        assert!(program.stop(PATIENCE).await.success());
    }
}

/// Whether a 64-bit ELF file has a program header of type PT_INTERP (elf(5)).
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |place: usize, bytes: usize| {
        elf[place..place + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "64-bit, little-endian");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|header| number(table + header * size, 4) == PT_INTERP)
}

const PT_INTERP: usize = 3;

/// $1 root, $2 volume, $3 where it is mounted, $4 user; then what is run.
const JAIL: &str = r#"
root=$1 volume=$2 inner=$3 user=$4
shift 4
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
mount --bind "$volume" "$root$inner" &&
mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev" &&
exec env -i PATH=/usr/local/bin /usr/sbin/chroot --groups= --userspec="$user:$user" "$root" "$@"
"#;

const BINARY: &str = "/usr/local/bin/cluster-proxy";
const VOLUME: &str = "/var/lib/cluster-proxy";
const USER: u32 = 65532;
const NAME: &str = "hub.example.com";
