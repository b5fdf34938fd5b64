//! The PROXY protocol, versions 1 and 2: a load balancer's word on who is behind a connection, in
//! front of its first byte. Only for balancers that the operator named: anybody could write one.

use std::io;
use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Why a connection that must begin with a header of the PROXY protocol does not.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The connection ended or broke before the end of the header.
    #[error("no PROXY header: {0}")]
    Io(#[from] io::Error),
    /// Something else came, or a header that breaks the protocol.
    #[error("no valid PROXY header: {0}")]
    Invalid(String),
}

/// Reads the header and not a byte more. `None` is a header that names nobody: the balancer's own
/// health check (LOCAL), an unknown or a local address family.
pub async fn read<IO: AsyncRead + Unpin>(
    io: &mut IO,
) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    io.read_exact(&mut header).await?;
    if header == SIGNATURE {
        // Version, family and length.
        header.resize(V2_FIXED, 0);
        io.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[V2_FIXED - 2], header[V2_FIXED - 1]]));
        if rest > V2_LONGEST {
            return Err(ProxyHeaderError::Invalid(format!("{rest} bytes are too long")));
        }
        header.resize(V2_FIXED + rest, 0);
        io.read_exact(&mut header[V2_FIXED..]).await?;
    } else {
        // Its end is a line's end: byte by byte, because what follows is TLS's.
        while !header.ends_with(b"\r\n") {
            if !header.starts_with(b"PROXY") || header.len() == V1_LONGEST {
                return Err(ProxyHeaderError::Invalid("something else came".to_owned()));
            }
            header.push(io.read_u8().await?);
        }
    }
    source(&header)
}

fn source(header: &[u8]) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let invalid = |error: &dyn ToString| ProxyHeaderError::Invalid(error.to_string());
    Ok(match HeaderResult::parse(header) {
        HeaderResult::V1(parsed) => match parsed.map_err(|error| invalid(&error))?.addresses {
            v1::Addresses::Unknown => None,
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
        },
        HeaderResult::V2(parsed) => {
            let header = parsed.map_err(|error| invalid(&error))?;
            match (header.command, header.addresses) {
                (v2::Command::Local, _) => None,
                (_, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
                (_, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
                (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => None,
            }
        }
    })
}

/// How version 2 begins. No header of version 1 is shorter (`PROXY UNKNOWN` has a line's end).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Of version 2: everything but addresses and extensions.
const V2_FIXED: usize = 16;
/// Addresses need 216 bytes; the rest are extensions (a balancer's TLS, its link's name).
const V2_LONGEST: usize = 4 * 1024;
/// The longest line that version 1 allows.
const V1_LONGEST: usize = 107;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `header` in front of `TLS`; what it says, and what is left.
    fn parse(header: &[u8]) -> Result<(Option<SocketAddr>, Vec<u8>), ProxyHeaderError> {
        let bytes = [header, b"TLS"].concat();
        let mut left = bytes.as_slice();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let source = runtime.block_on(read(&mut left))?;
        Ok((source, left.to_vec()))
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&SIGNATURE, [0x20 | command, family].as_slice(), &length, payload].concat()
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn both_versions_name_the_source_and_leave_the_rest() {
        let four = [192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 0x01, 0xbb];
        let mut six = [0; 36];
        (six[0], six[1], six[15]) = (0x20, 0x01, 9);
        (six[32], six[33]) = (0x1f, 0x90);
        let extended = [four.as_slice(), &[4, 0, 3, 1, 2, 3]].concat();
        for (header, source) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(), address("192.0.2.7:8080")),
            (b"PROXY TCP6 2001::9 2001::1 8080 443\r\n".to_vec(), address("[2001::9]:8080")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &four), address("192.0.2.7:8080")),
            (v2(1, 0x11, &extended), address("192.0.2.7:8080")),
            (v2(1, 0x21, &six), address("[2001::9]:8080")),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &four), None),
            (v2(1, 0x00, &[]), None),
            (v2(1, 0x31, &[0; 216]), None),
        ] {
            let (seen, left) = parse(&header).unwrap();
            assert_eq!((seen, left.as_slice()), (source, b"TLS".as_slice()), "{header:?}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 8080\r\n".to_vec(),
            b"PROXY TCP4 2001::9 198.51.100.1 8080 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 443\r\n".to_vec(),
            format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).into_bytes(),
            v2(1, 0x11, &[0; 11]),
            v2(7, 0x11, &[0; 12]),
            v2(1, 0x11, &[0; V2_LONGEST + 1]),
            // Version 3.
            [&SIGNATURE, [0x31, 0x11, 0, 12].as_slice(), &[0; 12]].concat(),
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// No input makes it panic, wait for more than its bounds, or take bytes of what follows.
        #[test]
        fn any_bytes(version2: bool, mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if version2 {
                bytes.splice(0..0, SIGNATURE);
            }
            if let Ok((_, left)) = parse(&bytes) {
                prop_assert!(left.ends_with(b"TLS") && left.len() <= bytes.len() + 3);
            }
        }

        #[test]
        fn any_line(line in "PROXY (TCP4|TCP6|UNKNOWN|TCP)[ 0-9a-f.:]{0,90}(\r\n)?") {
            if let Ok((source, left)) = parse(line.as_bytes()) {
                prop_assert_eq!(left, b"TLS");
                prop_assert!(source.is_some() || line.contains("UNKNOWN"));
            }
        }
    }
}
