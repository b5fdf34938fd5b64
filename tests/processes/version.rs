//! What a release build says of the commit that it was made from, wherever its sources come from: the
//! build script itself, compiled and run as cargo does.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::process::text;
use crate::support::skipped;

/// A repository with this build script and next to nothing else.
struct Repository(TempDir);

// === impl Repository ===

impl Repository {
    fn new(test: &str) -> Option<Self> {
        for program in ["git", "rustc"] {
            if Command::new(program).arg("--version").output().is_err() {
                skipped(
                    test,
                    &format!("there is no {program}"),
                    &format!("apt-get install {program}"),
                );
                return None;
            }
        }
        let repository = Self(tempfile::tempdir().unwrap());
        let root = repository.root();
        for file in ["build.rs", ".gitattributes", "deploy/Dockerfile.dockerignore"] {
            let to = root.join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), to).unwrap();
        }
        for file in ["Cargo.toml", "Cargo.lock", "src/main.rs", "benches/spine.rs", "README.md"] {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), file).unwrap();
        }
        repository.git(&["init", "--quiet"]);
        repository.commit("first");
        Some(repository)
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn git(&self, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.com"]).args(args);
        run(git.current_dir(self.root()))
    }

    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }
}

/// What a release build in `root` says of its commit, with programs of `path`.
fn said(root: &Path, path: Option<&str>) -> String {
    let script = root.parent().unwrap().join("script");
    run(Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg("build.rs")
        .current_dir(root));
    let mut script = Command::new(script);
    script.current_dir(root).env("CARGO_MANIFEST_DIR", root).env("PROFILE", "release");
    // Of a hook that the tests run in.
    script.env("GIT_DIR", "/nowhere").env_remove("RUSTC");
    if let Some(path) = path {
        script.env("PATH", path);
    }
    let printed = run(&mut script);
    let is_commit = |line: &&str| line.contains("CLUSTER_PROXY_BUILD_COMMIT=");
    let line = printed.lines().find(is_commit).unwrap();
    line.split_once("COMMIT=").unwrap().1.to_owned()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_build_in_a_repository_says_whether_it_is_the_commit() {
    let test = "a_build_in_a_repository_says_whether_it_is_the_commit";
    let Some(repository) = Repository::new(test) else { return };
    let root = repository.root();
    let first = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
    assert_eq!(said(&root, None), first);
    // No part of the binary.
    std::fs::write(root.join("README.md"), "changed").unwrap();
    assert_eq!(said(&root, None), first);
    std::fs::write(root.join("src/main.rs"), "changed").unwrap();
    assert_eq!(said(&root, None), format!("{first}, changed"));
    assert_eq!(said(&root, Some("/nowhere")), format!("{first}, perhaps changed"));
    let second = repository.commit("second");
    assert_eq!(said(&root, None), second);
    std::fs::write(root.join("src/new.rs"), "new").unwrap();
    assert_eq!(said(&root, None), format!("{second}, changed"));
}

#[test]
fn a_build_of_an_archive_says_its_commit_and_one_of_a_copy_none() {
    let test = "a_build_of_an_archive_says_its_commit_and_one_of_a_copy_none";
    let Some(repository) = Repository::new(test) else { return };
    let commit = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
    repository.git(&["archive", "--output", "../archive.tar", "--prefix", "archive/", "HEAD"]);
    let folder = repository.0.path();
    run(Command::new("tar").args(["-xf", "archive.tar"]).current_dir(folder));
    assert_eq!(said(&folder.join("archive"), None), format!("{commit}, as archived"));
    // Inside of a repository that is somebody else's.
    let copy = repository.root().join("vendor/copy");
    std::fs::create_dir_all(&copy).unwrap();
    std::fs::copy(repository.root().join("build.rs"), copy.join("build.rs")).unwrap();
    assert_eq!(said(&copy, None), "unknown (neither a git repository nor an archive of one)");
}

/// `deploy/Dockerfile` builds from what its list lets through, and nothing else.
#[test]
fn a_build_of_the_image_has_all_that_it_needs_and_says_its_commit() {
    let test = "a_build_of_the_image_has_all_that_it_needs_and_says_its_commit";
    let Some(repository) = Repository::new(test) else { return };
    repository.git(&["pack-refs", "--all"]);
    let commit = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
    let listed =
        std::fs::read_to_string(repository.root().join("deploy/Dockerfile.dockerignore")).unwrap();
    let mut listed = listed.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(listed.next(), Some("*"));
    let listed: Vec<_> = listed.map(|line| line.strip_prefix('!').unwrap()).collect();
    let context = |root: &Path, name: &str| {
        let to = repository.0.path().join(name);
        for path in &listed {
            let from = root.join(path);
            if !from.exists() {
                assert!(path.starts_with(".git/"), "{path} is not there");
                continue;
            }
            let parent = to.join(path).parent().unwrap().to_owned();
            std::fs::create_dir_all(&parent).unwrap();
            run(Command::new("cp").arg("-r").arg(from).arg(parent));
        }
        to
    };
    assert_eq!(
        said(&context(&repository.root(), "small"), None),
        format!("{commit}, perhaps changed")
    );

    // Cargo finds every target that the manifest names, and the build script.
    let whole = context(Path::new(env!("CARGO_MANIFEST_DIR")), "whole");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(&whole);
    let metadata: serde_json::Value = serde_json::from_str(&run(&mut cargo)).unwrap();
    let targets = metadata["packages"][0]["targets"].as_array().unwrap();
    assert!(targets.iter().any(|target| target["kind"][0] == "custom-build"), "{targets:?}");
    for target in targets {
        assert!(Path::new(target["src_path"].as_str().unwrap()).exists(), "{target}");
    }
}
