//! Archives of every kind become the same image, and what is wrong with one is said.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use common::{Layer, Packing, TestImage, World, archive, installed, is_root, reference, write_layout};
use images::{Digest, ImageError, Limits, PackRequest, Platform};
use serde_json::json;

type Files = BTreeMap<String, Vec<u8>>;

fn hello() -> TestImage {
    TestImage::new(&[Layer::new().dir("bin", 0o755).file("bin/hello", "hello").finish()])
}

#[tokio::test]
async fn a_packed_directory_comes_back_as_it_was_and_packs_the_same_again() {
    let world = World::new();
    let source = world.path("app");
    fs::create_dir_all(source.join("etc")).expect("directories");
    fs::write(source.join("server"), "#!binary").expect("a file");
    fs::set_permissions(source.join("server"), fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::write(source.join("etc/conf"), "x=1").expect("a file");
    std::os::unix::fs::symlink("/absolute/target", source.join("etc/link")).expect("a link");

    let mut request = PackRequest::new(&source, reference("web:1"));
    request.entrypoint = vec!["/server".into()];
    request.ports = vec![8080];
    request.env = vec!["A=b".into()];
    request.user = "1000".into();
    request.stop_signal = "SIGQUIT".into();
    let mut tar = Vec::new();
    let digest = images::write_layout(&request, &Limits::default(), world.dir.path(), &mut tar).expect("packed");
    let mut again = Vec::new();
    images::write_layout(&request, &Limits::default(), world.dir.path(), &mut again).expect("packed");
    assert_eq!(tar, again, "packing is deterministic");

    let imported = world.store.import_stream(&tar[..], None).await.expect("imported");
    assert_eq!(imported.len(), 1);
    assert_eq!(
        (imported[0].name.to_string().as_str(), imported[0].digest),
        ("web:1", digest)
    );
    assert_eq!(
        world.store.resolve_local(&reference("web:1")).expect("resolved"),
        Some(digest)
    );
    assert_eq!(world.store.pack(request).await.expect("packed into the store"), digest);

    let prepared = world.store.prepare(&digest).await.expect("prepared");
    assert_eq!(prepared.config.entrypoint, ["/server"]);
    assert_eq!(prepared.config.exposed_ports, [8080]);
    assert_eq!(
        (prepared.config.user.as_str(), prepared.config.stop_signal.as_str()),
        ("1000", "SIGQUIT")
    );
    assert!(prepared.config.env.contains(&"A=b".to_owned()));
    let root = &prepared.layers[0];
    assert_eq!(fs::read_to_string(root.join("server")).expect("the file"), "#!binary");
    assert_eq!(
        fs::metadata(root.join("server")).expect("the file").mode() & 0o7777,
        0o755
    );
    assert_eq!(
        fs::read_link(root.join("etc/link")).expect("the link").to_str(),
        Some("/absolute/target")
    );
    assert_eq!(world.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_single_binary_is_its_own_entry_point() {
    let world = World::new();
    fs::write(world.path("server"), "binary").expect("a file");
    let digest = world
        .store
        .pack(PackRequest::new(world.path("server"), reference("one")))
        .await
        .expect("packed");
    let config = world.store.config(&digest).expect("a configuration");
    assert_eq!(config.entrypoint, ["/server"]);
    let directory = PackRequest::new(world.dir.path(), reference("two"));
    let error = world
        .store
        .pack(directory)
        .await
        .expect_err("no entry point")
        .to_string();
    assert!(error.contains("--entrypoint"), "{error}");
}

#[tokio::test]
async fn every_compression_of_archive_and_layer_gives_the_same_files() {
    for inner in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        for outer in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
            let world = World::new();
            let layer = Layer::new().file("hello", "hi").finish();
            let image = TestImage::packed(&[layer], inner, |_| {});
            let tar = outer.pack(&image.layout_tar("app:1"));
            let imported = world.store.import_stream(&tar[..], None).await.expect("imported");
            let prepared = world.store.prepare(&imported[0].digest).await.expect("prepared");
            assert_eq!(
                fs::read_to_string(prepared.layers[0].join("hello")).expect("the file"),
                "hi"
            );
        }
    }
}

#[tokio::test]
async fn a_layout_directory_is_imported_and_links_in_it_are_not_followed() {
    let world = World::new();
    let image = hello();
    let dir = world.path("layout");
    write_layout(&dir, image.layout("app:1"));
    let imported = world.store.import_path(&dir, None).await.expect("imported");
    assert_eq!(imported[0].digest, image.manifest);

    let other = World::new();
    let config = dir.join("blobs/sha256").join(image.config.hex());
    let elsewhere = world.path("elsewhere");
    fs::rename(&config, &elsewhere).expect("moved");
    std::os::unix::fs::symlink(&elsewhere, &config).expect("a link");
    assert!(other.store.import_path(&dir, None).await.is_err());
    assert!(other.store.list().expect("a list").is_empty());
}

/// `docker save` up to version 24: layers as plain tars, equal ones as links, the description at the end.
fn old_docker_save(image: &TestImage, layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let mut tar = Layer::new();
    let mut names: Vec<String> = Vec::new();
    for (n, layer) in layers.iter().enumerate() {
        tar = tar.dir(&format!("layer{n}/"), 0o755);
        let name = format!("layer{n}/layer.tar");
        match layers[..n].iter().position(|earlier| earlier == layer) {
            Some(earlier) => tar = tar.symlink(&name, &format!("../layer{earlier}/layer.tar")),
            None => tar = tar.entry(tar::EntryType::Regular, name.as_bytes(), "", layer, |_| {}),
        }
        names.push(name);
    }
    let config = format!("{}.json", image.config.hex());
    tar = tar.entry(
        tar::EntryType::Regular,
        config.as_bytes(),
        "",
        &image.blobs[&image.config],
        |_| {},
    );
    let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": names}]).to_string();
    tar.file("manifest.json", &manifest).file("repositories", "{}").finish()
}

#[tokio::test]
async fn an_old_docker_save_archive_is_imported_under_all_its_tags() {
    let world = World::new();
    let base = Layer::new().file("a", "1").finish();
    let layers = [base.clone(), Layer::new().file("a", "2").finish(), base];
    let image = TestImage::packed(&layers, Packing::Plain, |_| {});
    let tar = old_docker_save(&image, &layers, &["web:1", "registry.example/web:latest"]);
    let imported = world.store.import_stream(&tar[..], None).await.expect("imported");
    let names: Vec<String> = imported.iter().map(|image| image.name.to_string()).collect();
    assert_eq!(names, ["web:1", "registry.example/web:latest"]);
    let prepared = world.store.prepare(&imported[0].digest).await.expect("prepared");
    assert_eq!(prepared.layers.len(), 3);
    assert_eq!(fs::read_to_string(prepared.layers[1].join("a")).expect("the file"), "2");
}

#[tokio::test]
async fn a_new_docker_save_archive_is_named_as_the_user_names_it() {
    let world = World::new();
    let image = hello();
    let mut descriptor = image.descriptor();
    descriptor["annotations"] =
        json!({"io.containerd.image.name": "docker.io/library/web:1", "org.opencontainers.image.ref.name": "1"});
    let mut files = image.layout_of(vec![descriptor]);
    let saved = json!([{"Config": format!("blobs/sha256/{}", image.config.hex()), "RepoTags": ["web:1"],
        "Layers": [format!("blobs/sha256/{}", image.layers[0].hex())]}]);
    files.insert("manifest.json".into(), saved.to_string().into_bytes());
    let imported = world
        .store
        .import_stream(&archive(&files)[..], None)
        .await
        .expect("imported");
    assert_eq!(imported[0].name, reference("web:1"));
    assert_eq!(
        world
            .store
            .resolve_local(&reference("docker.io/library/web:1"))
            .expect("read"),
        Some(image.manifest)
    );
}

#[tokio::test]
async fn an_archive_without_a_name_needs_one_and_a_given_one_replaces_its_own() {
    let world = World::new();
    let image = hello();
    let nameless = archive(&image.layout_of(vec![image.descriptor()]));
    let error = world
        .store
        .import_stream(&nameless[..], None)
        .await
        .expect_err("no name");
    assert!(matches!(error, ImageError::Unnamed), "{error}");
    let name = Some(reference("mine:2"));
    let imported = world
        .store
        .import_stream(&nameless[..], name.clone())
        .await
        .expect("imported");
    assert_eq!(imported[0].name, reference("mine:2"));
    let imported = world
        .store
        .import_stream(&image.layout_tar("web:1")[..], name)
        .await
        .expect("imported");
    assert_eq!(imported[0].name, reference("mine:2"));
    assert_eq!(world.store.resolve_local(&reference("web:1")).expect("read"), None);
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_with_both_architectures() {
    let world = World::new();
    let layer = [Layer::new().file("a", "1").finish()];
    let other = TestImage::packed(&layer, Packing::Gzip, |config| config["architecture"] = json!("s390x"));
    let error = world
        .store
        .import_stream(&other.layout_tar("app:1")[..], None)
        .await
        .expect_err("refused");
    let text = error.to_string();
    assert!(
        text.contains("linux/s390x") && text.contains(&Platform::here().to_string()),
        "{text}"
    );
    assert!(world.store.list().expect("a list").is_empty());

    let here = hello();
    let mut both = TestImage {
        blobs: here.blobs.clone(),
        ..other.clone()
    };
    both.blobs.extend(other.blobs.clone());
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        with_platform(&other, "s390x"), with_platform(&here, &Platform::here().architecture)]});
    let index = serde_json::to_vec(&index).expect("JSON");
    let index_digest = Digest::of(&index);
    let descriptor = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": index_digest,
        "size": index.len(), "annotations": {"org.opencontainers.image.ref.name": "app:1"}});
    both.blobs.insert(index_digest, index);
    let tar = archive(&both.layout_of(vec![descriptor]));
    let imported = world
        .store
        .import_stream(&tar[..], None)
        .await
        .expect("the one for this machine");
    assert_eq!(imported[0].digest, here.manifest);
}

