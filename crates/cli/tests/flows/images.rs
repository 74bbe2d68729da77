//! Images on their way to the server.

use cli::Outcome;

use super::{environment, run, says};
use crate::fake::{Fake, Script};

#[tokio::test]
async fn a_directory_is_sent_as_a_tar_and_a_binary_as_an_image() {
    let fake = Fake::start(Script::Succeeds).await;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("index.json"), "{}").expect("written");
    std::fs::create_dir_all(directory.path().join("blobs/sha256")).expect("made");
    let path = directory.path().display().to_string();
    let ran = run(&environment(&fake), &format!("hob image import {path} --name web:1")).await;
    assert_eq!(
        (ran.outcome, ran.out.as_str()),
        (Outcome::Done, "web:1 001122334455 (2.0 KiB)\n"),
        "{}",
        ran.err
    );
    let binary = directory.path().join("app");
    std::fs::write(&binary, "no real program").expect("written");
    let line = format!("hob image pack {} --name web:1 --port 80 --cmd -v", binary.display());
    assert_eq!(run(&environment(&fake), &line).await.outcome, Outcome::Done);

    let uploads = std::mem::take(&mut fake.state().uploads);
    let names = |tar: &[u8]| -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().expect("a tar");
        entries
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect()
    };
    assert!(
        names(&uploads[0])
            .iter()
            .any(|name| name.trim_start_matches("./") == "index.json")
    );
    assert!(names(&uploads[1]).contains(&"oci-layout".to_owned()));
    assert!(fake.writes().contains(&"POST /api/images/?name=web:1".to_owned()));
}

#[tokio::test]
async fn an_upload_that_is_refused_halfway_says_why() {
    let fake = Fake::start(Script::Succeeds).await;
    fake.state().refuses_uploads = true;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("big.tar");
    std::fs::File::create(&file)
        .and_then(|file| file.set_len(64 << 20))
        .expect("made");
    let ran = run(&environment(&fake), &format!("hob image import {}", file.display())).await;
    assert_ne!(ran.outcome, Outcome::Done);
    says(&ran.err, &["cannot import", "big.tar"]);
}
