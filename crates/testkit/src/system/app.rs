//! The example app: built once, packed into as many image versions as a test likes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Cli, Hob};

/// The port that the app listens on.
pub const PORT: &str = "8080";

/// The static program of `crates/testapp`.
pub struct App;

impl App {
    /// Builds it (or takes the one that the variable `HOB_TESTAPP` names) and tells where it is.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn binary() -> &'static Path {
        static BUILT: OnceLock<PathBuf> = OnceLock::new();
        BUILT.get_or_init(|| match std::env::var_os("HOB_TESTAPP") {
            Some(path) => path.into(),
            None => build(),
        })
    }

    /// Packs an image `NAME:TAG` into the platform's store. Images of different tags have different digests.
    pub fn pack(hob: &Hob, reference: &str) {
        Self::pack_with(hob, reference, &[]).ok();
    }

    /// Likewise, with further arguments of `hob image pack`.
    pub fn pack_with(hob: &Hob, reference: &str, arguments: &[&str]) -> Cli {
        let root = hob
            .scratch()
            .join(format!("root-{}", reference.replace([':', '/'], "-")));
        std::fs::create_dir_all(&root).expect("a directory for the image");
        std::fs::copy(Self::binary(), root.join("app")).expect("the app is copied");
        std::fs::write(root.join("reference"), reference).expect("the file is written");
        let root = root.to_str().expect("a plain path");
        let mut all = vec![
            "image",
            "pack",
            root,
            "--name",
            reference,
            "--entrypoint",
            "/app",
            "--port",
            PORT,
        ];
        all.extend(arguments);
        hob.cli(&all)
    }
}

/// Statically linked against glibc: with an explicit target the flags are the app's alone.
fn build() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = shared.join("testapp");
    let flags = format!("target.{triple}.rustflags=['-C', 'target-feature=+crt-static']");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args([
            "build",
            "--quiet",
            "-p",
            "testapp",
            "--target",
            &triple,
            "--config",
            &flags,
            "--target-dir",
        ])
        .arg(&target)
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "the example app: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join(triple).join("debug/hob-testapp")
}
