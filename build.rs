//! What a binary says about itself (`cluster-proxy --version`): commit, compiler, target, features.
//!
//! Nothing else goes in, no time and no path, so that the same sources, built in the same way, give the same binary. The commit
//! is read from git's files, or was written into this one by `git archive`: neither git nor a repository
//! is needed, and what is not known is said. Only git can tell whether the sources are still those of the
//! commit. It is in release builds alone: elsewhere each commit would compile everything again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let commit = if variable("PROFILE").as_deref() == Some("release") {
        let folder = variable("CARGO_MANIFEST_DIR").unwrap_or_default();
        let root = Path::new(&folder);
        match (head(root), is_commit(ARCHIVED)) {
            (Some(head), _) => {
                let sources = SOURCES.map(PathBuf::from);
                for path in head.watched.iter().chain(&sources) {
                    println!("cargo::rerun-if-changed={}", path.display());
                }
                let since = match is_changed(root) {
                    Some(false) => "",
                    Some(true) => ", changed",
                    None => ", perhaps changed",
                };
                format!("{}{since}", head.commit)
            }
            (None, true) => format!("{ARCHIVED}, as archived"),
            (None, false) => "unknown (neither a git repository nor an archive of one)".to_owned(),
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
    is_commit(&commit).then_some(Head { commit, watched })
}

fn is_commit(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether the sources differ from the commit; `None` where git is missing or does not say.
fn is_changed(root: &Path) -> Option<bool> {
    let mut git = Command::new("git");
    git.args(["--no-optional-locks", "status", "--porcelain", "--"]).args(SOURCES);
    // Of a hook that we may be running in, and about another repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(name);
    }
    let output = git.current_dir(root).output().ok()?;
    output.status.success().then_some(!output.stdout.is_empty())
}

/// What the binary is made of.
const SOURCES: [&str; 4] = ["build.rs", "Cargo.lock", "Cargo.toml", "src"];

/// The commit, where `git archive` wrote it here (gitattributes(5), export-subst).
const ARCHIVED: &str = "$Format:%H$";
