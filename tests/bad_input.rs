//! Bad input gives a clear error that says what to do, and loses nothing: the version that serves goes on serving.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::system::{App, Cli, Hob, Options, eventually, is_root};

const HOB: &str = env!("CARGO_BIN_EXE_hob");
const SOON: Duration = Duration::from_secs(60);

/// A platform where `web` serves with two instances, gives up a rollout after 3 s without progress.
fn serving() -> Option<Hob> {
    let hob = Hob::start(HOB)?;
    App::pack(&hob, "web:1");
    deploy(
        &hob,
        &[
            "--image",
            "web:1",
            "--port",
            "8080",
            "--instances",
            "2",
            "--env",
            "VERSION=good",
        ],
    )
    .ok();
    let id = hob.service("web")["id"].as_str().expect("an id").to_owned();
    let patch = serde_json::json!({ "options": { "progress_deadline_ms": 3_000, "max_failures": 2 } });
    let (status, answer) = hob.api("PATCH", &format!("/api/services/{id}/"), Some(patch));
    assert_eq!(status, 200, "{answer}");
    eventually(SOON, "the options are taken", || hob.stage("web") == "succeeded");
    Some(hob)
}

fn deploy(hob: &Hob, arguments: &[&str]) -> Cli {
    hob.cli(&[&["deploy", "web", "--wait"], arguments].concat())
}

/// The command failed and says all of `words`, in one breath and without a backtrace.
#[track_caller]
fn refused(answer: &Cli, words: &[&str]) {
    assert!(matches!(answer.code, 1..=4), "code {}: {}", answer.code, answer.text());
    let text = answer.text().to_lowercase();
    for word in words {
        assert!(
            text.contains(&word.to_lowercase()),
            "`{word}` is missing:\n{}",
            answer.text()
        );
    }
    assert!(
        !text.contains("panicked") && !text.contains("backtrace"),
        "{}",
        answer.text()
    );
}

#[track_caller]
fn still_serves(hob: &Hob) {
    let good = || {
        hob.get("web.localhost", "/")
            .is_ok_and(|r| r.status() == 200 && r.text().contains("good"))
    };
    assert!(good(), "the version that served before does not serve");
    eventually(SOON, "two instances of the good version, and nothing else", || {
        hob.serving("web").len() == 2 && hob.instances("web").len() == 2 && good()
    });
}

#[test]
fn an_unknown_image_is_named() {
    let Some(hob) = serving() else { return };
    refused(
        &deploy(&hob, &["--image", "nowhere.invalid/none:1"]),
        &["nowhere.invalid/none:1"],
    );
    still_serves(&hob);
    refused(&deploy(&hob, &["--image", "UPPER CASE"]), &["image"]);
    still_serves(&hob);
}

#[test]
fn a_version_that_crashes_at_start_fails_with_its_exit_code_and_last_words() {
    let Some(hob) = serving() else { return };
    refused(&deploy(&hob, &["--env", "CRASH_AT_START=3"]), &["exit code 3"]);
    still_serves(&hob);
    let failed = &hob.deployments("web")[0];
    assert_eq!(failed["status"], "failed");
    assert!(
        failed["error_message"]
            .as_str()
            .is_some_and(|text| text.contains("exit code 3")),
        "{failed}"
    );
}

#[test]
fn a_version_that_hangs_at_start_fails_after_the_progress_deadline() {
    let Some(hob) = serving() else { return };
    refused(&deploy(&hob, &["--env", "HANG_AT_START=1"]), &["8080"]);
    still_serves(&hob);
}

#[test]
fn a_port_that_nobody_listens_on_is_named() {
    let Some(hob) = serving() else { return };
    refused(&deploy(&hob, &["--port", "9999", "--env", "PORT=8080"]), &["9999"]);
    still_serves(&hob);
}

#[test]
fn ports_and_counts_out_of_range_are_refused_before_anything_moves() {
    let Some(hob) = serving() else { return };
    let before = hob.deployments("web").len();
    for (arguments, word) in [
        (["--port", "0"], "port"),
        (["--port", "65536"], "port"),
        (["--instances", "0"], "instances"),
        (["--instances", "13"], "instances"),
    ] {
        refused(&deploy(&hob, &arguments), &[word]);
    }
    let id = hob.service("web")["id"].as_str().expect("an id").to_owned();
    for (field, value) in [
        ("port", 0),
        ("port", 65_536),
        ("replicas_target", 0),
        ("replicas_target", 13),
    ] {
        let (status, answer) = hob.api(
            "PATCH",
            &format!("/api/services/{id}/"),
            Some(serde_json::json!({ field: value })),
        );
        assert!(
            status == 400 && answer[field].is_array(),
            "{field} {value}: {status} {answer}"
        );
    }
    assert_eq!(hob.deployments("web").len(), before, "nothing was recorded");
    still_serves(&hob);
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let Some(hob) = serving() else { return };
    let body = serde_json::json!({ "name": "web", "image": "web:1", "port": 8080, "replicas_target": 1 });
    let (status, answer) = hob.api("POST", "/api/services/", Some(body));
    assert!(
        status == 400 && answer.to_string().contains("name"),
        "{status} {answer}"
    );
    still_serves(&hob);
}

