//! Label and field selectors.

use serde_json::Value;

use super::object;
use super::query::Query;
use super::response::MiniStatus;

/// What a list or watch is narrowed to. The default selects everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, String, bool)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

// === impl Selector ===

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    pub(super) fn from_query(query: &Query) -> Result<Self, MiniStatus> {
        let labels = split_outside_brackets(query.get("labelSelector").unwrap_or_default())
            .map(parse_requirement)
            .collect::<Result<_, _>>()?;
        let fields = query.get("fieldSelector").unwrap_or_default().split(',');
        let fields =
            fields.filter(|part| !part.is_empty()).map(parse_field).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    /// Adds `metadata.name=NAME`, as a watch of one object means it.
    pub(super) fn only(mut self, name: &str) -> Self {
        if !name.is_empty() {
            self.fields.push(("metadata.name".to_owned(), name.to_owned(), true));
        }
        self
    }

    /// Whether the object is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => {
                label(key).is_some_and(|value| values.iter().any(|one| one == value))
            }
            Requirement::NotIn(key, values) => {
                label(key).is_none_or(|value| values.iter().all(|one| one != value))
            }
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Missing(key) => label(key).is_none(),
        });
        labels
            && self.fields.iter().all(|(path, value, equal)| {
                let pointer = format!("/{}", path.replace('.', "/"));
                (object::text(object, &pointer) == value) == *equal
            })
    }
}

fn parse_requirement(text: &str) -> Result<Requirement, MiniStatus> {
    let text = text.trim();
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Requirement::Missing(key.trim().to_owned()));
    }
    if let Some(head) = text.strip_suffix(')') {
        let (head, values) = head.split_once('(').ok_or_else(|| unreadable(text))?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next()) {
            (Some(key), Some("in")) => Ok(Requirement::In(key.to_owned(), values)),
            (Some(key), Some("notin")) => Ok(Requirement::NotIn(key.to_owned(), values)),
            _ => Err(unreadable(text)),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::In(key.trim().to_owned(), one(value)));
    }
    if text.contains(char::is_whitespace) {
        return Err(unreadable(text));
    }
    Ok(Requirement::Exists(text.to_owned()))
}

fn parse_field(text: &str) -> Result<(String, String, bool), MiniStatus> {
    let parsed = match text.split_once("!=") {
        Some((path, value)) => Some((path, value, false)),
        None => text.split_once("==").or_else(|| text.split_once('=')).map(|(p, v)| (p, v, true)),
    };
    let (path, value, equal) = parsed.ok_or_else(|| unreadable(text))?;
    Ok((path.to_owned(), value.to_owned(), equal))
}

fn unreadable(text: &str) -> MiniStatus {
    MiniStatus::bad_request(format!("unable to parse requirement: {text}"))
}

/// Splits at commas that are not inside `( )`.
fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
    .filter(|part| !part.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(query: &str) -> bool {
        let object = json!({
            "metadata": {"name": "p", "labels": {"app": "web", "tier": "front"}},
            "spec": {"nodeName": "n1"}, "status": {"phase": "Running"},
        });
        let query = Query::parse(&query.replace('!', "%21"));
        Selector::from_query(&query).unwrap().matches(&object)
    }

    #[test]
    fn selects() {
        for yes in [
            "",
            "labelSelector=app%3Dweb",
            "labelSelector=app%3D%3Dweb,tier",
            "labelSelector=app+in+(web,db),!gone",
            "labelSelector=app+notin+(db),other!%3Dx",
            "fieldSelector=metadata.name%3Dp,status.phase!%3DFailed",
            "fieldSelector=spec.nodeName%3Dn1",
        ] {
            assert!(matches(yes), "{yes}");
        }
        for no in [
            "labelSelector=app%3Ddb",
            "labelSelector=gone",
            "labelSelector=!app",
            "labelSelector=app+notin+(web)",
            "labelSelector=app%3Dweb,tier%3Dback",
            "fieldSelector=metadata.name%3Dq",
            "fieldSelector=status.phase!%3DRunning",
        ] {
            assert!(!matches(no), "{no}");
        }
        let bad = Query::parse("labelSelector=a+b");
        assert_eq!(Selector::from_query(&bad).unwrap_err().code, 400);
    }
}
