//! A clock that was set back: told once at the start, because everything that is made from then on looks older than what
//! is there. Nothing depends on it: leases, waits and the life of events are counted by a clock that cannot be set, and
//! certificates are valid from the beginning of time.

use std::fs::Metadata;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use crate::layout::Layout;

/// Clocks differ, and file systems round.
const TOLERATED: SignedDuration = SignedDuration::from_hours(1);

/// When the cluster's files were last written, if that lies after `now`.
pub fn set_back(layout: &Layout, now: Timestamp) -> Option<Timestamp> {
    let database = layout.database();
    let folders = [database.parent().map(Path::to_owned), Some(layout.tls())];
    let newest = folders.iter().flatten().filter_map(|folder| newest_file(folder)).max()?;
    (newest > now.checked_add(TOLERATED).ok()?).then_some(newest)
}

fn newest_file(folder: &Path) -> Option<Timestamp> {
    let written = |meta: Metadata| Timestamp::try_from(meta.modified().ok()?).ok();
    // A folder that is not there yet has no files.
    std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| written(entry.metadata().ok()?)).max()
}

#[cfg(test)]
mod tests {
    use base::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_clock_behind_the_files_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let now = SystemClock.now();
        assert_eq!(set_back(&layout, now), None);
        std::fs::create_dir_all(layout.tls()).unwrap();
        std::fs::write(layout.tls().join("ca.crt"), "x").unwrap();
        assert_eq!(set_back(&layout, now), None);
        let year = SignedDuration::from_hours(24 * 365);
        let found = set_back(&layout, now.checked_sub(year).unwrap()).unwrap();
        assert!(found > now.checked_sub(SignedDuration::from_mins(1)).unwrap(), "{found}");
        assert_eq!(set_back(&layout, now.checked_sub(SignedDuration::from_mins(30)).unwrap()), None);
    }
}
