//! Flags of authentication, authorisation and audit. Names, meanings and defaults are kube-apiserver's, but where a whole
//! cluster in one program needs another default.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

#[derive(Debug, Clone, Args)]
pub struct AuthenticationOptions {
    /// Takes requests without credentials, as system:anonymous.
    #[arg(long, env = "SKIFF_ANONYMOUS_AUTH")]
    pub anonymous_auth: Option<bool>,
    /// Takes tokens of Secrets of type bootstrap.kubernetes.io/token.
    #[arg(long, env = "SKIFF_ENABLE_BOOTSTRAP_TOKEN_AUTH", default_value_t = true, action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// File with an AuthenticationConfiguration; taken over when it changes.
    #[arg(long, env = "SKIFF_AUTHENTICATION_CONFIG")]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig of a webhook that knows tokens.
    #[arg(long, env = "SKIFF_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long that webhook's answers are believed.
    #[arg(
        long,
        env = "SKIFF_AUTHENTICATION_TOKEN_WEBHOOK_CACHE_TTL",
        default_value = "2m",
        value_parser = parse_duration
    )]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// Version of TokenReview that it is asked with.
    #[arg(long, env = "SKIFF_AUTHENTICATION_TOKEN_WEBHOOK_VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authentication_token_webhook_version: String,
    /// URL of an OpenID provider.
    #[arg(long, env = "SKIFF_OIDC_ISSUER_URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The client that its tokens must be for.
    #[arg(long, env = "SKIFF_OIDC_CLIENT_ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// Authority of the provider's certificate; the system's roots if not given.
    #[arg(long, env = "SKIFF_OIDC_CA_FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name.
    #[arg(long, env = "SKIFF_OIDC_USERNAME_CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// Put before that name; - is nothing. Without it names from another claim than email begin with the provider's URL.
    #[arg(long, env = "SKIFF_OIDC_USERNAME_PREFIX", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// Claim with the user's groups.
    #[arg(long, env = "SKIFF_OIDC_GROUPS_CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// Put before those groups.
    #[arg(long, env = "SKIFF_OIDC_GROUPS_PREFIX", default_value = "")]
    pub oidc_groups_prefix: String,
    /// key=value that tokens must claim; repeatable.
    #[arg(long, env = "SKIFF_OIDC_REQUIRED_CLAIM", value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Algorithms that tokens may be signed with.
    #[arg(
        long,
        env = "SKIFF_OIDC_SIGNING_ALGS",
        value_delimiter = ',',
        default_value = "RS256",
        value_parser = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"]
    )]
    pub oidc_signing_algs: Vec<String>,
}

impl AuthenticationOptions {
    /// Whether any flag of OpenID Connect was given.
    pub fn has_oidc(&self) -> bool {
        self.oidc_issuer_url.is_some()
    }
}

#[derive(Debug, Clone, Args)]
pub struct ServiceAccountOptions {
    /// Issuer of service account tokens; tokens of further ones are taken too.
    #[arg(long, env = "SKIFF_SERVICE_ACCOUNT_ISSUER", value_delimiter = ',')]
    pub service_account_issuer: Vec<String>,
    /// File with a private key that service account tokens are signed with; one is made if it is not given.
    #[arg(long, env = "SKIFF_SERVICE_ACCOUNT_SIGNING_KEY_FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// File with keys that service account tokens are checked with, beside the one that they are signed with; repeatable.
    #[arg(long, env = "SKIFF_SERVICE_ACCOUNT_KEY_FILE", value_delimiter = ',')]
    pub service_account_key_file: Vec<PathBuf>,
    /// Audiences that are the API server; its issuers if not given.
    #[arg(long, env = "SKIFF_API_AUDIENCES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct AuthorizationOptions {
    /// Authorisers in their order: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny.
    #[arg(
        long,
        env = "SKIFF_AUTHORIZATION_MODE",
        value_delimiter = ',',
        value_parser = ["Node", "RBAC", "ABAC", "Webhook", "AlwaysAllow", "AlwaysDeny"],
        conflicts_with = "authorization_config"
    )]
    pub authorization_mode: Vec<String>,
    /// File with the policies of the mode ABAC, one a line.
    #[arg(long, env = "SKIFF_AUTHORIZATION_POLICY_FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// File with an AuthorizationConfiguration; taken over when it changes.
    #[arg(long, env = "SKIFF_AUTHORIZATION_CONFIG", conflicts_with = "authorization_webhook_config_file")]
    pub authorization_config: Option<PathBuf>,
    /// Kubeconfig of the webhook of the mode Webhook.
    #[arg(long, env = "SKIFF_AUTHORIZATION_WEBHOOK_CONFIG_FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// How long that webhook's consent is believed.
    #[arg(
        long,
        env = "SKIFF_AUTHORIZATION_WEBHOOK_CACHE_AUTHORIZED_TTL",
        default_value = "5m",
        value_parser = parse_duration
    )]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long other answers of it are believed.
    #[arg(
        long,
        env = "SKIFF_AUTHORIZATION_WEBHOOK_CACHE_UNAUTHORIZED_TTL",
        default_value = "30s",
        value_parser = parse_duration
    )]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    /// Version of SubjectAccessReview that it is asked with.
    #[arg(long, env = "SKIFF_AUTHORIZATION_WEBHOOK_VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    pub authorization_webhook_version: String,
}