#[test]
fn a_data_directory_of_another_user_is_refused() {
    if !is_root() {
        println!("SKIPPED: only root can make a directory of another user");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("theirs");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("set");
    chown(&data, Some(12_345), Some(12_345)).expect("given away");
    let Some(mut hob) = Hob::prepare(
        HOB,
        Options {
            data_dir: Some(data.clone()),
            ..Options::default()
        },
    ) else {
        return;
    };
    let (code, text) = hob.up_fails();
    assert!(matches!(code, 1..=3), "{code}: {text}");
    assert!(
        text.contains(data.to_str().expect("plain")),
        "the directory is named: {text}"
    );
    assert_eq!(fs::read_dir(&data).expect("readable").count(), 0, "nothing was written");
}

#[test]
fn a_port_in_use_is_named() {
    for which in ["api", "edge"] {
        let Some(mut hob) = Hob::prepare(HOB, Options::default()) else {
            return;
        };
        let address = if which == "api" {
            hob.api_address()
        } else {
            hob.edge_address()
        };
        let _taken = TcpListener::bind(address).expect("free until now");
        let (code, text) = hob.up_fails();
        assert!(matches!(code, 1..=3), "{which}: {code}: {text}");
        assert!(
            text.contains(&address.port().to_string()),
            "{which}: the port is named: {text}"
        );
    }
}

/// A data directory on a file system of 48 MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).ok()?;
        let options = "size=48m,mode=0700";
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "hob-test"])
            .arg(&at)
            .output()
            .ok()?;
        done.status.success().then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_fails_the_import_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::mount(directory.path().join("data")) else {
        println!("SKIPPED: cannot mount a small file system");
        return;
    };
    let Some(hob) = Hob::start_with(
        HOB,
        Options {
            data_dir: Some(disk.0.clone()),
            ..Options::default()
        },
    ) else {
        return;
    };
    App::pack(&hob, "web:1");
    deploy(
        &hob,
        &[
            "--image",
            "web:1",
            "--port",
            "8080",
            "--instances",
            "2",
            "--env",
            "VERSION=good",
        ],
    )
    .ok();
    let big = hob.scratch().join("big");
    fs::create_dir(&big).expect("made");
    let noise: Vec<u8> = {
        let mut dice = testkit::Dice::new(1);
        (0..8 * 1024 * 1024).flat_map(|_| dice.throw().to_le_bytes()).collect()
    };
    fs::write(big.join("noise"), noise).expect("written");
    let path = big.to_str().expect("plain");
    let answer = hob.cli(&["image", "pack", path, "--name", "big:1", "--entrypoint", "/noise"]);
    refused(&answer, &["space"]);
    still_serves(&hob);
    App::pack(&hob, "web:2");
    deploy(&hob, &["--image", "web:2"]).ok();
    still_serves(&hob);
}

#[test]
fn a_corrupt_archive_is_refused() {
    let Some(hob) = Hob::start(HOB) else { return };
    let noise = hob.scratch().join("noise.tar");
    let mut dice = testkit::Dice::new(2);
    fs::write(&noise, (0..10_000).map(|_| dice.throw() as u8).collect::<Vec<_>>()).expect("written");
    refused(
        &hob.cli(&["image", "import", noise.to_str().expect("plain")]),
        &["noise.tar"],
    );
    refused(
        &hob.cli(&["image", "import", "/nonexistent/file.tar"]),
        &["/nonexistent/file.tar"],
    );

    let Some(layout) = Layout::make(&hob, "cut") else {
        return;
    };
    layout.add_app(&hob);
    let archive = layout.archive();
    let length = fs::metadata(&archive).expect("made").len();
    fs::File::options()
        .write(true)
        .open(&archive)
        .and_then(|file| file.set_len(length / 2))
        .expect("cut");
    refused(
        &hob.cli(&["image", "import", archive.to_str().expect("plain"), "--name", "cut:1"]),
        &[],
    );
    assert!(!hob.cli(&["image", "ls"]).ok().stdout.contains("cut:1"));
}

