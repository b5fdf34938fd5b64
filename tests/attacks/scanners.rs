//! What programs that look for weak TLS say about the user front: case 106.

use std::process::Command;

use serde_json::Value;

use crate::support::fleet::Fleet;
use crate::support::skipped;

/// Standard output of a scanner, `None` where it is not installed.
fn scan(test: &str, program: &str, package: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) => {
            let command = format!("apt-get install --no-install-recommends {package}");
            skipped(test, &format!("there is no {program}"), &command);
            None
        }
    }
}

#[tokio::test]
async fn s106_sslscan_finds_nothing_weak() {
    let test = "s106_sslscan_finds_nothing_weak";
    let fleet = Fleet::hub_only().await;
    let user = fleet.hub.addresses.user.to_string();
    let Some(found) = scan(test, "sslscan", "sslscan", &["--xml=-", &user]) else { return };
    let of = |element: &str| {
        let begin = format!("<{element} ");
        let lines = found.lines().map(str::trim).filter(|line| line.starts_with(&begin));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let on: Vec<String> =
        of("protocol").into_iter().filter(|line| line.contains(r#"enabled="1""#)).collect();
    let good = [r#"type="tls" version="1.2""#, r#"type="tls" version="1.3""#];
    assert_eq!(on.len(), good.len(), "{found}");
    assert!(on.iter().zip(good).all(|(line, good)| line.contains(good)), "{found}");
    assert!(of("cipher").len() >= 6, "{found}");
    for cipher in of("cipher") {
        let is_sound = ["strong", "acceptable"]
            .iter()
            .any(|strength| cipher.contains(&format!(r#"strength="{strength}""#)));
        assert!(is_sound && (cipher.contains("GCM") || cipher.contains("CHACHA20")), "{cipher}");
    }
    assert!(!found.contains(r#"vulnerable="1""#), "{found}");
    assert!(of("renegotiation").iter().all(|line| line.contains(r#"supported="0""#)), "{found}");
    assert!(of("compression").iter().all(|line| line.contains(r#"supported="0""#)), "{found}");
}

#[tokio::test]
async fn s106_testssl_finds_nothing_weak() {
    let test = "s106_testssl_finds_nothing_weak";
    let fleet = Fleet::hub_only().await;
    let user = fleet.hub.addresses.user.to_string();
    let file = fleet.dir.path().join("testssl.json");
    let mut args = vec!["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none"];
    args.extend(["--jsonfile", file.to_str().unwrap()]);
    // Protocols, suites, forward secrecy, known attacks. Its simulated clients are not about the server.
    args.extend(["--protocols", "--std", "--pfs", "--vulnerable", &user]);
    if scan(test, "testssl", "testssl.sh", &args).is_none() {
        return;
    }
    let found: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let said = |id: &str, finding: &str| {
        found.iter().any(|one| text(one, "id") == id && text(one, "finding").contains(finding))
    };
    assert!(said("TLS1_3", "offered") && said("TLS1", "not offered"), "it saw no TLS: {found:#?}");
    for one in &found {
        let is_its_own = OF_ITSELF.contains(&text(one, "id").as_str());
        assert!(is_its_own || ["OK", "INFO"].contains(&text(one, "severity").as_str()), "{one}");
    }
}

/// What the scanner warns of and the server has no part in: the library that it runs on.
const OF_ITSELF: [&str; 2] = ["engine_problem", "old_openssl"];
