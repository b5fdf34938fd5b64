//! Which kinds kubectl sends in Protobuf (`create`, `auth`, `drain`), and how fields are described.

use super::messages::{
    ACCESS_SPEC, BINDING, CRON_JOB_SPEC, DEPLOYMENT_SPEC, INGRESS_SPEC, JOB_SPEC, LABEL_SELECTOR,
    OBJECT_META, POLICY_RULE, SERVICE_SPEC, TOKEN_REQUEST_SPEC,
};

/// A field of a message.
pub(super) struct Field {
    pub(super) number: u64,
    /// Its name in JSON.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
}

/// What a field holds.
pub(super) enum Kind {
    Text,
    Bytes,
    Number,
    Flag,
    Quantity,
    /// `IntOrString`.
    NumberOrText,
    Message(Message),
    /// From text to something.
    Map(&'static Self),
    /// The server writes it itself.
    Ignored,
}

/// How a field appears in JSON.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Left out when it is zero.
    Plain,
    /// Zero is a value too.
    Pointer,
    List,
    /// Its fields belong to the object that has it.
    Inline,
}

/// The fields of a message.
pub(super) type Message = &'static [Field];

/// The fields of a kind.
pub(super) fn of(kind: &str) -> Option<Message> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, fields)| *fields)
}

pub(super) const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::Plain }
}

pub(super) const fn pointer(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::Pointer }
}

pub(super) const fn list(number: u64, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::List }
}

pub(super) const fn object(number: u64, name: &'static str, fields: Message) -> Field {
    one(number, name, Kind::Message(fields))
}

pub(super) const fn metadata() -> Field {
    object(1, "metadata", OBJECT_META)
}

const fn status() -> Field {
    one(3, "status", Kind::Ignored)
}

/// `runtime.Unknown`, the envelope.
pub(super) const UNKNOWN: Message = &[
    object(1, "typeMeta", &[one(1, "apiVersion", Kind::Text), one(2, "kind", Kind::Text)]),
    one(2, "raw", Kind::Bytes),
    one(4, "contentType", Kind::Text),
];

pub(super) const QUANTITY: Message = &[one(1, "string", Kind::Text)];

pub(super) const NUMBER_OR_TEXT: Message = &[
    one(1, "type", Kind::Number),
    pointer(2, "intVal", Kind::Number),
    pointer(3, "strVal", Kind::Text),
];

const KINDS: &[(&str, Message)] = &[
    ("ClusterRole", &[metadata(), list(2, "rules", Kind::Message(POLICY_RULE))]),
    ("ClusterRoleBinding", BINDING),
    (
        "ConfigMap",
        &[
            metadata(),
            one(2, "data", Kind::Map(&Kind::Text)),
            one(3, "binaryData", Kind::Map(&Kind::Bytes)),
            pointer(4, "immutable", Kind::Flag),
        ],
    ),
    ("CronJob", &[metadata(), object(2, "spec", CRON_JOB_SPEC), status()]),
    (
        "DeleteOptions",
        &[
            pointer(1, "gracePeriodSeconds", Kind::Number),
            object(
                2,
                "preconditions",
                &[one(1, "uid", Kind::Text), one(2, "resourceVersion", Kind::Text)],
            ),
            pointer(3, "orphanDependents", Kind::Flag),
            one(4, "propagationPolicy", Kind::Text),
            list(5, "dryRun", Kind::Text),
        ],
    ),
    ("Deployment", &[metadata(), object(2, "spec", DEPLOYMENT_SPEC), status()]),
    ("Ingress", &[metadata(), object(2, "spec", INGRESS_SPEC), status()]),
    ("Job", &[metadata(), object(2, "spec", JOB_SPEC), status()]),
    ("Namespace", &[metadata(), status()]),
    (
        "PodDisruptionBudget",
        &[
            metadata(),
            object(
                2,
                "spec",
                &[
                    pointer(1, "minAvailable", Kind::NumberOrText),
                    object(2, "selector", LABEL_SELECTOR),
                    pointer(3, "maxUnavailable", Kind::NumberOrText),
                ],
            ),
            status(),
        ],
    ),
    (
        "PriorityClass",
        &[
            metadata(),
            pointer(2, "value", Kind::Number),
            one(3, "globalDefault", Kind::Flag),
            one(4, "description", Kind::Text),
            one(5, "preemptionPolicy", Kind::Text),
        ],
    ),
    (
        "ResourceQuota",
        &[
            metadata(),
            object(
                2,
                "spec",
                &[one(1, "hard", Kind::Map(&Kind::Quantity)), list(2, "scopes", Kind::Text)],
            ),
            status(),
        ],
    ),
    ("Role", &[metadata(), list(2, "rules", Kind::Message(POLICY_RULE))]),
    ("RoleBinding", BINDING),
    (
        "Secret",
        &[
            metadata(),
            one(2, "data", Kind::Map(&Kind::Bytes)),
            one(3, "type", Kind::Text),
            one(4, "stringData", Kind::Map(&Kind::Text)),
            pointer(5, "immutable", Kind::Flag),
        ],
    ),
    ("SelfSubjectAccessReview", &[metadata(), object(2, "spec", ACCESS_SPEC), status()]),
    ("SelfSubjectReview", &[metadata(), one(2, "status", Kind::Ignored)]),
    (
        "SelfSubjectRulesReview",
        &[metadata(), object(2, "spec", &[one(1, "namespace", Kind::Text)]), status()],
    ),
    ("Service", &[metadata(), object(2, "spec", SERVICE_SPEC), status()]),
    ("ServiceAccount", &[metadata(), pointer(4, "automountServiceAccountToken", Kind::Flag)]),
    ("SubjectAccessReview", &[metadata(), object(2, "spec", ACCESS_SPEC), status()]),
    ("TokenRequest", &[metadata(), object(2, "spec", TOKEN_REQUEST_SPEC), status()]),
    (
        "TokenReview",
        &[
            metadata(),
            object(2, "spec", &[one(1, "token", Kind::Text), list(2, "audiences", Kind::Text)]),
            status(),
        ],
    ),
];
