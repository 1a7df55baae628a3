//! Calls the admission plugins.

use std::sync::Arc;

use api::admission::{AdmissionPlugin, Attributes, Notes, Operation, Reinvocation};
use api::{Gvr, Object, Status, UserInfo};
use tokio::time::Instant;

use crate::filters::Warnings;
use crate::metrics::Admitted;
use crate::server::ApiServer;

/// What every admission call of one request has in common.
pub struct Admission<'a> {
    pub server: &'a ApiServer,
    pub user: &'a UserInfo,
    pub gvk: api::Gvk,
    pub resource: Gvr,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub dry_run: bool,
    pub warnings: &'a Warnings,
}

impl Admission<'_> {
    fn attributes(
        &self,
        operation: Operation,
        object: Option<Object>,
        old: Option<Object>,
        options: &Object,
    ) -> Attributes {
        let name = match &object {
            Some(object) if self.name.is_empty() => object.name().to_owned(),
            _ => self.name.to_owned(),
        };
        // A namespace is in itself as far as admission is concerned.
        let namespace = if self.resource.group.is_empty() && self.resource.resource == "namespaces" {
            name.clone()
        } else {
            self.namespace.to_owned()
        };
        Attributes {
            operation,
            gvk: self.gvk.clone(),
            resource: self.resource.clone(),
            subresource: self.subresource.to_owned(),
            namespace,
            name,
            object,
            old_object: old,
            options: (!options.0.is_empty()).then(|| options.clone()),
            user: self.user.clone(),
            dry_run: self.dry_run,
            warnings: Vec::new(),
            notes: Notes::default(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// The plugins that have something to say.
    fn plugins(&self, operation: Operation) -> Vec<Arc<dyn AdmissionPlugin>> {
        let plugins = self.server.admission.load();
        plugins.iter().filter(|p| p.handles(operation, &self.resource, self.subresource)).cloned().collect()
    }

    /// Runs the mutating phase; the object comes back, changed or not.
    pub async fn mutate(
        &self,
        operation: Operation,
        object: Object,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<Object, Status> {
        let plugins = self.plugins(operation);
        if plugins.is_empty() {
            return Ok(object);
        }
        let mut attributes = self.attributes(operation, Some(object), old.cloned(), options);
        self.admit(&plugins, &mut attributes).await?;
        attributes.object.ok_or_else(|| Status::internal("an admission plugin dropped the object"))
    }

    /// The mutating plugins, twice if a webhook or policy asks for it.
    async fn admit(&self, plugins: &[Arc<dyn AdmissionPlugin>], attributes: &mut Attributes) -> Result<(), Status> {
        let mut result = self.admit_once(plugins, attributes).await;
        if result.is_ok() && attributes.reinvocation.should_reinvoke {
            attributes.reinvocation.is_reinvoke = true;
            result = self.admit_once(plugins, attributes).await;
        }
        self.warnings.extend(std::mem::take(&mut attributes.warnings));
        self.note(&attributes.notes);
        result
    }

    async fn admit_once(
        &self,
        plugins: &[Arc<dyn AdmissionPlugin>],
        attributes: &mut Attributes,
    ) -> Result<(), Status> {
        let begun = Instant::now();
        let mut result = Ok(());
        for plugin in plugins {
            let before = Instant::now();
            result = plugin.admit(attributes).await;
            self.time(Some(plugin.name()), attributes.operation, "admit", result.is_err(), before);
            if result.is_err() {
                break;
            }
        }
        self.time(None, attributes.operation, "admit", result.is_err(), begun);
        result
    }

    fn time(
        &self,
        name: Option<&'static str>,
        operation: Operation,
        phase: &'static str,
        rejected: bool,
        since: Instant,
    ) {
        let what = Admitted { name, operation: operation.as_str(), rejected, phase };
        self.server.metrics.admitted(what, since.elapsed());
    }

    /// Hands on what plugins said, also of a request that they refused.
    fn note(&self, notes: &Notes) {
        let noted = notes.take();
        self.warnings.extend(noted.warnings);
        self.warnings.annotate(noted.annotations);
    }

    /// Runs the validating phase.
    pub async fn validate(
        &self,
        operation: Operation,
        object: Option<&Object>,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<(), Status> {
        let plugins = self.plugins(operation);
        if plugins.is_empty() {
            return Ok(());
        }
        let attributes = self.attributes(operation, object.cloned(), old.cloned(), options);
        self.check(&plugins, &attributes).await
    }

    async fn check(&self, plugins: &[Arc<dyn AdmissionPlugin>], attributes: &Attributes) -> Result<(), Status> {
        let begun = Instant::now();
        let mut result = Ok(());
        for plugin in plugins {
            let before = Instant::now();
            result = plugin.validate(attributes).await;
            self.time(Some(plugin.name()), attributes.operation, "validate", result.is_err(), before);
            if result.is_err() {
                break;
            }
        }
        self.time(None, attributes.operation, "validate", result.is_err(), begun);
        self.note(&attributes.notes);
        result
    }

    /// Both phases of a deletion or connection.
    pub async fn both(
        &self,
        operation: Operation,
        object: Option<&Object>,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<(), Status> {
        let plugins = self.plugins(operation);
        if plugins.is_empty() {
            return Ok(());
        }
        let mut attributes = self.attributes(operation, object.cloned(), old.cloned(), options);
        self.admit(&plugins, &mut attributes).await?;
        self.check(&plugins, &attributes).await
    }
}
