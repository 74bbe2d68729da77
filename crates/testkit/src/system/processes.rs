//! The processes of one `hob`, told from all others by the path of their program.

use std::fs;
use std::path::Path;

/// The roles of the one binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Edge,
    Shim,
}

impl Role {
    fn word(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Shim => "shim",
        }
    }
}

/// Living processes that run `binary` in this role, ascending.
pub(super) fn of(binary: &Path, role: Role) -> Vec<u32> {
    let in_role = |pid: &u32| arguments(*pid).get(1).is_some_and(|word| word == role.word());
    of_any(binary).into_iter().filter(in_role).collect()
}

/// Living processes that run `binary`, ascending; zombies are not living.
pub(super) fn of_any(binary: &Path) -> Vec<u32> {
    let runs_it = |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
    all().into_iter().filter(runs_it).collect()
}

pub(super) fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids: Vec<u32> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}

pub(super) fn describe(pid: u32) -> String {
    format!("process {pid}: {}", arguments(pid).join(" "))
}

fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|b| *b == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect()
}

/// SIGKILL to a process of the caller's own making.
pub fn kill(pid: u32) {
    signal(pid, libc::SIGKILL);
}

/// SIGTERM to a process of the caller's own making.
pub fn terminate(pid: u32) {
    signal(pid, libc::SIGTERM);
}

fn signal(pid: u32, number: i32) {
    // Never a group, never everybody.
    if let Ok(pid @ 2..) = i32::try_from(pid) {
        // Touches no memory; a process that is gone is no error here.
        unsafe { libc::kill(pid, number) };
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_told_by_the_path_of_its_program_and_its_role() {
        let scratch = tempfile::tempdir().expect("a directory");
        let own = scratch.path().join("sleep");
        fs::copy("/bin/sleep", &own).expect("copied");
        let mut mine = Command::new(&own).arg("30").spawn().expect("starts");
        let mut other = Command::new("/bin/sleep").arg("30").spawn().expect("starts");
        crate::system::eventually(std::time::Duration::from_secs(5), "it runs", || {
            of_any(&own) == [mine.id()]
        });
        assert!(of(&own, Role::Edge).is_empty(), "its first argument is no role");
        kill(mine.id());
        let _ = mine.wait();
        assert!(of_any(&own).is_empty());
        kill(other.id());
        let _ = other.wait();
    }
}
