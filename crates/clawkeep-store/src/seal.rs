//! Bytes under a key: without the key they say nothing, and no change of them goes unseen.
//!
//! ChaCha20-Poly1305 (RFC 8439) with a random nonce of 96 bits, which is safe for far more writes (2^32) than one
//! installation makes in its life. A sealed file is [`MAGIC`], the key's name, the nonce, the ciphertext and its
//! tag. What stands before the ciphertext, and the place where it is kept, are authenticated with it: one secret
//! cannot be put in another's place.

use std::io;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::Secret;

/// The size of a key, in bytes.
pub(crate) const KEY_BYTES: usize = 32;

/// How a sealed file begins. It is no text, so no key that a person typed begins like it.
const MAGIC: &[u8; 8] = b"\xffckseal1";

/// The length of a key's name, which tells a lost key from an altered file.
const ID_LEN: usize = 8;

const HEADER: usize = MAGIC.len() + ID_LEN + NONCE_LEN;

/// What sealing adds to the size of a secret, in bytes: the header and a tag of 16.
pub(crate) const OVERHEAD: usize = HEADER + 16;

/// A key that seals and opens.
pub(crate) struct SealingKey {
    id: [u8; ID_LEN],
    aead: LessSafeKey,
}

impl SealingKey {
    /// Bytes for a new key.
    pub(crate) fn generate() -> io::Result<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(vec![0; KEY_BYTES]);
        fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The key of these bytes; `None` when they are not [`KEY_BYTES`] many.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        // Its name must say nothing about it: both are derived (RFC 5869).
        let derived: Prk = Salt::new(HKDF_SHA256, b"clawkeep secrets 1").extract(bytes);
        let mut id = Zeroizing::new([0; KEY_BYTES]);
        derived.expand(&[b"name"], HKDF_SHA256).ok()?.fill(&mut id[..]).ok()?;
        let aead = UnboundKey::from(derived.expand(&[b"seal"], &CHACHA20_POLY1305).ok()?);
        Some(Self { id: std::array::from_fn(|at| id[at]), aead: LessSafeKey::new(aead) })
    }

    /// Whether this was sealed by this key.
    pub(crate) fn made(&self, sealed: &[u8]) -> bool {
        is_sealed(sealed) && sealed.get(MAGIC.len()..MAGIC.len() + ID_LEN) == Some(&self.id)
    }

    /// Seal a secret that is kept at this place.
    pub(crate) fn seal(&self, place: &str, secret: &Secret) -> io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        fill(&mut nonce)?;
        let mut sealed = [&MAGIC[..], &self.id, &nonce].concat();
        let aad = Aad::from([&sealed, place.as_bytes()].concat());
        // At once of its full size: growing would leave a copy of the secret behind.
        sealed.reserve_exact(secret.expose().len() + OVERHEAD);
        sealed.extend_from_slice(secret.expose());
        let tag = self
            .aead
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed[HEADER..])
            .map_err(|_| io::Error::other("it cannot be sealed"))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// What was sealed by this key for this place; `None` for everything else.
    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Option<Secret> {
        if !self.made(sealed) {
            return None;
        }
        let (header, ciphertext) = sealed.split_at_checked(HEADER)?;
        let nonce = Nonce::try_assume_unique_for_key(&header[MAGIC.len() + ID_LEN..]).ok()?;
        let aad = Aad::from([header, place.as_bytes()].concat());
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let length = self.aead.open_in_place(nonce, aad, &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(Secret::from(bytes))
    }
}

/// Whether these bytes are, or were, a sealed file.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system gives no randomness"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> SealingKey {
        SealingKey::new(&[byte; KEY_BYTES]).unwrap()
    }

    #[test]
    fn a_key_of_another_size_is_none() {
        assert!(SealingKey::new(&[1; KEY_BYTES - 1]).is_none());
        assert!(SealingKey::new(&[1; KEY_BYTES + 1]).is_none());
        assert_ne!(SealingKey::generate().unwrap(), SealingKey::generate().unwrap());
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        let secret = Secret::new("hunter2");
        let one = key(1).seal("a/K", &secret).unwrap();
        let other = key(1).seal("a/K", &secret).unwrap();
        assert_ne!(one, other);
        assert_eq!(one.len(), 7 + OVERHEAD);
        assert!(!one.windows(7).any(|window| window == b"hunter2"));
    }

    proptest! {
        #[test]
        fn only_the_same_key_at_the_same_place_opens_the_same_bytes(
            secret: Vec<u8>, at in any::<prop::sample::Index>(), flip in 1_u8..,
        ) {
            let sealed = key(1).seal("a/K", &Secret::new(secret.clone())).unwrap();
            let opened = key(1).open("a/K", &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &secret[..]);
            prop_assert!(key(1).open("a/L", &sealed).is_none());
            prop_assert!(key(2).open("a/K", &sealed).is_none());
            let mut altered = sealed.clone();
            altered[at.index(sealed.len())] ^= flip;
            prop_assert!(key(1).open("a/K", &altered).is_none());
            prop_assert!(key(1).open("a/K", &sealed[..at.index(sealed.len())]).is_none());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let sealed = [&MAGIC[..], &key(1).id, &bytes].concat();
            prop_assert!(key(1).open("a/K", &sealed).is_none() && key(1).open("a/K", &bytes).is_none());
        }
    }
}
