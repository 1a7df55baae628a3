//! `metadata.managedFields` of writes.

use std::sync::{Arc, Mutex, PoisonError};

use api::apply::{FieldManager, OneVersion, Versions};
use api::kind::KindDef;
use api::names::GroupVersion;
use api::schema::Schema;
use api::{Gvk, Object, Status};

use super::write::Write;
use crate::served::{KindTable, Served};
use crate::server::ApiServer;

/// What nobody comes to own through a resource or subresource (`GetResetFields` of upstream's strategies).
pub fn reset_fields(def: &KindDef, subresource: &str) -> &'static [&'static [&'static str]] {
    let requests = def.gvk.group == "certificates.k8s.io" && def.resource == "certificatesigningrequests";
    match subresource {
        "" if requests => &[&["spec"], &["status"]],
        "" if def.has_status() => &[&["status"]],
        "status" if requests => &[&["spec"], &["status", "conditions"]],
        "status" => def.status_keeps.reset(),
        "approval" => &[&["spec"], &["status", "certificate"]],
        "finalize" => &[&["status"]],
        _ => &[],
    }
}

/// The versions of a kind: those that are served, of a custom resource all of its definition's.
pub struct ServedVersions<'a> {
    table: Arc<KindTable>,
    served: &'a Served,
    answers: Answers,
}

/// What a conversion webhook made of objects while the owners of one request are worked out. That does not wait, so it
/// is done again with what the webhook said, until nothing more has to be asked.
#[derive(Default)]
struct Answers {
    known: Vec<(Question, Result<Object, Status>)>,
    missing: Mutex<Vec<Question>>,
}

/// An object, and the version that it is wanted in.
type Question = (Object, String);

impl Answers {
    /// The answer; where it is missing, a failure that is not looked at.
    fn find(&self, object: &Object, api_version: &str) -> Result<Object, Status> {
        let same = |question: &Question| question.1 == api_version && question.0 == *object;
        if let Some((_, answer)) = self.known.iter().find(|(question, _)| same(question)) {
            return answer.clone();
        }
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if !missing.iter().any(same) {
            missing.push((object.clone(), api_version.to_owned()));
        }
        Err(Status::internal("the conversion webhook has not been asked"))
    }

    fn take_missing(&mut self) -> Vec<Question> {
        std::mem::take(self.missing.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<'a> ServedVersions<'a> {
    pub fn new(server: &ApiServer, served: &'a Served) -> Self {
        Self { table: server.table.load_full(), served, answers: Answers::default() }
    }

    /// All that share the kind's storage.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        let prefix = |def: &KindDef| def.storage.as_ref().map(|s| s.prefix.clone());
        let own = prefix(&self.served.def);
        self.table.all.iter().filter(move |s| s.def.gvk.kind == self.served.def.gvk.kind && prefix(&s.def) == own)
    }

    fn version(&self, api_version: &str) -> Option<&Arc<Served>> {
        self.all().find(|s| s.def.gvk.api_version() == api_version)
    }
}

impl Versions for ServedVersions<'_> {
    fn schema(&self, api_version: &str) -> Option<&Schema> {
        let custom = || self.served.def.custom.as_ref()?.definition.table(own_version(&self.served.def, api_version)?);
        self.version(api_version).map(|s| s.def.schema()).or_else(custom)
    }

    fn convert(&self, object: &Object, api_version: &str) -> Result<Option<Object>, Status> {
        if !api_version.is_empty() && GroupVersion::parse(api_version).is_none() {
            return Err(Status::new(500, "", format!("unexpected GroupVersion string: {api_version}")));
        }
        if let Some(custom) = &self.served.def.custom {
            if self.schema(api_version).is_none() {
                // apiextensions-apiserver `crConverter.ConvertToVersion`.
                let text = format!("request to convert CR to an invalid group/version: {api_version}");
                return Err(Status::new(500, "", text));
            }
            if !custom.has_webhook() {
                // Without pruning and defaults, as upstream's converter.
                let mut object = object.clone();
                object.set(&["apiVersion"], api_version);
                return Ok(Some(object));
            }
            // By way of the version that is stored (`newCRDVersionConverter`).
            let stored = custom.storage_version().to_string();
            let mut object = object.clone();
            for version in [stored.as_str(), api_version] {
                if object.api_version() != version {
                    object = self.answers.find(&object, version)?;
                }
            }
            return Ok(Some(object));
        }
        let (Some(from), Some(to)) = (self.version(object.api_version()), self.version(api_version)) else {
            return Ok(None);
        };
        let (Some(storage), Some(stored)) = (&from.def.storage, &to.stored) else { return Ok(None) };
        let hub = match &storage.conversion {
            Some(conversion) => conversion.to_stored(object.clone())?,
            None => object.clone(),
        };
        let mut converted = stored.view.from_stored(hub)?;
        converted.set_gvk(&to.def.gvk);
        Ok(Some(converted))
    }
}

/// The version that a text names, if it is of the group of a kind.
fn own_version<'t>(def: &KindDef, api_version: &'t str) -> Option<&'t str> {
    let (group, version) = api_version.split_once('/')?;
    (group == def.gvk.group).then_some(version)
}

/// What `then` works out with the manager of a request's fields. It may run several times, and must do the same.
pub async fn with_manager<R: Send>(
    server: &ApiServer,
    served: &Served,
    subresource: &str,
    mut then: impl FnMut(&FieldManager<'_>) -> R + Send,
) -> R {
    let def = &served.def;
    let now = server.clock.now();
    let mut versions = ServedVersions::new(server, served);
    loop {
        let result = then(&FieldManager {
            schema: def.schema(),
            gvk: &def.gvk,
            subresource,
            reset: reset_fields(def, subresource),
            // Custom resources leave the status of other versions to those (`customResourceStrategy.GetResetFields`).
            resets_versions: def.custom.is_none() || subresource == "status",
            versions: &versions,
            keeps_nulls: def.custom.is_some(),
            now,
        });
        let missing = versions.answers.take_missing();
        let Some(custom) = def.custom.as_ref().filter(|_| !missing.is_empty()) else { return result };
        for (object, api_version) in missing {
            let version = api_version.rsplit('/').next().unwrap_or_default();
            let answer = custom.ask_webhook(object.clone(), version).await;
            versions.answers.known.push(((object, api_version), answer));
        }
    }
}

/// The object with `managedFields` brought up to date.
async fn updated(write: &Write<'_>, mut object: Object, old: Option<&Object>) -> Object {
    let again = write.served.def.custom.as_ref().is_some_and(|custom| custom.has_webhook());
    let subresource = write.subresource.map_or("", |s| s.name);
    with_manager(write.server, write.served, subresource, |manager| {
        let mut object = if again { object.clone() } else { std::mem::take(&mut object) };
        manager.update(old, &mut object, &write.options.manager);
        object
    })
    .await
}

/// A new object is its creator's.
pub async fn on_create(write: &Write<'_>, object: Object) -> Object {
    updated(write, object, None).await
}

/// The body of a question that is not kept.
pub fn on_ask(server: &ApiServer, schema: &Schema, gvk: &Gvk, subresource: &str, body: &mut Object, manager: &str) {
    let fields = FieldManager {
        schema,
        gvk,
        subresource,
        reset: &[],
        resets_versions: false,
        versions: &OneVersion,
        keeps_nulls: false,
        now: server.clock.now(),
    };
    fields.update(None, body, manager);
}

/// What changed is the writer's.
pub async fn on_update(write: &Write<'_>, object: Object, old: &Object) -> Object {
    updated(write, object, Some(old)).await
}
