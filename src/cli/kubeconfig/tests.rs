use std::os::unix::fs::PermissionsExt;

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: KubeconfigArgs,
}

fn args(folder: &Path, more: &[&str]) -> KubeconfigArgs {
    let token = folder.join("token").display().to_string();
    parse(folder, &[&["--token-file", &token], more].concat()).unwrap()
}

fn parse(folder: &Path, more: &[&str]) -> Result<KubeconfigArgs, clap::Error> {
    std::fs::write(folder.join("ca"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let (ca, output) = (at("ca"), at("output"));
    let line =
        ["x", "--server", "https://hub:9092/", "--ca", &ca, "--output", &output, "--cluster", "c1"];
    Line::try_parse_from(line.iter().chain(more)).map(|line| line.args)
}

#[tokio::test]
async fn a_context_per_cluster_in_a_private_file_that_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    std::fs::write(folder.path().join("token"), "one\n").unwrap();
    run(args(folder.path(), &["--cluster", "c2"])).await.unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(
        text.contains("server: https://hub:9092/c1\n")
            && text.contains("server: https://hub:9092/c2\n"),
        "{text}"
    );
    assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);

    std::fs::write(folder.path().join("token"), "two").unwrap();
    let error = run(args(folder.path(), &[])).await.unwrap_err();
    assert!(format!("{error:#}").contains("--force"), "{error:#}");
    assert_eq!(std::fs::read_to_string(&output).unwrap(), text);
    std::fs::set_permissions(&output, std::fs::Permissions::from_mode(0o644)).unwrap();
    run(args(folder.path(), &["--force"])).await.unwrap();
    assert!(std::fs::read_to_string(&output).unwrap().contains("token: two\n"));
    assert_eq!(std::fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_token_file_holds_one_token() {
    let folder = tempfile::tempdir().unwrap();
    for (token, works) in [
        ("a.b.c\n", true),
        ("", false),
        ("\n", false),
        ("a b", false),
        ("a\nb", false),
        ("\u{e9}", false),
    ] {
        std::fs::write(folder.path().join("token"), token).unwrap();
        assert_eq!(run(args(folder.path(), &["--force"])).await.is_ok(), works, "{token:?}");
    }
}

#[tokio::test]
async fn a_plugin_with_everything_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let text = "current-context: hub\ncontexts: [{name: hub, context: {cluster: c, user: u}}]\n\
               clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n\
               users: [{name: u, user: {token: secret}}]\n";
    std::fs::write(folder.path().join("hub"), text).unwrap();
    let exec = async |more: &[&str]| -> serde_json::Value {
        let more = [more, &["--force"]].concat();
        run(parse(folder.path(), &more).unwrap()).await.unwrap();
        let text = std::fs::read_to_string(folder.path().join("output")).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        read["users"][0]["user"]["exec"].clone()
    };
    let hub = at("hub");
    let own = exec(&["--managed-serviceaccount", "test", "--hub-kubeconfig", &hub]).await;
    assert_eq!(own["command"], std::env::current_exe().unwrap().to_str().unwrap());
    let pinned = format!("--hub-kubeconfig={}", at("hub"));
    assert_eq!(
        own["args"],
        serde_json::json!([
            "credential",
            "--managed-serviceaccount=test",
            "--cluster-namespace",
            pinned,
            "--hub-context=hub"
        ])
    );
    let copy =
        ["--managed-serviceaccount", "test", "--hub-kubeconfig", &hub, "--namespace", "fleet"];
    assert_eq!(exec(&copy).await["args"][2], "--namespace=fleet");
    let dir = folder.path().canonicalize().unwrap();
    let dir = format!("--dir={}", dir.display());
    assert_eq!(exec(&["--dir", &at("")]).await["args"], serde_json::json!(["credential", dir]));

    // The file that is written may not be the one that is needed.
    let own = ["--managed-serviceaccount", "test", "--force", "--hub-kubeconfig", &at("output")];
    std::fs::write(folder.path().join("output"), text).unwrap();
    let error = run(parse(folder.path(), &own).unwrap()).await.unwrap_err();
    assert!(format!("{error:#}").contains("--output"), "{error:#}");
}

#[test]
fn one_origin_of_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let works = |more: &[&str]| parse(folder.path(), more).is_ok();
    assert!(works(&["--token-file", "t"]) && works(&["--dir", "d"]));
    assert!(works(&["--managed-serviceaccount", "a", "--hub-context", "hub"]));
    assert!(works(&[]) && works(&["--hub-context", "hub"]), "the hub is asked");
    assert!(!works(&["--token-file", "t", "--dir", "d"]));
    assert!(!works(&["--token-file", "t", "--managed-serviceaccount", "a"]));
    assert!(!works(&["--managed-serviceaccount", "../a"]));
}

