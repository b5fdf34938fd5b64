//! `--version`: what this binary was built from. The facts come from `build.rs`.

/// For `--version`; `-V` says the version alone.
pub(super) const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("CLUSTER_PROXY_BUILD_COMMIT"),
    "\nrustc: ",
    env!("CLUSTER_PROXY_BUILD_RUSTC"),
    "\ntarget: ",
    env!("CLUSTER_PROXY_BUILD_TARGET"),
    "\nfeatures: ",
    env!("CLUSTER_PROXY_BUILD_FEATURES"),
);

#[cfg(test)]
#[allow(dead_code, reason = "its main is cargo's")]
#[path = "../../build.rs"]
mod build;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
    const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

    fn commit(root: &Path) -> Option<String> {
        build::head(root).map(|head| {
            assert!(head.watched.iter().all(|path| path.exists()), "{:?}", head.watched);
            head.commit
        })
    }

    #[test]
    fn the_short_one_is_a_line_and_the_long_one_has_the_facts() {
        let said = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        let short = format!("cluster-proxy {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(said(&["cluster-proxy", "-V"]), short);
        let long = said(&["cluster-proxy", "--version"]);
        let facts: Vec<&str> =
            long.lines().skip(1).filter_map(|line| Some(line.split_once(": ")?.0)).collect();
        assert_eq!(facts, ["commit", "rustc", "target", "features"], "{long}");
        assert!(long.contains("rustc: rustc 1."), "{long}");
        assert_eq!(long.contains("features: sandbox\n"), cfg!(feature = "sandbox"), "{long}");
        assert!(!long.contains(env!("CARGO_MANIFEST_DIR")), "{long}");
        // Of every command, as `propagate_version` has it.
        assert!(
            said(&["cluster-proxy", "hub", "--version"])
                .ends_with(long.split_once('\n').unwrap().1)
        );
    }

    #[test]
    fn a_commit_is_found_loose_packed_and_detached() {
        let folder = tempfile::tempdir().unwrap();
        let (root, git) = (folder.path(), folder.path().join(".git"));
        assert_eq!(commit(root), None, "no repository");
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(commit(root), None, "no commit yet");
        fs::write(
            git.join("packed-refs"),
            format!("# pack-refs\n{SECOND} refs/heads/not-main\n{FIRST} refs/heads/main\n"),
        )
        .unwrap();
        assert_eq!(commit(root).as_deref(), Some(FIRST));
        fs::write(git.join("refs/heads/main"), format!("{SECOND}\n")).unwrap();
        assert_eq!(commit(root).as_deref(), Some(SECOND));
        fs::write(git.join("HEAD"), format!("{FIRST}\n")).unwrap();
        assert_eq!(commit(root).as_deref(), Some(FIRST));
        fs::write(git.join("HEAD"), "garbage\n").unwrap();
        assert_eq!(commit(root), None);
    }

    #[test]
    fn a_linked_worktree_has_a_head_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("main/.git/worktrees/other")).unwrap();
        fs::create_dir_all(at("main/.git/refs/heads")).unwrap();
        fs::create_dir_all(at("other")).unwrap();
        fs::write(at("main/.git/HEAD"), FIRST).unwrap();
        fs::write(at("main/.git/worktrees/other/HEAD"), "ref: refs/heads/other").unwrap();
        fs::write(at("main/.git/worktrees/other/commondir"), "../..\n").unwrap();
        fs::write(at("main/.git/refs/heads/other"), SECOND).unwrap();
        fs::write(at("other/.git"), "gitdir: ../main/.git/worktrees/other\n").unwrap();
        assert_eq!(commit(&at("main")).as_deref(), Some(FIRST));
        assert_eq!(commit(&at("other")).as_deref(), Some(SECOND));
    }
}
