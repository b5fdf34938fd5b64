//! What listens in every Pod: the small services of old, and a web server.
//!
//! | port | service |
//! |---|---|
//! | 7 | echo (RFC 862): sends back what it gets |
//! | 9 | discard (RFC 863): reads everything, says nothing |
//! | 19 | character generator (RFC 864): writes lines for as long as somebody reads |
//! | 80, 8080 | HTTP/1.1: `GET /` says hello from the Pod, `POST /` sends back the body |
//!
//! A Service reaches them as well, and on 443 and 8443 the web server over TLS
//! ([`super::super::endpoints`]).

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// A service of a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Echo,
    Discard,
    Generate,
    Web,
}

// === impl Service ===

impl Service {
    const ALL: [(u16, Self); 5] = [
        (7, Self::Echo),
        (9, Self::Discard),
        (19, Self::Generate),
        (80, Self::Web),
        (8080, Self::Web),
    ];

    /// What listens on a port.
    pub(super) fn on(port: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == port).map(|(_, service)| service)
    }

    /// Why there is no connection to a port. Starts with the words by which kubectl knows it.
    pub(super) fn nothing_on(port: u16, pod: &str) -> String {
        let ports = Self::ALL.map(|(port, _)| port.to_string()).join(", ");
        format!(
            "failed to connect to localhost:{port} inside pod {pod}: connection refused; \
             its ports are {ports}"
        )
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<R, W>(self, mut read: R, mut write: W, pod: &str)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let served = match self {
            Self::Echo => tokio::io::copy(&mut read, &mut write).await.map(drop),
            Self::Discard => tokio::io::copy(&mut read, &mut tokio::io::sink()).await.map(drop),
            Self::Generate => generate(&mut read, &mut write).await,
            Self::Web => return web(read, write, pod).await,
        };
        // What failed has no end: the client was the one to break it.
        if served.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

/// Writes until the client says that it is done, or leaves.
async fn generate<R, W>(read: &mut R, write: &mut W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let line: Vec<u8> = (b' '..=b'~').cycle().take(LINE).chain(*b"\r\n").collect();
    let lines = line.repeat(LINES);
    let generating = async {
        loop {
            write.write_all(&lines).await?;
        }
    };
    let mut sink = tokio::io::sink();
    tokio::select! {
        failed = generating => failed,
        ended = tokio::io::copy(read, &mut sink) => ended.map(drop),
    }
}

async fn web<R, W>(read: R, write: W, pod: &str)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request, pod);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(tokio::io::join(read, write)), service);
    // An error is a client that went away or speaks no HTTP: nobody is left to tell.
    let _ = connection.await;
}

fn answer(request: Request<Incoming>, pod: &str) -> Response<Either<Full<Bytes>, Incoming>> {
    let said = |status: StatusCode, text: String| {
        let mut response = Response::new(Either::Left(Full::from(text)));
        *response.status_mut() = status;
        response
    };
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/") => said(StatusCode::OK, format!("hello from {pod}\n")),
        (&Method::POST, "/") => return Response::new(Either::Right(request.into_body())),
        (_, "/") => said(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n".to_owned()),
        _ => said(StatusCode::NOT_FOUND, "only / is here\n".to_owned()),
    };
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

/// Characters of a generated line.
const LINE: usize = 72;

/// Lines that are written at once.
const LINES: usize = 200;
