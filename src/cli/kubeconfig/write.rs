//! Files with credentials, written whole or not at all: beside the file first, then in its place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::time::Instant;

/// Writes a file that is not there yet, mode 0600.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] for whatever is there, a symbolic link too, wherever it points.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    let file = beside(path, text, None)?;
    file.persist_noclobber(path).map(drop).map_err(|refused| refused.error)
}

/// Puts a file of mode 0600 in the place of whatever is there.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let file = beside(path, text, None)?;
    file.persist(path).map(drop).map_err(|refused| refused.error)
}

/// Writes a file anew, with the mode and the owner that it has; where `path` is a symbolic link, the
/// file that it leads to.
pub(super) fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let target = path.canonicalize()?;
    let file = beside(&target, text, Some(&fs::metadata(&target)?))?;
    file.persist(&target).map(drop).map_err(|refused| refused.error)
}

/// Writes a file of mode 0600 that is gone when it is dropped.
pub(in crate::cli) fn temporary(text: &str) -> io::Result<NamedTempFile> {
    written(&std::env::temp_dir(), text, None)
}

fn beside(path: &Path, text: &str, like: Option<&fs::Metadata>) -> io::Result<NamedTempFile> {
    written(folder(path), text, like)
}

fn written(folder: &Path, text: &str, like: Option<&fs::Metadata>) -> io::Result<NamedTempFile> {
    // What is left of it after a failure goes when it is dropped.
    let mut file = tempfile::Builder::new()
        .prefix(".kubeconfig-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    if let Some(like) = like {
        let own = file.as_file().metadata()?;
        if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
            fchown(file.as_file(), Some(like.uid()), Some(like.gid()))?;
        }
        file.as_file().set_permissions(Permissions::from_mode(like.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// `FILE.lock`, by which kubectl and client-go keep each other from writing a kubeconfig at the same
/// time. Gone when dropped.
pub(super) struct Lock(PathBuf);

// === impl Lock ===

impl Lock {
    /// Waits a moment for whoever has it.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when it is still there then.
    pub(super) async fn take(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let due = Instant::now() + PATIENCE;
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&lock).map(drop::<File>) {
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && Instant::now() < due =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                taken => return taken.map(|()| Self(lock)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing can be done about one that stays; the next one says its name.
        let _ = fs::remove_file(&self.0);
    }
}

/// kubectl holds it for milliseconds; one that stays longer was left by a crash.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn nothing_half_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        create(&path, "one").unwrap();
        assert_eq!(create(&path, "two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("one", 0o600));
        assert_eq!(names(folder.path()), ["config"]);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        replace(&path, "two").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("two", 0o600));
        assert_eq!(names(folder.path()), ["config"]);
        // A folder can be replaced by no file.
        fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(replace(&folder.path().join("folder"), "x").is_err());
        assert_eq!(names(folder.path()), ["config", "folder"]);
    }

    #[test]
    fn a_link_stays_one_and_so_does_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "one").unwrap();
        fs::set_permissions(&real, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        assert!(create(&link, "two").is_err());
        rewrite(&link, "two").unwrap();
        assert_eq!((fs::read_to_string(&real).unwrap().as_str(), mode(&real)), ("two", 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        replace(&link, "three").unwrap();
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_waited_for_and_then_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let first = Lock::take(&path).await.unwrap();
        assert_eq!(names(folder.path()), ["config.lock"]);
        let refused = Lock::take(&path).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        let (second, ()) = tokio::join!(Lock::take(&path), async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(first);
        });
        drop(second.unwrap());
        assert!(names(folder.path()).is_empty());
    }
}
