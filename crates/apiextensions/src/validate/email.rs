//! What Go's `mail.ParseAddress` takes: one address of RFC 5322, with or without a display name.

/// Whether a text is one mail address.
pub(crate) fn is_address(text: &str) -> bool {
    let mut parser = Parser { rest: text };
    parser.address().is_some_and(|()| {
        parser.space();
        parser.comments() && parser.rest.is_empty()
    })
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Skips comments in parentheses, which nest; false if one does not end.
    fn comments(&mut self) -> bool {
        self.space();
        while self.take('(') {
            let mut depth = 1;
            while depth > 0 {
                let Some(c) = self.peek() else { return false };
                self.rest = &self.rest[c.len_utf8()..];
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    '\\' => {
                        let Some(quoted) = self.peek() else { return false };
                        self.rest = &self.rest[quoted.len_utf8()..];
                    }
                    _ => {}
                }
            }
            self.space();
        }
        true
    }

    fn address(&mut self) -> Option<()> {
        self.space();
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest;
        if self.addr_spec().is_some() {
            return Some(());
        }
        self.rest = start;
        if self.peek() != Some('<') {
            self.phrase()?;
        }
        self.space();
        if !self.take('<') {
            return None;
        }
        self.addr_spec()?;
        self.take('>').then_some(())
    }

    fn phrase(&mut self) -> Option<()> {
        let mut words = 0;
        loop {
            if !self.comments() {
                return None;
            }
            if self.rest.is_empty() {
                break;
            }
            let word = if self.peek() == Some('"') { self.quoted() } else { self.atom(true, true) };
            if word.is_none() {
                break;
            }
            words += 1;
        }
        (words > 0).then_some(())
    }

    fn addr_spec(&mut self) -> Option<()> {
        self.space();
        match self.peek()? {
            '"' => self.quoted()?,
            _ => self.atom(true, false)?,
        }
        if !self.take('@') {
            return None;
        }
        self.space();
        if self.take('[') {
            let end = self.rest.find(']')?;
            let literal = &self.rest[..end];
            let address = literal.strip_prefix("IPv6:").unwrap_or(literal);
            self.rest = &self.rest[end + 1..];
            return address.parse::<std::net::IpAddr>().is_ok().then_some(());
        }
        self.atom(true, false)
    }

    /// An atom, with dots inside if `dot`; anywhere if `permissive`.
    fn atom(&mut self, dot: bool, permissive: bool) -> Option<()> {
        let is_text = |c: char| {
            c.is_ascii_alphanumeric()
                || "!#$%&'*+-/=?^_`{|}~".contains(c)
                || !c.is_ascii()
                || (dot && c == '.')
        };
        let end = self.rest.find(|c: char| !is_text(c)).unwrap_or(self.rest.len());
        let atom = &self.rest[..end];
        let dots_wrong = atom.starts_with('.') || atom.contains("..") || atom.ends_with('.');
        if atom.is_empty() || (!permissive && dots_wrong) {
            return None;
        }
        self.rest = &self.rest[end..];
        Some(())
    }

    fn quoted(&mut self) -> Option<()> {
        if !self.take('"') {
            return None;
        }
        loop {
            let c = self.peek()?;
            self.rest = &self.rest[c.len_utf8()..];
            match c {
                '"' => return Some(()),
                '\\' => {
                    let quoted = self.peek().filter(|c| *c == ' ' || *c == '\t' || !c.is_ascii_control())?;
                    self.rest = &self.rest[quoted.len_utf8()..];
                }
                ' ' | '\t' => {}
                c if c.is_ascii_control() => return None,
                _ => {}
            }
        }
    }
}