fn with_platform(image: &TestImage, architecture: &str) -> serde_json::Value {
    let mut descriptor = image.descriptor();
    descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
    descriptor
}

#[tokio::test]
async fn a_damaged_archive_is_refused_by_name_and_leaves_nothing() {
    let image = hello();
    let whole = image.layout("app:1");
    let layer = format!("blobs/sha256/{}", image.layers[0].hex());
    let mut cases: Vec<(&str, Vec<u8>, &str)> = Vec::new();
    let edit = |change: &dyn Fn(&mut Files)| {
        let mut files = whole.clone();
        change(&mut files);
        archive(&files)
    };
    cases.push(("missing layer", edit(&|files| drop(files.remove(&layer))), "is missing"));
    cases.push((
        "changed layer",
        edit(&|files| files.get_mut(&layer).expect("the layer")[20] ^= 1),
        "does not have the promised content",
    ));
    cases.push((
        "bad index",
        edit(&|files| drop(files.insert("index.json".into(), b"{".to_vec()))),
        "corrupt",
    ));
    cases.push((
        "no index",
        edit(&|files| drop(files.remove("index.json"))),
        "neither index.json",
    ));
    cases.push(("not a tar", vec![b'x'; 4096], "corrupt"));
    cases.push(("empty", Vec::new(), "empty"));
    let cut = image.layout_tar("app:1");
    cases.push(("cut off", cut[..cut.len() / 2].to_vec(), "corrupt"));
    cases.push((
        "cut gzip",
        {
            let z = Packing::Gzip.pack(&cut);
            z[..z.len() / 2].to_vec()
        },
        "corrupt",
    ));
    for (case, tar, expected) in cases {
        let world = World::new();
        let error = world
            .store
            .import_stream(&tar[..], None)
            .await
            .expect_err(case)
            .to_string();
        assert!(error.contains(expected), "{case}: {error}");
        assert!(world.store.list().expect("a list").is_empty(), "{case}");
        assert!(world.leftovers().is_empty(), "{case}: {:?}", world.leftovers());
    }
}

