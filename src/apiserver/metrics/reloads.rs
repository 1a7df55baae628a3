//! Configuration files that are taken over when they change (apiserver `server/options/authenticationconfig/metrics`,
//! `authorizationconfig/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

/// Counts of one server, by what is configured: `authentication` or `authorization`.
pub struct Reloads {
    /// Stands for the server in labels.
    server: String,
    files: Mutex<BTreeMap<&'static str, File>>,
}

#[derive(Default)]
struct File {
    /// The hash of what counts now.
    hash: String,
    /// How often and when last, seconds since the epoch: failures, successes.
    ends: [(u64, f64); 2],
}

const STATUSES: [&str; 2] = ["failure", "success"];

impl Reloads {
    /// Of the server of this name.
    pub fn new(server: &str) -> Self {
        Self { server: hash(server), files: Mutex::default() }
    }

    /// The server begins with this file.
    pub fn begin(&self, of: &'static str, text: &str) {
        self.files.lock().entry(of).or_default().hash = hash(text);
    }

    /// A changed file was taken over, or not.
    pub fn changed(&self, of: &'static str, text: &str, is_taken: bool, now: Timestamp) {
        let mut files = self.files.lock();
        let file = files.entry(of).or_default();
        let (count, last) = &mut file.ends[usize::from(is_taken)];
        *count += 1;
        *last = now.as_duration().as_secs_f64();
        if is_taken {
            file.hash = hash(text);
        }
    }

    pub(super) fn write(&self, out: &mut String) -> std::fmt::Result {
        let files = self.files.lock();
        let server = &self.server;
        for (of, file) in files.iter() {
            let prefix = format!("apiserver_{of}_config_controller");
            let ended: Vec<_> = STATUSES.iter().zip(file.ends).filter(|(_, (count, _))| *count > 0).collect();
            let whose = format!("of {of} configuration split by status and apiserver identity.");
            if !ended.is_empty() {
                let name = format!("{prefix}_automatic_reload_last_timestamp_seconds");
                super::head(out, &name, "gauge", &format!("[BETA] Timestamp of the last automatic reload {whose}"))?;
                for (status, (_, last)) in &ended {
                    writeln!(out, "{name}{{apiserver_id_hash=\"{server}\",status=\"{status}\"}} {last}")?;
                }
                let name = format!("{prefix}_automatic_reloads_total");
                super::head(out, &name, "counter", &format!("[BETA] Total number of automatic reloads {whose}"))?;
                for (status, (count, _)) in &ended {
                    writeln!(out, "{name}{{apiserver_id_hash=\"{server}\",status=\"{status}\"}} {count}")?;
                }
            }
            let name = format!("{prefix}_last_config_info");
            let help = format!(
                "[ALPHA] Information about the last applied {of} configuration with hash as label, split by apiserver identity."
            );
            super::head(out, &name, "gauge", &help)?;
            writeln!(out, "{name}{{apiserver_id_hash=\"{server}\",hash=\"{}\"}} 1", file.hash)?;
        }
        Ok(())
    }
}

fn hash(text: &str) -> String {
    let digits: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_are_counted_by_their_end() {
        let reloads = Reloads::new("a");
        let now = Timestamp::from_second(7).unwrap();
        reloads.begin("authentication", "one");
        reloads.changed("authentication", "two", true, now);
        reloads.changed("authentication", "bad", false, now);
        reloads.changed("authentication", "bad", false, now);
        let mut out = String::new();
        reloads.write(&mut out).unwrap();
        let id = hash("a");
        let (two, prefix) = (hash("two"), "apiserver_authentication_config_controller");
        for line in [
            format!("{prefix}_automatic_reloads_total{{apiserver_id_hash=\"{id}\",status=\"success\"}} 1"),
            format!("{prefix}_automatic_reloads_total{{apiserver_id_hash=\"{id}\",status=\"failure\"}} 2"),
            format!(
                "{prefix}_automatic_reload_last_timestamp_seconds{{apiserver_id_hash=\"{id}\",status=\"failure\"}} 7"
            ),
            format!("{prefix}_last_config_info{{apiserver_id_hash=\"{id}\",hash=\"{two}\"}} 1"),
        ] {
            assert!(out.lines().any(|l| l == line), "{line}: {out}");
        }
    }
}
