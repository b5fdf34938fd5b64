//! Changing objects: the four kinds of patch, and who owns which field.

pub(super) mod apply;
mod fields;
pub(super) mod json;
pub(super) mod keys;
pub(super) mod merge;
pub(super) mod owners;
pub(super) mod strategic;
