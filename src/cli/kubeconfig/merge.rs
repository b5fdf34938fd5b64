//! Our contexts in a kubeconfig of somebody else's, where nothing may get lost. Pure.
//!
//! The file is read without types, so that fields that nobody here has heard of, entries of others and
//! the current context come through; comments and the order of keys do not, as with `kubectl config`.
//!
//! | what is there under a name of ours | what becomes of it |
//! |---|---|
//! | nothing | ours is added |
//! | a context that leads to the same cluster of the same hub | address, CA and credentials are ours now; its other fields stay |
//! | anything else | refused, and only replaced by `--force` |

use serde_json::{Map, Value, json};

/// Why a kubeconfig is left alone. Never shows what is in it but names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    /// No kubeconfig.
    #[error("is no kubeconfig: {0}")]
    Shape(&'static str),
    /// kubectl would not read it either.
    #[error("has two {0} named {1:?}")]
    Twice(&'static str, String),
    /// Names that lead elsewhere.
    #[error(
        "has other entries named {}: keep both with --context-prefix, or replace them with --force",
        .0.join(", ")
    )]
    Taken(Vec<String>),
    /// The way to the hub's own API.
    #[error(
        "would lose context {0:?}, by which the hub's own API is reached: keep both with --context-prefix"
    )]
    HubItself(String),
}

/// What a merge makes of a file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Merged {
    /// All of it, where something changes.
    pub(super) text: Option<String>,
    pub(super) added: usize,
    pub(super) changed: usize,
}

/// Puts the contexts of `ours`, a kubeconfig of ours, into `file`. `keep` is a context that must come
/// out as it went in.
///
/// # Errors
/// When that would lose something.
pub(super) fn merge(
    file: &str,
    ours: &str,
    keep: Option<&str>,
    force: bool,
) -> Result<Merged, MergeError> {
    let mut ours = parse(ours)?;
    let before = parse(file)?;
    if before.is_empty() {
        let added = list(&ours, CONTEXTS)?.len();
        return Ok(Merged { text: Some(written(ours)), added, changed: 0 });
    }
    let mut after = before.clone();
    let mut merged = Merged::default();
    let mut taken = Vec::new();
    for section in SECTIONS {
        list_mut(&mut after, section)?;
    }
    for name in names(&ours)? {
        let mut new = [Value::Null, Value::Null, Value::Null];
        for (body, section) in new.iter_mut().zip(SECTIONS) {
            *body = body_of(&mut ours, section, &name)?.map_or(Value::Null, Value::take);
        }
        match place(&mut after, &name, new, force)? {
            Placed::Added => merged.added += 1,
            Placed::Changed => merged.changed += 1,
            Placed::Same => {}
            Placed::Refused => taken.push(name),
        }
    }
    if !taken.is_empty() {
        return Err(MergeError::Taken(taken));
    }
    if let Some(context) = keep
        && route(&before, context)? != route(&after, context)?
    {
        return Err(MergeError::HubItself(context.to_owned()));
    }
    // A file that says all of it already keeps its comments too.
    if merged.added + merged.changed > 0 {
        merged.text = Some(written(after));
    }
    Ok(merged)
}

enum Placed {
    Added,
    Changed,
    Same,
    Refused,
}

/// Puts cluster, user and context `name` into `file`.
fn place(
    file: &mut Map<String, Value>,
    name: &str,
    new: [Value; 3],
    force: bool,
) -> Result<Placed, MergeError> {
    let mut old = [const { None }; 3];
    for (body, section) in old.iter_mut().zip(SECTIONS) {
        *body = body_of(file, section, name)?.map(|body| body.clone());
    }
    let is_new = old.iter().all(Option::is_none);
    let next = if leads_there(&old, &new) {
        let [cluster, user, context] = old;
        let [cluster, user, context] = [cluster, user, context].map(Option::unwrap_or_default);
        let [new_cluster, new_user, _] = new;
        [updated_cluster(cluster, new_cluster), updated_user(user, new_user), context]
    } else if force
        || old.iter().zip(&new).all(|(old, new)| old.as_ref().is_none_or(|old| old == new))
    {
        new
    } else {
        return Ok(Placed::Refused);
    };
    let mut placed = Placed::Same;
    for (body, section) in next.into_iter().zip(SECTIONS) {
        match body_of(file, section, name)? {
            Some(old) if *old == body => {}
            Some(old) => {
                *old = body;
                placed = Placed::Changed;
            }
            None => {
                list_mut(file, section)?.push(json!({"name": name, section.body: body}));
                placed = if is_new { Placed::Added } else { Placed::Changed };
            }
        }
    }
    Ok(placed)
}

/// Whether the old context is the one that is to be written, from an earlier time.
fn leads_there(old: &[Option<Value>; 3], new: &[Value; 3]) -> bool {
    let [Some(cluster), Some(_), Some(context)] = old else { return false };
    let same = |old: &Value, new: &Value, field: &str| old.get(field) == new.get(field);
    same(cluster, &new[0], "server")
        && same(context, &new[2], "cluster")
        && same(context, &new[2], "user")
}