#[test]
fn clusters_are_named_or_chosen() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca"), "").unwrap();
    let parse = |more: &[&str]| {
        let line = ["x", "--server", "https://hub", "--ca", "ca", "--token-file", "t"];
        Line::try_parse_from(line.iter().chain(more)).map(|line| line.args)
    };
    for one in [&["--cluster", "a,b"][..], &["--all"], &["--selector", "a=b"], &["-l", "a"]] {
        assert!(!parse(one).unwrap().which.is_empty(), "{one:?}");
        let two = [one, if one[0] == "--all" { &["-l", "a"] } else { &["--all"] }].concat();
        assert!(parse(&two).is_err(), "{two:?}");
    }
    assert!(parse(&["--merge", "--all"]).is_err(), "into which file?");
}

#[tokio::test]
async fn what_would_be_of_no_use_is_refused_like_a_wrong_flag() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token").display().to_string();
    std::fs::write(&file, "t").unwrap();
    let unused = args(folder.path(), &["--hub-context", "hub", "--force"]);
    let error = run(unused).await.unwrap_err();
    assert!(error.is::<clap::Error>() && error.to_string().contains("--hub-context"), "{error}");
    let line = ["x", "--server", "https://hub", "--ca", "ca", "--token-file", &file];
    let nothing = Line::try_parse_from(line).unwrap().args;
    let error = run(nothing).await.unwrap_err();
    assert!(error.is::<clap::Error>() && error.to_string().contains("--all"), "{error}");
}

#[tokio::test]
async fn a_merge_keeps_what_is_there_and_its_hub() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("output");
    let theirs = "# mine\ncurrent-context: hub\ncontexts: [{name: hub, context: {cluster: c, user: u}}]\n\
                  clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\n\
                  users: [{name: u, user: {token: secret}}]\n";
    std::fs::write(&output, theirs).unwrap();
    let hub = output.display().to_string();
    let own = ["--managed-serviceaccount", "a", "--hub-kubeconfig", &hub, "--merge"];
    let merge = async |more: &[&str]| {
        run(parse(folder.path(), &[&own, more].concat()).unwrap()).await.map(drop)
    };
    merge(&[]).await.unwrap();
    let once = std::fs::read_to_string(&output).unwrap();
    let read: serde_json::Value = serde_saphyr::from_str(&once).unwrap();
    assert_eq!((&read["current-context"], &read["users"][0]["name"]), (&"hub".into(), &"u".into()));
    assert_eq!(read["contexts"][1]["name"], "c1");
    merge(&[]).await.unwrap();
    assert_eq!(std::fs::read_to_string(&output).unwrap(), once);
    // A cluster that is called as the hub's own.
    let error = merge(&["--cluster", "hub", "--force"]).await.unwrap_err();
    assert!(error.to_string().contains("would lose context \"hub\""), "{error}");
    merge(&["--cluster", "hub", "--context-prefix", "fleet-"]).await.unwrap();
    // Not while kubectl writes.
    std::fs::write(folder.path().join("output.lock"), "").unwrap();
    let error = merge(&["--cluster", "c2"]).await.unwrap_err();
    assert!(format!("{error:#}").contains("output.lock"), "{error:#}");
    std::fs::remove_file(folder.path().join("output.lock")).unwrap();
    merge(&["--cluster", "c2"]).await.unwrap();
}

#[test]
fn a_server_is_https_without_a_path() {
    assert_eq!(
        server("https://hub.example.com:9092/").as_deref(),
        Ok("https://hub.example.com:9092")
    );
    for good in ["https://hub", "https://127.0.0.1:9092", "https://[::1]:9092"] {
        assert_eq!(server(good).as_deref(), Ok(good));
    }
    for bad in
        ["http://hub", "hub:9092", "https://hub/c1", "https://", "https://hub?x", "https://u@hub"]
    {
        assert!(server(bad).is_err(), "{bad}");
    }
}