/// Whether requests wait for their audit events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditMode {
    Batch,
    Blocking,
    BlockingStrict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditFormat {
    Json,
    Legacy,
}

#[derive(Debug, Clone, Args)]
pub struct AuditFlags {
    /// File with the audit policy; without it nothing is audited.
    #[arg(long, env = "SKIFF_AUDIT_POLICY_FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that events are written to; - is standard output.
    #[arg(long, env = "SKIFF_AUDIT_LOG_PATH")]
    pub audit_log_path: Option<PathBuf>,
    /// Format of the events in that file.
    #[arg(long, env = "SKIFF_AUDIT_LOG_FORMAT", value_enum, default_value_t = AuditFormat::Json)]
    pub audit_log_format: AuditFormat,
    /// Days that rotated files are kept; 0: for ever.
    #[arg(long, env = "SKIFF_AUDIT_LOG_MAXAGE", default_value_t = 366)]
    pub audit_log_maxage: u32,
    /// Rotated files that are kept; 0: all.
    #[arg(long, env = "SKIFF_AUDIT_LOG_MAXBACKUP", default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// Megabytes of a file before it is rotated; 0: never.
    #[arg(long, env = "SKIFF_AUDIT_LOG_MAXSIZE", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Compresses rotated files.
    #[arg(long, env = "SKIFF_AUDIT_LOG_COMPRESS")]
    pub audit_log_compress: bool,
    /// Whether requests wait until their events are written.
    #[arg(long, env = "SKIFF_AUDIT_LOG_MODE", value_enum, default_value_t = AuditMode::Blocking)]
    pub audit_log_mode: AuditMode,
    /// Events that wait to be written in the mode batch.
    #[arg(long, env = "SKIFF_AUDIT_LOG_BATCH_BUFFER_SIZE", default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Takes the bodies out of events that are too large.
    #[arg(long, env = "SKIFF_AUDIT_LOG_TRUNCATE_ENABLED")]
    pub audit_log_truncate_enabled: bool,
    /// Bytes of an event that is too large.
    #[arg(long, env = "SKIFF_AUDIT_LOG_TRUNCATE_MAX_EVENT_SIZE", default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
    /// Kubeconfig of a webhook that gets events.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_CONFIG_FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Wait after the first failed attempt to reach it.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_INITIAL_BACKOFF", default_value = "10s", value_parser = parse_duration)]
    pub audit_webhook_initial_backoff: Duration,
    /// Whether requests wait until it has their events.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_MODE", value_enum, default_value_t = AuditMode::Batch)]
    pub audit_webhook_mode: AuditMode,
    /// Events that wait to be sent in the mode batch.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_BATCH_BUFFER_SIZE", default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events of a batch.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_BATCH_MAX_SIZE", default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    /// How long a batch waits for more events.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_BATCH_MAX_WAIT", default_value = "30s", value_parser = parse_duration)]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether the number of batches is limited.
    #[arg(
        long,
        env = "SKIFF_AUDIT_WEBHOOK_BATCH_THROTTLE_ENABLE",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_BATCH_THROTTLE_QPS", default_value_t = 10.0)]
    pub audit_webhook_batch_throttle_qps: f32,
    /// Batches at once after a quiet time.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_BATCH_THROTTLE_BURST", default_value_t = 15)]
    pub audit_webhook_batch_throttle_burst: u32,
    /// Takes the bodies out of events that are too large, and splits batches.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_TRUNCATE_ENABLED")]
    pub audit_webhook_truncate_enabled: bool,
    /// Bytes of an event that is too large.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_TRUNCATE_MAX_EVENT_SIZE", default_value_t = 102_400)]
    pub audit_webhook_truncate_max_event_size: usize,
    /// Bytes of a batch that is too large.
    #[arg(long, env = "SKIFF_AUDIT_WEBHOOK_TRUNCATE_MAX_BATCH_SIZE", default_value_t = 10_485_760)]
    pub audit_webhook_truncate_max_batch_size: usize,
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    apiserver::parse_duration(text).ok_or_else(|| "must be a duration such as 30s or 5m".to_owned())
}
