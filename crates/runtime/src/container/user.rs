//! Who a container's process is: names and numbers resolved in the image's own `/etc/passwd` and
//! `/etc/group`, with the error texts that runc's users know. No NSS.

use super::Failure;
use crate::protocol::Refusal;
use crate::spec::{ContainerSpec, User};

/// The identity of a process.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// So many groups are told at most: what is told has to fit one message.
const MOST_GROUPS: usize = 1024;

impl Identity {
    /// What the shim hears of it.
    pub fn told(&self) -> Vec<u8> {
        let groups = self.groups.iter().take(MOST_GROUPS).copied().collect();
        let user = User { uid: self.uid, gid: self.gid, groups };
        let text = serde_json::to_string(&user).unwrap_or_default();
        format!("user {text}").into_bytes()
    }
}

/// Reads [`Identity::told`].
pub fn heard(bytes: &[u8]) -> Option<User> {
    serde_json::from_slice(bytes.strip_prefix(b"user ")?).ok()
}

/// Resolves the spec's user with the texts of the image's files (empty when it has none).
pub fn resolve(spec: &ContainerSpec, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let (user, wanted_group) = match spec.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec.user.as_str(), None),
    };
    let number: Option<u32> = if user.is_empty() { Some(0) } else { id(user) };
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|f| f.len() >= 4 && (f[0] == user || number.is_some() && f[2].parse().ok() == number));
    let (uid, mut gid, home, name) = match (&entry, number) {
        (Some(f), _) => (
            f[2].parse().unwrap_or(0),
            f[3].parse().unwrap_or(0),
            f.get(5).copied().unwrap_or("/"),
            f[0].to_owned(),
        ),
        (None, Some(uid)) => (uid, 0, "/", String::new()),
        (None, None) => {
            let why = "no matching entries in passwd file";
            return Err(Failure::new(format!("unable to find user {user}: {why}")));
        }
    };
    let groups_of_image =
        || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 3);
    if let Some(wanted) = wanted_group.filter(|g| !g.is_empty()) {
        gid = match (groups_of_image().find(|f| f[0] == wanted), id(wanted)) {
            (Some(f), _) => f[2].parse().unwrap_or(0),
            (None, Some(gid)) => gid,
            (None, None) => {
                let why = "no matching entries in group file";
                return Err(Failure::new(format!("unable to find group {wanted}: {why}")));
            }
        };
    }
    if let Some(wanted) = spec.run_as_group {
        gid = wanted;
    }
    if spec.must_not_be_root && uid == 0 {
        return Err(Failure(Refusal::MustNotBeRoot));
    }
    let mut groups = vec![gid];
    if spec.merge_image_groups && !name.is_empty() {
        groups.extend(
            groups_of_image()
                .filter(|f| f.get(3).is_some_and(|members| members.split(',').any(|m| m == name)))
                .filter_map(|f| f[2].parse::<u32>().ok()),
        );
    }
    groups.extend(&spec.supplemental_groups);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    let home = if home.is_empty() { "/" } else { home };
    Ok(Identity { uid, gid, groups, home: home.to_owned() })
}

fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| *id <= i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ContainerSpec;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:other,web\n";

    fn spec(user: &str) -> ContainerSpec {
        ContainerSpec { user: user.to_owned(), merge_image_groups: true, ..crate::test_spec() }
    }

    #[test]
    fn users_resolve_as_docker_does() {
        for (user, uid, gid, home, groups) in [
            ("", 0, 0, "/root", vec![0]),
            ("web", 33, 34, "/var/www", vec![34, 50]),
            ("33", 33, 34, "/var/www", vec![34, 50]),
            ("1000", 1000, 0, "/", vec![0]),
            ("web:logs", 33, 50, "/var/www", vec![50]),
            ("1000:7", 1000, 7, "/", vec![7]),
        ] {
            let expected = Identity { uid, gid, groups, home: home.to_owned() };
            assert_eq!(resolve(&spec(user), PASSWD, GROUP).unwrap(), expected, "user {user:?}");
        }
    }

    #[test]
    fn an_identity_is_told_from_other_messages() {
        let identity = Identity { uid: 33, gid: 34, groups: vec![34; 2000], home: "/".to_owned() };
        let told = identity.told();
        assert!(told.len() < 16 * 1024);
        assert_eq!(heard(&told), Some(User { uid: 33, gid: 34, groups: vec![34; MOST_GROUPS] }));
        let refusal = serde_json::to_vec(&Refusal::Start("user {}".to_owned())).unwrap();
        assert_eq!(heard(&refusal), None);
    }

    #[test]
    fn unknown_names_and_root_where_it_must_not_be_are_refused() {
        let text = |user: &str| format!("{:?}", resolve(&spec(user), PASSWD, GROUP).unwrap_err().0);
        assert!(text("nobody").contains("unable to find user nobody: no matching entries in passwd file"));
        assert!(text("web:none").contains("unable to find group none: no matching entries in group file"));
        let strict = ContainerSpec { must_not_be_root: true, ..spec("root") };
        assert!(matches!(resolve(&strict, PASSWD, GROUP), Err(Failure(Refusal::MustNotBeRoot))));
    }

    #[test]
    fn given_groups_come_on_top_and_merging_can_be_turned_off() {
        let given = ContainerSpec {
            run_as_group: Some(7),
            supplemental_groups: vec![50, 99],
            merge_image_groups: false,
            ..spec("web")
        };
        let identity = resolve(&given, PASSWD, GROUP).unwrap();
        assert_eq!((identity.gid, identity.groups), (7, vec![7, 50, 99]));
    }
}
