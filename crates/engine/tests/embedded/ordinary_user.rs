//! Without root, in a user namespace.

use std::os::unix::fs::chown;
use std::process::Command;

use crate::common::can_run;
use crate::network::Outside;

const UID: u32 = 4321;

#[test]
fn an_ordinary_user_runs_containers_in_a_namespace_of_their_own() {
    if !can_run() {
        return;
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    chown(dir.path(), Some(UID), Some(UID)).expect("given away");
    let outside = Outside::new();
    let world = outside
        .as_ref()
        .map_or("192.0.2.1".to_owned(), |outside| outside.address.to_string());
    let script = format!(
        "echo id=$(id -u); grep -q 'NoNewPrivs:.1' /proc/self/status && echo restricted; \
         touch /mark && echo wrote; \
         echo token=$(cat /run/secrets/TOKEN); grep -q ' /run/secrets tmpfs ro,' /proc/mounts && echo in memory; ip addr | grep -q 10.98.0.2 && echo wired; nc -w 5 {world} 9000 </dev/null; true"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob-test-shim"));
    let output = command
        .arg("ordinary-user")
        .arg(UID.to_string())
        .arg(dir.path())
        .arg(script)
        .output()
        .expect("run");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if err.contains("Operation not permitted") && out.is_empty() {
        println!("SKIPPED: this kernel refuses user namespaces to ordinary users");
        return;
    }
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains(&format!("Entered {{ uid: {UID}, ")), "{out}");
    for expected in [
        "exit code 0",
        "> id=0",
        "> restricted",
        "> wrote",
        "> token=sesame",
        "> in memory",
        "> wired",
    ] {
        assert!(out.lines().any(|line| line == expected), "{expected} in {out}\n{err}");
    }
    // What it cannot have is said, not hidden.
    assert!(out.contains("Warning cgroups: none"), "{out}");
    let reached = out.contains("> hello from outside");
    if out.contains("with a way out by slirp4netns") {
        assert!(reached || outside.is_none(), "{out}");
    } else {
        assert!(
            out.contains("Warning network: instances have no way out: ") && !reached,
            "{out}"
        );
        println!("SKIPPED: the way out of an ordinary user, which needs slirp4netns, nft and /dev/net/tun");
    }
}
