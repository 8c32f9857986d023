//! `/debug/api_priority_and_fairness/…`: the levels and their queues as tables of comma-separated values.

use super::FlowControl;

impl FlowControl {
    /// The table of that name, if there is one.
    pub fn dump(&self, table: &str) -> Option<String> {
        match table {
            "dump_priority_levels" => Some(self.dump_levels()),
            "dump_queues" => Some(self.dump_queues()),
            _ => None,
        }
    }

    fn dump_levels(&self) -> String {
        let mut rows = vec![
            [
                "PriorityLevelName",
                "ActiveQueues",
                "IsIdle",
                "IsQuiescing",
                "WaitingRequests",
                "ExecutingRequests",
            ]
            .into_iter()
            .chain(["DispatchedRequests", "RejectedRequests", "TimedoutRequests", "CancelledRequests"])
            .map(str::to_owned)
            .collect::<Vec<String>>(),
        ];
        for (name, level, _, quiescing) in self.levels().all() {
            let (totals, idle, active) = level.with(|set, now| {
                set.advance(now);
                let active = set.dump().iter().filter(|queue| queue.waiting > 0).count();
                (set.totals(), set.is_idle(), active)
            });
            rows.push(vec![
                name,
                active.to_string(),
                idle.to_string(),
                quiescing.to_string(),
                totals.waiting.to_string(),
                totals.executing.to_string(),
                totals.dispatched.to_string(),
                totals.rejected.to_string(),
                "0".to_owned(),
                totals.cancelled.to_string(),
            ]);
        }
        table(&rows)
    }

    fn dump_queues(&self) -> String {
        let head = [
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for (name, level, ..) in self.levels().all() {
            let queues = level.with(|set, now| {
                set.advance(now);
                set.dump()
            });
            for (index, queue) in queues.iter().enumerate() {
                rows.push(vec![
                    name.clone(),
                    index.to_string(),
                    queue.waiting.to_string(),
                    queue.executing.to_string(),
                    queue.seats_in_use.to_string(),
                    format!("{:.8}ss", queue.next_dispatch),
                    queue.initial_seats.to_string(),
                    queue.max_seats.to_string(),
                    format!("{:.8}ss", queue.work),
                ]);
            }
        }
        table(&rows)
    }
}

/// Columns as wide as their widest cell and its comma, and one more.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == columns {
                text.push_str(cell);
            } else {
                let cell = format!("{cell},");
                text.push_str(&format!("{cell:<width$}", width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}
