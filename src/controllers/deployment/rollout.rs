//! One pass over a deployment: finds its new and old sets, scales them, writes the status.

use std::time::Duration;

use api::names::ObjectKey;
use client::{DeleteParams, EventType, Informer, Resource, owner_ref};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Writes, plan, status};
use crate::error::Error;
use crate::harness::{Parts, key_of};
use crate::hash::{POD_TEMPLATE_HASH, equal_ignoring_hash, template_hash};
use crate::pods;

pub(super) struct Rollout<'c> {
    context: &'c Parts,
    writes: &'c Writes,
    key: ObjectKey,
    pods: &'c Informer<Pod>,
    deployment: Deployment,
    new: Option<ReplicaSet>,
    old: Vec<ReplicaSet>,
    /// When to come back although nothing changes; zero: soon, with back-off.
    pub(super) look_again: Option<Duration>,
}

impl<'c> Rollout<'c> {
    pub(super) fn new(
        context: &'c Parts,
        writes: &'c Writes,
        pods: &'c Informer<Pod>,
        deployment: Deployment,
        mut sets: Vec<ReplicaSet>,
    ) -> Self {
        sets.sort_by(plan::by_creation);
        let new = plan::find_new(&deployment, &sets).map(|at| sets.remove(at));
        Self { context, writes, key: key_of(&deployment), pods, deployment, new, old: sets, look_again: None }
    }

    pub(super) async fn run(&mut self) -> Result<(), Error> {
        if self.deployment.is_deleting() {
            self.sync_revision(false).await?;
            return self.write_status(false).await;
        }
        self.check_paused().await?;
        if plan::is_paused(&self.deployment) {
            return self.scale_and_write().await;
        }
        if self.deployment.annotation(plan::ROLLBACK_TO).is_some() {
            return self.roll_back().await;
        }
        self.sync_revision(false).await?;
        if self.was_scaled() {
            return self.scale_and_write().await;
        }
        match plan::strategy(&self.deployment) {
            "Recreate" => self.recreate().await,
            _ => self.rolling().await,
        }
    }

    /// `sync`: paused, or scaled by the user.
    async fn scale_and_write(&mut self) -> Result<(), Error> {
        self.sync_revision(false).await?;
        self.scale().await?;
        if plan::is_paused(&self.deployment) {
            self.clean_up().await?;
        }
        self.write_status(false).await
    }

    async fn rolling(&mut self) -> Result<(), Error> {
        self.sync_revision(true).await?;
        if self.grow_new().await? || self.shrink_old().await? {
            return self.write_status(true).await;
        }
        if self.is_complete() {
            self.clean_up().await?;
        }
        self.write_status(true).await
    }

    async fn recreate(&mut self) -> Result<(), Error> {
        let mut scaled = false;
        for at in 0..self.old.len() {
            if plan::set_replicas(&self.old[at]) > 0 {
                scaled |= self.scale_old(at, 0).await?;
            }
        }
        if scaled || self.old_pods_run() {
            return self.write_status(true).await;
        }
        self.sync_revision(true).await?;
        let wanted = plan::replicas(&self.deployment);
        if self.new.as_ref().is_some_and(|set| plan::set_replicas(set) != wanted) {
            self.scale_new(wanted, false).await?;
        }
        if self.is_complete() {
            self.clean_up().await?;
        }
        self.write_status(true).await
    }

    fn is_complete(&self) -> bool {
        self.deployment.status.as_ref().is_some_and(|s| status::is_complete(&self.deployment, s))
    }

    fn old_pods_run(&self) -> bool {
        self.old.iter().any(|set| {
            set.status.as_ref().is_some_and(|s| s.replicas > 0)
                || self.pods.by_owner(set.uid()).iter().any(|pod| !pods::is_terminal(pod))
        })
    }

    /// The user changed the size: the sets' annotations say another one.
    fn was_scaled(&self) -> bool {
        let wanted = plan::replicas(&self.deployment);
        self.old
            .iter()
            .chain(&self.new)
            .filter(|set| plan::set_replicas(set) > 0)
            .filter_map(|set| plan::size_annotation(set, plan::DESIRED_REPLICAS))
            .any(|desired| desired != wanted)
    }

