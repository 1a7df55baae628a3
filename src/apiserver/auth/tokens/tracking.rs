//! Since when the use of tokens that are kept in Secrets is noted: unused ones may be retired a year later
//! (`pkg/controlplane/controller/legacytokentracking`).

use std::sync::Arc;

use api::{Object, Status};
use base::Shutdown;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::own_maps;
use crate::server::ApiServer;

const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Keeps the ConfigMap that says so, until shutdown.
pub async fn run(server: Arc<ApiServer>, shutdown: Shutdown) {
    own_maps::keep(&server, NAME, || settle(&server), shutdown).await;
}

/// `syncConfigMap`: a day that is there stays.
async fn settle(server: &ApiServer) -> Result<(), Status> {
    let today = server.clock.now().to_zoned(TimeZone::UTC).date().to_string();
    let change = move |object: &mut Object| {
        if object.str(&["data", "since"]).is_none_or(|since| since.parse::<Date>().is_err()) {
            object.set(&["data", "since"], today.as_str());
        }
        Ok(())
    };
    own_maps::write(server, NAME, &change).await
}
