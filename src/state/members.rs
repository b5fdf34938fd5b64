//! Live replicas in a folder: each holds the lock of a file of its own, which the system takes from
//! it when it dies. No clock is compared and nothing has to be renewed.
//!
//! | file | what |
//! |---|---|
//! | `replicas/ID.lock` | locked (flock) by the process that is called ID, for as long as it lives |
//! | `replicas/ID.json` | how it describes itself |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::folder::{blocking, failed, lock, private_folder, read, replace};
use super::{Registration, Replica, StateError};

/// A held lock.
#[derive(Debug)]
struct Member {
    files: Arc<Files>,
    _lock: File,
}

#[derive(Debug)]
struct Files {
    lock: PathBuf,
    description: PathBuf,
}

/// Adds `replica` to the list in `root`.
pub(super) fn register(
    root: &Path,
    replica: &Replica,
) -> Result<Box<dyn Registration>, StateError> {
    let folder = root.join(REPLICAS);
    private_folder(&folder).map_err(failed("create", &folder))?;
    let files = Files::of(&folder, &replica.id);
    let held = {
        // A file that is there and not locked is one of the dead: nobody may look between the two.
        let _writer = lock(root)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&files.lock).map_err(failed("create", &files.lock))?;
        file.lock().map_err(failed("lock", &files.lock))?;
        file
    };
    let member = Member { files: Arc::new(files), _lock: held };
    describe(&member.files, replica)?;
    Ok(Box::new(member))
}

/// Everybody who lives, ordered by id. Files of the dead are removed on the way.
pub(super) fn list(root: &Path) -> Result<Vec<Replica>, StateError> {
    let folder = root.join(REPLICAS);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", &folder)(error)),
    };
    let mut replicas = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("list", &folder))?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(LOCKED));
        let Some(id) = id.filter(|id| is_id(id)) else { continue };
        let files = Files::of(&folder, id);
        if is_alive(&files)? {
            replicas.push(files.description(id)?);
        } else {
            bury(root, &files)?;
        }
    }
    replicas.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(replicas)
}

fn is_alive(files: &Files) -> Result<bool, StateError> {
    let file = match File::open(&files.lock) {
        Ok(file) => file,
        // It left since the listing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", &files.lock)(error)),
    };
    // Shared, so that two who look do not take each other for the owner.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed("lock", &files.lock)(error)),
    }
}

/// Removes what a dead replica left, unless it was born a moment ago.
fn bury(root: &Path, files: &Files) -> Result<(), StateError> {
    let _writer = lock(root)?;
    if !is_alive(files)? {
        files.remove();
    }
    Ok(())
}

fn describe(files: &Files, replica: &Replica) -> Result<(), StateError> {
    let unwritable = |error: serde_json::Error| failed("write", &files.description)(error.into());
    let json = serde_json::to_vec_pretty(replica).map_err(unwritable)?;
    replace(&files.description, &json).map_err(failed("write", &files.description))
}

/// Ids become file names.
fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(allowed)
}

// === impl Files ===

impl Files {
    fn of(folder: &Path, id: &str) -> Self {
        let lock = folder.join(format!("{id}{LOCKED}"));
        Self { lock, description: folder.join(format!("{id}.json")) }
    }

    /// What the replica says of itself; one that says nothing of use is alive all the same.
    fn description(&self, id: &str) -> Result<Replica, StateError> {
        let found = read(&self.description, false)?;
        let said = found.and_then(|found| serde_json::from_slice::<Replica>(&found.contents).ok());
        Ok(Replica { id: id.to_owned(), ..said.unwrap_or_default() })
    }

    fn remove(&self) {
        // The lock's file last: without it nobody would look for the other. What cannot be removed
        // counts as dead, and is tried again by whoever looks next.
        let _ = fs::remove_file(&self.description);
        let _ = fs::remove_file(&self.lock);
    }
}

// === impl Member ===

impl Registration for Member {
    fn update(&self, replica: Replica) -> BoxFuture<'_, Result<(), StateError>> {
        let files = Arc::clone(&self.files);
        let folder = files.lock.clone();
        blocking(folder, move || describe(&files, &replica))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.files.remove();
    }
}

const REPLICAS: &str = "replicas";
const LOCKED: &str = ".lock";
/// A UUID has 36 bytes.
const LONGEST_ID: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(root: &Path) -> Vec<String> {
        list(root).unwrap().into_iter().map(|replica| replica.id).collect()
    }

    #[test]
    fn who_leaves_takes_its_files_along() {
        let root = tempfile::tempdir().unwrap();
        let one = register(root.path(), &Replica::new("one".into(), 1)).unwrap();
        assert_eq!(ids(root.path()), ["one"]);
        drop(one);
        assert_eq!(fs::read_dir(root.path().join(REPLICAS)).unwrap().count(), 0);
    }

    #[test]
    fn the_dead_are_buried_and_strangers_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let living = register(root, &Replica::new("living".into(), 1)).unwrap();
        let folder = root.join(REPLICAS);
        for file in ["dead.lock", "dead.json", "NOT-ONE.lock", ".dead.json.0123"] {
            fs::write(folder.join(file), "{}").unwrap();
        }
        assert_eq!(ids(root), ["living"]);
        let there = |file: &str| folder.join(file).exists();
        assert!(!there("dead.lock") && !there("dead.json"));
        assert!(there("NOT-ONE.lock") && there("living.lock") && there("living.json"));
        drop(living);
    }

    #[test]
    fn a_damaged_description_does_not_kill() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let _living = register(root, &Replica::new("living".into(), 1)).unwrap();
        fs::write(root.join(REPLICAS).join("living.json"), "{").unwrap();
        assert_eq!(list(root).unwrap(), [Replica::new("living".into(), 0)]);
    }
}
