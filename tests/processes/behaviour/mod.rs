//! What our code relies on in an API server, one suite for the in-memory one and for a real one, so
//! that the small one cannot agree with us by mistake.

mod client;
mod definitions;
mod rights;
mod streams;
mod tokens;
mod watches;
mod writes;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::support::assets;
use crate::support::hub_api::HubApi;
use client::Api;

use cluster_proxy::sandbox::apiserver::real::{Assets, RealApi};
use cluster_proxy::sandbox::provision;

#[tokio::test]
async fn of_the_embedded_api_server() {
    let api = HubApi::start().await;
    suite(&Api::new("of_the_embedded_api_server", api.server.clone())).await;
}

#[tokio::test]
async fn of_a_real_api_server() {
    let test = "of_a_real_api_server";
    let Some(folder) = assets::folder(test) else { return };
    let directory = tempfile::tempdir().unwrap();
    let assets = Assets::find(Some(&folder)).unwrap();
    let api = RealApi::start(&assets, "hub", &directory.path().join("real")).await.unwrap();
    let admin = Api::new(test, api.server().clone());
    provision::pods(&admin.client).await.unwrap();
    suite(&admin).await;
    api.stop().await;
}

/// All of it, also after a failure: what differs should be seen at once.
async fn suite(api: &Api) {
    let areas: [(&str, BoxFuture<'_, ()>); 6] = [
        ("writes", writes::all(api).boxed()),
        ("rights", rights::all(api).boxed()),
        ("tokens", tokens::all(api).boxed()),
        ("watches", watches::all(api).boxed()),
        ("definitions", definitions::all(api).boxed()),
        ("streams", streams::all(api).boxed()),
    ];
    let mut failed = Vec::new();
    for (name, area) in areas {
        if AssertUnwindSafe(area).catch_unwind().await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
