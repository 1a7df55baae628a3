//! Exponential back-off with a ceiling and optional jitter.

use std::time::Duration;

use rand::Rng;

/// Delays that double from `initial` up to `ceiling`.
#[derive(Debug, Clone)]
pub struct Backoff {
    initial: Duration,
    ceiling: Duration,
    factor: u32,
    jitter: f64,
    next: Duration,
}

impl Backoff {
    /// Starts at `initial` and doubles up to `ceiling`, without jitter.
    pub fn new(initial: Duration, ceiling: Duration) -> Self {
        Self { initial, ceiling, factor: 2, jitter: 0.0, next: initial }
    }

    /// Adds up to `fraction` (0 to 1) of each delay at random, so that many waiters do not return together.
    pub fn with_jitter(mut self, fraction: f64) -> Self {
        self.jitter = fraction.clamp(0.0, 1.0);
        self
    }

    /// The delay to wait now; the following one is longer.
    pub fn step(&mut self) -> Duration {
        let delay = self.next;
        self.next = self.next.saturating_mul(self.factor).min(self.ceiling);
        if self.jitter == 0.0 {
            return delay;
        }
        delay + delay.mul_f64(rand::rng().random_range(0.0..=self.jitter))
    }

    /// Begins again at the initial delay: call after a success.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_ceiling_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(30));
        assert_eq!(backoff.step().as_secs(), 10);
        assert_eq!(backoff.step().as_secs(), 20);
        assert_eq!(backoff.step().as_secs(), 30);
        assert_eq!(backoff.step().as_secs(), 30);
        backoff.reset();
        assert_eq!(backoff.step().as_secs(), 10);
    }

    #[test]
    fn jitter_stays_within_its_fraction() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).with_jitter(0.5);
        for _ in 0..100 {
            let delay = backoff.step();
            assert!(delay >= Duration::from_secs(1) && delay <= Duration::from_millis(1500), "{delay:?}");
        }
    }
}
