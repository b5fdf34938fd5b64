//! The folder that a Pod's processes start in.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A fresh folder of mode 0700; deleted with everything in it when the last holder lets go.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

// === impl Scratch ===

impl Scratch {
    /// Makes a folder in `parent`, which is made too (mode 0700) when it is missing.
    pub(super) fn create(parent: &Path) -> io::Result<Self> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        if !parent.exists() {
            builder.recursive(true).create(parent)?;
            builder.recursive(false);
        }
        // Absolute, because it becomes HOME. The name cannot be guessed, and `create` fails where
        // something is there already: nobody can prepare the folder for us.
        let path = parent.canonicalize()?.join(format!("pod-{}", uuid::Uuid::new_v4()));
        builder.create(&path)?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot delete a scratch folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_fresh_and_gone_with_its_holder() {
        let parent = tempfile::tempdir().unwrap();
        let first = Scratch::create(&parent.path().join("a/b")).unwrap();
        let second = Scratch::create(&parent.path().join("a/b")).unwrap();
        assert_ne!(first.path(), second.path());
        let mode = fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        fs::write(first.path().join("file"), "x").unwrap();
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }
}
