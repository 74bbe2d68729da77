//! Names, collection, and what a kill or a full disk leaves behind.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Layer, Packing, TestImage, World, is_root, reference};
use images::{Digest, ImageError, ImageStore, Limits, Origin};

const NOW: Duration = Duration::ZERO;

fn image(content: &str) -> TestImage {
    TestImage::new(&[
        Layer::new().file("base", "base").finish(),
        Layer::new().file("content", content).finish(),
    ])
}

async fn import(world: &World, image: &TestImage, name: &str) -> Digest {
    let imported = world
        .store
        .import_stream(&image.layout_tar(name)[..], None)
        .await
        .expect("imported");
    imported[0].digest
}

#[tokio::test]
async fn a_name_moves_with_the_next_import_and_goes_with_rm() {
    let world = World::new();
    let (one, two) = (image("1"), image("2"));
    import(&world, &one, "web:1").await;
    import(&world, &two, "web:1").await;
    assert_eq!(
        world.store.resolve_local(&reference("web:1")).expect("read"),
        Some(two.manifest)
    );
    let pinned = reference(&format!("web@{}", one.manifest));
    assert_eq!(
        world.store.resolve_local(&pinned).expect("read"),
        Some(one.manifest),
        "content is still here"
    );
    world.store.tag(&one.manifest, &reference("old")).expect("tagged");
    let names: Vec<String> = world
        .store
        .list()
        .expect("a list")
        .iter()
        .map(|info| info.name.to_string())
        .collect();
    assert_eq!(names, ["old:latest", "web:1"]);
    let info = &world.store.list().expect("a list")[0];
    assert_eq!((info.digest, info.origin), (one.manifest, Origin::Local));
    assert_eq!(info.size, one.blobs.values().map(|blob| blob.len() as u64).sum::<u64>());
    world.store.remove(&reference("old:latest")).expect("removed");
    let error = world.store.remove(&reference("old")).expect_err("unknown").to_string();
    assert!(error.contains("hob image import") && error.contains("old"), "{error}");
    assert!(world.store.tag(&Digest::of(b"nothing"), &reference("x")).is_err());
}

#[tokio::test]
async fn collection_keeps_names_deployments_and_what_is_prepared_and_takes_the_rest() {
    let world = World::new();
    let images = [image("named"), image("deployed"), image("prepared"), image("garbage")];
    for (n, image) in images.iter().enumerate() {
        import(&world, image, &format!("i:{n}")).await;
        drop(world.store.prepare(&image.manifest).await.expect("prepared"));
    }
    for n in 1..4 {
        world.store.remove(&reference(&format!("i:{n}"))).expect("removed");
    }
    let in_use = HashSet::from([images[1].manifest]);
    let prepared = world.store.prepare(&images[2].manifest).await.expect("prepared");
    assert_eq!(world.stored("layers").len(), 5, "one base and four tops");

    let young = world
        .store
        .collect_garbage(&in_use, Duration::from_secs(3600))
        .await
        .expect("collected");
    assert_eq!(
        (young.blobs, young.layers),
        (0, 0),
        "nothing younger than the minimum age goes"
    );

    let freed = world.store.collect_garbage(&in_use, NOW).await.expect("collected");
    assert_eq!(
        (freed.blobs, freed.layers),
        (3, 1),
        "manifest, configuration and top layer of the garbage"
    );
    assert!(freed.bytes > 0);
    for image in &images[..3] {
        world.store.prepare(&image.manifest).await.expect("still whole");
    }
    assert!(matches!(
        world.store.prepare(&images[3].manifest).await,
        Err(ImageError::UnknownDigest(digest)) if digest == images[3].manifest
    ));
    drop(prepared);
    let freed = world
        .store
        .collect_garbage(&HashSet::new(), NOW)
        .await
        .expect("collected");
    assert_eq!((freed.blobs, freed.layers), (6, 2));
    assert_eq!(world.stored("layers").len(), 2);
    world
        .store
        .prepare(&images[0].manifest)
        .await
        .expect("the named image is whole");
}

