//! What a resource request does, by verb and subresource.

pub mod admit;
pub mod before;
pub mod delete;
pub mod options;
pub mod ownership;
pub mod read;
pub mod scale;
pub mod unsafe_delete;
pub mod watch;
pub mod write;

mod body;
mod patch;
mod routes;

use std::sync::Arc;

use api::admission::Operation;
use api::kind::{Subresource, SubresourceKind};
use api::status::Details;
use api::{GroupResource, Object, Status};

use serde_json::Value;

use futures::{StreamExt, TryStreamExt, stream};

use crate::cache::entry::Entry;
use crate::component_status;
use crate::filters::{Call, audited};
use crate::negotiate::{self, Accept, Format, Shape, Shapes};
use crate::respond::{self, Response};
use crate::router;
use crate::served::{Served, Stored, method_not_allowed};
use crate::server::ApiServer;
use crate::table::{IncludeObject, Table};
use crate::websocket;
use delete::{Delete, Deleted};
use options::{DeleteOptions, WriteOptions};
use read::ListOptions;
use unsafe_delete::UnsafeDelete;
use write::{Replace, Write};

/// Objects that one deletecollection deletes at the same time.
const DELETIONS_AT_ONCE: usize = 32;

/// A resource request with all that its verb needs.
pub(crate) struct Verb {
    pub server: Arc<ApiServer>,
    pub served: Arc<Served>,
    pub call: Call,
    pub accept: Accept,
    /// [`api::kind::RequestContext::own_labels`] of the body; false before it is read.
    own_labels: bool,
}

/// Answers a resource request.
pub async fn serve(server: &Arc<ApiServer>, call: Call) -> Response {
    let info = &call.info;
    let Some(served) = server.table.load().find(&info.group, &info.version, &info.resource).cloned() else {
        return router::unknown(server, &call);
    };
    let is_self = info.resource == "namespaces" && info.group.is_empty();
    if !served.def.namespaced && !info.namespace.is_empty() && !is_self {
        return router::unknown(server, &call);
    }
    if served.def.namespaced && info.namespace.is_empty() && info.names_object() {
        return router::unknown(server, &call);
    }
    if let Some(custom) = &served.def.custom {
        // Only lists and watches go over all namespaces (apiextensions `crdHandler.ServeHTTP`).
        if served.def.namespaced && info.namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") {
            return respond::page_not_found();
        }
        custom.warnings.iter().for_each(|warning| call.warnings.add(warning.clone()));
    } else if let Err(refused) = routes::check(&served.def, &call) {
        return match refused {
            routes::Refused::Unknown => router::unknown(server, &call),
            routes::Refused::With(status) => respond::refuse(server, &call.parts.headers, &call.query, &status),
        };
    } else if let Some(warning) = served.def.deprecation {
        call.warnings.add(warning);
    }
    let connect =
        served.def.subresource(&info.subresource).is_some_and(|s| matches!(s.kind, SubresourceKind::Connect(_)));
    let accept = if connect {
        Ok(Accept::JSON)
    } else {
        let action =
            served.def.subresource(&info.subresource).is_some_and(|s| matches!(s.kind, SubresourceKind::Action(_)));
        // Reviews and actions are answers, not objects: nobody makes tables of them.
        let bare_status = info.subresource == "status" && !served.def.strategy.status_has_table();
        let shapes = if action || bare_status || served.stored.is_none() { Shapes::Metadata } else { Shapes::All };
        negotiate::negotiate(&call.parts.headers, &call.query, shapes, crate::codec::offers_protobuf(&served.def))
    };
    let accept = match accept {
        Ok(accept) => accept,
        Err(status) => return respond::refuse(server, &call.parts.headers, &call.query, &status),
    };
    let of_custom = served.def.custom.is_some().then(|| (served.resource.clone(), Arc::clone(&call.info)));
    let refusal = respond::Refusal::new(&call.parts.headers, &call.query);
    let verb = Verb { server: Arc::clone(server), served, call, accept, own_labels: false };
    match (verb.run().await, of_custom) {
        (Ok(response), _) => response,
        (Err(status), Some((resource, info))) if status.code == 405 => {
            refusal.respond(server, &not_supported(&resource, &info.verb))
        }
        (Err(status), _) => refusal.respond(server, &status),
    }
}

