//! Documents as files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::{
    Document, Enrolments, Expected, Registration, Replica, StateError, Store, Version, Versioned,
    members,
};
use crate::hash;
use crate::name::ClusterName;

/// A [`Store`] in a folder: files of mode 0600 in folders of mode 0700, replaced atomically under
/// a lock file. Several processes may share the folder, on several machines too where its file
/// system carries `flock` between them (NFS 4 does): there a replica that lost its machine counts
/// as alive until the file server gives up on it.
#[derive(Debug)]
pub struct FolderStore {
    root: Arc<Path>,
}

// === impl FolderStore ===

impl FolderStore {
    /// Opens the folder, creating it (mode 0700) when it is missing.
    ///
    /// # Errors
    /// [`StateError::Io`] when the folder cannot be created or is not a folder.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateError> {
        let root: PathBuf = root.into();
        private_folder(&root).map_err(failed("create", &root))?;
        Ok(Self { root: root.into() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Runs file work away from the async threads: a slow disk must not stall connections.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> Result<T, StateError> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, StateError>> {
        let root = self.root.clone();
        blocking(root.to_path_buf(), move || work(&root))
    }
}

impl Store for FolderStore {
    fn read<'a>(
        &'a self,
        document: &'a Document,
    ) -> BoxFuture<'a, Result<Option<Versioned>, StateError>> {
        let (name, secret) = (document.to_string(), document.is_private_key());
        self.blocking(move |root| read(&root.join(name), secret))
    }

    fn write<'a>(
        &'a self,
        document: &'a Document,
        contents: Bytes,
        expected: Expected,
    ) -> BoxFuture<'a, Result<Version, StateError>> {
        let name = document.to_string();
        self.blocking(move |root| {
            let path = root.join(&name);
            let _lock = lock(root)?;
            let current = match read(&path, false)? {
                Some(found) => Expected::Version(found.version),
                None => Expected::Absent,
            };
            if current != expected {
                return Err(StateError::Conflict(path.display().to_string()));
            }
            replace(&path, &contents).map_err(failed("write", &path))?;
            Ok(version(&contents))
        })
    }

    fn delete<'a>(&'a self, document: &'a Document) -> BoxFuture<'a, Result<(), StateError>> {
        let name = document.to_string();
        self.blocking(move |root| {
            let path = root.join(name);
            let _lock = lock(root)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("delete", &path)(error))
                }
                _ => Ok(()),
            }
        })
    }

    fn enrolments(&self) -> BoxFuture<'_, Result<Enrolments, StateError>> {
        self.blocking(|root| {
            let folder = root.join(ENROLMENTS);
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(failed("list", &folder)(error)),
            };
            let mut enrolments = Vec::new();
            for entry in entries {
                let file = entry.map_err(failed("list", &folder))?.file_name();
                // Temporary files and an editor's leftovers are not enrolments.
                let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
                let Some(name) = name.and_then(|name| ClusterName::parse(name).ok()) else {
                    continue;
                };
                // Removed since the listing: not enrolled.
                if let Some(found) = read(&folder.join(&file), false).transpose() {
                    enrolments.push((name, found.map(|found| found.contents)));
                }
            }
            Ok(enrolments)
        })
    }

    fn enrolments_mark(&self) -> BoxFuture<'_, Result<Option<String>, StateError>> {
        self.blocking(|root| {
            let folder = root.join(ENROLMENTS);
            let Ok(found) = fs::metadata(&folder) else { return Ok(None) };
            // Every change is a rename into, or a removal from, the folder, which moves its time.
            let Some(age) = found
                .modified()
                .ok()
                .and_then(|changed| SystemTime::now().duration_since(changed).ok())
            else {
                return Ok(None);
            };
            // A time too close to now could hide a second change within one clock tick. An edit in
            // place does not move it: the mark moves by itself now and then.
            let settled = age > CLOCK_TICK;
            let round = age.as_secs() / READ_AGAIN.as_secs();
            Ok(settled.then(|| format!("{}.{}.{round}", found.mtime(), found.mtime_nsec())))
        })
    }

    fn register(
        &self,
        replica: Replica,
    ) -> BoxFuture<'_, Result<Box<dyn Registration>, StateError>> {
        self.blocking(move |root| members::register(root, &replica))
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<Replica>, StateError>> {
        self.blocking(members::list)
    }
}

