//! The opening, for both ends: challenge, auth, and what each side checks.
//!
//! ```text
//! relay  ── challenge {version, relay, nonce} ──▶ client   the client compares the relay's name
//! relay  ◀── auth {publicKey, deviceId, signature} ── client
//! relay  ── welcome ──▶ client                             the relay has checked the signature
//! ```

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::frame::{Auth, LobbyMode, Resume};
use crate::keys::{KeyError, PublicKey};
use crate::server_frame::Challenge;
use crate::signature::{Signature, verify_strict};
use crate::{limits, signed_bytes};

/// Why the relay refuses an `auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The key is not usable.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The signature does not fit key, relay name, nonce and device.
    #[error("the signature does not fit the relay's name and nonce, the key and the device")]
    Signature,
}

/// Checks an `auth` against the challenge of the same connection and gives the key ready to verify
/// messages with. Costs about three verifications. `scratch` is overwritten.
///
/// # Errors
/// [`AuthError`].
pub fn check_auth(
    auth: &Auth<'_>,
    relay_name: &str,
    nonce: &[u8; 32],
    scratch: &mut Vec<u8>,
) -> Result<VerifyingKey, AuthError> {
    let key = auth.public_key.to_verifying_key()?;
    scratch.clear();
    signed_bytes::auth(scratch, relay_name, nonce, &auth.public_key, auth.device_id);
    if verify_strict(&key, scratch, &auth.signature) { Ok(key) } else { Err(AuthError::Signature) }
}

/// Why a client refuses a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChallengeError {
    /// The relay speaks another version.
    #[error("the relay speaks protocol version {0}, this client version 1")]
    Version(u64),
    /// The relay has another name: signing its challenge could let it log in elsewhere as us.
    #[error("the relay calls itself {got:?}, expected {expected:?}: check the address, or configure that name")]
    Name {
        /// What the relay says.
        got: String,
        /// What was configured.
        expected: String,
    },
}

/// A client's answer to a challenge.
///
/// # Errors
/// [`ChallengeError`], when the challenge must not be signed.
pub fn answer<'a>(
    challenge: &Challenge<'_>,
    expected_name: &str,
    key: &SigningKey,
    device_id: &'a str,
    lobby: LobbyMode,
    resume: Option<Resume>,
) -> Result<Auth<'a>, ChallengeError> {
    if challenge.version != limits::VERSION {
        return Err(ChallengeError::Version(challenge.version));
    }
    if challenge.relay != expected_name {
        return Err(ChallengeError::Name { got: challenge.relay.to_owned(), expected: expected_name.to_owned() });
    }
    let public_key = PublicKey::from(&key.verifying_key());
    let mut signed = Vec::with_capacity(400);
    signed_bytes::auth(&mut signed, challenge.relay, &challenge.nonce, &public_key, device_id);
    let signature = Signature::from_bytes(key.sign(&signed).to_bytes());
    Ok(Auth { public_key, device_id, signature, lobby, resume })
}

/// The relay name that a client expects by default: the host it dialled, in lowercase and without
/// port; `localhost` for a loopback address.
#[must_use]
pub fn default_relay_name(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) if address.is_loopback() => "localhost".to_owned(),
        _ => bare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(name: &str, expected: &str) -> Result<(), String> {
        let key = SigningKey::from_bytes(&[3; 32]);
        let challenge = Challenge { version: 1, relay: name, nonce: [9; 32] };
        let auth =
            answer(&challenge, expected, &key, "phone", LobbyMode::All, None).map_err(|error| error.to_string())?;
        check_auth(&auth, "relay.example", &[9; 32], &mut Vec::new()).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn an_answer_opens_its_own_challenge_only() {
        assert_eq!(opened("relay.example", "relay.example"), Ok(()));
        assert!(opened("evil.example", "relay.example").is_err_and(|why| why.contains("calls itself")));
        assert!(opened("evil.example", "evil.example").is_err_and(|why| why.contains("does not fit")));
        let key = SigningKey::from_bytes(&[3; 32]);
        let challenge = Challenge { version: 1, relay: "a", nonce: [9; 32] };
        let auth = answer(&challenge, "a", &key, "phone", LobbyMode::All, None).expect("a fitting challenge");
        let check = |auth: &Auth<'_>, nonce| check_auth(auth, "a", nonce, &mut Vec::new()).map(drop);
        assert_eq!(check(&auth, &[9; 32]), Ok(()));
        assert_eq!(check(&auth, &[8; 32]), Err(AuthError::Signature));
        assert_eq!(check(&Auth { device_id: "other", ..auth }, &[9; 32]), Err(AuthError::Signature));
    }

    #[test]
    fn another_version_is_not_answered() {
        let challenge = Challenge { version: 2, relay: "a", nonce: [0; 32] };
        let key = SigningKey::from_bytes(&[3; 32]);
        assert_eq!(answer(&challenge, "a", &key, "d", LobbyMode::All, None), Err(ChallengeError::Version(2)));
    }

    #[test]
    fn default_names() {
        for (host, name) in [
            ("Relay.Example", "relay.example"),
            ("127.0.0.1", "localhost"),
            ("127.9.9.9", "localhost"),
            ("[::1]", "localhost"),
            ("localhost", "localhost"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(default_relay_name(host), name);
        }
    }
}
