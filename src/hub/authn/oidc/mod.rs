//! Callers whom an OpenID Connect issuer vouches for.
//!
//! An issuer's keys are read over HTTPS (`reader`), kept and refreshed as those of clusters are; its
//! tokens are verified offline, and their claims become names (`claims`).

pub(super) mod claims;
mod config;
mod file;
mod follow;
mod issuers;
pub(super) mod reader;
pub(super) mod sets;

pub use jsonwebtoken::Algorithm;

pub use self::config::{ClaimMapping, IssuerAuthority, IssuerConfig, Url, algorithm};
pub(super) use self::follow::follow;
pub use self::issuers::{Issuers, IssuersError};
use super::token::ALGORITHMS;
