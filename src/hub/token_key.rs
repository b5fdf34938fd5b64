//! Names of tokens for those who must remember them and must not hold them: an HMAC under a secret
//! of this process. A dump of memory shows no token, and nobody outside can aim for a collision.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;

/// Names a token without holding it; means nothing to another process.
pub(crate) type TokenKey = [u8; 32];

/// The secret.
pub(crate) struct TokenKeys(hmac::Key);

// === impl TokenKeys ===

impl TokenKeys {
    /// A fresh secret.
    pub(crate) fn new() -> Self {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("invariant: aws-lc's generator does not fail once the process has started");
        Self(secret)
    }

    /// The name of `token` in `scope`, which holds no zero byte.
    pub(crate) fn of(&self, scope: &str, token: impl AsRef<[u8]>) -> TokenKey {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(scope.as_bytes());
        // No two pairs spell the same text.
        context.update(&[0]);
        context.update(token.as_ref());
        let mut key = TokenKey::default();
        key.copy_from_slice(context.sign().as_ref());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_scope_and_token_and_process() {
        let keys = TokenKeys::new();
        let key = keys.of("c1", "t");
        assert_eq!(key, keys.of("c1", "t"));
        assert_ne!(key, keys.of("c2", "t"));
        assert_ne!(key, keys.of("c1", "u"));
        assert_ne!(key, TokenKeys::new().of("c1", "t"));
    }
}
