//! What a binary says about itself (`cluster-proxy --version`): commit, compiler, target, features.
//!
//! Nothing else goes in, no time and no path, so that the same sources give the same binary. The commit
//! is read from git's files: neither git nor a repository is needed, and what is not known is said. It
//! is in release builds alone: elsewhere each commit would compile everything again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let commit = if variable("PROFILE").as_deref() == Some("release") {
        match head(Path::new(&variable("CARGO_MANIFEST_DIR").unwrap_or_default())) {
            Some(head) => {
                for path in &head.watched {
                    println!("cargo::rerun-if-changed={}", path.display());
                }
                head.commit
            }
            None => "unknown (not built in a git repository)".to_owned(),
        }
    } else {
        "unknown (a debug build)".to_owned()
    };
    let compiler = variable("RUSTC").and_then(|rustc| {
        let output = Command::new(rustc).arg("--version").output().ok()?;
        String::from_utf8(output.stdout).ok()
    });
    let compiler = compiler.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty());
    let features = variable("CARGO_CFG_FEATURE").unwrap_or_default();
    let features: Vec<_> = features.split(',').filter(|name| *name != "default").collect();
    let features = Some(features.join(", ")).filter(|names| !names.is_empty());
    for (name, fact) in [
        ("COMMIT", Some(commit)),
        ("RUSTC", compiler.or_else(|| Some("unknown".to_owned()))),
        ("TARGET", variable("TARGET").or_else(|| Some("unknown".to_owned()))),
        ("FEATURES", features.or_else(|| Some("none".to_owned()))),
    ] {
        println!("cargo::rustc-env=CLUSTER_PROXY_BUILD_{name}={}", fact.unwrap_or_default());
    }
}

/// Where a repository stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The commit's name, in hexadecimal.
    pub(crate) commit: String,
    /// What changes when it moves.
    pub(crate) watched: Vec<PathBuf>,
}

/// Reads the repository that begins at `root`, a linked worktree or not (gitrepository-layout(5)).
pub(crate) fn head(root: &Path) -> Option<Head> {
    let git = root.join(".git");
    let linked = fs::read_to_string(&git).ok();
    let own = match linked.as_deref().and_then(|text| text.strip_prefix("gitdir:")) {
        Some(folder) => root.join(folder.trim()),
        None => git,
    };
    let common = fs::read_to_string(own.join("commondir"));
    let common = common.map_or_else(|_| own.clone(), |folder| own.join(folder.trim()));
    let text = fs::read_to_string(own.join("HEAD")).ok()?;
    let mut watched = vec![own.join("HEAD")];
    let commit = match text.trim().strip_prefix("ref: ") {
        None => text.trim().to_owned(),
        Some(name) => {
            let loose = common.join(name);
            let packed = common.join("packed-refs");
            match fs::read_to_string(&loose) {
                Ok(commit) => {
                    watched.push(loose);
                    commit.trim().to_owned()
                }
                Err(_) => {
                    // Its next commit makes a file of it in that folder.
                    watched.extend(
                        loose.parent().filter(|folder| folder.is_dir()).map(Path::to_owned),
                    );
                    let packs = fs::read_to_string(&packed).ok()?;
                    watched.push(packed);
                    let line =
                        packs.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' '));
                    line?.to_owned()
                }
            }
        }
    };
    let is_commit = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_commit.then_some(Head { commit, watched })
}
