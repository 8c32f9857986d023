//! From a profile to classic BPF. System call numbers are found by binary search, so that a filter costs some
//! ten instructions a call, and the kernel is quick to find out which calls it always allows.

use super::{Action, Arch, Compare, Condition, Profile, table};
use crate::sys::SockFilter;
use std::collections::{BTreeMap, HashMap};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Bit of the system call numbers of the x32 interface, which no filter lets through.
const X32_BIT: u32 = 0x4000_0000;

const fn plain(code: u16, k: u32) -> SockFilter {
    SockFilter { code, jt: 0, jf: 0, k }
}

const fn ret(action: u32) -> SockFilter {
    plain(RETURN, action)
}

/// What to do about one system call: rules in order.
type Leaf = Vec<(Action, Vec<Condition>)>;

/// The BPF program of a profile.
pub fn compile(profile: &Profile) -> Result<Vec<SockFilter>, String> {
    // Architecture by architecture: skip the block of each that it is not. Blocks can be long, jumps on a
    // condition cannot.
    let mut program = vec![plain(LOAD, 4)];
    for arch in &profile.arches {
        let block = block(profile, *arch);
        program.push(SockFilter { code: JUMP_EQUAL, jt: 1, jf: 0, k: arch.audit() });
        program.push(plain(JUMP, block.len() as u32));
        program.extend(block);
    }
    program.push(ret(Action::KillThread.value()));
    // BPF_MAXINSNS
    if program.len() > 4096 {
        return Err(format!("seccomp profile is too long ({} instructions)", program.len()));
    }
    Ok(program)
}

fn block(profile: &Profile, arch: Arch) -> Vec<SockFilter> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut last = 0;
    for row in table() {
        if let Ok(number) = row[arch.column()].parse() {
            numbers.insert(row[0], number);
            last = last.max(number);
        }
    }
    let mut leaves: BTreeMap<u32, Leaf> = BTreeMap::new();
    for rule in &profile.rules {
        for number in rule.names.iter().filter_map(|name| numbers.get(name.as_str())) {
            leaves.entry(*number).or_default().push((rule.action, rule.conditions.clone()));
        }
    }
    for leaf in leaves.values_mut() {
        // A rule without conditions covers those with.
        if let Some(at) = leaf.iter().position(|(_, conditions)| conditions.is_empty()) {
            *leaf = vec![leaf[at].clone()];
        }
    }
    // Calls newer than the table do not exist as far as the container can tell, so that programs try an older
    // one; runc does the same. Not where the profile lets through what it does not name.
    let beyond = match profile.default {
        Action::Allow | Action::Log => profile.default,
        _ => Action::Errno(libc::ENOSYS as u16),
    };
    let default: Leaf = vec![(profile.default, vec![])];
    let mut ranges: Vec<(u32, Leaf)> = Vec::new();
    let mut add = |start: u32, leaf: &Leaf| match ranges.last() {
        Some((_, same)) if same == leaf => {}
        _ => ranges.push((start, leaf.clone())),
    };
    let mut next = 0;
    for (number, leaf) in &leaves {
        if *number > next {
            add(next, &default);
        }
        add(*number, leaf);
        next = number + 1;
    }
    add(next, &default);
    add(last.max(next.saturating_sub(1)) + 1, &vec![(beyond, vec![])]);
    let mut block = vec![plain(LOAD, 0)];
    if arch == Arch::X86_64 {
        block.push(SockFilter { code: JUMP_GREATER_OR_EQUAL, jt: 0, jf: 1, k: X32_BIT });
        block.push(ret(Action::Errno(libc::ENOSYS as u16).value()));
    }
    block.extend(search(&ranges, profile.default));
    block
}

