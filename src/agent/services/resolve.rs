//! From a Service to the addresses of its ready endpoints, asked of the cluster's own API server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::access::Access;
use super::super::headers;
use super::super::hello::no_body;
use super::super::upstream::{Account, UpstreamError};
use super::ServiceError;
use crate::tunnel::headers::Fault;
use crate::tunnel::service::Port;

/// A Service and its EndpointSlices as they were read.
#[derive(Debug)]
pub(super) struct Resolved {
    service: Service,
    slices: Vec<EndpointSlice>,
}

/// As an API server lists them.
#[derive(Deserialize)]
struct Slices {
    items: Vec<EndpointSlice>,
}

/// Why the API server has not said where a Service is.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::agent) enum LookupError {
    #[error("there is no such Service")]
    NoService,
    #[error("the API server did not say in time where it is")]
    Timeout,
    #[error("the API server does not say where it is: {0}")]
    Refused(StatusCode),
    #[error("the API server's answer about it cannot be read: {0}")]
    Unreadable(String),
    #[error("the API server cannot be asked where it is: {0}")]
    Upstream(#[from] UpstreamError),
}

/// Where a port of a service leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Of the Service, for `Host`.
    pub(super) port: u16,
    /// Of its ready endpoints.
    pub(super) addresses: Vec<SocketAddr>,
}

/// Reads a Service and its EndpointSlices with the agent's own account.
pub(super) async fn read(
    access: &Access,
    namespace: &str,
    name: &str,
) -> Result<Resolved, LookupError> {
    let service = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let slices = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}&limit={MAX_SLICES}"
    );
    let both = async {
        tokio::try_join!(get::<Service>(access, &service), get::<Slices>(access, &slices))
    };
    let read = tokio::time::timeout(LOOKUP_DEADLINE, both).await;
    let (service, slices) = read.map_err(|_| LookupError::Timeout)??;
    Ok(Resolved { service, slices: slices.items })
}

async fn get<T: DeserializeOwned>(access: &Access, path: &str) -> Result<T, LookupError> {
    let mut request = Request::new(no_body());
    *request.uri_mut() = path.parse().map_err(|_| LookupError::NoService)?;
    let mut own = HeaderMap::new();
    headers::as_agent(&mut own, access.token.header());
    *request.headers_mut() = own;
    let answer = access.upstream.send(Account::Agent, request).await?;
    match answer.response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(LookupError::NoService),
        status => return Err(LookupError::Refused(status)),
    }
    let unreadable = |error: &dyn std::error::Error| LookupError::Unreadable(error.to_string());
    let body = Limited::new(answer.response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| unreadable(&*error))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| unreadable(&error))
}

// === impl LookupError ===

impl LookupError {
    /// The word for it on the wire.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::NoService => Fault::NoService,
            Self::Refused(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Fault::AgentRefused,
            Self::Timeout | Self::Refused(_) | Self::Unreadable(_) | Self::Upstream(_) => {
                Fault::Unreachable
            }
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// The addresses behind `port`, unchecked.
    pub(super) fn endpoints(&self, port: &Port) -> Result<Endpoints, ServiceError> {
        let spec = self.service.spec.as_ref().ok_or(ServiceError::NoEndpoint)?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return Err(ServiceError::ExternalName);
        }
        let is_asked = |known: &&ServicePort| {
            let tcp = known.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            tcp && match port {
                Port::Number(number) => known.port == i32::from(number.get()),
                Port::Name(name) => known.name.as_deref() == Some(name),
            }
        };
        let known = spec.ports.iter().flatten().find(is_asked).ok_or(ServiceError::NoEndpoint)?;
        let port = u16::try_from(known.port).map_err(|_| ServiceError::NoEndpoint)?;
        let name = known.name.as_deref().unwrap_or_default();
        let addresses: Vec<_> = self
            .slices
            .iter()
            .flat_map(|slice| addresses(slice, name))
            .take(MAX_ADDRESSES)
            .collect();
        if addresses.is_empty() {
            return Err(ServiceError::NoEndpoint);
        }
        Ok(Endpoints { port, addresses })
    }
}

/// What of a slice is ready, under the port that is called as that of the Service.
fn addresses(slice: &EndpointSlice, name: &str) -> Vec<SocketAddr> {
    let mut ports = slice.ports.iter().flatten();
    let port = ports.find(|port| port.name.as_deref().unwrap_or_default() == name);
    let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()).filter(|port| *port > 0)
    else {
        return Vec::new();
    };
    let ready = slice.endpoints.iter().filter(|endpoint| {
        // Nothing said is ready, says the API.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    // A host name (`addressType: FQDN`) is no address: it would be resolved a second time.
    let ips = ready.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| text.parse().ok());
    ips.map(|ip: IpAddr| SocketAddr::new(ip, port)).collect()
}

/// For both questions together.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);
/// One slice has a hundred endpoints where nobody says otherwise: enough to find one that answers.
const MAX_SLICES: usize = 10;
/// Addresses of one service that are considered.
const MAX_ADDRESSES: usize = 100;
/// An object in etcd has at most 1.5 MiB; a slice of a hundred endpoints has some 50 KiB.
const MAX_ANSWER: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resolved(spec: serde_json::Value, slices: serde_json::Value) -> Resolved {
        Resolved {
            service: serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap(),
            slices: serde_json::from_value(slices).unwrap(),
        }
    }

    fn endpoints(resolved: &Resolved, port: &str) -> Option<(u16, Vec<String>)> {
        let found = resolved.endpoints(&port.parse().unwrap()).ok()?;
        Some((found.port, found.addresses.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn ports_by_number_and_name_and_only_what_is_ready() {
        let service = resolved(
            json!({"ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ]}),
            json!([{
                "metadata": {}, "addressType": "IPv4",
                "ports": [{"name": "dns", "port": 5353}, {"name": "http", "port": 8080}],
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                    {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                    {"addresses": ["10.0.0.3"]},
                    {"addresses": ["pod.example.com"]},
                ],
            }]),
        );
        let web = Some((80, vec!["10.0.0.1:8080".to_owned(), "10.0.0.3:8080".to_owned()]));
        assert_eq!(endpoints(&service, "80"), web);
        assert_eq!(endpoints(&service, "http"), web);
        assert_eq!(endpoints(&service, "8080"), None, "a port of pods is none of the Service");
        assert_eq!(endpoints(&service, "53"), None, "not over TCP");
        assert_eq!(endpoints(&service, "other"), None);
    }

    #[test]
    fn an_external_name_leads_nowhere() {
        let slices = json!([{
            "metadata": {}, "addressType": "IPv4", "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        }]);
        let plain = json!({"ports": [{"port": 80}]});
        assert!(resolved(plain, slices.clone()).endpoints(&"80".parse().unwrap()).is_ok());
        let external =
            json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]});
        let found = resolved(external, slices).endpoints(&"80".parse().unwrap());
        assert!(matches!(found, Err(ServiceError::ExternalName)));
    }
}
