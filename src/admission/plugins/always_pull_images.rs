//! `AlwaysPullImages`: whoever runs a private image must be allowed to pull it
//! (`plugin/pkg/admission/alwayspullimages`). Off unless asked for.

use std::collections::BTreeSet;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::field::{Error, Path};
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::attributes::{forbidden, is_resource, text};
use crate::plain_error;

/// The lists of containers in the order in which upstream visits them (`pods.VisitContainersWithPath`).
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const ALWAYS: &str = "Always";

pub(crate) struct AlwaysPullImages;

#[async_trait]
impl AdmissionPlugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_resource(resource, subresource, "", "pods")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        if brings_no_images(attributes) {
            return Ok(());
        }
        let Some(pod) = &mut attributes.object else { return Ok(()) };
        for list in LISTS {
            for container in members(pod, list) {
                container.insert("imagePullPolicy".to_owned(), ALWAYS.into());
            }
        }
        for volume in members(pod, "volumes") {
            if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
                image.insert("pullPolicy".to_owned(), ALWAYS.into());
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes) -> Result<(), Status> {
        if brings_no_images(attributes) {
            return Ok(());
        }
        let Some(pod) = &attributes.object else { return Ok(()) };
        let spec = Path::new("spec");
        let mut wrong = Vec::new();
        let mut check = |path: Path, policy: &str| {
            if policy != ALWAYS {
                let error = Error::not_supported(path, policy, &[ALWAYS]);
                wrong.push(forbidden(attributes, error).message);
            }
        };
        for list in LISTS {
            for (index, container) in pod.array(&["spec", list]).iter().enumerate() {
                let path = spec.child(list).index(index).child("imagePullPolicy");
                check(path, text(container, "imagePullPolicy"));
            }
        }
        for (index, volume) in pod.array(&["spec", "volumes"]).iter().enumerate() {
            if let Some(image) = volume.get("image").filter(|image| image.is_object()) {
                let path = spec.child("volumes").index(index).child("image").child("pullPolicy");
                check(path, text(image, "pullPolicy"));
            }
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [one] => Err(plain_error(one)),
            all => Err(plain_error(format!("[{}]", all.join(", ")))),
        }
    }
}

fn members<'a>(pod: &'a mut Object, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let found = pod.get_mut(&["spec", list]).and_then(Value::as_array_mut);
    found.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// An update whose images were all there before (`isUpdateWithNoNewImages`).
fn brings_no_images(attributes: &Attributes) -> bool {
    let (Some(new), Some(old)) = (&attributes.object, &attributes.old_object) else { return false };
    if attributes.operation != Operation::Update {
        return false;
    }
    let images = |pod: &Object| -> BTreeSet<String> {
        let all = LISTS.into_iter().flat_map(|list| pod.array(&["spec", list]));
        all.map(|container| text(container, "image").to_owned()).collect()
    };
    images(new).is_subset(&images(old))
}