/// An upload whose connection ends before the archive does.
#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let world = World::new();
    let tar = hello().layout_tar("app:1");
    let broken = tokio_test_reader(&tar[..tar.len() - 2000]);
    let error = world.store.import_stream(broken, None).await.expect_err("broken");
    assert!(error.to_string().contains("broke off"), "{error}");
    assert!(world.store.list().expect("a list").is_empty());
    assert!(world.leftovers().is_empty());
}

fn tokio_test_reader(bytes: &[u8]) -> impl tokio::io::AsyncRead + Send + Unpin + use<> {
    let pieces: Vec<std::io::Result<bytes::Bytes>> = vec![
        Ok(bytes::Bytes::copy_from_slice(bytes)),
        Err(std::io::Error::new(
            std::io::ErrorKind::ConnectionReset,
            "connection reset",
        )),
    ];
    tokio_util::io::StreamReader::new(futures_util::stream::iter(pieces))
}

#[tokio::test]
async fn an_archive_over_a_limit_is_refused_with_the_name_of_the_setting() {
    let big = Layer::new().file("big", &"x".repeat(300_000)).finish();
    let image = TestImage::packed(&[big.clone(), big], Packing::Plain, |_| {});
    let tar = image.layout_tar("app:1");
    let cases = [
        (
            "archive_bytes",
            Limits {
                archive_bytes: 100_000,
                ..Limits::default()
            },
        ),
        (
            "archive_members",
            Limits {
                archive_members: 2,
                ..Limits::default()
            },
        ),
        (
            "layers",
            Limits {
                layers: 1,
                ..Limits::default()
            },
        ),
        (
            "layer_bytes",
            Limits {
                layer_bytes: 100_000,
                ..Limits::default()
            },
        ),
        (
            "image_bytes",
            Limits {
                image_bytes: 400_000,
                ..Limits::default()
            },
        ),
        (
            "config_bytes",
            Limits {
                config_bytes: 10,
                ..Limits::default()
            },
        ),
        (
            "manifest_bytes",
            Limits {
                manifest_bytes: 10,
                ..Limits::default()
            },
        ),
    ];
    for (setting, limits) in cases {
        let world = World::with_limits(limits);
        let error = world
            .store
            .import_stream(&tar[..], None)
            .await
            .expect_err(setting)
            .to_string();
        assert!(error.contains(&format!("images.{setting})")), "{setting}: {error}");
        assert!(world.leftovers().is_empty(), "{setting}");
    }
}

