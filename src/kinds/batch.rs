//! The batch group.

mod cron_job;
mod job;
mod job_status;

use crate::define::Extra;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "CronJob" => cron_job::extra(),
        "Job" => job::extra(),
        _ => return None,
    })
}