    async fn check_paused(&mut self) -> Result<(), Error> {
        if status::progress_deadline(&self.deployment).is_none() {
            return Ok(());
        }
        let current = self.deployment.status.as_ref().and_then(|s| status::condition(s, status::PROGRESSING));
        let reason = current.and_then(|c| c.reason.as_deref());
        if reason == Some(status::TIMED_OUT) {
            return Ok(());
        }
        let (reason, message) = match (plan::is_paused(&self.deployment), reason == Some("DeploymentPaused")) {
            (true, false) => ("DeploymentPaused", "Deployment is paused"),
            (false, true) => ("DeploymentResumed", "Deployment is resumed"),
            _ => return Ok(()),
        };
        self.set_progress("Unknown", reason, message);
        self.put_status().await
    }

    fn set_progress(&mut self, state: &str, reason: &str, message: &str) {
        let condition = status::new_condition(status::PROGRESSING, state, reason, message, self.context.clock.now());
        status::set_condition(self.deployment.status.get_or_insert_default(), condition);
    }

    /// Writes the deployment's status as it is here. Its revision annotation goes along.
    async fn put_status(&mut self) -> Result<(), Error> {
        self.deployment = self.context.client.update_status(&self.deployment).await?;
        self.writes.deployments.note(&self.key, &self.deployment);
        Ok(())
    }

    /// True if the annotation changed.
    fn set_revision(&mut self, revision: &str) -> bool {
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        if annotations.get(plan::REVISION).is_some_and(|r| r == revision) {
            return false;
        }
        annotations.insert(plan::REVISION.to_owned(), revision.to_owned());
        true
    }

    /// `getNewReplicaSet`: gives the new set its revision, and makes it if it is missing and `create` says so.
    async fn sync_revision(&mut self, create: bool) -> Result<(), Error> {
        let revision = plan::max_revision(&self.old) + 1;
        match self.new.take() {
            Some(set) => self.adjust_new(set, revision).await,
            None if create => self.create_new(revision).await,
            None => Ok(()),
        }
    }

    async fn adjust_new(&mut self, mut set: ReplicaSet, revision: i64) -> Result<(), Error> {
        let annotated = plan::annotate_new_set(&self.deployment, &mut set, revision, true);
        let min_ready = self.deployment.spec.min_ready_seconds.unwrap_or(0);
        if annotated || set.spec.min_ready_seconds.unwrap_or(0) != min_ready {
            set.spec.min_ready_seconds = Some(min_ready);
            let set = self.context.client.update(&set).await?;
            self.writes.sets.note(&self.key, &set);
            self.new = Some(set);
            return Ok(());
        }
        let mut changed = match set.annotation(plan::REVISION).map(str::to_owned) {
            Some(revision) => self.set_revision(&revision),
            None => false,
        };
        let known =
            self.deployment.status.as_ref().is_some_and(|s| status::condition(s, status::PROGRESSING).is_some());
        if status::progress_deadline(&self.deployment).is_some() && !known {
            let message = format!("Found new replica set \"{}\"", set.name());
            self.set_progress("True", "FoundNewReplicaSet", &message);
            changed = true;
        }
        self.new = Some(set);
        if changed {
            self.put_status().await?;
        }
        Ok(())
    }

