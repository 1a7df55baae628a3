//! When the node counts as short of something: thresholds, their grace periods, and how long a condition lasts (upstream
//! `kubelet/eviction/helpers.go`, `eviction/api`). Pure: time and observations come from outside.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::KubeletConfig;
use crate::machine::threshold;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    // Memory is reclaimed first (`byEvictionPriority`).
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    pub const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The resource that is short, as messages call it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodefsAvailable | Self::ImagefsAvailable => "ephemeral-storage",
            Self::NodefsInodesFree | Self::ImagefsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    pub fn is_disk(self) -> bool {
        !matches!(self, Self::MemoryAvailable | Self::PidAvailable)
    }
}

/// What there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observation {
    pub available: u64,
    pub capacity: u64,
}

pub type Observations = BTreeMap<Signal, Observation>;

/// A limit below which the node is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Threshold {
    pub signal: Signal,
    /// A quantity or a percentage.
    pub value: String,
    /// How long a soft threshold has to be met; `None` for a hard one.
    pub grace: Option<Duration>,
    /// What has to be free beyond the threshold before it counts as resolved.
    pub min_reclaim: Option<String>,
}

impl Threshold {
    /// The limit in bytes, inodes or processes.
    pub fn limit(&self, capacity: u64) -> u64 {
        amount(&self.value, capacity)
    }

    /// `with_reclaim`: also what has to be reclaimed beyond it is missing.
    fn is_met(&self, observed: Observation, with_reclaim: bool) -> bool {
        let reclaim = self.min_reclaim.as_deref().filter(|_| with_reclaim);
        let extra = reclaim.map_or(0, |text| amount(text, observed.capacity));
        observed.available < self.limit(observed.capacity).saturating_add(extra)
    }
}

fn amount(text: &str, capacity: u64) -> u64 {
    let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
    u64::try_from(threshold(text, capacity)).unwrap_or(0)
}

/// The thresholds of a configuration.
pub fn configured(config: &KubeletConfig) -> Vec<Threshold> {
    let mut out = Vec::new();
    for signal in Signal::ALL {
        let name = signal.name();
        let min_reclaim = config.eviction_minimum_reclaim.get(name).cloned();
        if let Some(value) = config.eviction_hard.get(name) {
            out.push(Threshold { signal, value: value.clone(), grace: None, min_reclaim: min_reclaim.clone() });
        }
        if let Some(value) = config.eviction_soft.get(name) {
            let grace = config.eviction_soft_grace_period.get(name).copied().unwrap_or_default();
            out.push(Threshold { signal, value: value.clone(), grace: Some(grace), min_reclaim });
        }
    }
    out
}

/// What presses on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

impl Pressure {
    pub fn any(self) -> bool {
        self.memory || self.disk || self.pids
    }

    /// The conditions' types, as messages list them.
    pub fn names(self) -> Vec<&'static str> {
        let all = [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure"), (self.pids, "PIDPressure")];
        all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
    }
}

/// Remembers since when thresholds are met and until when conditions last.
#[derive(Debug, Default)]
pub struct Watch {
    /// By place in the list of thresholds.
    first: HashMap<usize, Instant>,
    /// Thresholds that were acted on and are not resolved.
    unresolved: Vec<usize>,
    memory: Option<Instant>,
    disk: Option<Instant>,
    pids: Option<Instant>,
}

impl Watch {
    /// One look: the thresholds to act on now, the most important first, and the node's conditions.
    pub fn look<'a>(
        &mut self,
        thresholds: &'a [Threshold],
        observations: &Observations,
        transition: Duration,
        now: Instant,
    ) -> (Vec<&'a Threshold>, Pressure) {
        let met: Vec<usize> = (0..thresholds.len())
            .filter(|i| {
                let observed = observations.get(&thresholds[*i].signal);
                observed.is_some_and(|o| thresholds[*i].is_met(*o, self.unresolved.contains(i)))
            })
            .collect();
        self.first.retain(|i, _| met.contains(i));
        for i in &met {
            self.first.entry(*i).or_insert(now);
            let last = match thresholds[*i].signal {
                Signal::MemoryAvailable => &mut self.memory,
                Signal::PidAvailable => &mut self.pids,
                _ => &mut self.disk,
            };
            *last = Some(now);
        }
        let lasts = |last: Option<Instant>| last.is_some_and(|at| at == now || now.duration_since(at) < transition);
        let pressure = Pressure { memory: lasts(self.memory), disk: lasts(self.disk), pids: lasts(self.pids) };
        self.unresolved = met
            .into_iter()
            .filter(|i| {
                let grace = thresholds[*i].grace.unwrap_or_default();
                self.first.get(i).is_some_and(|since| now.duration_since(*since) >= grace)
            })
            .collect();
        let mut act: Vec<&Threshold> = self.unresolved.iter().map(|i| &thresholds[*i]).collect();
        act.sort_by_key(|t| (t.signal, t.grace.is_some()));
        (act, pressure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(value: &str, grace: Option<u64>, reclaim: Option<&str>) -> Threshold {
        Threshold {
            signal: Signal::MemoryAvailable,
            value: value.to_owned(),
            grace: grace.map(Duration::from_secs),
            min_reclaim: reclaim.map(str::to_owned),
        }
    }

    fn observed(available: u64) -> Observations {
        [(Signal::MemoryAvailable, Observation { available, capacity: 1000 })].into()
    }

    #[tokio::test(start_paused = true)]
    async fn soft_thresholds_act_after_their_grace_and_conditions_last() {
        let thresholds = [threshold("30%", Some(60), None)];
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |available, seconds| {
            let at = start + Duration::from_secs(seconds);
            let (act, pressure) = watch.look(&thresholds, &observed(available), Duration::from_secs(300), at);
            (act.len(), pressure.memory)
        };
        assert_eq!(look(400, 0), (0, false));
        assert_eq!(look(299, 10), (0, true));
        assert_eq!(look(299, 69), (0, true));
        assert_eq!(look(299, 70), (1, true));
        assert_eq!(look(400, 80), (0, true), "the condition stays for the transition period");
        assert_eq!(look(400, 369), (0, true));
        assert_eq!(look(400, 371), (0, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_threshold_is_resolved_only_when_enough_was_reclaimed() {
        let thresholds = [threshold("100", None, Some("50"))];
        let (mut watch, now) = (Watch::default(), Instant::now());
        let mut look = |available| watch.look(&thresholds, &observed(available), Duration::ZERO, now).0.len();
        assert_eq!(look(120), 0);
        assert_eq!(look(90), 1);
        assert_eq!(look(120), 1);
        assert_eq!(look(150), 0);
        assert_eq!(look(120), 0);
    }

    #[test]
    fn conditions_are_named_as_upstream_names_them() {
        let pressure = Pressure { memory: true, disk: true, pids: false };
        assert_eq!(pressure.names(), ["MemoryPressure", "DiskPressure"]);
    }
}
