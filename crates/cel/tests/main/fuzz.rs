//! Random expressions: pieces of the tables' expressions cut, joined and bent. None may panic or run on.

use knarr_cel::fuzz::expression;
use serde_json::Value as Json;

/// Enough of them to find what is easily found; a fuzzer finds the rest.
const ROUNDS: usize = 8_000;

/// What expressions are bent with.
const SIGNS: &[u8] = b"()[]{}.,?:'\"+-*/%<>=!&| \\0azx_";

/// A generator that gives the same numbers each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

#[test]
fn random_expressions() {
    let tables = [
        include_str!("cases/issues.jsonl"),
        include_str!("cases/macros.jsonl"),
        include_str!("cases/operators.jsonl"),
        include_str!("cases/optionals.jsonl"),
        include_str!("cases/strings.jsonl"),
        include_str!("cases/typed.jsonl"),
        include_str!("cases/kubernetes.jsonl"),
    ];
    let sources: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(|line| serde_json::from_str::<Json>(line).unwrap()["expr"].as_str().map(str::to_owned))
        .collect();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for _ in 0..ROUNDS {
        let first = sources[numbers.below(sources.len())].as_bytes();
        let second = sources[numbers.below(sources.len())].as_bytes();
        let mut bytes = first[..numbers.below(first.len() + 1)].to_vec();
        bytes.extend_from_slice(&second[numbers.below(second.len() + 1)..]);
        for _ in 0..numbers.below(3) {
            if !bytes.is_empty() {
                let at = numbers.below(bytes.len());
                bytes[at] = SIGNS[numbers.below(SIGNS.len())];
            }
        }
        expression(&bytes);
    }
}
