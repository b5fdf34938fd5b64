//! What all requests to one cluster share.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use uuid::Uuid;

use super::files;
use super::object;
use super::pods::PodRuntime;
use super::store::{Key, Mode, Store};
use super::tokens::{Reference, Tokens};

/// One in-memory cluster.
pub(super) struct Cluster {
    /// Its name.
    pub(super) name: String,
    /// `https://host:port`.
    pub(super) url: String,
    /// The authority of its serving certificate, PEM.
    pub(super) ca_pem: String,
    /// Its uid, which survives restarts with the folder: the uid of `kube-system`.
    pub(super) id: Uuid,
    /// Its objects.
    pub(super) store: Store,
    /// Its signing keys.
    pub(super) tokens: Tokens,
    /// What runs in its Pods.
    pub(super) pods: PodRuntime,
    /// Every ServiceAccount that was made since the start.
    pub(super) accounts: Mutex<HashSet<Key>>,
}

// === impl Cluster ===

impl Cluster {
    /// Reads the cluster's id from `directory`, or makes one (and keeps it there).
    pub(super) fn load_id(directory: Option<&Path>) -> Result<Uuid, String> {
        let Some(directory) = directory else { return Ok(Uuid::new_v4()) };
        let file = directory.join(ID_FILE);
        if let Some(text) = files::read(&file)? {
            return text
                .trim()
                .parse()
                .map_err(|_| format!("{} holds no uid: remove it", file.display()));
        }
        let id = Uuid::new_v4();
        files::write_secret(&file, &format!("{id}\n"))?;
        Ok(id)
    }

    /// Gives an object that a client makes a uid, whatever the client says. The first
    /// ServiceAccount of a name has one that comes from the cluster's id and its place: objects do
    /// not survive a restart, and the tokens of an account that is made again then should.
    pub(super) fn identify(&self, key: &Key, object: &mut Value, mode: Mode) {
        let metadata = object::metadata(object);
        metadata.remove("uid");
        if mode == Mode::Commit && self.is_first(key) {
            metadata.insert("uid".to_owned(), self.stable_uid(key).to_string().into());
        }
    }

    /// Adds an object unless it is there. Its uid comes from the cluster's id and its place, so
    /// that tokens for a ServiceAccount of this kind survive a restart.
    pub(super) fn ensure(&self, key: &Key, object: Value) {
        let mut object = object;
        let uid = self.stable_uid(key).to_string();
        object::metadata(&mut object).insert("uid".to_owned(), uid.into());
        self.is_first(key);
        // The only refusal is that it exists, which is as wanted.
        let _ = self.store.create(key, object, Mode::Commit);
    }

    /// The ServiceAccount as tokens name it. One that does not exist gets the uid that it would
    /// have if [`Cluster::ensure`] made it.
    pub(super) fn account(&self, namespace: &str, name: &str) -> Reference {
        let key = Key::new("", "serviceaccounts", namespace, name);
        let uid = match self.store.get(&key) {
            Some(account) => object::uid(&account).to_owned(),
            None => self.stable_uid(&key).to_string(),
        };
        Reference { name: name.to_owned(), uid }
    }

    /// Whether no ServiceAccount of this name was made since the start.
    fn is_first(&self, key: &Key) -> bool {
        // A set of names cannot be left half changed.
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        key.resource == "serviceaccounts" && accounts.insert(key.clone())
    }

    fn stable_uid(&self, key: &Key) -> Uuid {
        if *key == Key::new("", "namespaces", "", "kube-system") {
            return self.id;
        }
        let text = format!("{} {} {} {}", self.id, key.label(), key.namespace, key.name);
        let hash = digest(&SHA256, text.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_ref()[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

const ID_FILE: &str = "cluster-id";
