//! A client library that is not kubectl, kube-rs, through hub and agent: its own TLS, HTTP/2 and
//! WebSockets, with the kubeconfig that our command writes.

use std::pin::pin;

use futures_util::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{
    AttachParams, AttachedProcess, DeleteParams, LogParams, PostParams, TerminalSize, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use cluster_proxy::kubernetes::{Context, ContextUser, kubeconfig};

use crate::support::{PATIENCE, eventually, within};
use crate::world::World;

/// A kube-rs client with all rights on `c1`.
async fn client(world: &World) -> kube::Client {
    world.account("robot").await;
    world.bind("robot").await;
    let token = world.token("robot", Value::Null).await;
    let text = kubeconfig(&[Context {
        name: "c1".to_owned(),
        server: format!("https://localhost:{}/c1", world.fleet.hub.addresses.user.port()),
        ca_pem: world.fleet.hub.ca_pem.clone().into_bytes(),
        user: ContextUser::Token(token.into()),
    }]);
    let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    // Until the hub has read the spoke's keys it does not know the token.
    eventually("c1 is served", PATIENCE, || async { client.apiserver_version().await.ok() }).await;
    client
}

async fn exec(pods: &Api<Pod>, script: &str, options: &AttachParams) -> AttachedProcess {
    pods.exec("hello", ["sh", "-c", script], options).await.unwrap()
}

async fn text(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut text = String::new();
    within("the output ends", PATIENCE, stream.unwrap().read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test]
async fn exec_has_three_streams_and_an_exit_code() {
    let world = World::start().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&world).await);
    let options = AttachParams::default().stdin(true).stderr(true);
    for (code, status) in [(0, "Success"), (7, "Failure")] {
        let script = format!("echo err >&2; cat; exit {code}");
        let mut session = exec(&pods, &script, &options).await;
        let ended = session.take_status().unwrap();
        let mut stdin = session.stdin().unwrap();
        stdin.write_all(b"to and fro").await.unwrap();
        // `cat` ends with its input, and with it the script.
        stdin.shutdown().await.unwrap();
        drop(stdin);
        let (stdout, stderr) = (session.stdout(), session.stderr());
        assert_eq!(tokio::join!(text(stdout), text(stderr)), ("to and fro".into(), "err\n".into()));
        let ended = within("a status", PATIENCE, ended).await.unwrap();
        assert_eq!(ended.status.as_deref(), Some(status), "{ended:?}");
        let causes = ended.details.and_then(|details| details.causes).unwrap_or_default();
        let said: Vec<_> = causes.iter().filter_map(|cause| cause.message.as_deref()).collect();
        assert_eq!(said, if code == 0 { vec![] } else { vec!["7"] });
    }
}

#[tokio::test]
async fn exec_with_a_terminal_hears_of_its_size() {
    let world = World::start().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&world).await);
    let options = AttachParams::interactive_tty();
    // The size comes after the start: the script waits for it, and ends only when it has come.
    let script = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; stty size";
    let mut session = exec(&pods, script, &options).await;
    let mut sizes = session.terminal_size().unwrap();
    sizes.try_send(TerminalSize { width: 77, height: 33 }).unwrap();
    assert_eq!(text(session.stdout()).await, "33 77\r\n");
}

#[tokio::test]
async fn attach_reads_and_writes_the_main_program() {
    let world = World::start().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&world).await);
    let options = AttachParams::default().stdin(true).stderr(false);
    let mut session = pods.attach("hello", &options).await.unwrap();
    session.stdin().unwrap().write_all(b"who is there\n").await.unwrap();
    let mut lines = tokio::io::BufReader::new(session.stdout().unwrap());
    let mut line = String::new();
    while !line.contains("who is there") {
        line.clear();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line);
        assert!(within("a line", PATIENCE, read).await.unwrap() > 0, "the output ended");
    }
}

#[tokio::test]
async fn logs_and_watches_stream() {
    let world = World::start().await;
    let client = client(&world).await;
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let follow = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("hello", &follow).await.unwrap().lines();
    for _ in 0..2 {
        assert!(within("a line", PATIENCE, lines.try_next()).await.unwrap().is_some());
    }

    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps.list(&Default::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = pin!(maps.watch(&WatchParams::default(), &version).await.unwrap());
    let map = serde_json::from_value(json!({"metadata": {"name": "seen"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let event = within("it is added", PATIENCE, events.try_next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Added(_))), "{event:?}");
    maps.delete("seen", &DeleteParams::default()).await.unwrap();
    let event = within("it is deleted", PATIENCE, events.try_next()).await.unwrap();
    assert!(matches!(event, Some(WatchEvent::Deleted(_))), "{event:?}");
}

#[tokio::test]
async fn port_forward_carries_bytes_to_each_port() {
    let world = World::start().await;
    let pods: Api<Pod> = Api::default_namespaced(client(&world).await);
    let mut forward = pods.portforward("hello", &[7, 8080, 81]).await.unwrap();
    let why = within("a reason", PATIENCE, forward.take_error(81).unwrap()).await;
    assert!(why.is_some_and(|why| why.contains("connection refused")));
    let mut web = forward.take_stream(8080).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    let mut line = String::new();
    let mut lines = tokio::io::BufReader::new(&mut web);
    let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line);
    within("a line", PATIENCE, read).await.unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    // Far more than any buffer on the way, while the other port is open.
    let (mut reading, mut writing) = tokio::io::split(forward.take_stream(7).unwrap());
    let sent: Vec<u8> = (0..4_000_037u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut got = vec![0; sent.len()];
    let both = async {
        tokio::try_join!(writing.write_all(&sent), reading.read_exact(&mut got)).unwrap();
    };
    within("the echo", PATIENCE, both).await;
    assert!(got == sent);
    drop((web, reading, writing));
    within("the end", PATIENCE, forward.join()).await.unwrap();
}
