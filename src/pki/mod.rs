//! Certificates, both sides: authorities, identities, joining, renewal, and every TLS
//! configuration of the process (no other module builds one).

pub mod authorities;
pub mod ca;
pub mod credentials;
mod csr;
mod exchange;
pub mod identity;
pub mod inspect;
pub mod join;
mod join_error;
mod limiter;
mod messages;
mod pin;
pub mod serving;
pub mod tls;
pub mod token;
pub mod trust;

#[cfg(test)]
mod testing;
