//! Arguments as runc and crun take them: `--flag value`, `--flag=value`, one dash or two, flags before the
//! first word that is none. Not by clap: a start must not pay for it.

use crate::container::Failure;

/// The flags of a command: those that take a value, and those that do not. Names of one flag are joined by `|`.
pub struct Known {
    pub valued: &'static [&'static str],
    pub plain: &'static [&'static str],
}

impl Known {
    /// A line for each flag.
    pub fn help(&self) -> String {
        let line = |names: &&str, value: &str| {
            let dashed: Vec<String> = names
                .split('|')
                .map(|n| if n.len() > 1 { format!("--{n}") } else { format!("-{n}") })
                .collect();
            format!("   {}{value}\n", dashed.join(", "))
        };
        let valued = self.valued.iter().map(|names| line(names, " value"));
        valued.chain(self.plain.iter().map(|names| line(names, ""))).chain([line(&"help|h", "")]).collect()
    }
}

/// What was given.
#[derive(Debug, Default)]
pub struct Given {
    flags: Vec<(&'static str, String)>,
    /// The words after the flags.
    pub words: Vec<String>,
}

impl Given {
    /// The last value of a flag, by its first name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// All values of a flag, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag without value is set.
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "false")
    }

    /// The word at this place, which `what` names in the error.
    pub fn word(&self, at: usize, what: &str) -> Result<&str, Failure> {
        self.words.get(at).map(String::as_str).ok_or_else(|| Failure::new(format!("{what} must be given")))
    }
}

fn find(list: &'static [&'static str], name: &str) -> Option<&'static str> {
    list.iter()
        .find(|names| names.split('|').any(|one| one == name))
        .and_then(|names| names.split('|').next())
}

/// Takes flags and words apart.
pub fn parse(args: &[String], known: &Known) -> Result<Given, Failure> {
    let mut given = Given::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|_| arg != "-")
        else {
            given.words.push(arg.clone());
            break;
        };
        if arg == "--" {
            break;
        }
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if let Some(name) = find(known.plain, name) {
            given.flags.push((name, value.unwrap_or_else(|| "true".to_owned())));
        } else if let Some(name) = find(known.valued, name) {
            let missing = || Failure::new(format!("flag needs an argument: --{name}"));
            let value = value.or_else(|| rest.next().cloned()).ok_or_else(missing)?;
            given.flags.push((name, value));
        } else if matches!(name, "help" | "h") {
            given.flags.push(("help", "true".to_owned()));
        } else {
            return Err(Failure::new(format!("flag provided but not defined: -{name}")));
        }
    }
    given.words.extend(rest.cloned());
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known = Known { valued: &["bundle|b", "env|e"], plain: &["no-pivot", "tty|t"] };

    #[test]
    fn flags_end_at_the_first_word() {
        let args = ["--bundle", "/b", "-e=A=1", "--env", "B", "-t", "id", "--env", "x"].map(str::to_owned);
        let given = parse(&args, &KNOWN).unwrap();
        assert_eq!(given.value("bundle"), Some("/b"));
        assert_eq!(given.values("env").collect::<Vec<_>>(), ["A=1", "B"]);
        assert!(given.is_set("tty") && !given.is_set("no-pivot"));
        assert_eq!(given.words, ["id", "--env", "x"]);
    }

    #[test]
    fn every_command_has_help() {
        assert!(parse(&["--help".to_owned()], &KNOWN).unwrap().is_set("help"));
        let help = KNOWN.help();
        assert!(help.contains("   --bundle, -b value\n") && help.contains("   --help, -h\n"), "{help}");
    }

    #[test]
    fn unknown_flags_and_missing_values_are_refused() {
        for args in [vec!["--nope"], vec!["--bundle"]] {
            let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            assert!(parse(&args, &KNOWN).is_err(), "{args:?}");
        }
    }
}
