//! What each authoriser said, counted (apiserver `authorization/metrics`). What all of them said together is counted with the
//! filters in front of the handlers.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use parking_lot::Mutex;

/// Terminal decisions by type, name and whether they allowed. Bounded: authorisers are configured.
#[derive(Default)]
pub struct Decisions(Mutex<BTreeMap<(&'static str, String, bool), u64>>);

impl Decisions {
    /// An authoriser allowed or denied.
    pub fn count(&self, kind: &'static str, name: &str, allowed: bool) {
        *self.0.lock().entry((kind, name.to_owned(), allowed)).or_default() += 1;
    }

    /// Appends the lines of `/metrics`; nothing where nothing was decided.
    pub fn write(&self, out: &mut String) -> fmt::Result {
        let decided = self.0.lock();
        if decided.is_empty() {
            return Ok(());
        }
        let name = "apiserver_authorization_decisions_total";
        let help = "[BETA] Total number of terminal decisions made by an authorizer split by authorizer type, name, and \
                    decision.";
        writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter")?;
        for ((kind, authorizer, allowed), count) in decided.iter() {
            let decision = if *allowed { "allowed" } else { "denied" };
            writeln!(out, "{name}{{decision=\"{decision}\",name=\"{authorizer}\",type=\"{kind}\"}} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_counted_by_authoriser() {
        let decisions = Decisions::default();
        let mut text = String::new();
        decisions.write(&mut text).unwrap();
        assert!(text.is_empty());
        decisions.count("RBAC", "rbac", true);
        decisions.write(&mut text).unwrap();
        let line = "apiserver_authorization_decisions_total{decision=\"allowed\",name=\"rbac\",type=\"RBAC\"} 1";
        assert!(text.lines().any(|found| found == line), "{text}");
    }
}
