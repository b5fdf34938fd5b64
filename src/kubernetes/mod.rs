//! Access to a Kubernetes API server: where it is, and how we prove who we are.
mod endpoint;
mod get;
mod kubeconfig;
mod token;
mod written;

pub use endpoint::{ApiServer, Credentials, EndpointError};
pub use get::{ApiReader, GetError};
pub use token::{Claims, TokenSource};
pub use written::{Context, kubeconfig};
