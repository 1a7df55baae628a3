//! Removing images that no container uses when the disk fills up (upstream `images/image_gc_manager.go`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::{SignedDuration, Timestamp};
use runtime::Image;

use crate::context::Context;
use crate::machine::disk;

const PERIOD: Duration = Duration::from_secs(300);
/// Images younger than this are left alone.
const MIN_AGE: SignedDuration = SignedDuration::from_mins(2);

#[derive(Clone, Copy)]
struct Seen {
    first: Timestamp,
    used: Timestamp,
}

/// Looks at the disk every five minutes until cancelled.
pub async fn run(ctx: &Arc<Context>) {
    let mut seen: HashMap<String, Seen> = HashMap::new();
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match ctx.runtime.images().await {
            Ok(images) => {
                note(&mut seen, &images, &ctx.cache.images_in_use(), ctx.clock.now());
                collect(ctx, &seen, images).await;
            }
            Err(error) => tracing::debug!(error = %base::chain(&error), "cannot list images"),
        }
    }
}

fn is_used(image: &Image, used: &std::collections::HashSet<String>) -> bool {
    used.contains(&image.id) || image.tags.iter().chain(&image.digests).any(|name| used.contains(name))
}

fn note(seen: &mut HashMap<String, Seen>, images: &[Image], used: &std::collections::HashSet<String>, now: Timestamp) {
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let entry = seen.entry(image.id.clone()).or_insert(Seen { first: now, used: Timestamp::UNIX_EPOCH });
        if is_used(image, used) {
            entry.used = now;
        }
    }
}

/// Images to remove, the longest unused first.
fn candidates(seen: &HashMap<String, Seen>, images: Vec<Image>, now: Timestamp) -> Vec<Image> {
    let mut unused: Vec<(Seen, Image)> = images
        .into_iter()
        .filter(|image| !image.pinned)
        .filter_map(|image| Some((*seen.get(&image.id)?, image)))
        .filter(|(seen, _)| seen.used != now && now.duration_since(seen.first) >= MIN_AGE)
        .collect();
    unused.sort_by_key(|(seen, _)| (seen.used, seen.first));
    unused.into_iter().map(|(_, image)| image).collect()
}

/// Removes every image that no container uses, whatever its age: the disk is full (upstream `DeleteUnusedImages`).
pub async fn remove_unused(ctx: &Context) {
    let images = match ctx.runtime.images().await {
        Ok(images) => images,
        Err(error) => {
            tracing::warn!(error = %base::chain(&error), "cannot list images");
            return;
        }
    };
    let used = ctx.cache.images_in_use();
    for image in images.into_iter().filter(|image| !image.pinned && !is_used(image, &used)) {
        remove(ctx, &image).await;
    }
}

async fn remove(ctx: &Context, image: &Image) -> bool {
    let names: Vec<&String> = image.tags.iter().chain(&image.digests).collect();
    let mut removed = !names.is_empty();
    for name in names {
        if let Err(error) = ctx.runtime.remove_image(name).await {
            tracing::warn!(image = name, error = %base::chain(&error), "cannot remove an image");
            removed = false;
        }
    }
    if removed {
        tracing::info!(image = image.id, bytes = image.size, "removed an unused image");
    }
    removed
}

async fn collect(ctx: &Context, seen: &HashMap<String, Seen>, images: Vec<Image>) {
    let Some(space) = disk(&ctx.config.root_dir).filter(|d| d.capacity > 0) else { return };
    let percent = 100 - space.available * 100 / space.capacity;
    if percent < u64::from(ctx.config.image_gc_high_percent) {
        return;
    }
    let target = space.capacity * u64::from(100 - ctx.config.image_gc_low_percent) / 100;
    let wanted = target.saturating_sub(space.available);
    let mut freed = 0;
    for image in candidates(seen, images, ctx.clock.now()) {
        if freed >= wanted {
            break;
        }
        if remove(ctx, &image).await {
            freed += image.size;
        }
    }
    if freed < wanted {
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found \
             {freed} bytes eligible to free."
        );
        ctx.events.node(EventType::Warning, "FreeDiskSpaceFailed", &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_images_go_oldest_first_and_young_ones_stay() {
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        let image = |id: &str, pinned| Image { id: id.into(), pinned, ..Image::default() };
        let all = || vec![image("used", false), image("old", false), image("older", false), image("pin", true)];
        let mut seen = HashMap::new();
        let used = |ids: &[&str]| ids.iter().map(|s| (*s).to_owned()).collect();
        note(&mut seen, &all(), &used(&["used", "old"]), at(10));
        note(&mut seen, &[all(), vec![image("young", false)]].concat(), &used(&["used"]), at(1000));
        let found = candidates(&seen, [all(), vec![image("young", false)]].concat(), at(1000));
        let ids: Vec<&str> = found.iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids, ["older", "old"]);
    }
}
