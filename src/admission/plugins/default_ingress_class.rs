//! `DefaultIngressClass`: ingresses without a class get the default one
//! (`plugin/pkg/admission/network/defaultingressclass`).

use std::cmp::Reverse;

use api::admission::{AdmissionPlugin, Attributes, Operation};
use api::{Gvr, Status};
use async_trait::async_trait;
use client::Resource;
use client::k8s_openapi::api::networking::v1::IngressClass;

use crate::attributes::{forbidden, is_resource};
use crate::cluster::Cluster;

pub(crate) struct DefaultIngressClass {
    cluster: Cluster,
}

impl DefaultIngressClass {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }
}

#[async_trait]
impl AdmissionPlugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, resource: &Gvr, subresource: &str) -> bool {
        operation == Operation::Create && is_resource(resource, subresource, "networking.k8s.io", "ingresses")
    }

    async fn admit(&self, attributes: &mut Attributes) -> Result<(), Status> {
        let has_class = attributes.object.as_ref().is_none_or(|ingress| {
            ingress.str(&["spec", "ingressClassName"]).is_some()
                || ingress.annotation("kubernetes.io/ingress.class").is_some()
        });
        if has_class {
            return Ok(());
        }
        let classes = self.cluster.list::<IngressClass>().await.map_err(|s| forbidden(attributes, s))?;
        let defaults =
            classes.iter().filter(|c| c.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true"));
        let newest = defaults.min_by_key(|c| {
            let created = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (Reverse(created), c.name().to_owned())
        });
        if let (Some(ingress), Some(class)) = (&mut attributes.object, newest) {
            ingress.set(&["spec", "ingressClassName"], class.name());
        }
        Ok(())
    }
}