/// What a version that is not stored says after conversion there and back, as upstream's handlers see every object: what
/// conversion fills in has an owner too.
fn through_storage(def: &api::kind::KindDef, object: Object) -> Result<Object, Status> {
    let Some(conversion) = def.storage.as_ref().and_then(|s| s.conversion.as_ref()) else { return Ok(object) };
    let mut object = conversion.from_stored(conversion.to_stored(object)?)?;
    object.set_gvk(&def.gvk);
    Ok(object)
}

/// A patched object must be the one that was asked for (`checkName`).
fn check_name(object: &Object, name: &str) -> Result<(), Status> {
    match object.name() {
        "" => Err(unnamed(name)),
        found if found == name => Ok(()),
        found => Err(Status::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        ))),
    }
}

impl Verb {
    async fn run(mut self) -> Result<Response, Status> {
        let served = Arc::clone(&self.served);
        if !self.call.info.subresource.is_empty() {
            let Some(subresource) = served.def.subresource(&self.call.info.subresource) else {
                return match &served.def.custom {
                    Some(_) => Err(served.not_found(&self.call.info.name)),
                    None => Ok(router::unknown(&self.server, &self.call)),
                };
            };
            return self.subresource(subresource).await;
        }
        let named = self.call.info.names_object();
        match (self.call.info.verb.as_str(), named) {
            ("create", false) if served.def.storage.is_none() => self.ask().await,
            ("create", false) if self.may("create") => {
                if served.def.namespaced && self.call.info.namespace.is_empty() {
                    return Err(method_not_allowed());
                }
                self.create().await
            }
            ("get", true) if self.may("get") => self.get().await,
            ("list", _) if self.may("list") => self.list().await,
            ("watch", _) if self.may("watch") => self.watch().await,
            ("watch", false) if self.may("list") => {
                Err(not_supported(&GroupResource::new(&*served.def.gvk.group, served.def.resource.clone()), "watch"))
            }
            // The handler of custom resources looks at the body's name alone.
            ("create", true) if served.def.custom.is_some() => self.create().await,
            ("patch", false) if served.def.custom.is_some() => {
                self.check_patch_type()?;
                Err(Status::bad_request("name must be provided"))
            }
            ("update", false) if served.def.custom.is_some() => Err(Status::bad_request("name must be provided")),
            ("update", true) if self.may("update") => self.update(None).await,
            ("patch", true) if self.may("patch") => self.patch(None).await,
            ("delete", true) if self.may("delete") => self.delete().await,
            ("deletecollection", false) if self.may("deletecollection") => self.delete_collection().await,
            _ => Err(method_not_allowed()),
        }
    }

    fn may(&self, verb: &str) -> bool {
        self.served.def.verbs.contains(&verb)
    }

    async fn subresource(mut self, subresource: &Subresource) -> Result<Response, Status> {
        let verb = self.call.info.verb.clone();
        if let SubresourceKind::Connect(connect) = &subresource.kind {
            return crate::connect::serve(self, subresource, &**connect).await;
        }
        if !subresource.verbs.contains(&verb.as_str()) {
            return Err(method_not_allowed());
        }
        match (&subresource.kind, verb.as_str()) {
            (SubresourceKind::Status | SubresourceKind::View(_), "get") => self.get().await,
            (SubresourceKind::Status | SubresourceKind::View(_), "update") => self.update(Some(subresource)).await,
            (SubresourceKind::Status | SubresourceKind::View(_), "patch") => self.patch(Some(subresource)).await,
            (SubresourceKind::Scale(paths), "get" | "update" | "patch") => scale::serve(self, subresource, paths).await,
            (SubresourceKind::Action(action), "create") => {
                let options = self.write_options("CreateOptions", false)?;
                self.bring_up_to_date(action.accepts(), &subresource.gvk).await?;
                let body = self.decode_as(&subresource.gvk, &subresource.schema, &options).await?;
                self.act(action.as_ref(), &subresource.gvk, subresource.name, body, &options).await
            }
            _ => Err(method_not_allowed()),
        }
    }

    fn stored(&self) -> Result<&Stored, Status> {
        self.served.stored()
    }

