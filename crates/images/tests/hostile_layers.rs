//! C6.13 and C6.14: no layer changes anything outside its directory, and none eats the machine.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use common::{Layer, Packing, TestImage, World, has_all_owners, snapshot};
use images::{ImageError, Limits};
use tar::EntryType;

/// Unpacks one layer with a victim directory and a victim file around the store, and asserts that they are untouched.
/// The paths that a layer can aim at: `../…` up to the victim, and the victim's absolute path.
async fn unpack(build: impl FnOnce(&Path) -> Vec<u8>) -> (World, Result<images::Prepared, ImageError>) {
    let world = World::new();
    let victim = world.path("victim");
    fs::create_dir(&victim).expect("a directory");
    fs::write(victim.join("secret"), "untouched").expect("a file");
    fs::set_permissions(victim.join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let before = snapshot(&victim);
    let image = TestImage::new(&[build(&victim)]);
    world
        .store
        .import_stream(&image.layout_tar("app:1")[..], None)
        .await
        .expect("an archive is only stored");
    let result = world.store.prepare(&image.manifest).await;
    assert_eq!(snapshot(&victim), before, "the world outside changed");
    let mut outside: Vec<_> = fs::read_dir(world.dir.path())
        .expect("read")
        .map(|e| e.expect("read").file_name())
        .collect();
    outside.sort();
    assert_eq!(outside, ["images", "victim"], "something was written beside the store");
    if result.is_err() {
        assert!(world.stored("layers").is_empty(), "a refused layer is not visible");
        assert!(
            world.leftovers().is_empty(),
            "a refused layer leaves {:?}",
            world.leftovers()
        );
    }
    (world, result)
}

async fn refused(build: impl FnOnce(&Path) -> Vec<u8>) -> ImageError {
    unpack(build).await.1.expect_err("the layer is refused")
}

async fn accepted(build: impl FnOnce(&Path) -> Vec<u8>) -> (World, images::Prepared) {
    let (world, result) = unpack(build).await;
    let prepared = result.expect("the layer is accepted");
    (world, prepared)
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

/// Enough `../` to reach `/` from any layer.
const UP: &str = "../../../../../../../../../../../../../../../../";

#[tokio::test]
async fn a_path_that_climbs_or_is_absolute_is_refused_by_name() {
    let error = refused(|_| Layer::new().file("../../../../../victim/secret", "owned").finish()).await;
    assert!(error.to_string().contains("`../../../../../victim/secret`"), "{error}");
    for climb in ["a/../../../../../../victim/secret", "..", "a/..", "./../x"] {
        let error = refused(|_| Layer::new().dir("a", 0o755).file(climb, "owned").finish()).await;
        assert!(matches!(error, ImageError::Escapes { .. }), "{climb}: {error}");
    }
    let error = refused(|victim| Layer::new().file(&text(&victim.join("secret")), "owned").finish()).await;
    assert!(error.to_string().contains("absolute"), "{error}");
    let error = refused(|victim| {
        let path = text(&victim.join("secret"));
        Layer::new()
            .pax(&[("path", path.as_bytes())])
            .file("innocent", "owned")
            .finish()
    })
    .await;
    assert!(matches!(error, ImageError::Escapes { .. }), "{error}");
}

#[tokio::test]
async fn nothing_is_written_through_a_link_of_the_archive() {
    let error = refused(|victim| {
        Layer::new()
            .symlink("out", &text(victim))
            .file("out/secret", "owned")
            .finish()
    })
    .await;
    assert!(error.to_string().contains("symbolic link"), "{error}");
    let error = refused(|_| {
        let layer = Layer::new()
            .dir("d", 0o755)
            .symlink("d/out", "../../../../../../victim");
        layer.file("d/out/new/deep", "owned").finish()
    })
    .await;
    assert!(matches!(error, ImageError::Escapes { .. }), "{error}");
    // Even a link that stays inside: what it leads to may be swapped by the next entry.
    let error = refused(|_| {
        Layer::new()
            .dir("real", 0o755)
            .symlink("l", "real")
            .file("l/f", "x")
            .finish()
    })
    .await;
    assert!(matches!(error, ImageError::Escapes { .. }), "{error}");
    let error = refused(|victim| {
        Layer::new()
            .symlink("out", &text(victim))
            .file("out/.wh.secret", "")
            .finish()
    })
    .await;
    assert!(matches!(error, ImageError::Escapes { .. }), "{error}");
}

#[tokio::test]
async fn an_entry_replaces_a_link_instead_of_writing_what_it_leads_to() {
    let (world, prepared) = accepted(|victim| {
        let secret = text(&victim.join("secret"));
        Layer::new()
            .symlink("f", &secret)
            .file("f", "mine")
            .symlink("d", &text(victim))
            .dir("d", 0o777)
            .finish()
    })
    .await;
    let root = &prepared.layers[0];
    assert_eq!(fs::read_to_string(root.join("f")).expect("a file"), "mine");
    assert!(fs::symlink_metadata(root.join("f")).expect("a file").is_file());
    assert!(fs::symlink_metadata(root.join("d")).expect("a directory").is_dir());
    drop(world);
}

#[tokio::test]
async fn absolute_link_targets_are_kept_as_data() {
    let (_world, prepared) = accepted(|victim| {
        let secret = text(&victim.join("secret"));
        Layer::new()
            .symlink("abs", &secret)
            .symlink("up", &format!("{UP}etc/passwd"))
            .finish()
    })
    .await;
    assert!(
        fs::read_link(prepared.layers[0].join("abs"))
            .expect("a link")
            .is_absolute()
    );
    assert!(
        fs::read_link(prepared.layers[0].join("up"))
            .expect("a link")
            .ends_with("etc/passwd")
    );
}

#[tokio::test]
async fn a_hard_link_leads_to_a_file_of_the_layer_or_is_refused() {
    for target in ["../../../../../victim/secret", "/etc/passwd"] {
        let error = refused(|_| Layer::new().hard_link("mine", target).finish()).await;
        assert!(matches!(error, ImageError::Escapes { .. }), "{target}: {error}");
    }
    let error = refused(|victim| {
        Layer::new()
            .symlink("out", &text(victim))
            .hard_link("mine", "out/secret")
            .finish()
    })
    .await;
    assert!(error.to_string().contains("symbolic link"), "{error}");
    for (case, layer) in [
        ("missing", Layer::new().hard_link("a", "nowhere")),
        ("directory", Layer::new().dir("d", 0o755).hard_link("a", "d")),
        (
            "its own place",
            Layer::new().dir("a", 0o755).file("a/b", "x").hard_link("a", "a/b"),
        ),
    ] {
        let error = refused(|_| layer.finish()).await;
        assert!(matches!(error, ImageError::Corrupt { .. }), "{case}: {error}");
    }
    // A second name for a link is a second link. What is then written replaces the name, never the target.
    let (_world, prepared) = accepted(|victim| {
        let secret = text(&victim.join("secret"));
        let layer = Layer::new()
            .symlink("l", &secret)
            .hard_link("l2", "l")
            .file("l2", "mine");
        layer.file("x", "1").hard_link("x", "x").finish()
    })
    .await;
    assert_eq!(
        fs::read_to_string(prepared.layers[0].join("l2")).expect("a file"),
        "mine"
    );
    assert_eq!(fs::read_to_string(prepared.layers[0].join("x")).expect("a file"), "1");
}

#[tokio::test]
async fn modes_and_times_are_never_set_through_a_link() {
    let (_world, prepared) = accepted(|victim| {
        let secret = text(&victim.join("secret"));
        let link = |header: &mut tar::Header| header.set_mode(0o7777);
        let layer = Layer::new().entry(EntryType::Symlink, b"l", &secret, b"", link);
        layer.dir("d", 0o755).symlink("d2", &text(victim)).finish()
    })
    .await;
    assert!(
        fs::symlink_metadata(prepared.layers[0].join("l"))
            .expect("a link")
            .is_symlink()
    );
}

#[tokio::test]
async fn a_directory_that_became_a_link_does_not_pass_its_mode_on() {
    let (_world, prepared) = accepted(|victim| {
        let layer = Layer::new()
            .dir("d", 0o777)
            .dir("d/sub", 0o777)
            .symlink("d", &text(victim));
        layer.finish()
    })
    .await;
    assert!(
        fs::symlink_metadata(prepared.layers[0].join("d"))
            .expect("a link")
            .is_symlink()
    );
}

#[tokio::test]
async fn whiteouts_delete_only_below_and_only_in_their_layer() {
    for bad in [".wh...", ".wh..", ".wh.", "d/.wh..", "d/.wh..."] {
        let error = refused(|_| Layer::new().dir("d", 0o755).file(bad, "").finish()).await;
        assert!(matches!(error, ImageError::Escapes { .. }), "{bad}: {error}");
    }
    let error = refused(|_| Layer::new().file(".wh.d/inside", "").finish()).await;
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
    let error = refused(|_| Layer::new().symlink(".wh.x", "/").finish()).await;
    assert!(matches!(error, ImageError::Corrupt { .. }), "{error}");
    // A whiteout of what the same layer has concerns lower layers only, in either order.
    let (_world, prepared) = accepted(|_| {
        let layer = Layer::new()
            .file("a", "1")
            .file(".wh.a", "")
            .file(".wh.b", "")
            .file("b", "2");
        layer.file(".wh..wh.plnk", "").finish()
    })
    .await;
    let root = &prepared.layers[0];
    assert_eq!(fs::read_to_string(root.join("a")).expect("a file"), "1");
    assert_eq!(fs::read_to_string(root.join("b")).expect("a file"), "2");
    assert_eq!(fs::read_dir(root).expect("the root").count(), 2);
}

#[tokio::test]
async fn devices_are_left_out_and_set_user_id_bits_cleared() {
    let (_world, prepared) = accepted(|_| {
        let device = |header: &mut tar::Header| {
            header.set_device_major(8).expect("a GNU header");
            header.set_device_minor(0).expect("a GNU header");
        };
        let suid = |header: &mut tar::Header| {
            header.set_mode(0o6755);
            header.set_uid(1234);
            header.set_gid(4321);
        };
        Layer::new()
            .entry(EntryType::Block, b"dev/sda", "", b"", device)
            .entry(EntryType::Char, b"dev/null", "", b"", device)
            .entry(EntryType::Fifo, b"pipe", "", b"", |_| {})
            .entry(EntryType::Regular, b"su", "", b"binary", suid)
            .dir("tmp", 0o1777)
            .dir("shared", 0o2775)
            .finish()
    })
    .await;
    let root = &prepared.layers[0];
    assert!(!root.join("dev/sda").exists() && !root.join("dev/null").exists() && !root.join("pipe").exists());
    let meta = fs::metadata(root.join("su")).expect("a file");
    assert_eq!(meta.mode() & 0o7777, 0o755);
    if has_all_owners() {
        assert_eq!((meta.uid(), meta.gid()), (1234, 4321), "owners are kept");
    }
    assert_eq!(
        fs::metadata(root.join("tmp")).expect("a directory").mode() & 0o7777,
        0o1777
    );
    assert_eq!(
        fs::metadata(root.join("shared")).expect("a directory").mode() & 0o7777,
        0o2775
    );
}

#[tokio::test]
async fn only_plain_user_attributes_survive() {
    let (_world, prepared) = accepted(|_| {
        let capability = b"\x01\x00\x00\x02\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00";
        let records: &[(&str, &[u8])] = &[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.comment", b"kept"),
        ];
        Layer::new().pax(records).file("f", "x").finish()
    })
    .await;
    let names = list_xattrs(&prepared.layers[0].join("f"));
    assert!(names.is_empty() || names == ["user.comment"], "{names:?}");
}

fn list_xattrs(path: &Path) -> Vec<String> {
    let path = std::ffi::CString::new(text(path)).expect("no NUL");
    let mut buffer = [0u8; 4096];
    // SAFETY: the path ends with NUL and the buffer is as long as is said.
    let n = unsafe { libc::llistxattr(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    let names = &buffer[..usize::try_from(n).expect("attributes can be listed")];
    names
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[tokio::test]
async fn two_sizes_of_one_entry_are_refused() {
    // One reader would see a file of 0 bytes and then the hidden entry, another a file that contains it.
    let hidden = Layer::new().file("hidden", "owned").finish();
    let length = hidden.len().to_string();
    let error = refused(|_| {
        let layer = Layer::new().pax(&[("size", length.as_bytes())]).file("outer", "");
        layer.raw(&hidden).finish()
    })
    .await;
    assert!(error.to_string().contains("two sizes"), "{error}");
}

#[tokio::test]
async fn malformed_names_headers_and_kinds_are_refused() {
    let long = "x".repeat(300);
    let deep = "d/".repeat(400) + "f";
    let cases: Vec<(&str, Layer)> = vec![
        (
            "NUL in a PAX path",
            Layer::new().pax(&[("path", b"a\0b")]).file("a", "x"),
        ),
        (
            "over-long component",
            Layer::new().pax(&[("path", long.as_bytes())]).file("a", "x"),
        ),
        (
            "too deep",
            Layer::new().pax(&[("path", deep.as_bytes())]).file("a", "x"),
        ),
        (
            "PAX record with a wrong length",
            Layer::new()
                .entry(EntryType::XHeader, b"p", "", b"99 path=x\n", |_| {})
                .file("a", "x"),
        ),
        (
            "PAX size that is no number",
            Layer::new().pax(&[("size", b"-1")]).file("a", "x"),
        ),
        ("PAX at the end", Layer::new().file("a", "x").pax(&[("path", b"b")])),
        (
            "unknown kind",
            Layer::new().entry(EntryType::new(b'Z'), b"a", "", b"", |_| {}),
        ),
        ("empty link", Layer::new().symlink("a", "")),
        (
            "a file in place of the root",
            Layer::new().file("./", "x").symlink(".", "/etc"),
        ),
        ("a file as a directory", Layer::new().file("a", "x").file("a/b", "y")),
        ("bad checksum", Layer::new().file("a", "x").raw(&[7; 512])),
    ];
    for (case, layer) in cases {
        let error = refused(|_| layer.finish()).await;
        let known = matches!(error, ImageError::Corrupt { .. } | ImageError::Escapes { .. });
        assert!(known, "{case}: {error}");
    }
    let error = refused(|_| Layer::new().entry(EntryType::GNUSparse, b"s", "", b"", |_| {}).finish()).await;
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
    let error = refused(|_| Layer::new().pax(&[("GNU.sparse.major", b"1")]).file("s", "x").finish()).await;
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_name_with_control_characters_reaches_no_terminal() {
    let error = refused(|_| Layer::new().file("../\u{1b}[31mred\r\n", "x").finish())
        .await
        .to_string();
    assert!(!error.contains('\u{1b}') && !error.contains('\n'), "{error:?}");
}

#[tokio::test]
async fn an_extension_header_of_any_size_costs_no_memory() {
    // Says 8 GiB, has nothing: must be refused by what it says.
    let error = refused(|_| {
        let huge = |header: &mut tar::Header| header.set_size(8 << 30);
        Layer::new().entry(EntryType::GNULongName, b"n", "", b"", huge).finish()
    })
    .await;
    assert!(error.to_string().contains("extension header"), "{error}");
}

#[tokio::test]
async fn duplicate_entries_end_as_the_last_one() {
    let (_world, prepared) = accepted(|_| {
        let mut layer = Layer::new();
        for n in 0..50 {
            layer = layer.dir("x", 0o755).file("x/deep", "1").file("x", &n.to_string());
        }
        layer
            .file("y", "1")
            .symlink("y", "nowhere")
            .dir("y", 0o700)
            .file("y/z", "2")
            .finish()
    })
    .await;
    let root = &prepared.layers[0];
    assert_eq!(fs::read_to_string(root.join("x")).expect("a file"), "49");
    assert_eq!(fs::read_to_string(root.join("y/z")).expect("a file"), "2");
    assert_eq!(
        fs::metadata(root.join("y")).expect("a directory").mode() & 0o7777,
        0o700
    );
}

async fn bomb(limits: Limits, layers: &[Vec<u8>]) -> (World, ImageError) {
    let world = World::with_limits(limits);
    let image = TestImage::packed(layers, Packing::Gzip, |_| {});
    world
        .store
        .import_stream(&image.layout_tar("app:1")[..], None)
        .await
        .expect("stored");
    let error = world.store.prepare(&image.manifest).await.expect_err("refused");
    assert!(world.leftovers().is_empty());
    (world, error)
}

#[tokio::test]
async fn bombs_are_stopped_by_the_limit_that_they_break() {
    let zeros = Layer::new().file("zeros", &"\0".repeat(100 << 20)).finish();
    let (_world, error) = bomb(Limits::default(), &[zeros]).await;
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: "layer_ratio",
                ..
            }
        ),
        "{error}"
    );

    let mebibyte = |name: &str| Layer::new().file(name, &"x".repeat(1 << 20)).finish();
    let limits = Limits {
        layer_unpacked_bytes: 1 << 20,
        ..Limits::default()
    };
    let (_world, error) = bomb(limits, &[mebibyte("a")]).await;
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: "layer_unpacked_bytes",
                ..
            }
        ),
        "{error}"
    );

    let limits = Limits {
        image_unpacked_bytes: 5 << 19,
        ..Limits::default()
    };
    let (_world, error) = bomb(limits, &[mebibyte("a"), mebibyte("b"), mebibyte("c")]).await;
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: "image_unpacked_bytes",
                ..
            }
        ),
        "{error}"
    );

    let many = (0..2000)
        .fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), ""))
        .finish();
    let (_world, error) = bomb(
        Limits {
            layer_entries: 1999,
            ..Limits::default()
        },
        &[many],
    )
    .await;
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: "layer_entries",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn bytes_behind_the_end_of_an_archive_count_too() {
    let mut layer = Layer::new().file("a", "x").finish();
    layer.extend(vec![0; 3 << 20]);
    let (_world, error) = bomb(
        Limits {
            layer_unpacked_bytes: 1 << 20,
            ..Limits::default()
        },
        &[layer],
    )
    .await;
    assert!(
        matches!(
            error,
            ImageError::TooLarge {
                limit: "layer_unpacked_bytes",
                ..
            }
        ),
        "{error}"
    );
}

/// As `umoci insert` writes it: no padding behind the last file, and no end of the archive.
#[tokio::test]
async fn a_layer_may_end_right_behind_the_content_of_its_last_file_and_not_before() {
    const HEADER: usize = 512;
    let two_files = || Layer::new().file("first", "one").file("last", "hello").finish();
    let last_header = 2 * HEADER;
    for end in [last_header + HEADER + 5, last_header + HEADER + 400] {
        let (_world, prepared) = accepted(|_| two_files()[..end].to_vec()).await;
        let content = |name: &str| std::fs::read_to_string(prepared.layers[0].join(name)).expect("a file");
        assert_eq!([content("first"), content("last")], ["one", "hello"], "cut at {end}");
    }
    for end in [last_header + HEADER + 4, last_header + HEADER, last_header + 100] {
        refused(|_| two_files()[..end].to_vec()).await;
    }
}