/// Runs `work` on `path` away from the async threads.
pub(super) fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> BoxFuture<'static, Result<T, StateError>> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            // Only a runtime that is shutting down (or a panic, already reported) gets here.
            Err(error) => Err(failed("use", &path)(io::Error::other(error))),
        }
    })
}

/// Creates `folder` and its parents, readable by the owner only. One that exists is left as it is.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Writes a file of mode 0600 beside `path`, makes it durable, and renames it over `path`: a
/// reader sees the old contents or the new, also after a crash.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    private_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        // Nothing more can be done about a temporary file that cannot be removed either.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Says so when others than the owner can read `file`: its key then counts as known to them.
pub(crate) fn check_private(file: &File) -> io::Result<Result<(), String>> {
    let mode = file.metadata()?.mode();
    Ok(if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!(
            "its mode is {:04o}, so others can read the private key; make it 0600 (chmod 600), \
             and replace the key if somebody may have read it",
            mode & 0o7777
        ))
    })
}

pub(super) fn read(path: &Path, secret: bool) -> Result<Option<Versioned>, StateError> {
    let damaged =
        |reason: String| StateError::Damaged { document: path.display().to_string(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if secret {
        check_private(&file).map_err(failed("read", path))?.map_err(damaged)?;
    }
    let mut contents = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut contents).map_err(failed("read", path))?;
    if contents.len() as u64 > MAX_DOCUMENT {
        return Err(damaged(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    let version = version(&contents);
    Ok(Some(Versioned { contents: contents.into(), version }))
}

/// Held until dropped: closing the file gives the lock back, also when the process dies.
pub(super) fn lock(root: &Path) -> Result<File, StateError> {
    let path = root.join(LOCK);
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(failed("lock", &path))?;
    file.lock().map_err(failed("lock", &path))?;
    Ok(file)
}

fn version(contents: &[u8]) -> Version {
    Version(hash::sha256_hex(contents))
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let document = path.display().to_string();
    move |source| StateError::Io { action, document, source }
}

/// Serializes writers of one folder.
const LOCK: &str = ".lock";

/// Where [`Document::Enrolment`] lives.
pub(super) const ENROLMENTS: &str = "enrolments";

/// A key set is the largest document and is bounded far below this.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Longest time for which an edit that bypassed the store stays unseen.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// More than the granularity of file times on any file system in use (FAT has 2 s).
const CLOCK_TICK: Duration = Duration::from_millis(2500);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn files_are_private_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path().join("new")).unwrap();
        assert_eq!(mode(store.path()), 0o700);
        let name = Document::Enrolment(ClusterName::parse("c1").unwrap());
        store.write(&name, "1".into(), Expected::Absent).await.unwrap();
        assert_eq!(mode(&store.path().join("enrolments/c1.json")), 0o600);
        assert_eq!(mode(&store.path().join("enrolments")), 0o700);

        fs::write(store.path().join("enrolments/.c2.json.00"), "left by a crash").unwrap();
        let enrolments = store.enrolments().await.unwrap();
        assert_eq!(enrolments.len(), 1);
        assert_eq!(enrolments[0].0, ClusterName::parse("c1").unwrap());
    }

    #[tokio::test]
    async fn keys_that_others_can_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path()).unwrap();
        for document in [Document::AgentCaKey, Document::ServingCaCertificate] {
            store.write(&document, "x".into(), Expected::Absent).await.unwrap();
            assert!(store.read(&document).await.is_ok());
            let path = folder.path().join(document.to_string());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        }
        let refused = store.read(&Document::AgentCaKey).await.err().unwrap().to_string();
        assert!(refused.contains("0640") && refused.contains("chmod 600"), "{refused}");
        assert!(store.read(&Document::ServingCaCertificate).await.is_ok());
    }
}
