//! Authentication, authorisation and audit as the flags and their files say it; the files are taken over when they change.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::audit::{
    Audit, AuditOptions, BatchOptions, FileOptions, Format, Mode as Waiting, Throttle, TruncateOptions, WebhookOptions,
};
use apiserver::auth::abac::Policies;
use apiserver::auth::bearer::{AudienceAgnostic, Bearer, TokenUnion};
use apiserver::auth::bootstrap::BootstrapTokens;
use apiserver::auth::hooks::access::{AccessOptions, OnError};
use apiserver::auth::hooks::tokens::TokenWebhook;
use apiserver::auth::modes::{Mode, Own, Replaceable, WebhookMode};
use apiserver::auth::oidc::config::{Anonymous, Configuration, Issuer, Jwt, Mappings, Prefixed};
use apiserver::auth::oidc::{JwtAuthenticator, Providers};
use apiserver::auth::tokens::ServiceAccountTokens;
use apiserver::auth::{AnonymousAccess, Authenticator};
use apiserver::metrics::reloads::Reloads;
use apiserver::remote::Remote;
use base::{SharedClock, Shutdown};
use tokio::task::JoinSet;

use crate::addons;
use crate::options::{AuditFlags, AuditFormat, AuditMode, AuthenticationOptions, AuthorizationOptions};

/// Every algorithm that tokens of issuers may be signed with.
const SIGNING_ALGORITHMS: &[&str] = &["ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];

/// A changed file is read after this, because editors write in steps.
const SETTLE: Duration = Duration::from_millis(200);
/// Providers of a changed configuration that cannot be reached for so long leave the old ones in place.
const REACH_WITHIN: Duration = Duration::from_secs(60);

/// Where tasks run.
pub struct Tasks<'a> {
    pub clock: &'a SharedClock,
    pub tasks: &'a mut JoinSet<()>,
    pub shutdown: &'a Shutdown,
    /// Counts files that are taken over.
    pub reloads: &'a Arc<Reloads>,
}

/// Where the reloads of one file are counted.
struct Counted {
    of: &'static str,
    reloads: Arc<Reloads>,
    clock: SharedClock,
}

impl Tasks<'_> {
    /// Begins to count the reloads of a file.
    fn counted(&self, of: &'static str, file: &Path) -> Counted {
        self.reloads.begin(of, &std::fs::read_to_string(file).unwrap_or_default());
        Counted { of, reloads: Arc::clone(self.reloads), clock: self.clock.clone() }
    }
}

/// Who is who.
pub struct Identities {
    pub tokens: Arc<TokenUnion>,
    pub bootstrap: Arc<BootstrapTokens>,
    pub authenticator: Authenticator,
}

