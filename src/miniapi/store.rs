//! Every object of the cluster, and a bounded history of what happened to them.
//!
//! One mutex: the sections are short, nothing awaits inside, and a revision is then exactly the
//! order of all writes, as etcd gives it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::object;
use super::response::MiniStatus;

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// API group, empty for the core group.
    pub group: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision that the change made.
    pub revision: u64,
    /// The object it happened to.
    pub key: Key,
    /// The object after the change (of a deletion: its last state).
    pub object: Arc<Value>,
    /// The object before the change; `None` when it was created.
    pub previous: Option<Arc<Value>>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// The objects of one cluster. Clones share them.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

/// Whether a write is kept or only tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Kept.
    Commit,
    /// `dryRun=All`: everything is checked, nothing is kept.
    DryRun,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
    history_length: usize,
}

#[derive(Debug)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    /// The newest revision that the history no longer has.
    forgotten: u64,
}

// === impl Key ===

impl Key {
    /// The key of an object; `namespace` is empty for cluster-scoped ones.
    pub fn new(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// `plural` or `plural.group`, as messages name it.
    pub fn label(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

// === impl Store ===

impl Store {
    /// An empty store that remembers the last `history_length` changes.
    pub fn new(history_length: usize) -> Self {
        let state = State {
            revision: FIRST_REVISION,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            forgotten: 0,
        };
        let (revision, _) = watch::channel(FIRST_REVISION);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), revision, history_length }) }
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a resource (of one namespace when given), by namespace and name, and the
    /// revision they are of.
    pub fn list(
        &self,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
    ) -> (u64, Vec<Arc<Value>>) {
        let state = self.lock();
        let first = Key::new(group, resource, namespace.unwrap_or_default(), "");
        let objects = state
            .objects
            .range(first..)
            .take_while(|(key, _)| {
                key.group == group
                    && key.resource == resource
                    && namespace.is_none_or(|namespace| key.namespace == namespace)
            })
            .map(|(_, object)| object.clone())
            .collect();
        (state.revision, objects)
    }

    /// The keys of everything in a namespace.
    pub fn keys_in(&self, namespace: &str) -> Vec<Key> {
        let state = self.lock();
        state.objects.keys().filter(|key| key.namespace == namespace).cloned().collect()
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Tells when the revision moves.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.revision.subscribe()
    }

    /// The changes of a resource after `revision`, and the revision they end at. An error when the
    /// history does not reach back so far.
    pub fn changes(
        &self,
        revision: u64,
        group: &str,
        resource: &str,
    ) -> Result<(u64, Vec<Change>), MiniStatus> {
        let state = self.lock();
        if revision < state.forgotten {
            return Err(MiniStatus::expired(revision, state.forgotten));
        }
        let start = state.history.partition_point(|change| change.revision <= revision);
        let changes = state
            .history
            .range(start..)
            .filter(|change| change.key.group == group && change.key.resource == resource)
            .cloned()
            .collect();
        Ok((state.revision, changes))
    }

    /// Adds an object; what a server fills in (uid, times, generation) is filled in.
    pub fn create(&self, key: &Key, object: Value, mode: Mode) -> Result<Arc<Value>, MiniStatus> {
        let mut state = self.lock();
        if state.objects.contains_key(key) {
            return Err(MiniStatus::already_exists(&key.label(), &key.name));
        }
        let mut object = object;
        object::stamp_new(&mut object, key);
        Ok(self.commit(&mut state, key, object, None, mode))
    }

    /// Changes an object: `change` sees the current one and returns the next. No write when they
    /// are equal. An object that waited for its last finalizer goes with it.
    pub fn modify<F>(&self, key: &Key, mode: Mode, change: F) -> Result<Arc<Value>, MiniStatus>
    where
        F: FnOnce(&Value) -> Result<Value, MiniStatus>,
    {
        let mut state = self.lock();
        let current = state
            .objects
            .get(key)
            .cloned()
            .ok_or_else(|| MiniStatus::not_found(&key.label(), &key.name))?;
        let mut next = change(&current)?;
        object::keep_identity(&mut next, &current);
        if object::is_released(&next) {
            return Ok(self.remove(&mut state, key, next, current, mode));
        }
        if object::same_but_times(&next, &current) {
            return Ok(current);
        }
        object::count_generation(&mut next, &current);
        Ok(self.commit(&mut state, key, next, Some(current), mode))
    }

