//! Writes every object of a resource again, so that all are stored in the newest version and with the newest key
//! (`pkg/controller/storageversionmigrator`).

use std::sync::Arc;

use api::names::ObjectKey;
use async_trait::async_trait;
use client::{Informer, Patch, Resource, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storagemigration::v1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use crate::discovery::{self, ApiResource};
use crate::error::Error;
use crate::harness::{Context, Parts, Reconcile, all_synced, synced};
use crate::metadata;
use crate::written::Written;

const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";
/// A resource that is not there by then never was.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
const VERBS: [&str; 4] = ["get", "list", "patch", "watch"];

pub(crate) fn start(context: Context) {
    let migrations = context.informers.informer::<StorageVersionMigration>();
    let queue = WorkQueue::new();
    context.feed_own(&migrations, &queue);
    let ready = all_synced(vec![synced(&migrations)]);
    let migrator = Migrator { migrations, writes: Written::default(), context: context.parts() };
    // One at a time: a migration is a burst of writes.
    context.work(Arc::new(migrator), queue, 1, ready);
}

struct Migrator {
    migrations: Informer<StorageVersionMigration>,
    writes: Written,
    context: Parts,
}

fn is_true(migration: &StorageVersionMigration, kind: &str) -> bool {
    let conditions = migration.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Apimachinery's `SetStatusCondition`.
fn set_true(migration: &mut StorageVersionMigration, kind: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = migration.status.get_or_insert_default().conditions.get_or_insert_default();
    let at = conditions.iter().position(|c| c.type_ == kind);
    let since = at.map(|at| &conditions[at]).filter(|c| c.status == "True").map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.unwrap_or(Time(now)),
        observed_generation: None,
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// `migrationRunningMessage`.
fn progress(left: usize, total: usize) -> String {
    match (left, total) {
        (_, 0) => "The migration is running".to_owned(),
        (0, total) => format!("The migration is running, {total} objects verified migrated"),
        (left, total) => format!("The migration is running, {left}/{total} objects not yet migrated"),
    }
}

/// What ended a migration early.
enum Stop {
    /// It has failed, with what was left of the total and why.
    Failed(Option<(usize, usize)>, String),
    /// The API server may do it later.
    Later(client::Error),
}

#[async_trait]
impl Reconcile for Migrator {
    async fn reconcile(&self, key: &ObjectKey) -> Result<(), Error> {
        self.writes.check(key, &self.migrations)?;
        let Some(migration) = self.migrations.get("", &key.name) else { return Ok(()) };
        if migration.is_deleting() || is_true(&migration, SUCCEEDED) || is_true(&migration, FAILED) {
            return Ok(());
        }
        let mut changed = (*migration).clone();
        let now = self.context.clock.now();
        if !is_true(&migration, RUNNING) {
            set_true(&mut changed, RUNNING, "MigrationRunning", &progress(0, 0), now);
            return self.write(key, &changed).await;
        }
        let wanted = migration.spec.clone().unwrap_or_default().resource;
        let found = discovery::discover(&self.context.client).await?;
        let matches = |r: &&Arc<ApiResource>| r.group == wanted.group && r.resource == wanted.resource;
        let Some(resource) = found.preferred.iter().find(matches) else {
            let created = migration.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
            if now < created + PATIENCE {
                return Err(Error::NotYet("the resource to be served"));
            }
            return self.fail(key, changed, None, "resource does not exist in discovery").await;
        };
        if !resource.can(&VERBS) {
            let message = format!(
                "resource \"{}, Resource={}\" does not support discovery operations: {VERBS:?}",
                resource.api_version(),
                resource.resource
            );
            return self.fail(key, changed, None, &message).await;
        }
        let known = changed.status.get_or_insert_default().resource_version.clone().unwrap_or_default();
        if known.is_empty() {
            let version = metadata::list_version(&self.context.client, &resource.path("", "")).await?;
            changed.status.get_or_insert_default().resource_version = Some(version);
            return self.write(key, &changed).await;
        }
        match self.migrate(resource, &known).await {
            Ok(total) => {
                set_true(&mut changed, RUNNING, "MigrationRunning", &progress(0, total), now);
                set_true(&mut changed, SUCCEEDED, "StorageVersionMigrationSucceeded", "Migration completed", now);
                self.write(key, &changed).await
            }
            Err(Stop::Failed(left, why)) => self.fail(key, changed, left, &why).await,
            Err(Stop::Later(error)) => Err(error.into()),
        }
    }
}

impl Migrator {
    async fn write(&self, key: &ObjectKey, migration: &StorageVersionMigration) -> Result<(), Error> {
        let written = self.context.client.update_status(migration).await?;
        self.writes.note(key, &written);
        Ok(())
    }

    async fn fail(
        &self,
        key: &ObjectKey,
        mut migration: StorageVersionMigration,
        left: Option<(usize, usize)>,
        why: &str,
    ) -> Result<(), Error> {
        let now = self.context.clock.now();
        let mut message = format!("migration encountered unhandled error: {why}");
        if let Some((left, total)) = left {
            message = format!("{left}/{total} not yet migrated. {message}");
            set_true(&mut migration, RUNNING, "MigrationRunning", &progress(left, total), now);
        }
        set_true(&mut migration, FAILED, "StorageVersionMigrationFailed", &message, now);
        self.write(key, &migration).await
    }

    /// Patches, with nothing, what has not changed since `version`; how many objects there are.
    async fn migrate(&self, resource: &ApiResource, version: &str) -> Result<usize, Stop> {
        let client = &self.context.client;
        let Ok(limit) = version.parse::<u64>() else {
            return Err(Stop::Failed(None, format!("the resource version {version:?} cannot be compared")));
        };
        let objects = metadata::list(client, &resource.path("", "")).await.map_err(Stop::Later)?;
        let total = objects.len();
        let old: Vec<_> =
            objects.iter().filter(|o| o.resource_version.parse::<u64>().is_ok_and(|v| v <= limit)).collect();
        for (done, object) in old.iter().enumerate() {
            let patch = Patch::Merge(json!({
                "apiVersion": resource.api_version(),
                "kind": resource.kind,
                "metadata": {"resourceVersion": object.resource_version},
            }));
            match client.send_patch(&resource.path(&object.namespace, &object.name), &patch).await {
                Ok(_) => {}
                // Written by somebody else meanwhile, or gone: migrated either way.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) if error.code().is_none_or(|code| code >= 500 || code == 429) => {
                    return Err(Stop::Later(error));
                }
                Err(error) => {
                    return Err(Stop::Failed(Some((old.len() - done, total)), base::chain(&error).to_string()));
                }
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_upstreams_words() {
        let check = |left: usize, total: usize, expected: &str| assert_eq!(progress(left, total), expected);
        check(0, 0, "The migration is running");
        check(2, 5, "The migration is running, 2/5 objects not yet migrated");
        check(0, 5, "The migration is running, 5 objects verified migrated");
    }

    #[test]
    fn a_condition_keeps_the_time_since_which_it_is_true() {
        let mut migration = StorageVersionMigration::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        set_true(&mut migration, RUNNING, "A", "a", at(1));
        set_true(&mut migration, RUNNING, "B", "b", at(2));
        let conditions = migration.status.clone().unwrap().conditions.unwrap();
        assert_eq!(
            (conditions.len(), conditions[0].last_transition_time.0, conditions[0].reason.as_str()),
            (1, at(1), "B")
        );
        assert!(is_true(&migration, RUNNING) && !is_true(&migration, FAILED));
    }
}
