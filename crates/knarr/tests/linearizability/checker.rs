//! Linearizability of the history of one object, by Wing and Gong's search with Lowe's memory of where it has been
//! (as in Knossos and Porcupine): is there an order of the operations, each at a moment between its call and its
//! answer, in which a single copy of the object would have answered the same?

use std::collections::HashSet;

/// What tells one state of an object from another: every write writes a value of its own.
pub type Value = u64;

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Make the object.
    Create(Value),
    /// Change it if it still has the first value.
    Update(Value, Value),
    /// Delete it if it still has this value.
    Delete(Value),
    /// Read it.
    Read,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was done.
    Done,
    /// It exists already (create), or has another value (update, delete).
    Refused,
    /// There is no such object.
    Missing,
    /// The value that was read, `None` for no object.
    Read(Option<Value>),
    /// No answer: it happens once at any later time, or never.
    Unknown,
}

/// One operation. Calls and answers are numbered in the order in which they happened.
#[derive(Clone, Debug)]
pub struct Operation {
    pub call: Call,
    pub reply: Reply,
    pub called: u64,
    pub answered: u64,
}

type State = Option<Value>;

/// What the operation makes of the state, `None` when it would have answered otherwise.
fn step(state: State, operation: &Operation) -> Option<State> {
    use Reply::{Done, Missing, Refused, Unknown};
    match (&operation.call, &operation.reply) {
        (Call::Create(value), Done | Unknown) => state.is_none().then_some(Some(*value)),
        (Call::Create(_), Refused) => state.is_some().then_some(state),
        (Call::Update(from, to), Done | Unknown) => (state == Some(*from)).then_some(Some(*to)),
        (Call::Delete(from), Done | Unknown) => (state == Some(*from)).then_some(None),
        (Call::Update(from, _) | Call::Delete(from), Refused) => {
            (state.is_some() && state != Some(*from)).then_some(state)
        }
        (Call::Update(..) | Call::Delete(_), Missing) => state.is_none().then_some(state),
        (Call::Read, Reply::Read(value)) => (state == *value).then_some(state),
        _ => None,
    }
}

/// A set of the operations that have been given their place.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

