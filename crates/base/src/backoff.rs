//! Exponential back-off with jitter.

use std::time::Duration;

/// Delays that grow by a factor up to a ceiling.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    factor: f64,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays `first`, `first * factor`, ... never above `ceiling`.
    pub fn new(first: Duration, factor: f64, ceiling: Duration) -> Self {
        Self { first, factor, ceiling, next: first }
    }

    /// The next delay.
    pub fn step(&mut self) -> Duration {
        let delay = self.next;
        self.next = self.next.mul_f64(self.factor).min(self.ceiling);
        delay
    }

    /// The next delay, lengthened by up to `share` of itself at random.
    pub fn step_jittered(&mut self, rng: &dyn crate::Rng, share: f64) -> Duration {
        let delay = self.step();
        delay + delay.mul_f64(share * rng.unit())
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_ceiling_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_secs(10), 2.0, Duration::from_secs(35));
        let steps: Vec<u64> = (0..4).map(|_| backoff.step().as_secs()).collect();
        assert_eq!(steps, [10, 20, 35, 35]);
        backoff.reset();
        assert_eq!(backoff.step().as_secs(), 10);
    }
}