/// Sets authentication up. `own` are the API server's audiences, `issuers` its own issuers.
pub fn authentication(
    options: &AuthenticationOptions,
    service_accounts: Arc<ServiceAccountTokens>,
    own: &[String],
    issuers: &[String],
    run: &mut Tasks<'_>,
) -> anyhow::Result<Identities> {
    let bootstrap = Arc::new(BootstrapTokens::new(run.clock.clone()));
    let mut others: Vec<Arc<dyn Bearer>> = Vec::new();
    if options.enable_bootstrap_token_auth {
        others.push(Arc::new(AudienceAgnostic::new(bootstrap.clone(), own.to_vec())));
    }
    let configuration = match &options.authentication_config {
        Some(_) if options.has_oidc() => bail!("--authentication-config and --oidc-* flags exclude each other"),
        Some(file) => Some(read(file, Configuration::parse)?),
        None if options.has_oidc() => Some(Configuration::of(vec![from_flags(options)?])),
        None => None,
    };
    let configured = configuration.as_ref().and_then(|configuration| configuration.anonymous.clone());
    if configured.is_some() && options.anonymous_auth.is_some() {
        bail!(
            "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
        );
    }
    let everybody = Anonymous::all(options.anonymous_auth.unwrap_or(true));
    let anonymous = AnonymousAccess::new(configured.unwrap_or(everybody.clone()));
    if let Some(configuration) = configuration {
        let providers = Arc::new(Providers::default());
        // A file's issuers may sign as they like (`AllValidSigningAlgorithms`).
        let algorithms = match &options.authentication_config {
            Some(_) => SIGNING_ALGORITHMS.iter().map(|name| (*name).to_owned()).collect(),
            None => options.oidc_signing_algs.clone(),
        };
        let maker = Maker { algorithms, issuers: issuers.to_vec(), clock: run.clock.clone() };
        let first = maker.make(&configuration)?;
        for provider in &first {
            run.tasks.spawn(provider.clone().initialize(run.shutdown.clone()));
        }
        providers.replace(first);
        others.push(Arc::new(AudienceAgnostic::new(providers.clone(), own.to_vec())));
        if let Some(file) = options.authentication_config.clone() {
            let reload = Reload { maker, providers, anonymous: anonymous.clone(), everybody };
            let reload = Arc::new(reload);
            let take = move |text| {
                let reload = reload.clone();
                async move { reload.take(text).await }
            };
            let counted = run.counted("authentication", &file);
            run.tasks.spawn(follow(file, take, counted, run.shutdown.clone()));
        }
    }
    if let Some(file) = &options.authentication_token_webhook_config_file {
        let remote =
            Remote::load(file).context("cannot set up the webhook of --authentication-token-webhook-config-file")?;
        let version = &options.authentication_token_webhook_version;
        let ttl = options.authentication_token_webhook_cache_ttl;
        others.push(Arc::new(TokenWebhook::new(remote, version, own.to_vec(), ttl)));
    }
    let tokens = TokenUnion::new(service_accounts, others);
    let authenticator = Authenticator::new(tokens.clone(), run.clock.clone()).with_anonymous(anonymous);
    Ok(Identities { tokens, bootstrap, authenticator })
}

/// The provider of the `--oidc-*` flags.
fn from_flags(options: &AuthenticationOptions) -> anyhow::Result<Jwt> {
    let url = options.oidc_issuer_url.clone().unwrap_or_default();
    let authority = match &options.oidc_ca_file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => String::new(),
    };
    let claim = options.oidc_username_claim.clone();
    let prefix = match options.oidc_username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
        _ if claim == "email" => String::new(),
        _ => format!("{url}#"),
    };
    let mut claim_validation_rules = Vec::new();
    for required in &options.oidc_required_claim {
        let (claim, value) = required.split_once('=').context("--oidc-required-claim must be key=value")?;
        claim_validation_rules.push(apiserver::auth::oidc::config::ClaimRule {
            claim: claim.to_owned(),
            required_value: value.to_owned(),
            ..Default::default()
        });
    }
    let groups = options.oidc_groups_claim.clone().unwrap_or_default();
    let groups_prefix = (!groups.is_empty()).then(|| options.oidc_groups_prefix.clone());
    Ok(Jwt {
        issuer: Issuer {
            url,
            certificate_authority: authority,
            audiences: options.oidc_client_id.iter().cloned().collect(),
            ..Issuer::default()
        },
        claim_validation_rules,
        claim_mappings: Mappings {
            username: Prefixed { claim, prefix: Some(prefix), ..Prefixed::default() },
            groups: Prefixed { claim: groups, prefix: groups_prefix, ..Prefixed::default() },
            ..Mappings::default()
        },
        user_validation_rules: Vec::new(),
    })
}

/// Makes providers of configurations.
struct Maker {
    algorithms: Vec<String>,
    issuers: Vec<String>,
    clock: SharedClock,
}

impl Maker {
    fn make(&self, configuration: &Configuration) -> anyhow::Result<Vec<Arc<JwtAuthenticator>>> {
        let compiled = configuration.compile(&self.issuers).context("the authentication configuration is not valid")?;
        let one = |(issuer, mapping)| {
            let provider = JwtAuthenticator::new(issuer, self.algorithms.clone(), mapping, self.clock.clone());
            Ok(Arc::new(provider.context("cannot set up an identity provider")?))
        };
        compiled.into_iter().map(one).collect()
    }
}

