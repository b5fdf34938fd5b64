//! Everything at the highest level of logs, and no secret in anything that a process wrote or said.
//!
//! The security cases S113 and S114, and S24 and S49 where tokens come in odd places.

mod searcher;

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use cluster_proxy::sandbox::definitions;

use self::searcher::{Secrets, outputs};
use crate::apis::Apis;
use crate::fleet::{CLUSTERS, Fleet};
use crate::support::client::{Client, empty, plain_get};
use crate::support::process::{Kubectl, command, signal, text};
use crate::support::token::{SigningKey, claims, unsigned};
use crate::support::{PATIENCE, eventually};

#[tokio::test]
async fn at_the_highest_level_nothing_says_a_token_or_a_key() {
    let test = "at_the_highest_level_nothing_says_a_token_or_a_key";
    let Some(mut world) = World::start(test).await else { return };
    world.good_and_bad_tokens().await;
    world.accounts().await;
    world.joins_and_commands();
    world.rotations().await;
    world.users(&Kubectl::new(test, &world.path().join("c1.user.kubeconfig")).unwrap());
    world.fleet.stop().await;
    world.secrets.folder(world.fleet.directory());
    assert!(world.secrets.len() > 100, "{} forms of secrets are known", world.secrets.len());

    let mut said = outputs(world.path());
    // Where tests are built with optimisation, the highest levels are not in the program.
    let level = if cfg!(debug_assertions) { "TRACE" } else { "DEBUG" };
    for name in ["hub.log", "agent-c1.log", "agent-c2.log"] {
        let (_, log) = said.iter().find(|(file, _)| file == name).unwrap();
        // None of our own lines is of the highest level.
        for (library, level) in [("h2", level), ("cluster_proxy", "DEBUG")] {
            let is_heard = log.lines().any(|line| line.contains(level) && line.contains(library));
            assert!(is_heard, "{name}: nothing of {library} at its highest level");
        }
    }
    said.append(&mut world.said);
    let leaks = |secrets: &Secrets| -> Vec<String> {
        let in_text = |(name, text): &(String, String)| {
            secrets.find(text).into_iter().map(|leak| format!("{name}: {leak}")).collect::<Vec<_>>()
        };
        said.iter().flat_map(in_text).collect()
    };
    let found = leaks(&world.secrets);
    assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));

    // The name of a namespace may be logged, and is: what looks for secrets finds it there.
    let mut planted = Secrets::default();
    planted.token("planted", PLANTED);
    let found = leaks(&planted);
    assert!(found.iter().any(|leak| leak.starts_with("access.log: planted")), "{found:?}");
}

struct World {
    fleet: Fleet,
    secrets: Secrets,
    /// What clients and commands were told.
    said: Vec<(String, String)>,
    client: Client,
}

// === impl World ===

impl World {
    async fn start(test: &str) -> Option<Self> {
        let flags = |directory: &Path| {
            std::fs::write(directory.join("policy.yaml"), POLICY).unwrap();
            let flags = ["--policy", "policy.yaml", "--allow-opaque-tokens"];
            flags.into_iter().chain(TRACE).map(str::to_owned).collect()
        };
        let mut fleet = Fleet::with(test, Apis::Embedded, flags).await?;
        for cluster in CLUSTERS {
            fleet.restart_agent(cluster, &TRACE).await;
        }
        let ca_pem = std::fs::read(fleet.directory().join("hub/serving-ca.crt")).unwrap();
        let address = fleet.url().trim_start_matches("https://").parse().unwrap();
        let world = Self {
            client: Client::new(address, ca_pem),
            fleet,
            secrets: Secrets::default(),
            said: Vec::new(),
        };
        for cluster in CLUSTERS {
            world.wait_serves(cluster).await;
        }
        Some(world)
    }

    fn path(&self) -> &Path {
        self.fleet.directory()
    }

