//! The binary as an operator runs it: processes of their own, driven by the real kubectl.
#![cfg(feature = "sandbox")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acceptance;
mod again;
mod apis;
mod behaviour;
mod bound;
mod by_hand;
mod charts;
mod consumers;
mod credential;
mod debug;
mod descriptors;
mod dumps;
mod egress;
mod fleet;
mod identities;
mod image;
mod kubeconfig;
mod leaks;
mod memory;
mod observed;
mod outages;
mod pages;
mod proxy;
mod reload;
mod rolling;
mod sandbox;
mod secrets;
mod services;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod verbs;
mod version;