/// What a changed authentication configuration changes.
struct Reload {
    maker: Maker,
    providers: Arc<Providers>,
    anonymous: AnonymousAccess,
    everybody: Anonymous,
}

impl Reload {
    async fn take(&self, text: String) -> anyhow::Result<()> {
        let configuration = Configuration::parse(&text)?;
        let providers = self.maker.make(&configuration)?;
        let reach = futures::future::try_join_all(providers.iter().map(|provider| provider.discover()));
        tokio::time::timeout(REACH_WITHIN, reach).await.context("its identity providers did not answer in time")??;
        self.providers.replace(providers);
        self.anonymous.replace(configuration.anonymous.unwrap_or_else(|| self.everybody.clone()));
        Ok(())
    }
}

/// Sets authorisation up.
pub fn authorization(
    options: &AuthorizationOptions,
    mut own: Own,
    run: &mut Tasks<'_>,
) -> anyhow::Result<Arc<Replaceable>> {
    if let Some(file) = &options.authorization_policy_file {
        own.abac = Some(Arc::new(Policies::load(file).context("cannot set up the mode ABAC")?));
    }
    let modes = match &options.authorization_config {
        Some(file) => read(file, Mode::parse_file)?,
        None => modes_of_flags(options)?,
    };
    let authorizer = Replaceable::new(own.union(&modes).context("cannot set up the authorisers")?);
    if let Some(file) = options.authorization_config.clone() {
        let (own, target) = (Arc::new(own), authorizer.clone());
        let take = move |text: String| {
            let (own, target) = (own.clone(), target.clone());
            async move {
                target.replace(own.union(&Mode::parse_file(&text)?)?);
                Ok(())
            }
        };
        let counted = run.counted("authorization", &file);
        run.tasks.spawn(follow(file, take, counted, run.shutdown.clone()));
    }
    Ok(authorizer)
}

/// The modes of the flags with their names (`GetNameForAuthorizerMode`).
fn modes_of_flags(options: &AuthorizationOptions) -> anyhow::Result<Vec<(String, Mode)>> {
    if options.authorization_mode.is_empty() {
        return Ok(vec![("node".to_owned(), Mode::Node), ("rbac".to_owned(), Mode::Rbac)]);
    }
    let mut modes = Vec::new();
    for (index, name) in options.authorization_mode.iter().enumerate() {
        if options.authorization_mode[..index].contains(name) {
            bail!("authorization-mode {:?} has mode specified more than once", options.authorization_mode);
        }
        modes.push(match Mode::plain(name) {
            Some(Mode::Abac) if options.authorization_policy_file.is_none() => {
                bail!("authorization-mode ABAC's authorization policy file not passed");
            }
            Some(mode) => (name.to_lowercase(), mode),
            None => {
                let Some(kubeconfig) = options.authorization_webhook_config_file.clone() else {
                    bail!("authorization-mode Webhook's authorization config file not passed");
                };
                let options = AccessOptions {
                    name: "default".to_owned(),
                    version: options.authorization_webhook_version.clone(),
                    allowed_ttl: options.authorization_webhook_cache_authorized_ttl,
                    refused_ttl: options.authorization_webhook_cache_unauthorized_ttl,
                    timeout: Duration::from_secs(30),
                    on_error: OnError::NoOpinion,
                };
                let name = options.name.clone();
                (name, Mode::Webhook(Box::new(WebhookMode { kubeconfig, options, conditions: Vec::new() })))
            }
        });
    }
    if options.authorization_webhook_config_file.is_some() && !options.authorization_mode.iter().any(|m| m == "Webhook")
    {
        bail!("cannot specify --authorization-webhook-config-file without mode Webhook");
    }
    if options.authorization_policy_file.is_some() && !options.authorization_mode.iter().any(|m| m == "ABAC") {
        bail!("cannot specify --authorization-policy-file without mode ABAC");
    }
    Ok(modes)
}

