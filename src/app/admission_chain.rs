//! The admission plugins that flags ask for, with the services that they ask.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use admission::{Chain, ChainOptions, ImageReviewer, Manifests, NoAnswer};
use anyhow::Context;
use api::webhook::Asker;
use apiserver::remote::Remote;
use apiserver::webhook::Identities;
use async_trait::async_trait;
use base::{SharedClock, Shutdown};
use bytes::Bytes;

use crate::addons;

/// How long the service that reviews images may take for one answer.
const REVIEW_WITHIN: Duration = Duration::from_secs(30);
/// Writes of one file come as several events; they are taken together.
const SETTLE: Duration = Duration::from_millis(200);

/// Chooses the plugins and reads their configuration.
pub fn read(options: &ChainOptions) -> anyhow::Result<Chain> {
    Chain::read(options, &reviewer).context("cannot set up admission")
}

/// As whom the server comes to admission webhooks.
pub fn identities(chain: &Chain) -> anyhow::Result<Vec<(Asker, Identities)>> {
    let load = |(asker, file): &(Asker, std::path::PathBuf)| {
        let loaded = Identities::load(file).context("cannot read the server's identities at admission webhooks")?;
        Ok((*asker, loaded))
    };
    chain.webhook_kubeconfigs().iter().map(load).collect()
}

/// Has a folder with webhooks or policies read again whenever its files change.
pub async fn follow(manifests: Arc<Manifests>, clock: SharedClock, shutdown: Shutdown) {
    let folder = manifests.folder();
    let watch = match addons::watch(folder) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "cannot watch admission manifests");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            changed = addons::changed(&watch) => if changed.is_err() { return },
        }
        tokio::time::sleep(SETTLE).await;
        manifests.reload(clock.now());
    }
}

fn reviewer(kubeconfig: &Path) -> Result<Arc<dyn ImageReviewer>, String> {
    let remote = Remote::load(kubeconfig).map_err(|error| base::chain(&error).to_string())?;
    Ok(Arc::new(Reviewer(remote)))
}

struct Reviewer(Remote);

#[async_trait]
impl ImageReviewer for Reviewer {
    async fn review(&self, review: Bytes) -> Result<Bytes, NoAnswer> {
        self.0
            .post(review, REVIEW_WITHIN)
            .await
            .map_err(|error| NoAnswer { is_passing: error.is_passing(), text: base::chain(&error).to_string() })
    }
}
