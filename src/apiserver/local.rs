//! The server's objects for code inside the server: no authorisation, no admission.

use std::sync::Arc;

use api::services::Registry;
use api::{Gvr, Object, Status, UserInfo};
use async_trait::async_trait;

use crate::cache::view::Selection;
use crate::filters::{Authenticate, Warnings};
use crate::served::Served;
use crate::server::ApiServer;
use crate::verbs::delete::{Delete, Deleted};
use crate::verbs::options::{DeleteOptions, WriteOptions};
use crate::verbs::write::{Change, Write};

/// The closure of [`Registry::update`] as a change.
struct Edit<'a>(&'a (dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync));

#[async_trait]
impl Change for Edit<'_> {
    async fn apply(&self, current: Option<&Object>) -> Result<Object, Status> {
        let mut object = current.cloned().unwrap_or_default();
        (self.0)(&mut object)?;
        Ok(object)
    }
}

fn loopback() -> UserInfo {
    UserInfo::new("system:apiserver", &[api::user::MASTERS])
}

fn write<'a>(
    server: &'a ApiServer,
    served: &'a Served,
    user: &'a UserInfo,
    options: &'a WriteOptions,
    warnings: &'a Warnings,
    namespace: &'a str,
    name: &'a str,
) -> Result<Write<'a>, Status> {
    let stored = served.stored()?;
    Ok(Write {
        server,
        served,
        stored,
        user,
        namespace,
        name,
        subresource: None,
        options,
        warnings,
        own_labels: true,
        trusted: true,
    })
}

/// The manager of what upstream's loops inside the server write as its clients.
pub(crate) const MANAGER: &str = "kube-apiserver";

impl ApiServer {
    /// [`Registry::create`] whose fields come to be owned by `manager`, unless it is empty.
    pub(crate) async fn create_as(
        &self,
        manager: &str,
        resource: &Gvr,
        namespace: &str,
        mut object: Object,
    ) -> Result<Object, Status> {
        let served = self.served(resource)?;
        object.set_gvk(&served.def.gvk);
        served.def.strategy.default(&mut object);
        served.def.strategy.default_at(&mut object, self.clock.now());
        let (user, warnings) = (loopback(), Warnings::default());
        let options = WriteOptions { manager: manager.to_owned(), ..WriteOptions::internal() };
        let write = write(self, &served, &user, &options, &warnings, namespace, "")?;
        let entry = write.create(object).await?;
        let view = &served.stored()?.view;
        view.prepare(std::slice::from_ref(&entry)).await?;
        view.object(&entry)
    }

    /// [`Registry::update`] through a subresource, whose fields come to be owned by `manager`, unless it is empty.
    pub(crate) async fn update_as(
        &self,
        manager: &str,
        (resource, subresource): (&Gvr, &str),
        namespace: &str,
        name: &str,
        change: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
    ) -> Result<Object, Status> {
        let served = self.served(resource)?;
        let (user, warnings) = (loopback(), Warnings::default());
        let options = WriteOptions { manager: manager.to_owned(), ..WriteOptions::internal() };
        let mut write = write(self, &served, &user, &options, &warnings, namespace, name)?;
        write.subresource = served.def.subresource(subresource);
        let written = write.update(&Edit(change), false).await?;
        let view = &served.stored()?.view;
        view.prepare(std::slice::from_ref(&written.entry)).await?;
        view.object(&written.entry)
    }
}

#[async_trait]
impl Registry for ApiServer {
    async fn get(&self, resource: &Gvr, namespace: &str, name: &str) -> Result<Object, Status> {
        let served = self.served(resource)?;
        let key = served.key(namespace, name);
        let current = self.objects.load(served.stored()?, &key).await?;
        current.map(|c| c.object).ok_or_else(|| served.not_found(name))
    }

    async fn list(&self, resource: &Gvr, namespace: &str) -> Result<Vec<Object>, Status> {
        let served = self.served(resource)?;
        let stored = served.stored()?;
        stored.cache.fresh().await?;
        let selection = Selection::everything(Arc::clone(&stored.view), namespace);
        let listing = stored.cache.list(&selection, "", 0);
        stored.view.prepare(&listing.entries).await?;
        listing.entries.iter().map(|e| stored.view.object(e)).collect()
    }

    async fn create(&self, resource: &Gvr, namespace: &str, object: Object) -> Result<Object, Status> {
        self.create_as("", resource, namespace, object).await
    }

    async fn update(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        change: &(dyn for<'o> Fn(&'o mut Object) -> Result<(), Status> + Send + Sync),
    ) -> Result<Object, Status> {
        self.update_as("", (resource, ""), namespace, name, change).await
    }

    async fn delete(&self, resource: &Gvr, namespace: &str, name: &str, options: Object) -> Result<Object, Status> {
        let served = self.served(resource)?;
        let options = DeleteOptions::from_object(options)?;
        let (user, warnings) = (loopback(), Warnings::default());
        let delete = Delete {
            server: self,
            served: &served,
            stored: served.stored()?,
            user: &user,
            namespace,
            options: &options,
            warnings: &warnings,
            trusted: true,
        };
        match delete.one(name).await? {
            Deleted::Marked(entry) | Deleted::Gone(entry) => {
                let view = &served.stored()?.view;
                view.prepare(std::slice::from_ref(&entry)).await?;
                view.object(&entry)
            }
        }
    }
}

#[async_trait]
impl Authenticate for crate::auth::Authenticator {
    async fn authenticate(&self, parts: &http::request::Parts) -> Result<UserInfo, Status> {
        Self::authenticate(self, parts).await
    }
}
