//! Every key and certificate of a server, made at first start and renewed while it runs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::options::ServiceAccountOptions;
use base::{SharedClock, Shutdown};
use pki::{CertificateAuthority, Leaf, LeafSpec, PkiError, ServingCertificate, TokenSigner, Usage};

/// How often certificates are looked at; a leaf has four months left when it is renewed.
const LOOK_EVERY: Duration = Duration::from_secs(12 * 60 * 60);

/// Names and addresses of a server.
#[derive(Debug, Clone)]
pub struct Names {
    pub node_name: String,
    pub node_ip: IpAddr,
    pub advertise_address: IpAddr,
    /// Address of the Service `kubernetes`.
    pub service_ip: IpAddr,
    pub cluster_domain: String,
    pub extra: Vec<String>,
}

/// What the server signs and shows.
pub struct Credentials {
    dir: PathBuf,
    clock: SharedClock,
    pub ca: Arc<CertificateAuthority>,
    /// Signs the front proxy's client certificate, which aggregated API servers trust.
    pub front_proxy_ca: CertificateAuthority,
    /// What the API server shows to them.
    pub front_proxy_client: Leaf,
    pub tokens: Arc<TokenSigner>,
    server_spec: LeafSpec,
    pub serving: Arc<ServingCertificate>,
    kubelet_spec: LeafSpec,
    pub kubelet_serving: Arc<ServingCertificate>,
    /// What the API server shows to the node agent.
    pub kubelet_client: Leaf,
    pub admin: Leaf,
}

impl Credentials {
    /// Reads what is in `dir` and makes what is missing.
    pub fn load_or_create(dir: PathBuf, names: &Names, clock: SharedClock) -> Result<Self, PkiError> {
        let ca = CertificateAuthority::load_or_create(&dir, "ca", "skiff-ca", clock.as_ref())?;
        let front_proxy_ca =
            CertificateAuthority::load_or_create(&dir, "front-proxy-ca", "skiff-front-proxy-ca", clock.as_ref())?;
        let issuer = format!("https://kubernetes.default.svc.{}", names.cluster_domain);
        let tokens = TokenSigner::load_or_create(&dir.join("service-account.key"), &issuer)?;
        let server_spec = LeafSpec::server("kube-apiserver", server_names(names));
        let server = ca.load_or_issue(&dir, "kube-apiserver", &server_spec, clock.as_ref())?;
        let kubelet_spec = LeafSpec {
            common_name: format!("system:node:{}", names.node_name),
            organizations: vec![api::user::NODES.to_owned()],
            names: vec![names.node_name.clone(), names.node_ip.to_string(), "127.0.0.1".to_owned()],
            usage: Usage::Server,
        };
        let kubelet = ca.load_or_issue(&dir, "kubelet", &kubelet_spec, clock.as_ref())?;
        let client = LeafSpec::client("kube-apiserver-kubelet-client", &["kubeadm:cluster-admins", api::user::MASTERS]);
        let kubelet_client = ca.load_or_issue(&dir, "kube-apiserver-kubelet-client", &client, clock.as_ref())?;
        let proxy = LeafSpec::client(apiserver::auth::front_proxy::ALLOWED_NAME, &[]);
        let front_proxy_client = front_proxy_ca.load_or_issue(&dir, "front-proxy-client", &proxy, clock.as_ref())?;
        let admin = LeafSpec::client("system:admin", &[api::user::MASTERS]);
        let admin = ca.load_or_issue(&dir, "admin", &admin, clock.as_ref())?;
        Ok(Self {
            serving: ServingCertificate::new(&server)?,
            kubelet_serving: ServingCertificate::new(&kubelet)?,
            ca: Arc::new(ca),
            front_proxy_ca,
            front_proxy_client,
            tokens: Arc::new(tokens),
            server_spec,
            kubelet_spec,
            kubelet_client,
            admin,
            dir,
            clock,
        })
    }

    /// Signs and checks service account tokens as the flags say.
    pub fn with_service_accounts(mut self, options: &ServiceAccountOptions) -> Result<Self, PkiError> {
        let issuer = self.tokens.issuer().to_owned();
        let path = options.service_account_signing_key_file.clone();
        let signer = TokenSigner::load_or_create(&path.unwrap_or(self.dir.join("service-account.key")), &issuer)?;
        let signer = signer.with_keys(&options.service_account_key_file)?.with_issuers(&options.service_account_issuer);
        self.tokens = Arc::new(signer);
        Ok(self)
    }

    /// Renews the serving certificates in time, without a restart, until `shutdown`.
    pub async fn renew(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            for (name, spec, serving) in [
                ("kube-apiserver", &self.server_spec, &self.serving),
                ("kubelet", &self.kubelet_spec, &self.kubelet_serving),
            ] {
                let renewed = self
                    .ca
                    .load_or_issue(&self.dir, name, spec, self.clock.as_ref())
                    .and_then(|leaf| serving.replace(&leaf));
                if let Err(error) = renewed {
                    tracing::error!(name, error = %base::chain(&error), "cannot renew a certificate");
                }
            }
        }
    }
}

/// Everything that the API server may be called.
fn server_names(names: &Names) -> Vec<String> {
    let mut all = BTreeSet::from([
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", names.cluster_domain),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        names.node_name.clone(),
        names.node_ip.to_string(),
        names.advertise_address.to_string(),
        names.service_ip.to_string(),
    ]);
    all.extend(names.extra.iter().cloned());
    all.into_iter().collect()
}
