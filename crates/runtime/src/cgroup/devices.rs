//! Which devices the processes of a container may use: lines for the v1 `devices` controller, or an eBPF
//! program of type `BPF_PROG_TYPE_CGROUP_DEVICE` for v2. A list of what is allowed; the rest is not.

/// One thing allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `b`, `c`, or `a` for both.
    pub kind: char,
    /// Major number; any when `None`.
    pub major: Option<u32>,
    /// Minor number; any when `None`.
    pub minor: Option<u32>,
    /// Of `rwm`.
    pub access: String,
    /// Taken away instead of given.
    pub deny: bool,
}

impl Rule {
    /// A rule.
    pub fn new(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        Self { kind, major, minor, access: access.to_owned(), deny: false }
    }

    /// The rule that takes away what this one gives.
    pub fn denied(self) -> Self {
        Self { deny: true, ..self }
    }

    /// Whether the rule is about every device there is, in every way.
    fn is_everything(&self) -> bool {
        self.kind == 'a' && self.major.is_none() && self.minor.is_none() && access_bits(&self.access) == 7
    }
}

/// What every container may use: make nodes of any kind, and read and write null, zero, full, random,
/// urandom, tty, ptmx and its terminals. runc's list.
pub fn default_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::new('c', None, None, "m"), Rule::new('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(Rule::new('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(Rule::new('c', Some(136), None, "rwm"));
    rules
}

/// The line that `devices.allow` takes for a rule.
pub fn v1_line(rule: &Rule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    if rule.kind == 'a' && rule.major.is_none() && rule.minor.is_none() {
        return "a".to_owned();
    }
    format!("{} {}:{} {}", rule.kind, number(rule.major), number(rule.minor), rule.access)
}

/// The rules from the last one on that is about everything: what came before it has no effect.
fn effective(rules: &[Rule]) -> &[Rule] {
    let from = rules.iter().rposition(Rule::is_everything).unwrap_or(0);
    &rules[from..]
}

/// The writes for v1, in order: file (`devices.allow` or `devices.deny`) and line.
pub fn v1_writes(rules: &[Rule]) -> Vec<(&'static str, String)> {
    let mut writes = Vec::new();
    for rule in effective(rules) {
        if writes.is_empty() && !rule.is_everything() {
            writes.push(("devices.deny", "a".to_owned()));
        }
        writes.push((if rule.deny { "devices.deny" } else { "devices.allow" }, v1_line(rule)));
    }
    if writes.is_empty() {
        writes.push(("devices.deny", "a".to_owned()));
    }
    writes
}

