//! What the fake API server says and hears after a 101.

use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How it behaves, by the subresource that was asked for.
#[derive(Clone, Copy)]
pub(crate) enum Session {
    /// `exec`: sends back what it gets.
    Echo,
    /// `attach`: sends back what it got once the client has ended its side.
    Afterwards,
    /// `portforward`: says [`GOODBYE`], ends its own side, and keeps what it still hears.
    EndsFirst,
}

// === impl Session ===

impl Session {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path.rsplit('/').next()? {
            "exec" => Some(Self::Echo),
            "attach" => Some(Self::Afterwards),
            "portforward" => Some(Self::EndsFirst),
            _ => None,
        }
    }

    /// Until both sides have ended, or one broke.
    pub(crate) async fn run(
        self,
        pipe: impl AsyncRead + AsyncWrite,
        heard: &Mutex<Vec<u8>>,
    ) -> std::io::Result<()> {
        let (mut read, mut write) = tokio::io::split(pipe);
        let mut all = Vec::new();
        match self {
            Self::Echo => drop(tokio::io::copy(&mut read, &mut write).await?),
            Self::Afterwards => {
                read.read_to_end(&mut all).await?;
                write.write_all(&all).await?;
            }
            Self::EndsFirst => {
                write.write_all(GOODBYE).await?;
                write.shutdown().await?;
                read.read_to_end(&mut all).await?;
                heard.lock().unwrap().extend(all);
                return Ok(());
            }
        }
        write.shutdown().await
    }
}

pub(crate) const GOODBYE: &[u8] = b"no more from here";