/// Collections run all the time while images come and go; whoever holds an image finds it whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collection_never_takes_what_an_import_in_progress_needs() {
    let world = World::new();
    let store = world.store.clone();
    let stop = tokio_util::sync::CancellationToken::new();
    let stopped = stop.clone();
    let collector = tokio::spawn(async move {
        let mut runs = 0;
        while !stopped.is_cancelled() {
            store.collect_garbage(&HashSet::new(), NOW).await.expect("collected");
            runs += 1;
            tokio::task::yield_now().await;
        }
        runs
    });
    let workers = (0..3).map(|worker| {
        let store = world.store.clone();
        tokio::spawn(async move {
            for round in 0..4 {
                let image = image(&format!("{}", round % 3));
                let name = reference(&format!("w{worker}:{round}"));
                let tar = image.layout_tar("x:1");
                let imported = store
                    .import_stream(&tar[..], Some(name.clone()))
                    .await
                    .expect("imported");
                let prepared = store.prepare(&imported[0].digest).await.expect("prepared");
                store.remove(&name).expect("removed");
                assert!(
                    prepared.layers.iter().all(|layer| layer.exists()),
                    "a prepared image stays"
                );
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.expect("the worker's assertions hold");
    }
    stop.cancel();
    assert!(collector.await.expect("the collector ends") > 0);
    world
        .store
        .collect_garbage(&HashSet::new(), NOW)
        .await
        .expect("collected");
    assert!(world.stored("blobs/sha256").is_empty() && world.stored("layers").is_empty());
}

#[tokio::test]
async fn a_damaged_index_is_read_from_its_copy_and_never_as_empty() {
    let world = World::new();
    let one = image("1");
    import(&world, &one, "web:1").await;
    let index = world.path("images/names.json");
    let whole = fs::read(&index).expect("the index");
    for cut in 0..whole.len() {
        fs::write(&index, &whole[..cut]).expect("damaged");
        assert_eq!(
            world.store.resolve_local(&reference("web:1")).expect("read"),
            Some(one.manifest),
            "cut at {cut}"
        );
    }
    fs::write(world.path("images/names.copy.json"), "{").expect("damaged");
    assert!(world.store.resolve_local(&reference("web:1")).is_err());
    assert!(
        world.store.collect_garbage(&HashSet::new(), NOW).await.is_err(),
        "nothing is collected blindly"
    );
    fs::write(&index, &whole).expect("repaired");
    world.store.prepare(&one.manifest).await.expect("still whole");
}

#[tokio::test]
async fn a_damaged_manifest_stops_the_collection() {
    let world = World::new();
    let one = image("1");
    import(&world, &one, "web:1").await;
    fs::write(world.path("images/blobs/sha256").join(one.manifest.hex()), "{}").expect("damaged");
    assert!(world.store.collect_garbage(&HashSet::new(), NOW).await.is_err());
    assert_eq!(world.stored("blobs/sha256").len(), one.blobs.len());
}

/// Two stores on one directory stand for two processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_share_a_store() {
    let world = World::new();
    let other = ImageStore::open(world.path("images"), Limits::default()).expect("a second store");
    let one = image("1");
    import(&world, &one, "web:1").await;
    assert_eq!(
        other.resolve_local(&reference("web:1")).expect("read"),
        Some(one.manifest)
    );
    let (a, b) = tokio::join!(world.store.prepare(&one.manifest), other.prepare(&one.manifest));
    assert_eq!(a.expect("prepared").layers, b.expect("prepared").layers);
    let names = (0..8).map(|n| {
        let store = if n % 2 == 0 { world.store.clone() } else { other.clone() };
        let digest = one.manifest;
        tokio::task::spawn_blocking(move || store.tag(&digest, &reference(&format!("n:{n}"))).expect("tagged"))
    });
    for name in names.collect::<Vec<_>>() {
        name.await.expect("tagged");
    }
    assert_eq!(other.list().expect("a list").len(), 9, "no write was lost");
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing_half_done() {
    if !is_root() {
        println!("SKIPPED: a small file system can only be mounted by root");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mount = dir.path().join("small");
    fs::create_dir(&mount).expect("a directory");
    let flags = nix::mount::MsFlags::empty();
    if let Err(error) = nix::mount::mount(Some("tmpfs"), &mount, Some("tmpfs"), flags, Some("size=3m")) {
        println!("SKIPPED: this machine refuses mounts: {error}");
        return;
    }
    let result = fill(&mount).await;
    nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    result.expect("the assertions hold");
}

async fn fill(mount: &Path) -> Result<(), String> {
    let root = mount.join("images");
    let store = ImageStore::open(root.clone(), Limits::default()).map_err(|error| error.to_string())?;
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    // 8 MiB of x compress to few KiB: the import fits, the unpacked layer does not.
    let fits = TestImage::new(&[Layer::new().file("big", &"x".repeat(8 << 20)).finish()]);
    store
        .import_stream(&fits.layout_tar("fits:1")[..], None)
        .await
        .map_err(|error| error.to_string())?;
    let Err(error) = store.prepare(&fits.manifest).await else {
        return Err("8 MiB fit into 3".into());
    };
    check(
        matches!(error, ImageError::NoSpace { .. }),
        &format!("unpacking: {error}"),
    )?;
    check(
        fs::read_dir(root.join("layers")).is_ok_and(|mut dir| dir.next().is_none()),
        "a layer is visible",
    )?;

    let large = TestImage::packed(
        &[Layer::new().file("big", &"x".repeat(8 << 20)).finish()],
        Packing::Plain,
        |_| {},
    );
    let Err(error) = store.import_stream(&large.layout_tar("large:1")[..], None).await else {
        return Err("8 MiB fit into 3".into());
    };
    check(
        matches!(error, ImageError::NoSpace { .. }),
        &format!("importing: {error}"),
    )?;
    check(
        store.list().is_ok_and(|list| list.len() == 1),
        "the failed import is listed",
    )?;

    let small = TestImage::new(&[Layer::new().file("small", "x").finish()]);
    store
        .import_stream(&small.layout_tar("small:1")[..], None)
        .await
        .map_err(|error| error.to_string())?;
    store
        .prepare(&small.manifest)
        .await
        .map_err(|error| format!("space was not given back: {error}"))?;
    Ok(())
}

const CHILD: &str = "HOB_TEST_UNPACK_IN";

/// Not a test by itself: the process that the next test kills.
#[tokio::test]
async fn child_that_unpacks() {
    let Some(root) = std::env::var_os(CHILD) else { return };
    let store = ImageStore::open(root.into(), Limits::default()).expect("a store");
    let digest = store
        .resolve_local(&reference("big:1"))
        .expect("read")
        .expect("imported");
    store.prepare(&digest).await.expect("prepared");
}

#[tokio::test]
async fn a_kill_in_the_middle_of_unpacking_leaves_nothing_visible() {
    let world = World::new();
    let many = (0..30_000).fold(Layer::new(), |layer, n| {
        layer.file(&format!("d{}/f{n}", n % 50), "content")
    });
    let big = TestImage::new(&[many.finish()]);
    import(&world, &big, "big:1").await;
    let root = world.path("images");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_unpacks"])
        .env(CHILD, &root)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !world.leftovers().iter().any(|path| path.join("fs/d40").exists()) {
        assert!(Instant::now() < deadline, "the child never got so far");
        assert!(
            child.try_wait().expect("a child").is_none(),
            "the child was done before it could be killed"
        );
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert!(world.stored("layers").is_empty(), "half a layer is visible");
    assert!(!world.leftovers().is_empty(), "the kill came too late to show anything");

    let next = ImageStore::open(root, Limits::default()).expect("a store");
    assert!(
        world.leftovers().is_empty(),
        "the next start sweeps what the killed process left"
    );
    let prepared = next.prepare(&big.manifest).await.expect("prepared");
    assert_eq!(fs::read_dir(&prepared.layers[0]).expect("the layer").count(), 50);
}

#[tokio::test]
async fn a_layer_that_the_disk_damaged_is_removed_so_that_the_next_import_brings_it_again() {
    let world = World::new();
    let one = image("1");
    import(&world, &one, "web:1").await;
    let blob = world.path("images/blobs/sha256").join(one.layers[1].hex());
    let mut bytes = fs::read(&blob).expect("the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&blob, bytes).expect("damaged");
    let error = world
        .store
        .prepare(&one.manifest)
        .await
        .expect_err("damaged")
        .to_string();
    assert!(error.contains("damaged on disk"), "{error}");
    assert_eq!(
        world.store.resolve_local(&reference("web:1")).expect("read"),
        None,
        "an image with a hole is no image"
    );
    import(&world, &one, "web:1").await;
    world.store.prepare(&one.manifest).await.expect("whole again");
}

#[tokio::test]
async fn a_full_list_of_names_refuses_more() {
    let world = World::with_limits(Limits {
        names: 2,
        ..Limits::default()
    });
    let one = image("1");
    import(&world, &one, "a:1").await;
    import(&world, &one, "a:2").await;
    import(&world, &one, "a:2").await;
    let error = world
        .store
        .tag(&one.manifest, &reference("a:3"))
        .expect_err("full")
        .to_string();
    assert!(error.contains("images.names"), "{error}");
}