    async fn create_new(&mut self, revision: i64) -> Result<(), Error> {
        let spec = self.deployment.spec.clone();
        let collisions = self.deployment.status.as_ref().and_then(|s| s.collision_count);
        let hash = template_hash(&spec.template, collisions);
        let mut template = spec.template.clone();
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector.clone();
        selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
        let size = plan::new_set_size(&self.deployment, plan::total(&self.old), 0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(plan::set_name(self.deployment.name(), &hash)),
                namespace: self.deployment.metadata.namespace.clone(),
                owner_references: Some(vec![owner_ref(&self.deployment)]),
                labels: Some(labels),
                ..Default::default()
            },
            spec: ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            },
            status: None,
        };
        plan::annotate_new_set(&self.deployment, &mut set, revision, false);
        let made = match self.context.client.create(&set).await {
            Ok(made) => {
                self.writes.sets.note(&self.key, &made);
                if size > 0 {
                    self.scaling_event("up", made.name(), 0, size);
                }
                made
            }
            Err(error) if error.is_already_exists() => return self.name_taken(&set, error).await,
            Err(error) if error.is_namespace_terminating() => return Err(error.into()),
            Err(error) => return self.create_failed(&set, error).await,
        };
        let mut changed = self.set_revision(&revision.to_string());
        if status::progress_deadline(&self.deployment).is_some() {
            let message = format!("Created new replica set \"{}\"", made.name());
            self.set_progress("True", "NewReplicaSetCreated", &message);
            changed = true;
        }
        self.new = Some(made);
        if changed {
            self.put_status().await?;
        }
        Ok(())
    }

    /// The set is there already: ours, not yet in the cache, or one of another template whose hash is the same.
    async fn name_taken(&mut self, wanted: &ReplicaSet, error: client::Error) -> Result<(), Error> {
        let found = self.context.client.get_opt::<ReplicaSet>(wanted.namespace(), wanted.name()).await?;
        let Some(found) = found else { return Err(error.into()) };
        let same = found.spec.template.as_ref().is_some_and(|t| equal_ignoring_hash(t, &self.deployment.spec.template));
        if client::is_controlled_by(&found.metadata, self.deployment.uid()) && same {
            self.new = Some(found);
            return Ok(());
        }
        let status = self.deployment.status.get_or_insert_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.put_status().await?;
        Err(error.into())
    }

    async fn create_failed(&mut self, set: &ReplicaSet, error: client::Error) -> Result<(), Error> {
        let reason = "ReplicaSetCreateError";
        let message = format!("Failed to create new replica set \"{}\": {}", set.name(), base::chain(&error));
        if status::progress_deadline(&self.deployment).is_some() {
            self.set_progress("False", reason, &message);
            self.put_status().await?;
        }
        self.context.recorder.event(&self.deployment, EventType::Warning, reason, &message);
        Err(error.into())
    }

    /// `reconcileNewReplicaSet`.
    async fn grow_new(&mut self) -> Result<bool, Error> {
        let Some(new) = &self.new else { return Ok(false) };
        let (size, wanted) = (plan::set_replicas(new), plan::replicas(&self.deployment));
        if size == wanted {
            return Ok(false);
        }
        let all = plan::total(&self.old) + size;
        let target = if size > wanted { wanted } else { plan::new_set_size(&self.deployment, all, size) };
        self.scale_new(target, false).await
    }

    /// `reconcileOldReplicaSets`: first pods that don't work, then as many as availability allows.
    async fn shrink_old(&mut self) -> Result<bool, Error> {
        let old = plan::total(&self.old);
        if old == 0 {
            return Ok(false);
        }
        let (new_size, new_available) =
            self.new.as_ref().map_or((0, 0), |set| (plan::set_replicas(set), plan::available(set)));
        let min_available = plan::replicas(&self.deployment) - plan::max_unavailable(&self.deployment);
        let max_down = old + new_size - min_available - (new_size - new_available);
        if max_down <= 0 {
            return Ok(false);
        }
        self.old.sort_by(plan::by_creation);
        let mut cleaned = 0;
        for at in 0..self.old.len() {
            let (size, available) = (plan::set_replicas(&self.old[at]), plan::available(&self.old[at]));
            if cleaned >= max_down {
                break;
            }
            if size == 0 || size == available {
                continue;
            }
            let down = (max_down - cleaned).min(size - available);
            self.scale_old(at, size - down).await?;
            cleaned += down;
        }
        let available = new_available + self.old.iter().map(plan::available).sum::<i32>();
        let mut spare = available - min_available;
        let mut scaled = 0;
        for at in 0..self.old.len() {
            let size = plan::set_replicas(&self.old[at]);
            if spare <= 0 {
                break;
            }
            if size == 0 {
                continue;
            }
            let down = size.min(spare);
            self.scale_old(at, size - down).await?;
            spare -= down;
            scaled += down;
        }
        Ok(cleaned + scaled > 0)
    }

    /// `scale`: the deployment's size changed while nothing, or several sets, run.
    async fn scale(&mut self) -> Result<(), Error> {
        let wanted = plan::replicas(&self.deployment);
        let active: Vec<usize> = (0..self.old.len()).filter(|at| plan::set_replicas(&self.old[*at]) > 0).collect();
        let new_active = self.new.as_ref().is_some_and(|set| plan::set_replicas(set) > 0);
        match (active.as_slice(), new_active, self.new.is_some()) {
            ([], _, true) => return self.scale_new(wanted, false).await.map(drop),
            // The newest of the old ones.
            ([], _, false) => {
                return match self.old.len() {
                    0 => Ok(()),
                    len => self.scale_old(len - 1, wanted).await.map(drop),
                };
            }
            ([only], false, _) => return self.scale_old(*only, wanted).await.map(drop),
            _ => {}
        }
        if self.new.as_ref().is_some_and(|set| plan::is_saturated(&self.deployment, set)) {
            for at in active {
                self.scale_old(at, 0).await?;
            }
            return Ok(());
        }
        if plan::is_recreate(&self.deployment) {
            return Ok(());
        }
        self.scale_in_proportion().await
    }

    async fn scale_in_proportion(&mut self) -> Result<(), Error> {
        let wanted = plan::replicas(&self.deployment);
        // `None` is the new set.
        let mut all: Vec<(Option<usize>, ReplicaSet)> =
            self.old.iter().enumerate().map(|(at, set)| (Some(at), set.clone())).collect();
        all.extend(self.new.clone().map(|set| (None, set)));
        all.retain(|(_, set)| plan::set_replicas(set) > 0);
        let total = plan::total(all.iter().map(|(_, set)| set));
        let allowed = if wanted > 0 { wanted + plan::max_surge(&self.deployment) } else { 0 };
        let to_add = allowed - total;
        // Biggest first; of equals the newest if growing, the oldest if shrinking.
        all.sort_by(|(_, a), (_, b)| {
            let by_age = if to_add > 0 { plan::by_creation(b, a) } else { plan::by_creation(a, b) };
            plan::set_replicas(b).cmp(&plan::set_replicas(a)).then(by_age)
        });
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(all.len());
        for (_, set) in &all {
            let part = plan::proportion(set, &self.deployment, to_add, added);
            sizes.push(plan::set_replicas(set) + part);
            added += part;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for ((at, _), size) in all.iter().zip(sizes) {
            match at {
                Some(at) => self.scale_set(*at, size, true).await.map(drop)?,
                None => self.scale_new(size, true).await.map(drop)?,
            }
        }
        Ok(())
    }

    async fn scale_new(&mut self, size: i32, force: bool) -> Result<bool, Error> {
        let Some(set) = self.new.clone() else { return Ok(false) };
        let (scaled, set) = self.put_size(set, size, force).await?;
        self.new = Some(set);
        Ok(scaled)
    }

    async fn scale_old(&mut self, at: usize, size: i32) -> Result<bool, Error> {
        self.scale_set(at, size, false).await
    }

    async fn scale_set(&mut self, at: usize, size: i32, force: bool) -> Result<bool, Error> {
        let (scaled, set) = self.put_size(self.old[at].clone(), size, force).await?;
        self.old[at] = set;
        Ok(scaled)
    }

    /// Writes a set's size and the annotations that say what the deployment's was; `force` writes those alone too.
    async fn put_size(&self, mut set: ReplicaSet, size: i32, force: bool) -> Result<(bool, ReplicaSet), Error> {
        let before = plan::set_replicas(&set);
        if !force && before == size {
            return Ok((false, set));
        }
        let wanted = plan::replicas(&self.deployment);
        let annotations = set.metadata.annotations.get_or_insert_default();
        let max = wanted + plan::max_surge(&self.deployment);
        let differ = plan::set_size_annotations(annotations, wanted, max, true);
        if before == size && !differ {
            return Ok((false, set));
        }
        set.spec.replicas = Some(size);
        let set = self.context.client.update(&set).await?;
        self.writes.sets.note(&self.key, &set);
        if before == size {
            return Ok((false, set));
        }
        self.scaling_event(if before < size { "up" } else { "down" }, set.name(), before, size);
        Ok((true, set))
    }

    fn scaling_event(&self, direction: &str, set: &str, from: i32, to: i32) {
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.context.recorder.event(&self.deployment, EventType::Normal, "ScalingReplicaSet", &message);
    }

    /// Deletes old sets beyond the history limit (`cleanupDeployment`).
    async fn clean_up(&mut self) -> Result<(), Error> {
        let limit = self.deployment.spec.revision_history_limit.filter(|l| *l != i32::MAX);
        let Some(limit) = limit else { return Ok(()) };
        let mut sets: Vec<&ReplicaSet> = self.old.iter().filter(|set| !set.is_deleting()).collect();
        let excess = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        sets.sort_by(|a, b| match (plan::revision(&a.metadata), plan::revision(&b.metadata)) {
            (Some(x), Some(y)) if x != y => x.cmp(&y),
            _ => plan::by_creation(a, b),
        });
        for set in sets.into_iter().take(excess) {
            let status = set.status.as_ref();
            let seen = status.and_then(|s| s.observed_generation).unwrap_or(0);
            let idle = status.map_or(0, |s| s.replicas) == 0 && plan::set_replicas(set) == 0;
            if !idle || set.metadata.generation.unwrap_or(0) > seen {
                continue;
            }
            let options = DeleteParams::uid(set.uid());
            match self.context.client.delete::<ReplicaSet>(set.namespace(), set.name(), &options).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the status if it differs; with `progress`, what the rollout has come to too.
    async fn write_status(&mut self, progress: bool) -> Result<(), Error> {
        let now = self.context.clock.now();
        let mut computed = status::compute(&self.deployment, self.new.as_ref(), &self.old, now);
        if progress {
            status::add_progress(&self.deployment, self.new.as_ref(), &self.old, &mut computed, now);
        }
        let current = self.deployment.status.clone().unwrap_or_default();
        if same_status(&current, &computed) {
            if progress {
                self.look_again = status::next_check(&self.deployment, &computed, now);
            }
            return Ok(());
        }
        self.deployment.status = Some(computed);
        self.put_status().await
    }

    /// The annotation that `extensions/v1beta1` rollbacks leave (`deployment/rollback.go`).
    async fn roll_back(&mut self) -> Result<(), Error> {
        self.sync_revision(true).await?;
        let asked = self.deployment.annotation(plan::ROLLBACK_TO).and_then(|r| r.parse::<i64>().ok()).unwrap_or(0);
        let all: Vec<&ReplicaSet> = self.old.iter().chain(&self.new).collect();
        let revision = if asked == 0 { plan::last_revision(all.iter().copied()) } else { asked };
        let found =
            all.into_iter().find(|set| revision != 0 && plan::revision(&set.metadata) == Some(revision)).cloned();
        let (kind, reason, message) = match found {
            None if revision == 0 => {
                (EventType::Warning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.".to_owned())
            }
            None => (
                EventType::Warning,
                "DeploymentRollbackRevisionNotFound",
                "Unable to find the revision to rollback to.".to_owned(),
            ),
            Some(set) => {
                if self.take_template(&set) {
                    let message =
                        format!("Rolled back deployment \"{}\" to revision {revision}", self.deployment.name());
                    (EventType::Normal, "DeploymentRollback", message)
                } else {
                    let message = format!(
                        "The rollback revision contains the same template as current deployment \"{}\"",
                        self.deployment.name()
                    );
                    (EventType::Warning, "DeploymentRollbackTemplateUnchanged", message)
                }
            }
        };
        self.context.recorder.event(&self.deployment, kind, reason, &message);
        if let Some(annotations) = &mut self.deployment.metadata.annotations {
            annotations.remove(plan::ROLLBACK_TO);
        }
        self.context.client.update(&self.deployment).await?;
        Ok(())
    }

    /// Makes the set's template and annotations the deployment's; false if the template is the same already.
    fn take_template(&mut self, set: &ReplicaSet) -> bool {
        let Some(template) = &set.spec.template else { return false };
        let spec = &mut self.deployment.spec;
        if equal_ignoring_hash(&spec.template, template) {
            return false;
        }
        spec.template = template.clone();
        if let Some(labels) = spec.template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(POD_TEMPLATE_HASH);
        }
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.retain(|key, _| plan::is_private_annotation(key));
        for (key, value) in set.metadata.annotations.iter().flatten() {
            if !plan::is_private_annotation(key) {
                annotations.insert(key.clone(), value.clone());
            }
        }
        true
    }
}

/// Equal, a missing number being the same as zero.
fn same_status(
    a: &k8s_openapi::api::apps::v1::DeploymentStatus,
    b: &k8s_openapi::api::apps::v1::DeploymentStatus,
) -> bool {
    let number = |n: Option<i32>| n.unwrap_or(0);
    number(a.replicas) == number(b.replicas)
        && number(a.updated_replicas) == number(b.updated_replicas)
        && number(a.ready_replicas) == number(b.ready_replicas)
        && number(a.available_replicas) == number(b.available_replicas)
        && number(a.unavailable_replicas) == number(b.unavailable_replicas)
        && a.terminating_replicas == b.terminating_replicas
        && a.collision_count == b.collision_count
        && a.observed_generation == b.observed_generation
        && a.conditions.as_deref().unwrap_or_default() == b.conditions.as_deref().unwrap_or_default()
}
