//! Users from client certificates (upstream `apiserver/pkg/authentication/request/x509`).

use std::collections::BTreeMap;

use api::UserInfo;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::front_proxy::{FrontProxy, Validity};

/// What the listener learned of a connection's client certificate. An extension of every request on it.
///
/// The handshake has proved that the peer holds the leaf's key and nothing else; whether the certificate is trusted and
/// current is decided per request, so that a bad one gets a 401 and not a broken connection, and an expired one stops
/// working on an open connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionIdentity {
    client: Option<Client>,
    /// The certificate is a front proxy's: whom its requests' headers name is asking.
    proxy: Option<Validity>,
    refused: bool,
}

#[derive(Debug, Clone)]
struct Client {
    user: UserInfo,
    /// Seconds since the epoch.
    not_before: i64,
    not_after: i64,
}

impl ConnectionIdentity {
    /// Reads the peer's chain, leaf first, against the authorities of clients and of front proxies. The reason why a
    /// leaf is not trusted is logged at debug level.
    pub fn from_chain(
        chain: &[CertificateDer<'_>],
        authority: &CertificateDer<'_>,
        proxies: Option<&FrontProxy>,
    ) -> Self {
        let Some(leaf) = chain.first() else { return Self::default() };
        let proxy = proxies.and_then(|proxies| proxies.recognise(leaf));
        match read(leaf, authority) {
            Ok(client) => Self { client: Some(client), proxy, refused: false },
            Err(why) => {
                if proxy.is_none() {
                    tracing::debug!(why, "client certificate refused");
                }
                Self { client: None, proxy, refused: true }
            }
        }
    }

    /// Whether the connection is a front proxy's at `now` (seconds since the epoch).
    pub fn is_proxy(&self, now: i64) -> bool {
        self.proxy.is_some_and(|validity| validity.not_before <= now && now <= validity.not_after)
    }

    /// A certificate was shown that is not of ours, or is outside its validity (a valid one makes a user first).
    pub fn was_refused(&self) -> bool {
        self.refused || self.client.is_some()
    }

    /// How many seconds after `now` (seconds since the epoch) the certificate ends that [`ConnectionIdentity::user`] tells
    /// of.
    pub fn expires_in(&self, now: i64) -> Option<i64> {
        self.user(now)?;
        self.client.as_ref().map(|client| client.not_after - now)
    }

    /// The user at `now` (seconds since the epoch), if the certificate is within its validity.
    pub fn user(&self, now: i64) -> Option<&UserInfo> {
        let client = self.client.as_ref()?;
        (client.not_before <= now && now <= client.not_after).then_some(&client.user)
    }
}

fn read(leaf: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> Result<Client, &'static str> {
    let subject = pki::authority::verify_client(leaf, authority)?;
    let mut user = UserInfo::new(subject.common_name, &[]);
    // `system:authenticated` comes last, as upstream adds it.
    user.groups.splice(0..0, subject.organizations);
    let fingerprint: String = Sha256::digest(leaf.as_ref()).iter().map(|b| format!("{b:02x}")).collect();
    user.extra = BTreeMap::from([(
        "authentication.kubernetes.io/credential-id".to_owned(),
        vec![format!("X509SHA256={fingerprint}")],
    )]);
    Ok(Client { user, not_before: subject.not_before, not_after: subject.not_after })
}
