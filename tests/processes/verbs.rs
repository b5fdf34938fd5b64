//! The kubectl commands that have to work, whatever the cluster was started with.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::support::process::{Kubectl, text};

/// Every verb of the acceptance list, once.
pub(crate) fn all(kubectl: &Kubectl) {
    reads(kubectl);
    writes(kubectl);
    logs(kubectl);
    exec(kubectl);
}

fn reads(kubectl: &Kubectl) {
    let nodes = kubectl.run(&["get", "nodes"]);
    assert!(nodes.starts_with("NAME") && nodes.contains("Ready"), "{nodes}");
    let node = nodes.lines().nth(1).unwrap().split_whitespace().next().unwrap();
    let described = kubectl.run(&["describe", "node", node]);
    assert!(described.contains(&format!("Name:               {node}")), "{described}");
    let pods = kubectl.run(&["get", "pods", "-A"]);
    assert!(pods.starts_with("NAMESPACE") && pods.lines().count() > 1, "{pods}");
    let version = kubectl.run(&["get", "--raw", "/version"]);
    assert!(version.contains("gitVersion"), "{version}");

    // A watch prints what is there, and stays.
    let mut watch = kubectl.command(&["get", "pods", "-A", "-w"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("NAMESPACE"));
    assert!(!lines.next().unwrap().unwrap().is_empty());
    assert!(watch.try_wait().unwrap().is_none(), "the watch stays");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

fn writes(kubectl: &Kubectl) {
    let get = |path: &str| kubectl.run(&["get", "configmap", "colours", "-o", path]);
    let manifest = |colour: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: colours}}\ndata: {{sky: {colour}}}\n"
        )
    };
    let done = kubectl.run_with(&["apply", "-f", "-"], &manifest("blue"));
    assert_eq!(done.trim(), "configmap/colours created");
    let done = kubectl.run_with(&["apply", "-f", "-"], &manifest("grey"));
    assert_eq!(done.trim(), "configmap/colours configured");
    assert_eq!(get("jsonpath={.data.sky}"), "grey");

    let server_side = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    let done = kubectl.run_with(&server_side, &manifest("black"));
    assert_eq!(done.trim(), "configmap/colours serverside-applied");
    assert_eq!(get("jsonpath={.data.sky}"), "black");

    let patch = r#"{"data":{"sea":"green"}}"#;
    kubectl.run(&["patch", "configmap", "colours", "--type", "merge", "-p", patch]);
    assert_eq!(get("jsonpath={.data.sky}{.data.sea}"), "blackgreen");
    assert!(kubectl.run(&["describe", "configmap", "colours"]).contains("green"));

    let done = kubectl.run(&["delete", "configmap", "colours"]);
    assert!(done.contains("deleted"), "{done}");
    let gone = kubectl.output(&["get", "configmap", "colours"]);
    assert!(!gone.status.success() && text(&gone).contains("NotFound"), "{}", text(&gone));
}

/// A running Pod of the cluster: its namespace and its name.
fn a_pod(kubectl: &Kubectl) -> (String, String) {
    let path = "jsonpath={.items[0].metadata.namespace} {.items[0].metadata.name}";
    let found = kubectl.run(&["get", "pods", "-A", "-o", path]);
    let (namespace, name) = found.split_once(' ').unwrap();
    (namespace.to_owned(), name.to_owned())
}

fn logs(kubectl: &Kubectl) {
    let (namespace, name) = a_pod(kubectl);
    let mut follow = kubectl.command(&["logs", "-f", "-n", &namespace, &name]);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let first = lines.next().map(Result::unwrap);
    if first.is_none() {
        let mut why = String::new();
        follow.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        panic!("kubectl logs -f printed nothing: {why}");
    }
    assert!(follow.try_wait().unwrap().is_none(), "logs -f stays");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

fn exec(kubectl: &Kubectl) {
    let (namespace, name) = a_pod(kubectl);
    let script = "echo hi; cat /proc/self/cmdline";
    let args = ["exec", "-n", &namespace, &name, "--", "sh", "-c", script];
    let said = kubectl.run(&args);
    assert!(said.starts_with("hi\n") && said.contains("cat\0/proc/self/cmdline"), "{said:?}");

    // Standard input reaches the process and its end does too; the exit code comes back.
    let args =
        ["exec", "-i", "-n", &namespace, &name, "--", "sh", "-c", "read a; echo got $a; cat"];
    let said = kubectl.run_with(&args, "one\ntwo\n");
    assert_eq!(said, "got one\ntwo\n");
    let failed = kubectl.output(&["exec", "-n", &namespace, &name, "--", "sh", "-c", "exit 7"]);
    assert_eq!(failed.status.code(), Some(7), "{}", text(&failed));

    terminal(kubectl, &namespace, &name);
}

/// `exec -it` as a person has it: kubectl wants a terminal of its own, which script(1) lends it.
fn terminal(kubectl: &Kubectl, namespace: &str, name: &str) {
    let inner = kubectl.command(&["exec", "-it", "-n", namespace, name, "--", "sh", "-c"]);
    let mut line: Vec<String> = vec![inner.get_program().to_string_lossy().into_owned()];
    line.extend(inner.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    line.push("'echo hi; test -t 0 && echo terminal; cat /proc/self/cmdline'".to_owned());
    let mut script = std::process::Command::new("script");
    script.env_clear().env("TERM", "xterm").stdin(Stdio::null());
    script.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let Ok(output) = script.args(["-qec", &line.join(" "), "/dev/null"]).output() else {
        crate::support::skipped("exec_it", "there is no script(1)", "apt-get install bsdutils");
        return;
    };
    let said = text(&output);
    assert!(said.contains("hi\r\n") && said.contains("terminal\r\n"), "{said:?}");
    assert!(said.contains("cat\0/proc/self/cmdline"), "{said:?}");
}
