//! What must survive a restart of the hub: CA keys, enrolments, join tokens, key owners, key sets.
//!
//! One trait, [`Store`], with two homes: a folder ([`FolderStore`]), and later named Secrets in the
//! hub's namespace. A store keeps small documents, each with a version, and writes only over the
//! version that the writer has read: a second hub or a `clusters revoke` beside it loses nothing.

mod document;
mod folder;
mod records;

pub use document::{Document, Expected, StateError, Store, Version, Versioned};
pub use folder::FolderStore;
pub(crate) use folder::{check_private, private_folder, replace};
pub(crate) use records::Edit;
pub use records::{Enrolment, JoinToken, State, key_owner, seconds};