    fn token(&self, name: &str) -> String {
        let file = self.path().join(format!("{name}.api/tokens/test"));
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    async fn wait_serves(&self, cluster: &str) {
        let client = self.client.token(&self.token(cluster));
        eventually(&format!("{cluster} is served"), PATIENCE, || async {
            let answer = client.try_get(&format!("/{cluster}/version")).await.ok()?;
            answer.status.is_success().then_some(())
        })
        .await;
    }

    /// Runs `cluster-proxy ARGS` and keeps what it says of itself.
    fn command(&mut self, args: &[&str]) -> std::process::Output {
        let output = command(self.path(), &[&TRACE[..], args].concat()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.said.push((args.join(" ").chars().take(60).collect(), said));
        output
    }

    /// Every kind of token in every place, for a cluster that is there and for one that is not.
    async fn good_and_bad_tokens(&mut self) {
        let stranger = SigningKey::generate("stranger");
        let mut far = claims("default", "test", -3600);
        far["iss"] = json!("https://elsewhere.example.com");
        let tokens = [
            ("of c1", self.token("c1"), true),
            ("of c2", self.token("c2"), false),
            ("of the hub", self.token("hub"), true),
            ("of a stranger", stranger.sign(&claims("default", "test", 3600)), false),
            ("of another issuer", stranger.sign(&far), false),
            ("unsigned", unsigned(&claims("default", "test", 3600)), false),
            ("opaque", "opaque-token-of-nobody-at-all".to_owned(), false),
            ("too long", format!("eyJhbGciOiJFUzI1NiJ9.{}.x", "QUJDRUZHSElK".repeat(3000)), false),
        ];
        for (name, token, is_good) in &tokens {
            self.secrets.token(name, token);
            for client in [self.client.token(token), self.client.token(token).http2()] {
                for path in ["/c1/api/v1/namespaces/default/pods", "/nowhere/version", "/_fleet"] {
                    let answer = client.get(path).await;
                    // RBAC of the cluster may say no to an account of the hub.
                    let is_known = matches!(answer.status.as_u16(), 200 | 403);
                    assert!(is_known == *is_good || !path.starts_with("/c1"), "{name}: {answer:?}");
                    self.said.push((format!("{name} {path}"), format!("{answer:?}")));
                }
            }
            // As browsers send it, with an upgrade.
            let mut request = self.client.request("GET", EXEC, empty());
            let bearer = URL_SAFE_NO_PAD.encode(token);
            for (header, value) in [
                ("connection", "Upgrade".to_owned()),
                ("upgrade", "websocket".to_owned()),
                ("sec-websocket-version", "13".to_owned()),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
                ("sec-websocket-protocol", format!("v5.channel.k8s.io, {SUBPROTOCOL}{bearer}")),
            ] {
                request.headers_mut().insert(header, value.parse().unwrap());
            }
            let answer = self.client.open(request).await.unwrap();
            assert!(!answer.status().is_server_error(), "{name}: {answer:?}");
            self.said.push((format!("{name} exec"), format!("{answer:?}")));
        }
        let good = &tokens[0].1;
        for (name, header, value) in [
            ("basic", "authorization", format!("Basic {}", URL_SAFE_NO_PAD.encode(good))),
            ("two in one", "authorization", format!("Bearer {good},{good}")),
            ("elsewhere", "x-auth-token", good.clone()),
            ("in a cookie", "cookie", format!("session={good}")),
        ] {
            let mut request = self.client.request("GET", "/c1/version", empty());
            request.headers_mut().insert(header, value.parse().unwrap());
            let answer = self.client.send(request).await;
            assert_eq!(answer.status, 401, "{name}");
            self.said.push((name.to_owned(), format!("{answer:?}")));
        }
        let path = format!("/c1/api/v1/namespaces/{PLANTED}/pods");
        self.client.token(good).get(&path).await;
    }

    /// A token that the hub asks for, keeps, and puts into a Secret.
    async fn accounts(&mut self) {
        let hub = self.fleet.admin("hub");
        let account = json!({
            "apiVersion": "authentication.open-cluster-management.io/v1beta1",
            "kind": "ManagedServiceAccount",
            "metadata": {"name": "minted", "namespace": "c1"},
            "spec": {"rotation": {"validity": "24h0m0s"}},
        });
        let kind = definitions::managed_service_accounts().to_string();
        hub.run_with(&["apply", "--server-side", "-f", "-"], &kind);
        hub.output(&["create", "namespace", "c1"]);
        hub.run_with(&["apply", "--server-side", "-f", "-"], &account.to_string());
        // A hub that is up looks for definitions every 30 seconds only.
        self.fleet.hub.stop(PATIENCE).await;
        self.fleet.start_hub().await;
        let secret = ["get", "secret", "minted", "-n", "c1", "-o", "json"];
        eventually("the token is minted", PATIENCE, || {
            let output = hub.output(&secret);
            async move { output.status.success().then_some(()) }
        })
        .await;
        self.secrets.text("minted", &hub.run(&secret));
        self.wait_serves("c1").await;
    }

    /// Good and bad uses of a join token, and the commands that read or write tokens.
    fn joins_and_commands(&mut self) {
        let agents = self.fleet.agents();
        let made = self.command(&["join", "token", "c3", "--dir", "hub", "--hub", &agents]);
        let printed = String::from_utf8(made.stdout).unwrap();
        let words: Vec<&str> = printed.split_whitespace().skip(1).collect();
        let at = words.iter().position(|word| *word == "--token").unwrap() + 1;
        self.secrets.token("join token", words[at]);
        let wrong = format!("{}{}", &words[at][..words[at].len() - 8], "AAAAAAAA");
        self.secrets.token("wrong join token", &wrong);
        let mut guess = words.clone();
        guess[at] = &wrong;
        for (words, works) in [(&guess, false), (&words, true), (&words, false)] {
            assert_eq!(self.command(words).status.success(), works, "{words:?}");
        }
        let server = self.fleet.url();
        let front = ["--server", &server, "--ca", "hub/serving-ca.crt"];
        std::fs::write(self.path().join("token.hub"), self.token("hub")).unwrap();
        #[rustfmt::skip]
        let commands = [
            [&["health"][..], &front, &["--token-file", "token.hub"]].concat(),
            [&["health"][..], &front, &["--token-file", "c2.api/tokens/test"]].concat(),
            [&["kubeconfig"][..], &front, &["--cluster", "c1", "--token-file", "token.hub", "--output", "new.kubeconfig"]].concat(),
            vec!["credential", "--dir", "nowhere"],
            vec!["clusters", "list", "--dir", "hub"],
        ];
        for command in commands {
            self.command(&command);
        }
    }

    /// Keys that are replaced while everything runs, by hand and by the agent.
    async fn rotations(&mut self) {
        self.secrets.folder(self.fleet.directory());
        for args in [
            &["pki", "renew", "--dir", "hub"][..],
            &["pki", "rotate-ca", "agent", "--dir", "hub"],
            &["pki", "rotate-ca", "serving", "--dir", "hub"],
        ] {
            let output = self.command(args);
            assert!(output.status.success(), "{args:?}: {}", text(&output));
            self.secrets.folder(self.fleet.directory());
        }
        signal(self.fleet.hub.id(), "HUP");
        self.fleet.hub.wait_for("SIGHUP", PATIENCE).await;
        for cluster in CLUSTERS {
            self.wait_serves(cluster).await;
        }
        // One that ends and comes back, and a key that can be read by nobody.
        self.fleet.restart_agent("c2", &TRACE).await;
        let key = self.path().join("hub/serving.key");
        let good = std::fs::read(&key).unwrap();
        std::fs::write(&key, good.split_at(good.len() / 2).0).unwrap();
        signal(self.fleet.hub.id(), "HUP");
        self.fleet.hub.wait_for("cannot be used", PATIENCE).await;
        std::fs::write(&key, good).unwrap();
        self.wait_serves("c2").await;
        let admin = self.fleet.admin_address();
        for path in ["/metrics", "/fleet", "/readyz", "/livez"] {
            self.said.push((path.to_owned(), plain_get(admin, path).await.unwrap()));
        }
    }

    /// What kubectl does with a token in its kubeconfig; what it prints itself is not ours.
    fn users(&mut self, kubectl: &Kubectl) {
        kubectl.run(&["exec", "hello", "--", "echo", "hi"]);
        kubectl.run(&["logs", "hello", "--tail=3"]);
        kubectl.run(&["create", "secret", "generic", "own", "--from-literal=key=s3cret-of-a-user"]);
        self.secrets.token("content of a Secret", "s3cret-of-a-user");
        kubectl.run(&["get", "secret", "own", "-o", "yaml"]);
        self.secrets.text("minted for a user", &kubectl.run(&["create", "token", "default"]));
        let mut other: Command =
            kubectl.command(&["get", "pods", "--token=not-a-token-of-anybody"]);
        assert!(!other.output().unwrap().status.success());
        self.secrets.token("bad", "not-a-token-of-anybody");
    }
}

const TRACE: [&str; 2] = ["--log-level", "trace"];
const EXEC: &str = "/c1/api/v1/namespaces/default/pods/hello/exec?command=true&stdout=true";
const SUBPROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const PLANTED: &str = "planted-and-looked-for";

const POLICY: &str = "\
rules:
- users: ['cluster:hub:*']
  clusters: ['c1']
  verbs: ['*']
  apiGroups: ['*']
  resources: ['*']
  namespaces: ['*']
- users: ['cluster:hub:*']
  clusters: ['c1']
  nonResourceURLs: ['*']
";
