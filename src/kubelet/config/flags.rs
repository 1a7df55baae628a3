//! The kubelet's own flags, as `--kubelet-arg name=value` gives them (upstream `cmd/kubelet/app/options`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::KubeletConfig;
use crate::resources;

/// Why a flag was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    #[error("unknown flag {0:?}; known are: {list}", list = KNOWN.join(", "))]
    Unknown(String),
    #[error("{flag}: {value:?} is not {expected}")]
    Value { flag: String, value: String, expected: &'static str },
    #[error("eviction-soft: {0} has no eviction-soft-grace-period")]
    NoGrace(String),
}

const KNOWN: [&str; 17] = [
    "allowed-unsafe-sysctls",
    "container-log-max-files",
    "container-log-max-size",
    "eviction-hard",
    "eviction-max-pod-grace-period",
    "eviction-minimum-reclaim",
    "eviction-pressure-transition-period",
    "eviction-soft",
    "eviction-soft-grace-period",
    "image-gc-high-threshold",
    "image-gc-low-threshold",
    "kube-reserved",
    "max-pods",
    "seccomp-default",
    "shutdown-grace-period",
    "shutdown-grace-period-critical-pods",
    "system-reserved",
];

impl KubeletConfig {
    /// Applies flags in their order; a later one replaces an earlier one of the same name.
    ///
    /// # Errors
    /// The first flag that is not known or whose value cannot be read.
    pub fn apply_flags<'a>(&mut self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), FlagError> {
        let mut reserved: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        for (flag, value) in flags {
            match flag {
                "kube-reserved" | "system-reserved" => {
                    reserved.insert(flag, pairs(flag, value, '=')?);
                }
                _ => self.apply_flag(flag, value)?,
            }
        }
        for list in reserved.into_values() {
            for (name, quantity) in list {
                let sum = add(self.reserved.get(&name), &name, &quantity)?;
                self.reserved.insert(name, sum);
            }
        }
        match self.eviction_soft.keys().find(|signal| !self.eviction_soft_grace_period.contains_key(*signal)) {
            Some(signal) => Err(FlagError::NoGrace(signal.clone())),
            None => Ok(()),
        }
    }

    fn apply_flag(&mut self, flag: &str, value: &str) -> Result<(), FlagError> {
        match flag {
            "allowed-unsafe-sysctls" => {
                self.allowed_unsafe_sysctls =
                    value.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
            }
            "container-log-max-files" => self.container_log_max_files = number(flag, value)?,
            "container-log-max-size" => {
                let bytes = resources::parse(value).and_then(|n| u64::try_from(n).ok());
                self.container_log_max_size = bytes.ok_or_else(|| bad(flag, value, "a quantity"))?;
            }
            "eviction-hard" => self.eviction_hard = pairs(flag, value, '<')?,
            "eviction-soft" => self.eviction_soft = pairs(flag, value, '<')?,
            "eviction-soft-grace-period" => {
                let given = pairs(flag, value, '=')?.into_iter();
                let read = given.map(|(signal, text)| Ok((signal, duration(flag, &text)?)));
                self.eviction_soft_grace_period = read.collect::<Result<_, FlagError>>()?;
            }
            "eviction-minimum-reclaim" => self.eviction_minimum_reclaim = pairs(flag, value, '=')?,
            "eviction-max-pod-grace-period" => self.eviction_max_pod_grace_period = number(flag, value)?,
            "eviction-pressure-transition-period" => {
                self.eviction_pressure_transition_period = duration(flag, value)?;
            }
            "image-gc-high-threshold" => self.image_gc_high_percent = number(flag, value)?,
            "image-gc-low-threshold" => self.image_gc_low_percent = number(flag, value)?,
            "max-pods" => self.max_pods = number(flag, value)?,
            "seccomp-default" => {
                self.seccomp_default = value.parse().map_err(|_| bad(flag, value, "true or false"))?;
            }
            "shutdown-grace-period" => self.shutdown_grace = duration(flag, value)?,
            "shutdown-grace-period-critical-pods" => self.shutdown_grace_critical = duration(flag, value)?,
            other => return Err(FlagError::Unknown(other.to_owned())),
        }
        Ok(())
    }
}

fn bad(flag: &str, value: &str, expected: &'static str) -> FlagError {
    FlagError::Value { flag: flag.to_owned(), value: value.to_owned(), expected }
}

fn number<N: std::str::FromStr>(flag: &str, value: &str) -> Result<N, FlagError> {
    value.parse().map_err(|_| bad(flag, value, "a number"))
}

fn pairs(flag: &str, value: &str, separator: char) -> Result<BTreeMap<String, String>, FlagError> {
    let entries = value.split(',').map(str::trim).filter(|s| !s.is_empty());
    entries
        .map(|entry| {
            let (name, value) = entry
                .split_once(separator)
                .ok_or_else(|| bad(flag, entry, if separator == '<' { "signal<value" } else { "name=value" }))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Two reservations of one resource together, in thousandths of CPUs or whole units of others.
fn add(old: Option<&String>, name: &str, new: &str) -> Result<String, FlagError> {
    let quantity = |text: &str| {
        let q = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
        if name == "cpu" { resources::milli(&q) } else { resources::value(&q) }
    };
    let new = quantity(new).ok_or_else(|| bad(name, new, "a quantity"))?;
    let sum = new.saturating_add(old.and_then(|text| quantity(text)).unwrap_or(0));
    Ok(if name == "cpu" { format!("{sum}m") } else { sum.to_string() })
}

/// A duration as Go writes it: `1m30s`, `500ms`, `2h`.
fn duration(flag: &str, text: &str) -> Result<Duration, FlagError> {
    let wrong = || bad(flag, text, "a duration such as 30s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let amount: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| end + n);
        let seconds = match &rest[end..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return Err(wrong()),
        };
        total += Duration::try_from_secs_f64(amount * seconds).map_err(|_| wrong())?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> KubeletConfig {
        KubeletConfig::new("n", [127, 0, 0, 1].into(), "/k".into(), "/l".into())
    }

    #[test]
    fn flags_are_read_as_the_kubelet_reads_them() {
        let mut config = config();
        config
            .apply_flags([
                ("eviction-soft", "memory.available<10%,nodefs.available<1Gi"),
                ("eviction-soft-grace-period", "memory.available=1m30s,nodefs.available=2m"),
                ("kube-reserved", "cpu=100m,memory=1Gi"),
                ("system-reserved", "cpu=1"),
                ("shutdown-grace-period", "30s"),
                ("container-log-max-size", "5Mi"),
            ])
            .unwrap();
        assert_eq!(config.eviction_soft_grace_period["memory.available"], Duration::from_secs(90));
        assert_eq!(config.reserved["cpu"], "1100m");
        assert_eq!(config.shutdown_grace, Duration::from_secs(30));
        assert_eq!(config.container_log_max_size, 5 << 20);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let check = |flag: &str, value: &str, expected: &str| {
            let error = config().apply_flags([(flag, value)]).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check("no-such", "1", "unknown flag \"no-such\"");
        check("max-pods", "many", "max-pods: \"many\" is not a number");
        check("shutdown-grace-period", "30", "shutdown-grace-period: \"30\" is not a duration");
        check("eviction-soft", "memory.available<1Gi", "eviction-soft: memory.available has no");
        check("eviction-hard", "memory.available", "eviction-hard: \"memory.available\" is not signal<value");
    }
}