    fn namespace(&self) -> &str {
        if self.served.def.namespaced { &self.call.info.namespace } else { "" }
    }

    fn write_options(&self, kind: &str, apply: bool) -> Result<WriteOptions, Status> {
        WriteOptions::read(&self.call.query, &self.call.parts.headers, kind, apply)
    }

    fn write<'a>(
        &'a self,
        subresource: Option<&'a Subresource>,
        options: &'a WriteOptions,
        named: bool,
    ) -> Result<Write<'a>, Status> {
        Ok(Write {
            server: &self.server,
            served: &self.served,
            stored: self.stored()?,
            user: &self.call.user,
            namespace: self.namespace(),
            name: if named { &self.call.info.name } else { "" },
            subresource,
            options,
            warnings: &self.call.warnings,
            own_labels: self.own_labels,
            trusted: false,
        })
    }

    /// What rows of a table carry.
    fn include_object(&self) -> Result<IncludeObject, Status> {
        if self.accept.shape != Shape::Table {
            // Nobody looks at an option of tables (`optionsForTransform`).
            return Ok(IncludeObject::Metadata);
        }
        IncludeObject::parse(self.call.query.text("includeObject")).ok_or_else(|| {
            let path = api::field::Path::new("includeObject");
            let value = self.call.query.text("includeObject");
            let error = api::field::Error::invalid(path, value, "must be 'Metadata', 'Object', 'None', or empty");
            Status::bad_request(format!("Unable to convert to Table as requested: {error}"))
        })
    }

    fn table(&self) -> Result<Table, Status> {
        let include = self.include_object()?;
        let version = self.accept.meta_version();
        Ok(Table::new(Arc::clone(&self.served.def), version, include, self.server.clock.now()))
    }

    async fn entry(&self, code: u16, entry: &Arc<Entry>) -> Result<Response, Status> {
        let table = self.table()?;
        self.stored()?.view.prepare(std::slice::from_ref(entry)).await?;
        self.note_answer(|| Ok(Value::Object(self.stored()?.view.object(entry)?.0)))?;
        respond::entry(code, &self.served, self.stored()?, self.accept, entry, || table)
    }

    /// Tells auditing of an answer that the client gets in a binary form.
    fn note_answer(&self, document: impl FnOnce() -> Result<Value, Status>) -> Result<(), Status> {
        match audited::recorder() {
            Some(recorder) if recorder.wants_response() && self.accept.format == Format::Protobuf => {
                recorder.answer(document()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells auditing what was sent.
    fn note_request(object: &Object) {
        if let Some(recorder) = audited::recorder() {
            recorder.request_object(object);
        }
    }

    async fn get(self) -> Result<Response, Status> {
        if self.call.query.flag("export") {
            let why = "the export parameter, deprecated since v1.14, is no longer supported";
            return Err(Status::bad_request(why));
        }
        let version = self.call.query.text("resourceVersion");
        let name = &self.call.info.name;
        let entry = if component_status::serves(&self.served) {
            component_status::get(&self.server, &self.served, name).await?
        } else {
            read::get(&self.served, self.stored()?, self.namespace(), name, version).await?
        };
        self.entry(200, &entry).await
    }

    async fn list(self) -> Result<Response, Status> {
        let stored = self.stored()?;
        let options = ListOptions::read(&self.served, stored, &self.call.info, &self.call.query)?;
        let table = self.table()?;
        let (meta, entries) = if component_status::serves(&self.served) {
            let mut entries = component_status::list(&self.server, &self.served).await?;
            entries.retain(|entry| options.selection.matches(entry));
            (respond::ListMeta::default(), entries)
        } else {
            read::list(&self.server, stored, &options).await?
        };
        self.note_answer(|| {
            let objects = entries.iter().map(|entry| Ok(Value::Object(stored.view.object(entry)?.0)));
            let objects: Vec<Value> = objects.collect::<Result<_, Status>>()?;
            let gvk = &self.served.def.gvk;
            Ok(serde_json::json!({
                "kind": self.served.def.list_kind, "apiVersion": gvk.api_version(), "metadata": meta.to_value(),
                "items": objects,
            }))
        })?;
        let response = respond::list(&self.served, stored, self.accept, &meta, entries, || table).await?;
        Ok(crate::compress::maybe(&self.call.parts.headers, response))
    }

    async fn watch(mut self) -> Result<Response, Status> {
        let stored = &self.stored()?.clone();
        let options = ListOptions::read(&self.served, stored, &self.call.info, &self.call.query)?;
        if self.accept.format == Format::Yaml {
            let forms = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
            return Err(Status::not_acceptable(&forms));
        }
        let include = match IncludeObject::parse(self.call.query.text("includeObject")) {
            Some(include) => include,
            None if self.accept.shape == Shape::Table => {
                return Err(self.table().err().unwrap_or_else(method_not_allowed));
            }
            None => IncludeObject::Metadata,
        };
        let opened = watch::open(&self.server, &self.served, stored, self.accept, include, &options).await?;
        match opened {
            Ok(frames) if websocket::is_websocket(&self.call.parts.headers) => {
                websocket::watch(&mut self.call.parts, frames).await
            }
            opened => Ok(watch::respond(opened, self.accept, &self.served)),
        }
    }

    async fn create(mut self) -> Result<Response, Status> {
        let options = self.write_options("CreateOptions", false)?;
        let served = Arc::clone(&self.served);
        let object = self.decode_as(&served.def.gvk, served.def.schema(), &options).await?;
        Self::note_request(&object);
        let entry = self.write(None, &options, false)?.create(object).await?;
        self.entry(201, &entry).await
    }

    async fn update(&mut self, subresource: Option<&Subresource>) -> Result<Response, Status> {
        let options = self.write_options("UpdateOptions", false)?;
        let served = Arc::clone(&self.served);
        let mut object = self.decode_as(&served.def.gvk, served.def.schema(), &options).await?;
        Self::note_request(&object);
        before::ensure_namespace(&served.def, self.namespace(), &mut object)?;
        self.check_name(&object)?;
        let written = self.write(subresource, &options, true)?.update(&Replace(object), false).await?;
        self.entry(if written.created { 201 } else { 200 }, &written.entry).await
    }

    /// `checkName`: the body has the name that the URL has.
    fn check_name(&self, object: &Object) -> Result<(), Status> {
        check_name(object, &self.call.info.name)
    }

    async fn delete(mut self) -> Result<Response, Status> {
        let options = self.delete_options().await?;
        let name = self.call.info.name.clone();
        if options.ignore_read_error {
            if !self.served.def.strategy.deletes_unreadable() {
                let why = "no unsafe deleter provided, can not honor ignoreStoreReadErrorWithClusterBreakingPotential";
                return Err(Status::internal(why));
            }
            let unsafe_delete = UnsafeDelete {
                server: &self.server,
                served: &self.served,
                stored: self.stored()?,
                user: &self.call.user,
                namespace: self.namespace(),
                name: &name,
                dry_run: options.dry_run,
                warnings: &self.call.warnings,
            };
            return respond::status(&self.server, 200, self.accept, &unsafe_delete.run().await?);
        }
        self.warn_of_dependents(&options);
        let deleted = self.deletion(&options)?.one(&name).await?;
        match deleted {
            Deleted::Marked(entry) => {
                let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
                self.entry(code, &entry).await
            }
            Deleted::Gone(entry) if self.served.def.returns_deleted => self.entry(200, &entry).await,
            Deleted::Gone(entry) => {
                let uid = entry.object()?.uid().to_owned();
                respond::status(&self.server, 200, self.accept, &delete::success(&self.served, &name, &uid))
            }
        }
    }

    /// Tells what happens to dependents of which the request says nothing.
    fn warn_of_dependents(&self, options: &DeleteOptions) {
        if options.propagation.is_none()
            && options.orphan_dependents.is_none()
            && let Some(warning) = self.served.def.strategy.deletion_warning()
        {
            self.call.warnings.add(warning.to_owned());
        }
    }

    fn deletion<'a>(&'a self, options: &'a DeleteOptions) -> Result<Delete<'a>, Status> {
        Ok(Delete {
            server: &self.server,
            served: &self.served,
            stored: self.stored()?,
            user: &self.call.user,
            namespace: self.namespace(),
            options,
            warnings: &self.call.warnings,
            trusted: false,
        })
    }

    async fn delete_collection(mut self) -> Result<Response, Status> {
        let options = self.delete_options().await?;
        options.refuse_for_collection()?;
        let stored = self.stored()?.clone();
        let list = ListOptions::read(&self.served, &stored, &self.call.info, &self.call.query)?;
        self.warn_of_dependents(&options);
        let (meta, entries) = read::list(&self.server, &stored, &list).await?;
        let deletion = self.deletion(&options)?;
        let delete = |entry: Arc<Entry>| async {
            let namespace = entry.namespace().to_owned();
            let one = Delete { namespace: &namespace, ..deletion.clone() };
            match one.one(entry.name()).await {
                Err(status) if !status.is_not_found() => Err(status),
                _ => Ok(entry),
            }
        };
        // Several at a time, so that they share commits.
        let gone = stream::iter(entries.into_iter().map(delete)).buffered(DELETIONS_AT_ONCE).try_collect().await?;
        let table = self.table()?;
        respond::list(&self.served, &stored, self.accept, &meta, gone, || table).await
    }

    /// `create` of a kind that is only asked (reviews).
    async fn ask(mut self) -> Result<Response, Status> {
        let served = Arc::clone(&self.served);
        let Some(action) = &served.def.action else { return Err(method_not_allowed()) };
        let options = self.write_options("CreateOptions", false)?;
        let mut body = self.decode_as(&served.def.gvk, served.def.schema(), &options).await?;
        before::wipe_system_fields(&mut body);
        self.act(action.as_ref(), &served.def.gvk, "", body, &options).await
    }

    /// Runs an action between the two phases of admission.
    async fn act(
        &self,
        action: &dyn api::kind::Action,
        gvk: &api::Gvk,
        subresource: &str,
        body: Object,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let mut body = body;
        action.default(&mut body);
        Self::note_request(&body);
        before::ensure_namespace(&self.served.def, self.namespace(), &mut body)?;
        let schema = match self.served.def.subresource(subresource) {
            Some(subresource) => &subresource.schema,
            None => self.served.def.schema(),
        };
        write::dedup_owners(&self.call.warnings, &mut body, false);
        // What is answered with the body it was asked by has owners, as upstream's handler gives them to every body.
        if subresource.is_empty() || gvk.kind == "TokenRequest" {
            ownership::on_ask(&self.server, schema, gvk, subresource, &mut body, &options.manager);
        }
        let admission = admit::Admission {
            server: &self.server,
            user: &self.call.user,
            gvk: gvk.clone(),
            resource: self.served.gvr(),
            subresource,
            namespace: self.namespace(),
            name: &self.call.info.name,
            dry_run: options.dry_run,
            warnings: &self.call.warnings,
        };
        let mut body = admission.mutate(Operation::Create, body, None, &options.document).await?;
        write::dedup_owners(&self.call.warnings, &mut body, true);
        admission.validate(Operation::Create, Some(&body), None, &options.document).await?;
        let ctx = self.server.action_context(&self.call.user, options.dry_run);
        let mut answer = action.run(&ctx, self.namespace(), &self.call.info.name, body).await?;
        if answer.kind().is_empty() {
            answer.set_gvk(gvk);
        }
        if answer.kind() == "Status" {
            // `createHandler`: a `Status` without a code gets the answer's.
            if answer.i64(&["code"]).unwrap_or_default() == 0 {
                answer.set(&["code"], 201);
            }
            return respond::status(&self.server, 201, self.accept, &answer.into_value());
        }
        self.note_answer(|| Ok(Value::Object(answer.0.clone())))?;
        let table = self.table()?;
        respond::document(201, self.accept, (gvk, schema), answer, respond::go_package(gvk), || table)
    }
}

/// How the handler of custom resources says that a verb is not one of theirs (`NewMethodNotSupported`).
fn not_supported(resource: &GroupResource, verb: &str) -> Status {
    let message = format!("{verb} is not supported on resources of kind {:?}", resource.to_string());
    let details = Details { group: resource.group.clone(), kind: resource.resource.clone(), ..Details::default() };
    Status::new(405, "MethodNotAllowed", message).with_details(details)
}

/// A body without the name that the URL has.
fn unnamed(name: &str) -> Status {
    Status::bad_request(format!(
        "the name of the object ({name} based on URL) was undeterminable: name must be provided"
    ))
}