/// The v2 program: returns 1 when a rule covers the access, else 0. Where something is taken away again the last
/// rule counts that has to do with the access; a denied one has to when it shares any way of access.
pub fn v2_program(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        // The context is { access << 16 | type, major, minor }, each of 32 bits.
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOV_REG, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    let rules = effective(rules);
    let any_denied = rules.iter().any(|rule| rule.deny);
    // With nothing denied the order is no matter, and the first are the usual ones.
    let order: Box<dyn Iterator<Item = &Rule>> =
        if any_denied { Box::new(rules.iter().rev()) } else { Box::new(rules.iter()) };
    for rule in order {
        // Each check jumps over the rest of its rule; the distance is filled in once the length is known.
        let mut checks: Vec<u64> = Vec::new();
        let mut jumps: Vec<usize> = Vec::new();
        let mut jump_unless_equal = |checks: &mut Vec<u64>, register: u8, value: i32| {
            jumps.push(checks.len());
            checks.push(instruction(JUMP_NOT_EQUAL, register, 0, 0, value));
        };
        match rule.kind {
            'b' => jump_unless_equal(&mut checks, 2, 1),
            'c' => jump_unless_equal(&mut checks, 2, 2),
            _ => {}
        }
        let named = access_bits(&rule.access);
        if named != 7 && !rule.deny {
            checks.push(instruction(MOV_REG, 6, 3, 0, 0));
            checks.push(instruction(AND, 6, 0, 0, !named & 7));
            jump_unless_equal(&mut checks, 6, 0);
        }
        if let Some(major) = rule.major {
            jump_unless_equal(&mut checks, 4, major as i32);
        }
        if let Some(minor) = rule.minor {
            jump_unless_equal(&mut checks, 5, minor as i32);
        }
        let denied_ways = if rule.deny && named != 7 { Some(named) } else { None };
        if let Some(named) = denied_ways {
            checks.push(instruction(MOV_REG, 6, 3, 0, 0));
            checks.push(instruction(AND, 6, 0, 0, named));
            jumps.push(checks.len());
            checks.push(instruction(JUMP_EQUAL, 6, 0, 0, 0));
        }
        let length = checks.len() + 2;
        for at in jumps {
            let distance = (length - at - 1) as u64;
            checks[at] |= distance << 16;
        }
        program.append(&mut checks);
        program.push(instruction(MOV, 0, 0, 0, i32::from(!rule.deny)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
        if length == 2 {
            // The rule covers everything, and the kernel refuses instructions that are never reached.
            return program;
        }
    }
    program.push(instruction(MOV, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

const LOAD_WORD: u8 = 0x61;
const MOV_REG: u8 = 0xbf;
const MOV: u8 = 0xb7;
const AND: u8 = 0x54; // 32 bits
const SHIFT_RIGHT: u8 = 0x74; // 32 bits
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    u64::from(code)
        | u64::from(to | from << 4) << 8
        | u64::from(offset as u16) << 16
        | u64::from(value as u32) << 32
}

fn access_bits(access: &str) -> i32 {
    access.chars().fold(0, |bits, c| {
        bits | match c {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allows(program: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let code = program[at] as u8;
            let to = (program[at] >> 8 & 0xf) as usize;
            let from = (program[at] >> 12 & 0xf) as usize;
            let offset = (program[at] >> 16) as u16 as i16;
            let value = (program[at] >> 32) as u32;
            match code {
                LOAD_WORD => registers[to] = u64::from(context[offset as usize / 4]),
                MOV_REG => registers[to] = registers[from],
                MOV => registers[to] = u64::from(value),
                AND => registers[to] = u64::from(registers[to] as u32 & value),
                SHIFT_RIGHT => registers[to] = u64::from(registers[to] as u32 >> value),
                JUMP_NOT_EQUAL if registers[to] != u64::from(value) => at += offset as usize,
                JUMP_NOT_EQUAL => {}
                JUMP_EQUAL if registers[to] == u64::from(value) => at += offset as usize,
                JUMP_EQUAL => {}
                EXIT => return registers[0] == 1,
                _ => panic!("unknown instruction {code:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_say_and_nothing_else() {
        const BLOCK: u32 = 1;
        const CHAR: u32 = 2;
        const MKNOD: u32 = 1;
        const READ: u32 = 2;
        const WRITE: u32 = 4;
        let mut rules = default_rules();
        rules.push(Rule::new('b', Some(8), None, "r"));
        let program = v2_program(&rules);
        for (kind, access, major, minor, expected) in [
            (CHAR, READ | WRITE, 1, 3, true),
            (CHAR, READ, 1, 1, false), // /dev/mem
            (CHAR, MKNOD, 1, 1, true),
            (BLOCK, MKNOD, 7, 0, true),
            (BLOCK, READ, 1, 3, false),
            (CHAR, READ | WRITE, 136, 77, true),
            (BLOCK, READ, 8, 1, true),
            (BLOCK, READ | WRITE, 8, 1, false),
            (BLOCK, READ | MKNOD, 8, 1, false),
        ] {
            assert_eq!(
                allows(&program, kind, access, major, minor),
                expected,
                "{kind} {access} {major}:{minor}"
            );
        }
        assert!(!allows(&v2_program(&[]), CHAR, READ, 1, 3));
        let everything = v2_program(&[Rule::new('a', None, None, "rwm"), Rule::new('b', None, None, "m")]);
        assert!(allows(&everything, BLOCK, 7, 8, 0));
        assert_eq!(everything.iter().filter(|i| **i as u8 == EXIT).count(), 1, "nothing is unreachable");
    }

    #[test]
    fn what_is_taken_away_again_is_not_allowed_and_later_rules_count() {
        let rule = |kind, major, minor, access: &str| Rule::new(kind, major, minor, access);
        let rules = [
            rule('c', Some(9), None, "rwm"),
            rule('a', None, None, "rwm").denied(),
            rule('c', Some(1), None, "rwm"),
            rule('c', Some(1), Some(3), "w").denied(),
        ];
        let program = v2_program(&rules);
        for (access, major, minor, expected) in
            [(2, 1, 3, true), (4, 1, 3, false), (6, 1, 3, false), (6, 1, 5, true), (2, 9, 1, false)]
        {
            assert_eq!(allows(&program, 2, access, major, minor), expected, "{access} {major}:{minor}");
        }
        let lines: Vec<_> =
            v1_writes(&rules).into_iter().map(|(file, line)| format!("{file} {line}")).collect();
        assert_eq!(lines, ["devices.deny a", "devices.allow c 1:* rwm", "devices.deny c 1:3 w"]);
        assert!(allows(&v2_program(&[rule('a', None, None, "rwm")]), 1, 6, 8, 0));
    }

    #[test]
    fn rules_become_lines_of_devices_allow() {
        assert_eq!(v1_line(&Rule::new('a', None, None, "rwm")), "a");
        assert_eq!(v1_line(&Rule::new('c', Some(136), None, "rwm")), "c 136:* rwm");
    }
}
