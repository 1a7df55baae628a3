//! Calls the admission plugins.

use api::admission::{Attributes, Operation};
use api::{Gvr, Object, Status, UserInfo};

use crate::filters::Warnings;
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
        }
    }

    /// Runs the mutating phase; the object comes back, changed or not.
    pub async fn mutate(
        &self,
        operation: Operation,
        object: Object,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<Object, Status> {
        let plugins = self.server.admission.load_full();
        if !plugins.iter().any(|p| p.handles(operation, &self.resource, self.subresource)) {
            return Ok(object);
        }
        let mut attributes = self.attributes(operation, Some(object), old.cloned(), options);
        for plugin in plugins.iter().filter(|p| p.handles(operation, &self.resource, self.subresource)) {
            plugin.admit(&mut attributes).await?;
        }
        self.warnings.extend(std::mem::take(&mut attributes.warnings));
        attributes.object.ok_or_else(|| Status::internal("an admission plugin dropped the object"))
    }

    /// Runs the validating phase.
    pub async fn validate(
        &self,
        operation: Operation,
        object: Option<&Object>,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<(), Status> {
        let plugins = self.server.admission.load_full();
        if !plugins.iter().any(|p| p.handles(operation, &self.resource, self.subresource)) {
            return Ok(());
        }
        let attributes = self.attributes(operation, object.cloned(), old.cloned(), options);
        for plugin in plugins.iter().filter(|p| p.handles(operation, &self.resource, self.subresource)) {
            plugin.validate(&attributes).await?;
        }
        Ok(())
    }

    /// Both phases of a deletion or connection.
    pub async fn both(
        &self,
        operation: Operation,
        object: Option<&Object>,
        old: Option<&Object>,
        options: &Object,
    ) -> Result<(), Status> {
        let plugins = self.server.admission.load_full();
        if !plugins.iter().any(|p| p.handles(operation, &self.resource, self.subresource)) {
            return Ok(());
        }
        let mut attributes = self.attributes(operation, object.cloned(), old.cloned(), options);
        for plugin in plugins.iter().filter(|p| p.handles(operation, &self.resource, self.subresource)) {
            plugin.admit(&mut attributes).await?;
        }
        for plugin in plugins.iter().filter(|p| p.handles(operation, &self.resource, self.subresource)) {
            plugin.validate(&attributes).await?;
        }
        self.warnings.extend(std::mem::take(&mut attributes.warnings));
        Ok(())
    }
}