#[tokio::test]
async fn an_archive_by_skopeo_is_imported() {
    if !installed(&["skopeo"]) {
        return;
    }
    let world = World::new();
    let image = hello();
    let layout = world.path("layout");
    write_layout(&layout, image.layout("app:1"));
    let source = format!("oci:{}:app:1", layout.display());
    for (kind, file) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        let target = format!("{kind}:{}:made/by-skopeo:7", world.path(file).display());
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", &source, &target])
            .output()
            .expect("skopeo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let imported = world.store.import_path(&world.path(file), None).await.expect(kind);
        assert!(
            imported[0].name.to_string().ends_with("made/by-skopeo:7"),
            "{}",
            imported[0].name
        );
        let prepared = world.store.prepare(&imported[0].digest).await.expect("prepared");
        assert_eq!(
            fs::read_to_string(prepared.layers[0].join("bin/hello")).expect("the file"),
            "hello"
        );
    }
}

#[tokio::test]
async fn an_image_by_umoci_is_imported() {
    if !installed(&["umoci"]) || !is_root() {
        println!("SKIPPED: umoci repacks layers only as root");
        return;
    }
    let world = World::new();
    let layout = world.path("layout");
    let run = |arguments: &[&str]| {
        let output = Command::new("umoci")
            .args(arguments)
            .current_dir(world.dir.path())
            .output()
            .expect("umoci runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run(&["init", "--layout", "layout"]);
    run(&["new", "--image", "layout:web"]);
    run(&["unpack", "--image", "layout:web", "bundle"]);
    let root = world.path("bundle/rootfs");
    fs::create_dir_all(root.join("etc")).expect("directories");
    fs::write(root.join("etc/conf"), "1").expect("a file");
    run(&["repack", "--image", "layout:web", "bundle"]);
    fs::remove_file(root.join("etc/conf")).expect("removed");
    fs::write(root.join("server"), "binary").expect("a file");
    run(&["repack", "--refresh-bundle", "--image", "layout:web", "bundle"]);
    run(&[
        "config",
        "--image",
        "layout:web",
        "--config.entrypoint",
        "/server",
        "--config.exposedports",
        "8080",
    ]);

    let imported = world
        .store
        .import_path(&layout, Some(reference("web:1")))
        .await
        .expect("imported");
    let prepared = world.store.prepare(&imported[0].digest).await.expect("prepared");
    assert_eq!(
        (prepared.config.entrypoint, prepared.config.exposed_ports),
        (vec!["/server".to_owned()], vec![8080])
    );
    let flat = world.path("flat");
    world
        .store
        .flatten(&imported[0].digest, &flat)
        .await
        .expect("flattened");
    assert!(flat.join("server").exists());
    assert!(!flat.join("etc/conf").exists(), "its whiteout was understood");
}