    /// Deletes an object, or marks it when finalizers hold it. Returns its last state and whether
    /// it is gone.
    pub fn delete<F>(
        &self,
        key: &Key,
        mode: Mode,
        check: F,
    ) -> Result<(Arc<Value>, bool), MiniStatus>
    where
        F: FnOnce(&Value) -> Result<(), MiniStatus>,
    {
        let mut state = self.lock();
        let current = state
            .objects
            .get(key)
            .cloned()
            .ok_or_else(|| MiniStatus::not_found(&key.label(), &key.name))?;
        check(&current)?;
        let mut next = Value::clone(&current);
        if object::has_finalizers(&next) {
            if object::is_deleting(&next) {
                return Ok((current, false));
            }
            object::mark_deleted(&mut next);
            return Ok((self.commit(&mut state, key, next, Some(current), mode), false));
        }
        Ok((self.remove(&mut state, key, next, current, mode), true))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock left single fields whole; tests want the first panic, not this.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(
        &self,
        state: &mut State,
        key: &Key,
        mut object: Value,
        previous: Option<Arc<Value>>,
        mode: Mode,
    ) -> Arc<Value> {
        if mode == Mode::DryRun {
            return Arc::new(object);
        }
        object::set_revision(&mut object, state.revision + 1);
        let object = Arc::new(object);
        state.objects.insert(key.clone(), object.clone());
        self.record(state, key, object.clone(), previous, false);
        object
    }

    fn remove(
        &self,
        state: &mut State,
        key: &Key,
        mut object: Value,
        previous: Arc<Value>,
        mode: Mode,
    ) -> Arc<Value> {
        if mode == Mode::DryRun {
            return previous;
        }
        object::set_revision(&mut object, state.revision + 1);
        let object = Arc::new(object);
        state.objects.remove(key);
        self.record(state, key, object.clone(), Some(previous), true);
        object
    }

    fn record(
        &self,
        state: &mut State,
        key: &Key,
        object: Arc<Value>,
        previous: Option<Arc<Value>>,
        deleted: bool,
    ) {
        state.revision += 1;
        let revision = state.revision;
        state.history.push_back(Change { revision, key: key.clone(), object, previous, deleted });
        while state.history.len() > self.shared.history_length {
            if let Some(oldest) = state.history.pop_front() {
                state.forgotten = oldest.revision;
            }
        }
        self.shared.revision.send_replace(revision);
    }
}

/// Revision 0 means "any" to clients, so nothing has it.
const FIRST_REVISION: u64 = 1;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("", "configmaps", "default", name)
    }

    fn object() -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})
    }

    #[test]
    fn history_is_bounded_and_says_so() {
        let store = Store::new(2);
        let start = store.revision();
        for name in ["a", "b"] {
            store.create(&key(name), object(), Mode::Commit).unwrap();
        }
        assert_eq!(store.changes(start, "", "configmaps").unwrap().1.len(), 2);
        assert!(store.changes(start, "", "pods").unwrap().1.is_empty());
        store.create(&key("c"), object(), Mode::Commit).unwrap();
        assert_eq!(store.changes(start, "", "configmaps").unwrap_err().code, 410);
        assert_eq!(store.changes(start + 1, "", "configmaps").unwrap().1.len(), 2);
    }

    #[test]
    fn a_finalizer_holds_and_its_removal_deletes() {
        let store = Store::new(10);
        let mut held = object();
        held["metadata"]["finalizers"] = json!(["example.com/hold"]);
        store.create(&key("a"), held, Mode::Commit).unwrap();
        let (marked, gone) = store.delete(&key("a"), Mode::Commit, |_| Ok(())).unwrap();
        assert!(!gone && marked["metadata"]["deletionTimestamp"].is_string());
        store
            .modify(&key("a"), Mode::Commit, |current| {
                let mut next = current.clone();
                next["metadata"]["finalizers"] = json!([]);
                Ok(next)
            })
            .unwrap();
        assert!(store.get(&key("a")).is_none());
        store.create(&key("a"), object(), Mode::Commit).unwrap();
        assert!(store.delete(&key("a"), Mode::Commit, |_| Ok(())).unwrap().1);
    }

    #[test]
    fn equal_writes_and_dry_runs_make_no_revision() {
        let store = Store::new(10);
        store.create(&key("a"), object(), Mode::Commit).unwrap();
        let revision = store.revision();
        store.modify(&key("a"), Mode::Commit, |current| Ok(current.clone())).unwrap();
        store.create(&key("b"), object(), Mode::DryRun).unwrap();
        assert_eq!(store.revision(), revision);
        let change = |current: &Value| {
            let mut next = current.clone();
            next["data"] = json!({"a": "b"});
            Ok(next)
        };
        store.modify(&key("a"), Mode::Commit, change).unwrap();
        assert_eq!(store.revision(), revision + 1);
    }
}
