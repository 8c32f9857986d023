//! How the seats of the server are divided among priority levels (KEP-1040, "Dispatching"): each gets its demand
//! times one fair proportion, held between its bounds, so that all seats are given away.

/// What one level asks for.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// What it would use; at least `lower`.
    pub target: f64,
    /// What it gets at least.
    pub lower: f64,
    /// What it gets at most.
    pub upper: f64,
}

/// Targets below this count as this, so that nothing is divided by zero.
const MIN_TARGET: f64 = 0.001;
/// Differences below this are rounding.
const EPSILON: f64 = 1e-7;

impl Claim {
    fn target(&self) -> f64 {
        self.target.max(MIN_TARGET)
    }

    fn share(&self, proportion: f64) -> f64 {
        (proportion * self.target()).clamp(self.lower, self.upper)
    }
}

/// The seats of each level and the fair proportion; `None` when the bounds cannot be met.
pub fn allocate(sum: f64, claims: &[Claim]) -> Option<(Vec<f64>, f64)> {
    let sound = |c: &Claim| c.lower >= 0.0 && c.target >= c.lower && c.upper >= c.lower;
    if sum < 0.0 || !claims.iter().all(sound) {
        return None;
    }
    let low: f64 = claims.iter().map(|c| c.lower).sum();
    let high: f64 = claims.iter().map(|c| c.upper).sum();
    if low - sum > EPSILON || sum - high > EPSILON {
        return None;
    }
    if sum == 0.0 {
        return Some((vec![0.0; claims.len()], 0.0));
    }
    // Between two neighbouring bounds the sum grows linearly with the proportion: walk them upwards.
    let mut bounds: Vec<(f64, f64)> = claims
        .iter()
        .flat_map(|c| [(c.lower / c.target(), c.target()), (c.upper / c.target(), -c.target())])
        .collect();
    bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    if low - sum > -EPSILON {
        return Some((claims.iter().map(|c| c.lower).collect(), bounds.first().map_or(0.0, |b| b.0)));
    }
    if sum - high > -EPSILON {
        return Some((claims.iter().map(|c| c.upper).collect(), bounds.last().map_or(0.0, |b| b.0)));
    }
    let (mut reached, mut proportion, mut slope) = (low, 0.0, 0.0);
    for (bound, change) in bounds {
        let step = (bound - proportion) * slope;
        if slope > 0.0 && reached + step >= sum {
            break;
        }
        reached += step;
        proportion = bound;
        slope += change;
    }
    if slope > 0.0 {
        proportion += (sum - reached) / slope;
    }
    Some((claims.iter().map(|c| c.share(proportion)).collect(), proportion))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_go_to_who_can_use_them_within_bounds() {
        // sum, (target, lower, upper) of each -> seats of each
        type Row<'a> = (f64, &'a [(f64, f64, f64)], Option<&'a [f64]>);
        let rows: &[Row] = &[
            (1.0, &[(5.0, 0.0, 10.0), (5.0, 0.0, 10.0)], Some(&[0.5, 0.5])),
            (10.0, &[(1.0, 0.0, 10.0), (3.0, 0.0, 10.0)], Some(&[2.5, 7.5])),
            // A lower bound takes from the other.
            (10.0, &[(4.0, 4.0, 10.0), (96.0, 0.0, 100.0)], Some(&[4.0, 6.0])),
            // An upper bound gives to the other.
            (10.0, &[(5.0, 0.0, 2.0), (5.0, 0.0, 10.0)], Some(&[2.0, 8.0])),
            // Nobody asks: everybody keeps the like.
            (9.0, &[(0.0, 0.0, 9.0), (0.0, 0.0, 9.0), (0.0, 0.0, 9.0)], Some(&[3.0, 3.0, 3.0])),
            (6.0, &[(3.0, 3.0, 9.0), (3.0, 3.0, 9.0)], Some(&[3.0, 3.0])),
            (18.0, &[(3.0, 3.0, 9.0), (3.0, 3.0, 9.0)], Some(&[9.0, 9.0])),
            (5.0, &[(3.0, 3.0, 9.0), (3.0, 3.0, 9.0)], None),
            (19.0, &[(3.0, 3.0, 9.0), (3.0, 3.0, 9.0)], None),
            (5.0, &[(2.0, 3.0, 9.0)], None),
            (0.0, &[(0.0, 0.0, 9.0)], Some(&[0.0])),
        ];
        for (sum, claims, want) in rows {
            let claims: Vec<Claim> = claims
                .iter()
                .map(|(target, lower, upper)| Claim { target: *target, lower: *lower, upper: *upper })
                .collect();
            let got = allocate(*sum, &claims).map(|(seats, _)| seats);
            let close = match (&got, want) {
                (Some(got), Some(want)) => got.iter().zip(*want).all(|(a, b)| (a - b).abs() < 1e-6),
                (got, want) => got.is_none() && want.is_none(),
            };
            assert!(close, "{sum} {claims:?}: {got:?}, not {want:?}");
        }
    }
}
