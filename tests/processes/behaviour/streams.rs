//! Streams that are upgraded connections: exec and attach over WebSocket, ports, and logs that go on.
//! SPDY is what the tests of kubectl with HTTP/1.1 speak.

use futures_util::{AsyncBufReadExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, LogParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::client::Api;
use super::tokens;
use crate::support::{PATIENCE, within};

pub(super) async fn all(api: &Api) {
    let pods = kube::Api::<Pod>::namespaced(api.client.clone(), "default");
    exec(&pods).await;
    logs_go_on(&pods).await;
    a_port_echoes(&pods).await;
    rights_are_of_their_own(api).await;
}

async fn exec(pods: &kube::Api<Pod>) {
    let options = AttachParams::default().stdin(true);
    let command = ["sh", "-c", "cat; echo aside >&2; exit 7"];
    let mut session = pods.exec("hello", command, &options).await.unwrap();
    let mut input = session.stdin().unwrap();
    input.write_all(b"said\n").await.unwrap();
    input.shutdown().await.unwrap();
    drop(input);
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (session.stdout().unwrap(), session.stderr().unwrap());
    let status = session.take_status().unwrap();
    let read = async {
        tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err)).unwrap()
    };
    within("both outputs", PATIENCE, read).await;
    assert_eq!((out.as_str(), err.as_str()), ("said\n", "aside\n"));
    let status = within("the status", PATIENCE, status).await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.unwrap().causes.unwrap();
    assert_eq!(causes[0].message.as_deref(), Some("7"));
}

async fn logs_go_on(pods: &kube::Api<Pod>) {
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("hello", &follow).await.unwrap().lines();
    for _ in 0..3 {
        let line = within("a line", PATIENCE, lines.next()).await.unwrap().unwrap();
        assert!(!line.is_empty());
    }
    let tail = LogParams { tail_lines: Some(1), ..LogParams::default() };
    assert_eq!(pods.logs("hello", &tail).await.unwrap().lines().count(), 1);
}

async fn a_port_echoes(pods: &kube::Api<Pod>) {
    let mut ports = pods.portforward("hello", &[7]).await.unwrap();
    let mut stream = ports.take_stream(7).unwrap();
    stream.write_all(b"there and back").await.unwrap();
    let mut back = [0; 14];
    within("the echo", PATIENCE, stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"there and back");
}

/// GET and POST are two rights, and they are looked at before any upgrade.
async fn rights_are_of_their_own(api: &Api) {
    let token = tokens::of_a_new_account(api, "onlooker").await;
    let onlooker = api.holder_of(&token);
    let path = "/api/v1/namespaces/default/pods/hello/exec?command=true&stdout=true";
    let refused = onlooker.get(path).await.refused(403, "Forbidden");
    assert!(refused.contains("cannot get resource \"pods/exec\""), "{refused}");
    let refused = onlooker.send("POST", path, "", &serde_json::Value::Null).await;
    let refused = refused.refused(403, "Forbidden");
    assert!(refused.contains("cannot create resource \"pods/exec\""), "{refused}");
}
