//! `--authentication-config`: a file in the shape of Kubernetes' AuthenticationConfiguration
//! (`apiserver.config.k8s.io`, KEP-3331). What it can say and we do not do is an error, never passed
//! over: a rule that nobody checks lets in whom it should keep out.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::{ClaimMapping, IssuerAuthority, IssuerConfig, Url};

/// Reads a file, YAML or JSON.
///
/// # Errors
/// Says where what is wrong.
pub(super) fn parse(text: &str) -> Result<Vec<IssuerConfig>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if file.kind != "AuthenticationConfiguration" {
        return Err(format!("kind is {:?}, not AuthenticationConfiguration", file.kind));
    }
    if !VERSIONS.contains(&file.api_version.as_str()) {
        return Err(format!(
            "apiVersion is {:?}, none of {}",
            file.api_version,
            VERSIONS.join(", ")
        ));
    }
    if file.anonymous.is_some() {
        return Err("anonymous: nobody is let in without a token here".to_owned());
    }
    if file.jwt.len() > MAX_ISSUERS {
        return Err(format!("jwt: more than {MAX_ISSUERS} issuers"));
    }
    let mut issuers: Vec<IssuerConfig> = Vec::new();
    for (index, one) in file.jwt.into_iter().enumerate() {
        let issuer = one.issuer().map_err(|why| format!("jwt[{index}].{why}"))?;
        if issuers.iter().any(|other| other.url == issuer.url) {
            return Err(format!("jwt[{index}].issuer.url: {} is there twice", issuer.url));
        }
        issuers.push(issuer);
    }
    Ok(issuers)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: Issuer,
    #[serde(default)]
    claim_validation_rules: Vec<Rule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Issuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: Option<String>,
    audiences: Vec<String>,
    audience_match_policy: Option<String>,
    egress_selector_type: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    claim: Option<String>,
    #[serde(default)]
    required_value: String,
    expression: Option<IgnoredAny>,
    message: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mappings {
    username: Mapping,
    groups: Option<Mapping>,
    uid: Option<Mapping>,
    #[serde(default)]
    extra: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mapping {
    claim: Option<String>,
    prefix: Option<String>,
    expression: Option<IgnoredAny>,
}

// === impl Jwt ===

impl Jwt {
    fn issuer(self) -> Result<IssuerConfig, String> {
        let at = |field: &'static str| move |why: String| format!("{field}: {why}");
        let Issuer { url, discovery_url, certificate_authority, audiences, .. } = self.issuer;
        let url = Url::parse(&url).map_err(at("issuer.url"))?;
        let discovery = discovery_url.map(|url| Url::parse(&url)).transpose();
        if self.issuer.egress_selector_type.is_some() {
            return Err("issuer.egressSelectorType: there is one way out".to_owned());
        }
        if !matches!(self.issuer.audience_match_policy.as_deref(), None | Some("" | "MatchAny")) {
            return Err("issuer.audienceMatchPolicy: must be MatchAny".to_owned());
        }
        if !self.user_validation_rules.is_empty() {
            return Err(format!("userValidationRules: {NO_EXPRESSIONS}"));
        }
        let Mappings { username, groups, uid, extra } = self.claim_mappings;
        if !extra.is_empty() {
            return Err(format!("claimMappings.extra: {NO_EXPRESSIONS}"));
        }
        let mut issuer = IssuerConfig::new(url, audiences);
        issuer.discovery_url = discovery.map_err(at("issuer.discoveryURL"))?;
        if let Some(pem) = certificate_authority.filter(|pem| !pem.is_empty()) {
            issuer.authority = IssuerAuthority::Pem(pem);
        }
        // As an API server of a file is configured, and not of flags: with what an issuer may sign.
        issuer.algorithms = super::ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec();
        issuer.username = username.prefixed().map_err(at("claimMappings.username"))?;
        issuer.groups =
            groups.map(Mapping::prefixed).transpose().map_err(at("claimMappings.groups"))?;
        issuer.uid = uid.map(Mapping::bare).transpose().map_err(at("claimMappings.uid"))?;
        for (index, rule) in self.claim_validation_rules.into_iter().enumerate() {
            let rule =
                rule.required().map_err(|why| format!("claimValidationRules[{index}]: {why}"));
            issuer.required.push(rule?);
        }
        issuer.problem().map_or(Ok(issuer), |why| Err(format!("issuer: {why}")))
    }
}

// === impl Rule ===

impl Rule {
    fn required(self) -> Result<(String, String), String> {
        match self {
            Self { expression: Some(_), .. } | Self { message: Some(_), .. } => {
                Err(NO_EXPRESSIONS.to_owned())
            }
            Self { claim: Some(claim), required_value, .. } => Ok((claim, required_value)),
            Self { claim: None, .. } => Err("names no claim".to_owned()),
        }
    }
}

// === impl Mapping ===

impl Mapping {
    /// Kubernetes wants the prefix of names said, if only as `""`.
    fn prefixed(self) -> Result<ClaimMapping, String> {
        match self {
            Self { expression: Some(_), .. } => Err(NO_EXPRESSIONS.to_owned()),
            Self { claim: Some(claim), prefix: Some(prefix), .. } => {
                Ok(ClaimMapping { claim, prefix })
            }
            Self { claim: None, .. } => Err("names no claim".to_owned()),
            Self { prefix: None, .. } => {
                Err("has no prefix: write prefix: \"\" for names without".to_owned())
            }
        }
    }

    fn bare(self) -> Result<String, String> {
        match self {
            Self { expression: Some(_), .. } => Err(NO_EXPRESSIONS.to_owned()),
            Self { prefix: Some(_), .. } => Err("a uid has no prefix".to_owned()),
            Self { claim, .. } => claim.ok_or_else(|| "names no claim".to_owned()),
        }
    }
}

const NO_EXPRESSIONS: &str = "CEL expressions are not supported; name a claim";

const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

/// As Kubernetes (KEP-3331).
const MAX_ISSUERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: https://id.example
    discoveryURL: https://inside.example/.well-known/openid-configuration
    certificateAuthority: "PEM"
    audiences: [kubernetes, other]
    audienceMatchPolicy: MatchAny
  claimValidationRules:
  - claim: hd
    requiredValue: example.com
  claimMappings:
    username: {claim: email, prefix: "oidc:"}
    groups: {claim: groups, prefix: ""}
    uid: {claim: uid}
- issuer: {url: "https://id.example/other", audiences: [a]}
  claimMappings: {username: {claim: sub, prefix: "x:"}}
"#;

    #[test]
    fn the_shape_that_api_servers_read() {
        let [first, second] = &parse(GOOD).unwrap()[..] else { panic!("two issuers") };
        assert_eq!(first.url.as_str(), "https://id.example");
        assert_eq!(first.discovery_url.as_ref().unwrap().host(), "inside.example");
        assert_eq!(first.authority, IssuerAuthority::Pem("PEM".to_owned()));
        assert_eq!(first.audiences, ["kubernetes", "other"]);
        assert_eq!((&*first.username.claim, &*first.username.prefix), ("email", "oidc:"));
        assert_eq!(first.groups.as_ref().unwrap().claim, "groups");
        assert_eq!(first.uid.as_deref(), Some("uid"));
        assert_eq!(first.required, [("hd".to_owned(), "example.com".to_owned())]);
        assert_eq!(first.reserved, ["system:"]);
        assert_eq!((&second.authority, second.groups.is_none()), (&IssuerAuthority::System, true));
    }

    #[test]
    fn what_is_not_done_is_an_error_that_says_where() {
        for (from, to, told) in [
            ("kind: Auth", "kind: Other", "kind is"),
            ("/v1\n", "/v9\n", "apiVersion is"),
            ("jwt:", "anonymous: {enabled: true}\njwt:", "anonymous"),
            (
                "https://id.example/other",
                "https://id.example",
                "jwt[1].issuer.url: https://id.example is there twice",
            ),
            ("https://id.example/other", "http://id.example/o", "jwt[1].issuer.url"),
            ("audiences: [a]", "audiences: []", "jwt[1].issuer: there must be an audience"),
            ("MatchAny", "MatchAll", "jwt[0].issuer.audienceMatchPolicy"),
            (
                "requiredValue: example.com",
                "expression: claims.hd == 'x'",
                "jwt[0].claimValidationRules[0]: CEL",
            ),
            (
                "claim: email, prefix: \"oidc:\"",
                "expression: claims.sub",
                "jwt[0].claimMappings.username: CEL",
            ),
            (
                "claim: email, prefix: \"oidc:\"",
                "claim: email",
                "jwt[0].claimMappings.username: has no prefix",
            ),
            (
                "uid: {claim: uid}",
                "extra: [{key: a/b, valueExpression: claims.x}]",
                "jwt[0].claimMappings.extra",
            ),
            (
                "  claimValidationRules:",
                "  userValidationRules: [{expression: x}]\n  claimValidationRules:",
                "jwt[0].userValidationRules",
            ),
            ("audiences: [a]", "audience: [a]", "audience"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(told), "{to}: {error}");
        }
    }
}