#[test]
fn an_image_for_another_architecture_is_refused_and_both_are_named() {
    let Some(hob) = serving() else { return };
    let Some(layout) = Layout::make(&hob, "arch") else {
        return;
    };
    layout.add_app(&hob);
    layout.umoci(&[
        "config",
        "--image",
        &layout.image(),
        "--architecture",
        "s390x",
        "--config.entrypoint",
        "/app",
    ]);
    let answer = import_and_deploy(&hob, &layout, "arch:1");
    refused(&answer, &["s390x"]);
    still_serves(&hob);
}

/// Each layer tries to write outside the image. It is refused by name, and the host is as before.
#[test]
fn a_layer_that_leaves_its_root_is_refused_and_touches_nothing() {
    let Some(hob) = serving() else { return };
    let target = hob.scratch().join("escaped");
    let work = hob.scratch().join("evil");
    fs::create_dir(&work).expect("made");
    fs::write(work.join("evil"), "evil").expect("written");
    let absolute = target.to_str().expect("plain").to_owned();
    std::os::unix::fs::symlink(hob.scratch(), work.join("way")).expect("linked");
    let up = format!("s,^evil$,../../../../../../../../../..{absolute},");
    let through = "s,^evil$,way/escaped,";
    let cases: [(&str, Vec<&str>); 2] = [
        ("dots", vec!["--transform", &up, "evil"]),
        ("link", vec!["way", "--transform", through, "evil"]),
    ];
    for (name, arguments) in cases {
        let Some(layout) = Layout::make(&hob, name) else { return };
        let layer = hob.scratch().join(format!("{name}.tar"));
        let made = Command::new("tar")
            .args(["-P", "-C"])
            .arg(&work)
            .arg("-cf")
            .arg(&layer)
            .args(&arguments)
            .output();
        assert!(made.expect("tar runs").status.success(), "{name}");
        layout.umoci(&[
            "raw",
            "add-layer",
            "--image",
            &layout.image(),
            layer.to_str().expect("plain"),
        ]);
        layout.umoci(&["config", "--image", &layout.image(), "--config.entrypoint", "/app"]);
        let answer = import_and_deploy(&hob, &layout, &format!("{name}:1"));
        assert_ne!(answer.code, 0, "{name}: {}", answer.text());
        assert!(!target.exists(), "{name}: it got out");
        still_serves(&hob);
    }
}

/// The first of the two steps that is refused, or the last.
fn import_and_deploy(hob: &Hob, layout: &Layout, name: &str) -> Cli {
    let archive = layout.archive();
    let import = hob.cli(&["image", "import", archive.to_str().expect("plain"), "--name", name]);
    if import.code != 0 {
        import
    } else {
        deploy(hob, &["--image", name])
    }
}

/// An OCI layout that is made with umoci.
struct Layout {
    directory: PathBuf,
}

impl Layout {
    fn make(hob: &Hob, name: &str) -> Option<Layout> {
        if Command::new("umoci").arg("--version").output().is_err() {
            println!("SKIPPED: umoci is not installed");
            return None;
        }
        let layout = Layout {
            directory: hob.scratch().join(format!("layout-{name}")),
        };
        layout.umoci(&["init", "--layout", layout.path()]);
        layout.umoci(&["new", "--image", &layout.image()]);
        Some(layout)
    }

    fn path(&self) -> &str {
        self.directory.to_str().expect("plain")
    }

    fn image(&self) -> String {
        format!("{}:made", self.path())
    }

    /// A layer with the app. (`umoci insert` of Debian 12 writes layers without their end.)
    fn add_app(&self, hob: &Hob) {
        fs::copy(App::binary(), hob.scratch().join("app")).expect("the app is copied");
        let layer = self.directory.with_extension("layer");
        let made = Command::new("tar")
            .arg("-C")
            .arg(hob.scratch())
            .arg("-cf")
            .arg(&layer)
            .arg("app")
            .output();
        assert!(made.expect("tar runs").status.success());
        self.umoci(&[
            "raw",
            "add-layer",
            "--image",
            &self.image(),
            layer.to_str().expect("plain"),
        ]);
    }

    fn umoci(&self, arguments: &[&str]) {
        let output = Command::new("umoci").args(arguments).output().expect("umoci runs");
        assert!(
            output.status.success(),
            "umoci {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn archive(&self) -> PathBuf {
        let archive = Path::new(self.path()).with_extension("tar");
        let done = Command::new("tar")
            .arg("-C")
            .arg(&self.directory)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .output();
        assert!(done.expect("tar runs").status.success());
        archive
    }
}
