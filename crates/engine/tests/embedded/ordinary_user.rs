//! Without root, in a user namespace.

use std::os::unix::fs::chown;
use std::process::Command;

use crate::common::can_run;

const UID: u32 = 4321;

#[test]
fn an_ordinary_user_runs_containers_in_a_namespace_of_their_own() {
    if !can_run() {
        return;
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    chown(dir.path(), Some(UID), Some(UID)).expect("given away");
    let script = "echo id=$(id -u); grep -q 'NoNewPrivs:.1' /proc/self/status && echo restricted; \
                  touch /mark && echo wrote; ip addr | grep -q 10.98.0.2 && echo wired";
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
    for expected in ["exit code 0", "> id=0", "> restricted", "> wrote", "> wired"] {
        assert!(out.lines().any(|line| line == expected), "{expected} in {out}\n{err}");
    }
    // What it cannot have is said, not hidden.
    for said in ["Warning cgroups: none", "Warning network: "] {
        assert!(out.contains(said), "{said} in {out}");
    }
}