/// Says which operation has no place in any order, if so.
pub fn check(history: &[Operation]) -> Result<(), String> {
    // Reads without an answer say nothing.
    let mut history: Vec<&Operation> =
        history.iter().filter(|op| !(op.call == Call::Read && op.reply == Reply::Unknown)).collect();
    history.sort_by_key(|operation| operation.called);
    let end = |operation: &Operation| match operation.reply {
        Reply::Unknown => u64::MAX,
        _ => operation.answered,
    };
    let mut placed = Placed(vec![0; history.len().div_ceil(64).max(1)]);
    let mut seen: HashSet<(Placed, State)> = HashSet::new();
    let mut state: State = None;
    // The chosen operations with the state before each, and where the search goes on after each.
    let mut chosen: Vec<(usize, State)> = Vec::new();
    let mut from = 0;
    let mut furthest = 0;
    let due = history.iter().filter(|operation| operation.reply != Reply::Unknown).count();
    let mut done = 0;
    loop {
        if done == due {
            return Ok(());
        }
        // Whatever comes next was called before the first answer that is still due.
        let deadline = history.iter().enumerate().filter(|(at, _)| !placed.has(*at));
        let deadline = deadline.map(|(_, operation)| end(operation)).min().unwrap_or(u64::MAX);
        let mut next = None;
        for (at, operation) in history.iter().enumerate().skip(from) {
            if operation.called > deadline {
                break;
            }
            if placed.has(at) {
                continue;
            }
            let Some(after) = step(state, operation) else { continue };
            placed.flip(at);
            if seen.insert((placed.clone(), after)) {
                next = Some((at, after));
                break;
            }
            placed.flip(at);
        }
        match next {
            Some((at, after)) => {
                chosen.push((at, state));
                state = after;
                done += usize::from(history[at].reply != Reply::Unknown);
                furthest = furthest.max(done);
                from = 0;
            }
            None => {
                let Some((at, before)) = chosen.pop() else {
                    let stuck: Vec<_> = history.iter().skip(furthest.saturating_sub(3)).take(12).collect();
                    return Err(format!("no order explains the answers; about here: {stuck:#?}"));
                };
                placed.flip(at);
                done -= usize::from(history[at].reply != Reply::Unknown);
                state = before;
                from = at + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(called: u64, answered: u64, call: Call, reply: Reply) -> Operation {
        Operation { call, reply, called, answered }
    }

    #[test]
    fn histories_are_told_apart() {
        use Call::{Create, Delete, Update};
        use Reply::{Done, Missing, Refused, Unknown};
        let read = |called, answered, value| op(called, answered, Call::Read, Reply::Read(value));
        for (name, good, history) in [
            ("nothing", true, vec![]),
            (
                "one after the other",
                true,
                vec![
                    op(1, 2, Create(1), Done),
                    read(3, 4, Some(1)),
                    op(5, 6, Update(1, 2), Done),
                    op(7, 8, Update(1, 3), Refused),
                    op(9, 10, Delete(2), Done),
                    op(11, 12, Delete(2), Missing),
                    read(13, 14, None),
                ],
            ),
            (
                "a read during a write sees either",
                true,
                vec![op(1, 10, Create(1), Done), read(2, 3, None), read(4, 5, Some(1))],
            ),
            (
                "and not back again",
                false,
                vec![op(1, 10, Create(1), Done), read(2, 3, Some(1)), read(4, 5, None)],
            ),
            (
                "a stale read",
                false,
                vec![op(1, 2, Create(1), Done), op(3, 4, Update(1, 2), Done), read(5, 6, Some(1))],
            ),
            ("a lost write", false, vec![op(1, 2, Create(1), Done), read(3, 4, None)]),
            (
                "two winners",
                false,
                vec![op(1, 2, Create(1), Done), op(3, 8, Update(1, 2), Done), op(4, 7, Update(1, 3), Done)],
            ),
            (
                "one of two wins",
                true,
                vec![
                    op(1, 2, Create(1), Done),
                    op(3, 8, Update(1, 2), Done),
                    op(4, 7, Update(1, 3), Refused),
                ],
            ),
            (
                "an unanswered write that happened late",
                true,
                vec![
                    op(1, 2, Create(1), Done),
                    op(3, 4, Update(1, 2), Unknown),
                    read(5, 6, Some(1)),
                    read(7, 8, Some(2)),
                ],
            ),
            (
                "or never",
                true,
                vec![op(1, 2, Create(1), Done), op(3, 4, Delete(1), Unknown), read(5, 6, Some(1))],
            ),
            (
                "but not before it was asked for",
                false,
                vec![op(1, 2, Create(1), Done), read(3, 4, None), op(5, 6, Delete(1), Unknown)],
            ),
            (
                "and not twice",
                false,
                vec![
                    op(1, 2, Create(1), Unknown),
                    read(3, 4, Some(1)),
                    op(5, 6, Delete(1), Done),
                    read(7, 8, Some(1)),
                ],
            ),
            ("a refusal needs a reason", false, vec![op(1, 2, Create(1), Refused)]),
        ] {
            assert_eq!(check(&history).is_ok(), good, "{name}: {history:#?}");
        }
    }

    /// Histories made by running a correct object under a random schedule are good; with one answer falsified most
    /// are not.
    #[test]
    fn long_random_histories_of_a_correct_object_pass() {
        use knarr_base::{Rng, rng::SeededRng};
        let mut caught = 0;
        for seed in 0..40 {
            let rng = SeededRng::new(seed);
            let rng: &dyn Rng = &rng;
            let (mut state, mut clock, mut history) = (None, 0, Vec::new());
            let mut pending: Vec<(Call, u64)> = Vec::new();
            for id in 1..400 {
                clock += 1;
                let guess = if rng.below(4) == 0 { id / 2 } else { state.unwrap_or(id) };
                let call = match rng.below(4) {
                    0 => Call::Create(id),
                    1 => Call::Update(guess, id),
                    2 => Call::Delete(guess),
                    _ => Call::Read,
                };
                pending.push((call, clock));
                while pending.len() > 4 || (!pending.is_empty() && rng.below(2) == 0) {
                    let (call, called) = pending.swap_remove(rng.below(pending.len() as u64) as usize);
                    let reply = match &call {
                        Call::Create(value) if state.is_none() => {
                            state = Some(*value);
                            Reply::Done
                        }
                        Call::Create(_) => Reply::Refused,
                        Call::Read => Reply::Read(state),
                        _ if state.is_none() => Reply::Missing,
                        Call::Update(from, to) if state == Some(*from) => {
                            state = Some(*to);
                            Reply::Done
                        }
                        Call::Delete(from) if state == Some(*from) => {
                            state = None;
                            Reply::Done
                        }
                        _ => Reply::Refused,
                    };
                    clock += 1;
                    let unknown = call != Call::Read && rng.below(20) == 0;
                    let reply = if unknown { Reply::Unknown } else { reply };
                    history.push(Operation { call, reply, called, answered: clock });
                }
            }
            check(&history).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let reads = history.iter_mut().filter(|op| matches!(op.reply, Reply::Read(Some(_))));
            let Some(read) = reads.last() else { continue };
            read.reply = Reply::Read(Some(1_000_000));
            caught += usize::from(check(&history).is_err());
        }
        assert!(caught > 30, "{caught} of 40 lies are noticed");
    }
}
