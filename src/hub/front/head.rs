//! How large a head may be. hyper enforces the same bounds first where it must (with an answer that
//! has no body); what it lets through is measured here, and the refusal says what to change. Pure.

use http::Request;

use crate::hub::limits::{Limit, Limits};

/// A head over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadTooLarge {
    /// The target alone.
    #[error("the request target has {bytes} bytes, the hub takes {most} (--max-header-bytes)")]
    Target {
        /// What came.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Target and headers together.
    #[error("the request head has {bytes} bytes, the hub takes {most} (--max-header-bytes)")]
    Bytes {
        /// What came.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Too many headers.
    #[error("the request has {count} headers, the hub takes {most} (--max-headers)")]
    Count {
        /// What came.
        count: usize,
        /// The limit.
        most: usize,
    },
}

// === impl HeadTooLarge ===

impl HeadTooLarge {
    /// The limit that it is over.
    pub(crate) const fn limit(self) -> Limit {
        match self {
            Self::Target { .. } | Self::Bytes { .. } => Limit::HeaderBytes,
            Self::Count { .. } => Limit::Headers,
        }
    }
}

/// Measures a head as HTTP/1.1 would write it.
pub(crate) fn check<B>(request: &Request<B>, limits: &Limits) -> Result<(), HeadTooLarge> {
    let most = limits.header_bytes as usize;
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > most {
        return Err(HeadTooLarge::Target { bytes: target, most });
    }
    let headers = request.headers();
    if headers.len() > limits.header_count {
        return Err(HeadTooLarge::Count { count: headers.len(), most: limits.header_count });
    }
    let each = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE);
    let bytes = target + each.sum::<usize>();
    if bytes > most { Err(HeadTooLarge::Bytes { bytes, most }) } else { Ok(()) }
}

/// Colon, space and the end of a line.
const LINE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(target: usize, headers: usize, value: usize) -> Result<(), HeadTooLarge> {
        let limits = Limits { header_count: 16, header_bytes: 8 << 10, ..Limits::default() };
        let mut request = Request::builder().uri(format!("/{}", "t".repeat(target - 1)));
        for index in 0..headers {
            request = request.header(format!("h{index:02}"), "v".repeat(value));
        }
        check(&request.body(()).unwrap(), &limits)
    }

    #[test]
    fn each_bound_to_the_byte() {
        assert_eq!(judge(8 << 10, 0, 0), Ok(()), "the target may fill the budget");
        let over = (8 << 10) + 1;
        assert!(
            matches!(judge(over, 0, 0), Err(HeadTooLarge::Target { bytes, .. }) if bytes == over)
        );
        assert_eq!(judge(1, 16, 0), Ok(()));
        assert_eq!(judge(1, 17, 0), Err(HeadTooLarge::Count { count: 17, most: 16 }));
        // One header of 3 + 4 bytes and its value, one byte of target.
        assert_eq!(judge(1, 1, (8 << 10) - 8), Ok(()));
        assert!(matches!(judge(1, 1, (8 << 10) - 7), Err(HeadTooLarge::Bytes { .. })));
    }
}
