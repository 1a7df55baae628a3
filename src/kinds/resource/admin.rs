//! Administrators' access to devices: only namespaces with a label may ask for it (`pkg/registry/resource/utils.go`).

use api::field::{Error, Path};
use api::kind::{Pending, WriteHook};
use api::services::ActionContext;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{Json, dig};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The hook of claims and their templates.
pub(super) struct Guard {
    /// Kind, as refusals say it.
    pub kind: &'static str,
    /// Where requests stand.
    pub requests: &'static [&'static str],
}

#[async_trait]
impl WriteHook for Guard {
    /// `AuthorizedForAdmin`. The spec never changes, so only creations are asked.
    async fn begin(
        &self,
        ctx: &ActionContext<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<Box<dyn Pending>, Status> {
        let asked = |request: &Value| request.at("exactly").flag("adminAccess");
        let requests = dig(object, self.requests).as_array().map_or(&[][..], Vec::as_slice);
        let Some(index) = requests.iter().position(asked).filter(|_| old.is_none()) else {
            return Ok(Box::new(()));
        };
        let at = Path::new("spec").child("devices").child("requests").index(index).child("adminAccess");
        let namespace = ctx.registry.get(&Gvr::new("", "v1", "namespaces"), "", object.namespace()).await?;
        if namespace.label(LABEL) == Some("true") {
            return Ok(Box::new(()));
        }
        let text = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        Err(Status::invalid("resource.k8s.io", self.kind, object.name(), &[Error::forbidden(at, text)]))
    }

    async fn deleted(&self, _: &Object) {}
}
