//! Who the program runs as: the image's `User`, looked up in the image's own files.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use super::StartError;
use super::root;

/// Bytes of `/etc/passwd` and `/etc/group` that are looked at.
const FILE_MAX: u64 = 1 << 20;
/// Groups that a process may be in besides its own.
const GROUPS_MAX: usize = 64;
const ID_MAX: u32 = i32::MAX as u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Reads the two files below `root`, following no link out of it, and resolves `wanted` (`""`, `user`, `uid`,
/// `user:group`, …).
pub fn resolve_in(root: BorrowedFd<'_>, wanted: &str) -> Result<User, StartError> {
    let read = |path| {
        let mut text = Vec::new();
        if let Ok(fd) = root::open_beneath(root, path) {
            let _ = File::from(fd).take(FILE_MAX).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    resolve(wanted, &read("etc/passwd"), &read("etc/group"))
}

fn resolve(wanted: &str, passwd: &str, group: &str) -> Result<User, StartError> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd_entries(passwd).find(|entry| match number {
        Some(uid) => entry.uid == uid,
        None => entry.name == user,
    });
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err(StartError(format!(
                "the image asks for the user `{}`, whom its /etc/passwd does not know; \
                 add the user to the image, or give a number",
                user.escape_debug()
            )));
        }
    };
    let gid = match wanted_group {
        Some(name) => find_group(name, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    if uid > ID_MAX || gid > ID_MAX {
        return Err(StartError(format!(
            "the image asks for user {uid}, group {gid}; the largest id is {ID_MAX}"
        )));
    }
    let groups = match (&entry, wanted_group) {
        (Some(entry), None) => memberships(entry.name, group, gid),
        _ => Vec::new(),
    };
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| home.starts_with('/'))
        .unwrap_or("/")
        .to_owned();
    Ok(User { uid, gid, groups, home })
}

fn passwd_entries(passwd: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        Some(PasswdEntry {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    })
}

/// Name, id and members of each group.
fn group_entries(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else {
            return None;
        };
        Some((name, gid.parse().ok()?, members))
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, StartError> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = group_entries(group).find(|(name, ..)| *name == wanted);
    found.map(|(_, gid, _)| gid).ok_or_else(|| {
        StartError(format!(
            "the image asks for the group `{}`, which its /etc/group does not know; \
             add the group to the image, or give a number",
            wanted.escape_debug()
        ))
    })
}

fn memberships(user: &str, group: &str, own: u32) -> Vec<u32> {
    let member = |members: &str| members.split(',').any(|name| name == user);
    let groups = group_entries(group).filter(|(_, gid, members)| *gid != own && *gid <= ID_MAX && member(members));
    groups.map(|(_, gid, _)| gid).take(GROUPS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnonsense\napp:x:1000:1001:App:/srv/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwww:x:33:app,other\nlog:x:4:other\n";

    fn ids(wanted: &str) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(wanted, PASSWD, GROUP).expect("a user");
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn every_form_of_user_is_understood() {
        assert_eq!(ids(""), (0, 0, vec![], "/root".into()));
        assert_eq!(ids("app"), (1000, 1001, vec![33], "/srv/app".into()));
        assert_eq!(ids("1000"), (1000, 1001, vec![33], "/srv/app".into()));
        assert_eq!(ids("app:www"), (1000, 33, vec![], "/srv/app".into()));
        assert_eq!(ids("app:"), (1000, 1001, vec![33], "/srv/app".into()));
        assert_eq!(ids("4242"), (4242, 0, vec![], "/".into()));
        assert_eq!(ids("4242:4243"), (4242, 4243, vec![], "/".into()));
    }

    #[test]
    fn who_is_not_known_is_named() {
        for wanted in ["nobody", "nonsense", "app:none", "-1", "root\n", "4294967295"] {
            assert!(resolve(wanted, PASSWD, GROUP).is_err(), "{wanted}");
        }
        let error = resolve("nobody", PASSWD, GROUP).expect_err("unknown").to_string();
        assert!(error.contains("`nobody`"), "{error}");
    }
}
