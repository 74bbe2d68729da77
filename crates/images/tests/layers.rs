//! Layers are unpacked once, share what is under them, and are what their image says.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use common::{Layer, Packing, TestImage, World, is_root};
use images::{Digest, ImageError, WhiteoutForm};
use serde_json::json;

#[tokio::test]
async fn layers_are_shared_whiteouts_take_overlay_form_and_a_flat_copy_agrees() {
    let world = World::new();
    let lower = Layer::new()
        .dir("etc", 0o750)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .dir("data", 0o1777)
        .file("data/old", "old")
        .dir("again", 0o755)
        .file("again/old", "old")
        .file("twice", "1")
        .hard_link("twice.link", "twice")
        .finish();
    let upper = Layer::new()
        .file("etc/.wh.gone", "")
        .file("data/.wh..wh..opq", "")
        .file("data/new", "new")
        .file(".wh.again", "")
        .file("again/new", "new")
        .finish();
    let one = TestImage::new(std::slice::from_ref(&lower));
    let two = TestImage::new(&[lower, upper]);
    world
        .store
        .import_stream(&one.layout_tar("one:1")[..], None)
        .await
        .expect("imported");
    world
        .store
        .import_stream(&two.layout_tar("two:1")[..], None)
        .await
        .expect("imported");
    let (first, second) = tokio::join!(world.store.prepare(&one.manifest), world.store.prepare(&two.manifest));
    let (first, second) = (first.expect("prepared"), second.expect("prepared"));
    assert_eq!(first.layers[0], second.layers[0], "the common layer is unpacked once");
    assert_eq!(world.stored("layers").len(), 2);

    let upper = &second.layers[1];
    if second.form != WhiteoutForm::Recorded {
        let gone = fs::symlink_metadata(upper.join("etc/gone")).expect("a whiteout");
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    }
    // A directory that the upper layer does not describe looks like the lower one.
    assert_eq!(fs::metadata(upper.join("etc")).expect("etc").mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(upper.join("data")).expect("data").mode() & 0o7777, 0o1777);

    let flat = world.path("flat");
    world.store.flatten(&two.manifest, &flat).await.expect("flattened");
    let mut files: Vec<String> = common::snapshot(&flat)
        .into_keys()
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|path| !path.is_empty())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "again",
            "again/new",
            "data",
            "data/new",
            "etc",
            "etc/keep",
            "twice",
            "twice.link"
        ]
    );
    assert_eq!(
        fs::metadata(flat.join("twice")).expect("a file").nlink(),
        2,
        "hard links stay links"
    );
    assert!(
        world.store.flatten(&two.manifest, &flat).await.is_err(),
        "an existing directory is not touched"
    );
    overlay_agrees(&world, &second, &flat);
}

/// The kernel's own merge of the layers has the same files as our flat copy.
fn overlay_agrees(world: &World, prepared: &images::Prepared, flat: &std::path::Path) {
    if !is_root() || prepared.form == WhiteoutForm::Recorded {
        println!("SKIPPED: overlayfs is mounted only as root (also of a user namespace), on a disk with attributes");
        return;
    }
    let merged = world.path("merged");
    fs::create_dir(&merged).expect("a directory");
    let lower: Vec<String> = prepared
        .layers
        .iter()
        .rev()
        .map(|dir| dir.display().to_string())
        .collect();
    let attributes = if prepared.form == WhiteoutForm::User {
        ",userxattr"
    } else {
        ""
    };
    let options = format!("lowerdir={}{attributes}", lower.join(":"));
    let flags = nix::mount::MsFlags::MS_RDONLY;
    if let Err(error) = nix::mount::mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str())) {
        println!("SKIPPED: the kernel refuses overlayfs here: {error}");
        return;
    }
    let (by_kernel, by_us) = (common::snapshot(&merged), common::snapshot(flat));
    nix::mount::umount(&merged).expect("unmounted");
    assert_eq!(by_kernel, by_us);
}

#[tokio::test]
async fn a_wrong_diff_id_is_found_after_unpacking_and_nothing_stays() {
    let world = World::new();
    let image = TestImage::packed(&[Layer::new().file("a", "1").finish()], Packing::Gzip, |config| {
        config["rootfs"]["diff_ids"] = json!([Digest::of(b"something else")]);
    });
    world
        .store
        .import_stream(&image.layout_tar("app:1")[..], None)
        .await
        .expect("imported");
    let error = world.store.prepare(&image.manifest).await.expect_err("refused");
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    assert!(world.stored("layers").is_empty());
    assert!(world.leftovers().is_empty());
}

#[tokio::test]
async fn a_layer_with_an_opaque_root_is_the_lowest_that_is_mounted() {
    let world = World::new();
    let lower = Layer::new().file("old", "old").finish();
    let upper = Layer::new().file("new", "new").file(".wh..wh..opq", "").finish();
    let image = TestImage::new(&[lower, upper]);
    world
        .store
        .import_stream(&image.layout_tar("app:1")[..], None)
        .await
        .expect("imported");
    let prepared = world.store.prepare(&image.manifest).await.expect("prepared");
    assert_eq!(prepared.layers.len(), 1);
    let flat = world.path("flat");
    world.store.flatten(&image.manifest, &flat).await.expect("flattened");
    assert!(flat.join("new").exists() && !flat.join("old").exists());
}
