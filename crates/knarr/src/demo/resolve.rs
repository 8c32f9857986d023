//! Name lookup for the demo: a static binary has no NSS, so this asks the servers of /etc/resolv.conf for an A
//! record itself, trying the search domains as resolvers do (resolv.conf(5), RFC 1035).

use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

/// One answer is waited for this long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The IPv4 address of `name`.
pub fn lookup(name: &str) -> Result<Ipv4Addr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").context("cannot read /etc/resolv.conf")?;
    let (servers, names) = candidates(&text, name);
    let server = servers.first().context("/etc/resolv.conf names no server")?;
    for candidate in &names {
        if let Some(address) = ask(server, candidate)? {
            return Ok(address);
        }
    }
    bail!("{name} has no address (asked {server})")
}

fn candidates(resolv_conf: &str, name: &str) -> (Vec<String>, Vec<String>) {
    let (mut servers, mut search, mut ndots) = (Vec::new(), Vec::new(), 1);
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
            Some("search") => search = words.map(str::to_owned).collect(),
            Some("options") => {
                ndots =
                    words.filter_map(|w| w.strip_prefix("ndots:")?.parse().ok()).next_back().unwrap_or(ndots);
            }
            _ => {}
        }
    }
    let searched = search.iter().map(|domain| format!("{name}.{domain}"));
    let as_is = std::iter::once(name.to_owned());
    let names = if name.matches('.').count() >= ndots {
        as_is.chain(searched).collect()
    } else {
        searched.chain(as_is).collect()
    };
    (servers, names)
}

fn ask(server: &str, name: &str) -> Result<Option<Ipv4Addr>> {
    let mut query = vec![0x4b, 0x6e, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        query
            .push(u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n)).context("not a host name")?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut answer = [0; 1500];
    for _ in 0..2 {
        socket.send_to(&query, (server, 53)).with_context(|| format!("cannot ask {server}"))?;
        if let Ok(n) = socket.recv(&mut answer) {
            return Ok(parse(&answer[..n], query.len()));
        }
    }
    bail!("{server} does not answer")
}

/// The first A record of an answer whose header and question are `skip` bytes long.
fn parse(answer: &[u8], skip: usize) -> Option<Ipv4Addr> {
    let records = u16::from_be_bytes(answer.get(6..8)?.try_into().ok()?);
    let mut at = skip;
    for _ in 0..records {
        loop {
            match *answer.get(at)? {
                0 => break at += 1,
                n if n >= 0xc0 => break at += 2,
                n => at += 1 + usize::from(n),
            }
        }
        let fixed = answer.get(at..at + 10)?;
        let length = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = answer.get(at + 10..at + 10 + length)?;
        if fixed[..2] == [0, 1] {
            return <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from);
        }
        at += 10 + length;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_go_through_the_search_list_first() {
        let text = "nameserver 10.96.0.10\nsearch a.svc.cluster.local svc.cluster.local\noptions ndots:5\n";
        let (servers, names) = candidates(text, "app");
        assert_eq!(servers, ["10.96.0.10"]);
        assert_eq!(names, ["app.a.svc.cluster.local", "app.svc.cluster.local", "app"]);
        assert_eq!(candidates("nameserver 1.1.1.1\n", "a.b").1, ["a.b"]);
    }

    #[test]
    fn an_address_is_found_behind_a_cname() {
        let mut answer = vec![0; 12];
        answer[7] = 2;
        answer.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        let skip = answer.len();
        answer.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 3, 1, b'b', 0]);
        answer.extend_from_slice(&[1, b'b', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 7]);
        assert_eq!(parse(&answer, skip), Some(Ipv4Addr::new(10, 0, 0, 7)));
    }
}
