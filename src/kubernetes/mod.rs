//! Access to a Kubernetes API server: where it is, and how we prove who we are.
mod client;
mod endpoint;
mod explain;
mod get;
mod kubeconfig;
pub mod lease;
mod requests;
pub mod served;
mod spokes;
mod token;
mod written;

pub use client::{client, describe};
pub use endpoint::{ApiServer, Credentials, EndpointError, pod_namespace, read_bounded};
pub use explain::{explain, explain_watch, is_code};
pub use get::{ApiReader, DOCUMENTS, GetError, PRODUCT, fetch};
pub use requests::{FIELD_MANAGER, in_time, patch, post};
pub use spokes::SpokeClients;
pub use token::{Claims, TokenSource};
pub use written::{Context, ContextUser, kubeconfig};