fn updated_cluster(mut old: Value, mut new: Value) -> Value {
    let extensions = new.as_object_mut().and_then(|new| new.remove(EXTENSIONS));
    if let (Some(old), Value::Object(new)) = (old.as_object_mut(), new) {
        // With a CA beside it clients refuse the file.
        old.remove("insecure-skip-tls-verify");
        old.extend(new);
        let ours = extensions.as_ref().and_then(Value::as_array).into_iter().flatten();
        for extension in ours {
            let list = old.entry(EXTENSIONS).or_insert_with(|| json!([]));
            let Some(list) = list.as_array_mut() else { continue };
            match list.iter_mut().find(|one| one.get("name") == extension.get("name")) {
                Some(one) => *one = extension.clone(),
                None => list.push(extension.clone()),
            }
        }
    }
    old
}

/// Another credential would be asked first, or beside ours; what is said of a plugin besides stays.
fn updated_user(mut old: Value, new: Value) -> Value {
    if let (Some(old), Value::Object(new)) = (old.as_object_mut(), new) {
        old.retain(|field, _| !CREDENTIALS.contains(&field.as_str()) || new.contains_key(field));
        for (field, value) in new {
            match (old.get_mut(&field), value) {
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, value) => drop(old.insert(field, value)),
            }
        }
    }
    old
}

/// Context, cluster and user of a name of a context.
fn route(file: &Map<String, Value>, context: &str) -> Result<[Option<Value>; 3], MergeError> {
    let mut file = file.clone();
    let context = body_of(&mut file, CONTEXTS, context)?.map(|body| body.clone());
    let mut part = |section: Section, field: &str| {
        let name = context.as_ref().and_then(|body| body.get(field)?.as_str());
        let body = name.map(|name| body_of(&mut file, section, name)).transpose();
        body.map(|body| body.flatten().map(|body| body.clone()))
    };
    let (cluster, user) = (part(CLUSTERS, "cluster")?, part(USERS, "user")?);
    Ok([context, cluster, user])
}

/// Names of the contexts of a file of ours.
fn names(ours: &Map<String, Value>) -> Result<Vec<String>, MergeError> {
    let name = |entry: &Value| entry.get("name").and_then(Value::as_str).map(str::to_owned);
    Ok(list(ours, CONTEXTS)?.iter().filter_map(name).collect())
}

fn list(file: &Map<String, Value>, section: Section) -> Result<&[Value], MergeError> {
    match file.get(section.list) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(MergeError::Shape("clusters, users and contexts must be lists")),
    }
}

fn list_mut(
    file: &mut Map<String, Value>,
    section: Section,
) -> Result<&mut Vec<Value>, MergeError> {
    let entry = file.entry(section.list).or_insert_with(|| json!([]));
    if entry.is_null() {
        *entry = json!([]);
    }
    let list = entry.as_array_mut();
    list.ok_or(MergeError::Shape("clusters, users and contexts must be lists"))
}

/// The body of the entry `name`; an empty one where it has none.
fn body_of<'a>(
    file: &'a mut Map<String, Value>,
    section: Section,
    name: &str,
) -> Result<Option<&'a mut Value>, MergeError> {
    let has_name = |entry: &Value| entry.get("name").and_then(Value::as_str) == Some(name);
    let mut found = list_mut(file, section)?.iter_mut().filter(|entry| has_name(entry));
    let first = found.next();
    if found.next().is_some() {
        return Err(MergeError::Twice(section.list, name.to_owned()));
    }
    let body = |entry: &'a mut Value| {
        let body = entry.as_object_mut()?.entry(section.body).or_insert_with(|| json!({}));
        if body.is_null() {
            *body = json!({});
        }
        body.is_object().then_some(body)
    };
    let not_fields = MergeError::Shape("an entry of clusters, users or contexts has no fields");
    first.map(|entry| body(entry).ok_or(not_fields)).transpose()
}

/// The parser's own message may quote a token.
fn parse(text: &str) -> Result<Map<String, Value>, MergeError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let file: Value = serde_saphyr::from_str(text)
        .map_err(|_| MergeError::Shape("it is not one document of YAML or JSON"))?;
    match file {
        Value::Null => Ok(Map::new()),
        Value::Object(file) => match file.get("kind") {
            None => Ok(file),
            Some(kind) if kind == "Config" => Ok(file),
            Some(_) => Err(MergeError::Shape("its kind is not Config")),
        },
        _ => Err(MergeError::Shape("it has no fields")),
    }
}

fn written(file: Map<String, Value>) -> String {
    // Invariant: values of JSON have a form in YAML.
    serde_saphyr::to_string(&Value::Object(file)).expect("values of JSON can always be written")
}

/// One of the three lists of a kubeconfig.
#[derive(Clone, Copy)]
struct Section {
    list: &'static str,
    /// The field of an entry beside its name.
    body: &'static str,
}

const CLUSTERS: Section = Section { list: "clusters", body: "cluster" };
const USERS: Section = Section { list: "users", body: "user" };
const CONTEXTS: Section = Section { list: "contexts", body: "context" };
const SECTIONS: [Section; 3] = [CLUSTERS, USERS, CONTEXTS];

const EXTENSIONS: &str = "extensions";

/// Fields of a user that say who it is (`k8s.io/client-go/tools/clientcmd/api/v1`, AuthInfo).
const CREDENTIALS: [&str; 10] = [
    "auth-provider",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "exec",
    "password",
    "token",
    "tokenFile",
    "username",
];

#[cfg(test)]
mod tests;
