//! What must survive a restart of the hub: CA keys, enrolments, join tokens, key owners, key sets.
//!
//! One trait, [`Store`], with two homes: a folder ([`FolderStore`]), and named Secrets in the hub's
//! namespace ([`SecretStore`]). A store keeps small documents, each with a version, and writes only over the
//! version that the writer has read: a second hub or a `clusters revoke` beside it loses nothing. It
//! also lists the hubs that live on it ([`Replica`]).

mod document;
mod folder;
mod members;
mod records;
mod replicas;
mod secrets;

pub use document::{Document, Enrolments, Expected, StateError, Store, Version, Versioned};
pub use folder::FolderStore;
pub(crate) use folder::{check_private, private_folder, replace};
pub(crate) use records::Edit;
pub use records::{Enrolment, JoinToken, State, key_owner, seconds};
pub use replicas::{Registration, Replica};
pub use secrets::SecretStore;
