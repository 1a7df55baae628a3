//! Administrators' access to devices: only namespaces with a label may ask for it (`pkg/registry/resource/utils.go`).

use api::field::{Error, ErrorList, Path};
use api::kind::{Pending, WriteHook};
use api::services::ActionContext;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use crate::json::{Json, dig};

use super::{claim, status_access};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// The hook of claims and their templates.
pub(super) struct Guard {
    /// Kind, as refusals say it.
    pub kind: &'static str,
    /// Where requests stand.
    pub requests: &'static [&'static str],
    /// What else is wrong with a new object, which is told with the refusal.
    pub rest: fn(&Object) -> ErrorList,
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
        let Some(error) = unlabelled(ctx, object, at).await? else { return Ok(Box::new(())) };
        let mut errors = vec![error];
        errors.extend((self.rest)(object));
        Err(Status::invalid("resource.k8s.io", self.kind, object.name(), &errors))
    }

    /// `resourceclaimStatusStrategy.ValidateUpdate`, with what it finds besides.
    async fn begin_status(
        &self,
        ctx: &ActionContext<'_>,
        verb: &str,
        new: &Object,
        old: &Object,
    ) -> Result<(), Status> {
        let asked = |object: &Object| {
            let results = object.at("status").at("allocation").at("devices").list("results");
            results.iter().position(|result| result.flag("adminAccess"))
        };
        let mut errors = ErrorList::new();
        if let Some(index) = asked(new)
            && asked(old).is_none()
        {
            let at = Path::new("status").child("allocation").child("devices").child("results");
            errors.extend(unlabelled(ctx, new, at.index(index).child("adminAccess")).await?);
        }
        errors.extend(status_access::check(ctx, verb, new, old).await);
        if errors.is_empty() {
            return Ok(());
        }
        errors.extend(claim::status(new, old));
        Err(Status::invalid("resource.k8s.io", self.kind, new.name(), &errors))
    }

    async fn deleted(&self, _: &Object) {}
}

/// What is said of administrators' access in a namespace without the label.
async fn unlabelled(ctx: &ActionContext<'_>, object: &Object, at: Path) -> Result<Option<Error>, Status> {
    let namespace = ctx.registry.get(&Gvr::new("", "v1", "namespaces"), "", object.namespace()).await?;
    if namespace.label(LABEL) == Some("true") {
        return Ok(None);
    }
    let text = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    Ok(Some(Error::forbidden(at, text)))
}
