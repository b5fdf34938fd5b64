//! Field numbers of the parts of objects, from the `generated.proto` files of `k8s.io/api` and
//! `k8s.io/apimachinery`. Only what kubectl's own commands fill in.

use super::schema::{Field, Kind, Message, Shape, list, metadata, object, one, pointer};

pub(super) const OBJECT_META: Message = &[
    one(1, "name", Kind::Text),
    one(2, "generateName", Kind::Text),
    one(3, "namespace", Kind::Text),
    one(5, "uid", Kind::Text),
    one(6, "resourceVersion", Kind::Text),
    one(7, "generation", Kind::Ignored),
    one(8, "creationTimestamp", Kind::Ignored),
    one(11, "labels", Kind::Map(&Kind::Text)),
    one(12, "annotations", Kind::Map(&Kind::Text)),
    list(14, "finalizers", Kind::Text),
    one(17, "managedFields", Kind::Ignored),
];

pub(super) const LABEL_SELECTOR: Message = &[
    one(1, "matchLabels", Kind::Map(&Kind::Text)),
    list(
        2,
        "matchExpressions",
        Kind::Message(&[
            one(1, "key", Kind::Text),
            one(2, "operator", Kind::Text),
            list(3, "values", Kind::Text),
        ]),
    ),
];

/// Without `extra`, which no command of kubectl sends.
pub(super) const ACCESS_SPEC: Message = &[
    object(
        1,
        "resourceAttributes",
        &[
            one(1, "namespace", Kind::Text),
            one(2, "verb", Kind::Text),
            one(3, "group", Kind::Text),
            one(4, "version", Kind::Text),
            one(5, "resource", Kind::Text),
            one(6, "subresource", Kind::Text),
            one(7, "name", Kind::Text),
        ],
    ),
    object(2, "nonResourceAttributes", &[one(1, "path", Kind::Text), one(2, "verb", Kind::Text)]),
    one(3, "user", Kind::Text),
    list(4, "groups", Kind::Text),
    one(6, "uid", Kind::Text),
];

pub(super) const TOKEN_REQUEST_SPEC: Message = &[
    list(1, "audiences", Kind::Text),
    object(
        3,
        "boundObjectRef",
        &[
            one(1, "kind", Kind::Text),
            one(2, "apiVersion", Kind::Text),
            one(3, "name", Kind::Text),
            one(4, "uid", Kind::Text),
        ],
    ),
    pointer(4, "expirationSeconds", Kind::Number),
];

pub(super) const POLICY_RULE: Message = &[
    list(1, "verbs", Kind::Text),
    list(2, "apiGroups", Kind::Text),
    list(3, "resources", Kind::Text),
    list(4, "resourceNames", Kind::Text),
    list(5, "nonResourceURLs", Kind::Text),
];

pub(super) const BINDING: Message = &[
    metadata(),
    list(
        2,
        "subjects",
        Kind::Message(&[
            one(1, "kind", Kind::Text),
            one(2, "apiGroup", Kind::Text),
            one(3, "name", Kind::Text),
            one(4, "namespace", Kind::Text),
        ]),
    ),
    object(
        3,
        "roleRef",
        &[one(1, "apiGroup", Kind::Text), one(2, "kind", Kind::Text), one(3, "name", Kind::Text)],
    ),
];

const POD_TEMPLATE: Message = &[
    metadata(),
    object(
        2,
        "spec",
        &[
            list(2, "containers", Kind::Message(CONTAINER)),
            one(3, "restartPolicy", Kind::Text),
            one(8, "serviceAccountName", Kind::Text),
        ],
    ),
];

const CONTAINER: Message = &[
    one(1, "name", Kind::Text),
    one(2, "image", Kind::Text),
    list(3, "command", Kind::Text),
    list(4, "args", Kind::Text),
    list(
        6,
        "ports",
        Kind::Message(&[
            one(1, "name", Kind::Text),
            one(3, "containerPort", Kind::Number),
            one(4, "protocol", Kind::Text),
        ]),
    ),
    list(7, "env", Kind::Message(&[one(1, "name", Kind::Text), one(2, "value", Kind::Text)])),
];

pub(super) const DEPLOYMENT_SPEC: Message = &[
    pointer(1, "replicas", Kind::Number),
    object(2, "selector", LABEL_SELECTOR),
    object(3, "template", POD_TEMPLATE),
    object(4, "strategy", &[one(1, "type", Kind::Text)]),
];

pub(super) const JOB_SPEC: Message = &[
    pointer(1, "parallelism", Kind::Number),
    pointer(2, "completions", Kind::Number),
    object(4, "selector", LABEL_SELECTOR),
    object(6, "template", POD_TEMPLATE),
    pointer(7, "backoffLimit", Kind::Number),
];

pub(super) const CRON_JOB_SPEC: Message = &[
    one(1, "schedule", Kind::Text),
    one(3, "concurrencyPolicy", Kind::Text),
    object(5, "jobTemplate", &[metadata(), object(2, "spec", JOB_SPEC)]),
];

pub(super) const SERVICE_SPEC: Message = &[
    list(
        1,
        "ports",
        Kind::Message(&[
            one(1, "name", Kind::Text),
            one(2, "protocol", Kind::Text),
            one(3, "port", Kind::Number),
            one(4, "targetPort", Kind::NumberOrText),
            one(5, "nodePort", Kind::Number),
        ]),
    ),
    one(2, "selector", Kind::Map(&Kind::Text)),
    one(3, "clusterIP", Kind::Text),
    one(4, "type", Kind::Text),
    one(7, "sessionAffinity", Kind::Text),
    one(10, "externalName", Kind::Text),
];

const INGRESS_BACKEND: Message = &[object(
    4,
    "service",
    &[
        one(1, "name", Kind::Text),
        object(2, "port", &[one(1, "name", Kind::Text), one(2, "number", Kind::Number)]),
    ],
)];

pub(super) const INGRESS_SPEC: Message = &[
    object(1, "defaultBackend", INGRESS_BACKEND),
    list(
        2,
        "tls",
        Kind::Message(&[list(1, "hosts", Kind::Text), one(2, "secretName", Kind::Text)]),
    ),
    list(
        3,
        "rules",
        Kind::Message(&[
            one(1, "host", Kind::Text),
            Field { number: 2, name: "", kind: Kind::Message(INGRESS_RULE), shape: Shape::Inline },
        ]),
    ),
    one(4, "ingressClassName", Kind::Text),
];

const INGRESS_RULE: Message = &[object(
    1,
    "http",
    &[list(
        1,
        "paths",
        Kind::Message(&[
            one(1, "path", Kind::Text),
            object(2, "backend", INGRESS_BACKEND),
            one(3, "pathType", Kind::Text),
        ]),
    )],
)];