/// Finds the range that the number in the accumulator is in.
fn search(ranges: &[(u32, Leaf)], default: Action) -> Vec<SockFilter> {
    if let [(_, leaf)] = ranges {
        return decide(leaf, default);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (low, high) = (search(lower, default), search(upper, default));
    let start = upper.first().map_or(0, |(start, _)| *start);
    let mut code = match u8::try_from(low.len()) {
        Ok(distance) => vec![SockFilter { code: JUMP_GREATER_OR_EQUAL, jt: distance, jf: 0, k: start }],
        Err(_) => vec![
            SockFilter { code: JUMP_GREATER_OR_EQUAL, jt: 0, jf: 1, k: start },
            plain(JUMP, low.len() as u32),
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

/// Goes through the rules of a call.
fn decide(leaf: &Leaf, default: Action) -> Vec<SockFilter> {
    let mut code = Vec::new();
    let mut final_rule = false;
    for (action, conditions) in leaf {
        code.extend(rule(*action, conditions));
        final_rule = conditions.is_empty();
    }
    if !final_rule {
        code.push(ret(default.value()));
    }
    code
}

/// Where a jump leads while the length of the rest is unknown.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Next,
    Fail,
    /// The condition holds: past the other instructions of it.
    Pass,
}

/// One rule: falls out at its end when a condition does not hold.
fn rule(action: Action, conditions: &[Condition]) -> Vec<SockFilter> {
    let mut code: Vec<(SockFilter, To, To)> = Vec::new();
    for condition in conditions {
        let piece = compare(condition);
        let end = code.len() + piece.len();
        for (at, (instruction, yes, no)) in (code.len()..).zip(piece) {
            // "Pass" is known now, "fail" once the rule is whole.
            let resolve = |to: To| if to == To::Pass { (end - at - 1) as u8 } else { 0 };
            let filter = SockFilter { jt: resolve(yes), jf: resolve(no), ..instruction };
            code.push((filter, yes, no));
        }
    }
    let end = code.len() + 1;
    let mut out: Vec<SockFilter> = Vec::with_capacity(end);
    for (at, (mut filter, yes, no)) in code.into_iter().enumerate() {
        let fail = (end - at - 1) as u8;
        if yes == To::Fail {
            filter.jt = fail;
        }
        if no == To::Fail {
            filter.jf = fail;
        }
        out.push(filter);
    }
    out.push(ret(action.value()));
    out
}

/// One condition on a 64-bit argument, of which BPF sees halves.
fn compare(condition: &Condition) -> Vec<(SockFilter, To, To)> {
    let low = 16 + 8 * u32::from(condition.argument);
    let (low, high) = if cfg!(target_endian = "big") { (low + 4, low) } else { (low, low + 4) };
    let (value_low, value_high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load = |offset: u32| (plain(LOAD, offset), To::Next, To::Next);
    let jump = |code: u16, k: u32, yes: To, no: To| (plain(code, k), yes, no);
    match condition.compare {
        Compare::Equal => vec![
            load(high),
            jump(JUMP_EQUAL, value_high, To::Next, To::Fail),
            load(low),
            jump(JUMP_EQUAL, value_low, To::Next, To::Fail),
        ],
        Compare::NotEqual => vec![
            load(high),
            jump(JUMP_EQUAL, value_high, To::Next, To::Pass),
            load(low),
            jump(JUMP_EQUAL, value_low, To::Fail, To::Next),
        ],
        Compare::Masked(mask) => vec![
            load(high),
            (plain(AND, (mask >> 32) as u32), To::Next, To::Next),
            jump(JUMP_EQUAL, value_high, To::Next, To::Fail),
            load(low),
            (plain(AND, mask as u32), To::Next, To::Next),
            jump(JUMP_EQUAL, value_low, To::Next, To::Fail),
        ],
        Compare::Greater | Compare::GreaterOrEqual => {
            let last =
                if condition.compare == Compare::Greater { JUMP_GREATER } else { JUMP_GREATER_OR_EQUAL };
            vec![
                load(high),
                jump(JUMP_GREATER, value_high, To::Pass, To::Next),
                jump(JUMP_EQUAL, value_high, To::Next, To::Fail),
                load(low),
                jump(last, value_low, To::Next, To::Fail),
            ]
        }
        Compare::Less | Compare::LessOrEqual => {
            let last = if condition.compare == Compare::Less { JUMP_GREATER_OR_EQUAL } else { JUMP_GREATER };
            vec![
                load(high),
                jump(JUMP_GREATER, value_high, To::Fail, To::Next),
                jump(JUMP_EQUAL, value_high, To::Next, To::Pass),
                load(low),
                jump(last, value_low, To::Fail, To::Next),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Rule, default};
    use super::*;

    /// Runs a filter as the kernel would.
    fn answer(program: &[SockFilter], arch: Arch, number: u32, args: [u64; 6]) -> u32 {
        let mut data = vec![number, arch.audit(), 0, 0];
        for arg in args {
            data.extend([arg as u32, (arg >> 32) as u32]);
        }
        let (mut at, mut a) = (0, 0);
        loop {
            let SockFilter { code, jt, jf, k } = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => a = data[k as usize / 4],
                AND => a &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => branch(a == k),
                JUMP_GREATER => branch(a > k),
                JUMP_GREATER_OR_EQUAL => branch(a >= k),
                RETURN => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0026;

    #[test]
    fn the_default_profile_answers_like_containerds() {
        let plain = compile(&default::profile(0xa804_25fb)).unwrap();
        let admin = compile(&default::profile(0xa804_25fb | 1 << 21)).unwrap();
        for (what, number, first, expected, expected_admin) in [
            ("read", 0, 0, ALLOW, ALLOW),
            ("mount", 165, 0, EPERM, ALLOW),
            ("chroot, for SYS_CHROOT is a default", 161, 0, ALLOW, ALLOW),
            ("clone of a thread", 56, 0x3d_0f00, ALLOW, ALLOW),
            ("clone of a user namespace", 56, 0x1000_0000, EPERM, ALLOW),
            ("clone3", 435, 0, ENOSYS, ALLOW),
            ("keyctl", 250, 0, EPERM, EPERM),
            ("personality LINUX", 135, 0, ALLOW, ALLOW),
            ("personality ADDR_NO_RANDOMIZE", 135, 0x4_0000, EPERM, EPERM),
            ("personality query", 135, 0xffff_ffff, ALLOW, ALLOW),
            ("personality beyond 32 bits", 135, 0x1_0000_0008, EPERM, EPERM),
            ("socket AF_INET", 41, 2, ALLOW, ALLOW),
            ("socket AF_ALG", 41, 38, EPERM, EPERM),
            ("socket AF_NFC", 41, 39, ALLOW, ALLOW),
            ("socket AF_VSOCK", 41, 40, EPERM, EPERM),
            ("socket AF_XDP", 41, 44, ALLOW, ALLOW),
            ("newest known", 469, 0, EPERM, EPERM),
            ("unknown", 1000, 0, ENOSYS, ENOSYS),
            ("x32 read", X32_BIT, 0, ENOSYS, ENOSYS),
        ] {
            assert_eq!(answer(&plain, Arch::X86_64, number, [first, 0, 0, 0, 0, 0]), expected, "{what}");
            let admin = answer(&admin, Arch::X86_64, number, [first, 0, 0, 0, 0, 0]);
            assert_eq!(admin, expected_admin, "{what}, with SYS_ADMIN");
        }
        assert_eq!(answer(&plain, Arch::X86, 3, [0; 6]), ALLOW, "32-bit read");
        assert_eq!(answer(&plain, Arch::X86, 21, [0; 6]), EPERM, "32-bit mount");
        assert_eq!(answer(&plain, Arch::Aarch64, 63, [0; 6]), 0, "a foreign architecture is killed");
    }

    #[test]
    fn every_comparison_holds_on_both_halves_of_an_argument() {
        const BIG: u64 = 5 << 32 | 7;
        let cases = [BIG - 1, BIG, BIG + 1, 7, 4 << 32 | 9, 6 << 32, u64::MAX];
        type Holds = fn(u64) -> bool;
        let compares: [(Compare, Holds); 7] = [
            (Compare::Equal, |v| v == BIG),
            (Compare::NotEqual, |v| v != BIG),
            (Compare::Less, |v| v < BIG),
            (Compare::LessOrEqual, |v| v <= BIG),
            (Compare::Greater, |v| v > BIG),
            (Compare::GreaterOrEqual, |v| v >= BIG),
            (Compare::Masked(0xf << 32 | 0xf), |v| v & (0xf << 32 | 0xf) == BIG),
        ];
        for (compare, holds) in compares {
            let condition = Condition { argument: 2, compare, value: BIG };
            let second = Condition { argument: 5, compare: Compare::Equal, value: 1 };
            let rule = Rule {
                names: vec!["read".to_owned()],
                action: Action::Allow,
                conditions: vec![condition, second],
            };
            let profile =
                Profile { default: Action::KillProcess, arches: vec![Arch::X86_64], rules: vec![rule] };
            let program = compile(&profile).unwrap();
            for value in cases {
                let answer = answer(&program, Arch::X86_64, 0, [0, 0, value, 0, 0, 1]);
                assert_eq!(answer == ALLOW, holds(value), "{compare:?} {value:#x}");
            }
            assert_ne!(answer(&program, Arch::X86_64, 0, [0, 0, BIG, 0, 0, 2]), ALLOW, "{compare:?}");
        }
    }
}