/// Starts auditing, if there is a policy and somewhere to write to.
pub fn audit(flags: &AuditFlags, run: &mut Tasks<'_>) -> anyhow::Result<Option<Arc<Audit>>> {
    let Some(policy_file) = flags.audit_policy_file.clone() else { return Ok(None) };
    let waiting = |mode| match mode {
        AuditMode::Batch => Waiting::Batch,
        AuditMode::Blocking => Waiting::Blocking,
        AuditMode::BlockingStrict => Waiting::BlockingStrict,
    };
    let log = flags.audit_log_path.clone().map(|path| {
        let file = FileOptions {
            path,
            format: match flags.audit_log_format {
                AuditFormat::Json => Format::Json,
                AuditFormat::Legacy => Format::Legacy,
            },
            age_days_max: flags.audit_log_maxage,
            backups_max: flags.audit_log_maxbackup,
            size_max: flags.audit_log_maxsize << 20,
            compress: flags.audit_log_compress,
        };
        let batch = BatchOptions {
            mode: waiting(flags.audit_log_mode),
            buffer_size: flags.audit_log_batch_buffer_size,
            ..BatchOptions::log()
        };
        let truncate = TruncateOptions {
            enabled: flags.audit_log_truncate_enabled,
            event_size_max: flags.audit_log_truncate_max_event_size,
            ..TruncateOptions::default()
        };
        (file, batch, truncate)
    });
    let webhook = flags.audit_webhook_config_file.clone().map(|config_file| {
        let webhook = WebhookOptions { config_file, initial_backoff: flags.audit_webhook_initial_backoff };
        let throttle =
            Throttle { rate: flags.audit_webhook_batch_throttle_qps, burst: flags.audit_webhook_batch_throttle_burst };
        let batch = BatchOptions {
            mode: waiting(flags.audit_webhook_mode),
            buffer_size: flags.audit_webhook_batch_buffer_size,
            size_max: flags.audit_webhook_batch_max_size,
            wait_max: flags.audit_webhook_batch_max_wait,
            throttle: flags.audit_webhook_batch_throttle_enable.then_some(throttle),
        };
        let truncate = TruncateOptions {
            enabled: flags.audit_webhook_truncate_enabled,
            event_size_max: flags.audit_webhook_truncate_max_event_size,
            batch_size_max: flags.audit_webhook_truncate_max_batch_size,
        };
        (webhook, batch, truncate)
    });
    let options = AuditOptions { policy_file, log, webhook };
    let audit = Audit::start(&options, run.clock.clone(), run.tasks, run.shutdown).context("cannot start auditing")?;
    Ok(Some(audit))
}

fn read<T, E>(file: &Path, parse: impl Fn(&str) -> Result<T, E>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text).with_context(|| format!("{} is not valid", file.display()))
}

/// Hands a file's text over whenever it has changed. What cannot be taken leaves things as they were.
async fn follow<F, Fut>(file: PathBuf, take: F, counted: Counted, shutdown: Shutdown)
where
    F: Fn(String) -> Fut + Send,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let folder = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watch = match addons::watch(folder) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "cannot watch a configuration file");
            return;
        }
    };
    let mut text = std::fs::read_to_string(&file).unwrap_or_default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = addons::changed(&watch) => if changed.is_err() { return },
        }
        tokio::time::sleep(SETTLE).await;
        let Ok(now) = std::fs::read_to_string(&file) else { continue };
        if now == text {
            continue;
        }
        text.clone_from(&now);
        let taken = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            taken = take(now) => taken,
        };
        counted.reloads.changed(counted.of, &text, taken.is_ok(), counted.clock.now());
        match taken {
            Ok(()) => tracing::info!(file = %file.display(), "took over a changed configuration"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(file = %file.display(), error, "a changed configuration is left aside");
            }
        }
    }
}
