//! What an account asked of a real API server, as its audit log has it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use cluster_proxy::sandbox::apiserver::real::Assets;

/// One request, in the words of RBAC.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) verb: String,
    pub(crate) namespace: String,
    pub(crate) group: String,
    /// With its subresource: `serviceaccounts/token`.
    pub(crate) resource: String,
    pub(crate) name: String,
    /// Of a request about no resource; then all but the verb is empty.
    pub(crate) path: String,
}

/// The log of one API server.
pub(crate) struct Audit(PathBuf);

/// What one account asked.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// In its own name, and that it may speak for others.
    pub(crate) calls: BTreeSet<Call>,
    /// Those that were forbidden.
    pub(crate) refused: BTreeSet<Call>,
}

/// Which right speaks for others (KEP-5284 has more than one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaking {
    Plain,
    Constrained,
}

// === impl Audit ===

impl Audit {
    /// A folder of programs like `folder`, whose API server writes a log.
    pub(crate) fn assets(folder: &Path, audited: &Path) -> (Assets, Self) {
        std::fs::create_dir_all(audited).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/audited-apiserver");
        symlink(folder, audited.join("real")).unwrap();
        symlink(script, audited.join("kube-apiserver")).unwrap();
        for program in ["etcd", "fake-kubelet"] {
            symlink(folder.join(program), audited.join(program)).unwrap();
        }
        std::fs::write(audited.join("audit.yaml"), POLICY).unwrap();
        (Assets::find(Some(audited)).unwrap(), Self(audited.join("audit.log")))
    }

    /// What the ServiceAccount `user` asked from byte `begin` of the log on.
    pub(crate) fn asked(&self, user: &str, begin: usize, speaking: Speaking) -> Asked {
        let log = std::fs::read_to_string(&self.0).unwrap();
        let mut asked = Asked::default();
        for line in log[begin..].lines() {
            // The last line may not be whole yet.
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            if event["user"]["username"] != user {
                continue;
            }
            let forbidden = event["responseStatus"]["code"] == 403;
            if event["impersonatedUser"].is_object() {
                asked.calls.extend(speaks(&event, speaking));
            } else if forbidden {
                asked.refused.insert(call(&event));
            } else {
                asked.calls.insert(call(&event));
            }
        }
        asked
    }

    /// Where the log ends by now.
    pub(crate) fn end(&self) -> usize {
        std::fs::read_to_string(&self.0).unwrap().len()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn call(event: &Value) -> Call {
    let (verb, about) = (text(&event["verb"]), &event["objectRef"]);
    if about.is_null() {
        let path = text(&event["requestURI"]);
        let path = path.split('?').next().unwrap_or_default().to_owned();
        return Call { verb, path, ..Call::default() };
    }
    let resource = match text(&about["subresource"]) {
        none if none.is_empty() => text(&about["resource"]),
        sub => format!("{}/{sub}", text(&about["resource"])),
    };
    Call {
        verb,
        namespace: text(&about["namespace"]),
        group: text(&about["apiGroup"]),
        resource,
        name: text(&about["name"]),
        path: String::new(),
    }
}

/// The rights that a request in the name of another takes.
fn speaks(event: &Value, speaking: Speaking) -> Vec<Call> {
    let (verb, users) = match speaking {
        Speaking::Plain => ("impersonate", ""),
        Speaking::Constrained => ("impersonate:user-info", REVIEWS),
    };
    let whom = &event["impersonatedUser"];
    let of = |group: &str, resource: &str, name: &Value| Call {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: text(name),
        ..Call::default()
    };
    let mut calls = vec![of(users, "users", &whom["username"])];
    // The API server adds this one by itself.
    let groups = whom["groups"].as_array().into_iter().flatten();
    calls.extend(
        groups
            .filter(|group| *group != "system:authenticated")
            .map(|group| of(users, "groups", group)),
    );
    calls.extend(whom.get("uid").map(|uid| of(REVIEWS, "uids", uid)));
    for (key, values) in whom["extra"].as_object().into_iter().flatten() {
        let resource = format!("userextras/{key}");
        calls.extend(values.as_array().unwrap().iter().map(|value| of(REVIEWS, &resource, value)));
    }
    if speaking == Speaking::Constrained {
        let done = call(event);
        calls.push(Call { verb: format!("impersonate-on:user-info:{}", done.verb), ..done });
    }
    calls
}

const REVIEWS: &str = "authentication.k8s.io";

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: [\"system:serviceaccounts\"]
";
