//! C5.13 and C6.7: a registry that fails, lies, stalls or sends us elsewhere.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::registry::{Answer, Registry, Then};
use common::{Layer, Packing, TestImage, World};
use images::{Credentials, Digest, ImageError, Limits, Progress, RegistryOptions};
use serde_json::json;

fn quick() -> RegistryOptions {
    RegistryOptions {
        backoff: Duration::from_millis(1),
        stall: Duration::from_millis(500),
        retry_after_max: Duration::from_secs(2),
        ..RegistryOptions::default()
    }
}

fn world() -> World {
    World::with(Limits::default(), quick())
}

/// Bytes that do not compress, the same each time.
fn noise(len: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).expect("a letter"))
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// One layer of about 400 KiB.
fn large() -> TestImage {
    TestImage::packed(
        &[Layer::new().file("noise", &noise(400_000)).finish()],
        Packing::Plain,
        |_| {},
    )
}

async fn pull(world: &World, registry: &Registry) -> Result<Digest, ImageError> {
    world.store.pull(&registry.reference("app:1"), None, |_| {}).await
}

async fn assert_whole(world: &World, image: &TestImage, pulled: Result<Digest, ImageError>) {
    let digest = pulled.expect("pulled");
    assert_eq!(digest, image.manifest);
    let prepared = world.store.prepare(&digest).await.expect("prepared");
    assert_eq!(
        fs::read_to_string(prepared.layers[0].join("noise")).expect("the file"),
        noise(400_000)
    );
    assert!(world.leftovers().is_empty());
}

/// Nothing but whole blobs stayed, and nothing that a name leads to.
fn assert_nothing_named(world: &World) {
    assert!(world.store.list().expect("a list").is_empty());
    assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
}

#[tokio::test]
async fn a_dropped_connection_is_continued_where_it_stopped() {
    let (world, image) = (world(), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, right| {
        if request.path.contains(&layer) && request.nth == 0 {
            right.cut(150_000, Then::Close)
        } else {
            right
        }
    })
    .await;
    assert_whole(&world, &image, pull(&world, &registry).await).await;
    let requests = registry.requests_of(&image.layers[0].to_string());
    assert_eq!(requests.len(), 2);
    let continued = requests[1].from.expect("a range");
    assert!(continued > 0 && continued <= 150_000, "continued at {continued}");
}

#[tokio::test]
async fn progress_resets_the_count_of_attempts_so_a_bad_line_gets_there_in_the_end() {
    let (world, image) = (world(), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, right| {
        if request.path.contains(&layer) && right.body.len() > 30_000 {
            right.cut(30_000, Then::Close)
        } else {
            right
        }
    })
    .await;
    assert_whole(&world, &image, pull(&world, &registry).await).await;
    assert!(registry.requests_of(&image.layers[0].to_string()).len() >= 13);
}

#[tokio::test]
async fn a_stalled_transfer_is_continued() {
    let (world, image) = (world(), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, right| {
        if request.path.contains(&layer) && request.nth == 0 {
            right.cut(150_000, Then::Hang)
        } else {
            right
        }
    })
    .await;
    assert_whole(&world, &image, pull(&world, &registry).await).await;
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_is_read_from_the_start_again() {
    let image = large();
    let content = image.blobs[&image.layers[0]].clone();
    for wrong_place in [false, true] {
        let (layer, content) = (image.layers[0].to_string(), content.clone());
        let registry = Registry::serve(&image, move |request, right| match request.nth {
            _ if !request.path.contains(&layer) => right,
            0 => right.cut(150_000, Then::Close),
            1 if wrong_place => Answer::new(206)
                .header("Content-Range", "bytes 5-399999/400000")
                .body(&content[5..]),
            _ => Answer::new(200).body(content.clone()),
        })
        .await;
        let world = world();
        assert_whole(&world, &image, pull(&world, &registry).await).await;
    }
}

#[tokio::test]
async fn a_blob_with_a_wrong_digest_is_refused_and_not_kept() {
    let (world, image) = (world(), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, mut right| {
        if request.path.contains(&layer) {
            right.body[1000] ^= 1;
        }
        right
    })
    .await;
    let error = pull(&world, &registry).await.expect_err("refused");
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }) && !error.is_transient(),
        "{error}"
    );
    assert!(!world.stored("blobs/sha256").contains(&image.layers[0].hex()));
    assert_nothing_named(&world);
}

#[tokio::test]
async fn a_manifest_with_a_wrong_digest_is_refused() {
    let (world, image) = (world(), large());
    let registry = Registry::serve(&image, |request, mut right| {
        if request.path.contains("/manifests/") {
            right.body.push(b' ');
        }
        right
    })
    .await;
    for name in ["app:1".to_owned(), format!("app@{}", image.manifest)] {
        let error = world
            .store
            .pull(&registry.reference(&name), None, |_| {})
            .await
            .expect_err("refused");
        assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error}");
    }
    assert_nothing_named(&world);
}

#[tokio::test]
async fn a_blob_that_is_always_cut_short_or_too_long_ends_the_pull() {
    let image = large();
    let layer = image.layers[0].to_string();
    let short = layer.clone();
    let registry = Registry::serve(&image, move |request, right| {
        // Without a range the whole but its end, with one nothing more: no attempt gets further than the first.
        match request.from {
            _ if !request.path.contains(&short) => right,
            None => {
                let mut right = right;
                right.body.truncate(399_000);
                right
            }
            Some(_) => Answer {
                body: Vec::new(),
                ..right
            },
        }
    })
    .await;
    let world = world();
    let error = pull(&world, &registry).await.expect_err("gives up");
    assert!(
        matches!(error, ImageError::Registry { .. }) && error.is_transient(),
        "{error}"
    );
    assert_eq!(
        registry.requests_of(&layer).len(),
        5,
        "the first got somewhere, four did not"
    );
    assert_nothing_named(&world);

    let long = layer.clone();
    let registry = Registry::serve(&image, move |request, mut right| {
        if request.path.contains(&long) {
            right.body.extend_from_slice(&[0; 100_000]);
        }
        right
    })
    .await;
    let error = pull(&world, &registry).await.expect_err("refused");
    assert!(error.to_string().contains("more than the promised"), "{error}");
    assert_nothing_named(&world);
}

#[tokio::test]
async fn a_registry_that_asks_to_wait_is_waited_for_within_bounds() {
    let (world, image) = (world(), large());
    let waits = Mutex::new(Vec::new());
    let registry = Registry::serve(&image, |request, right| match request.nth {
        0 => Answer::new(429).header("Retry-After", 1),
        _ => right,
    })
    .await;
    let started = Instant::now();
    let note = |progress| {
        if let Progress::Retrying { wait, .. } = progress {
            waits.lock().expect("waits").push(wait);
        }
    };
    let pulled = world.store.pull(&registry.reference("app:1"), None, note).await;
    assert_whole(&world, &image, pulled).await;
    assert!(
        started.elapsed() >= Duration::from_secs(3),
        "manifest, configuration and layer were each waited for"
    );
    assert_eq!(*waits.lock().expect("waits"), [Duration::from_secs(1); 3]);

    let registry = Registry::serve(&image, |_, _| Answer::new(429).header("Retry-After", 3600)).await;
    let error = pull(&World::with(Limits::default(), quick()), &registry)
        .await
        .expect_err("too long");
    assert!(matches!(error, ImageError::RateLimited { wait_s: 3600, .. }), "{error}");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn errors_of_the_server_are_tried_again_a_bounded_number_of_times() {
    let image = large();
    let registry = Registry::serve(
        &image,
        |request, right| if request.nth < 2 { Answer::new(503) } else { right },
    )
    .await;
    let world = world();
    assert_whole(&world, &image, pull(&world, &registry).await).await;

    let registry = Registry::serve(&image, |_, _| Answer::new(500)).await;
    let error = pull(&world, &registry).await.expect_err("gives up");
    assert!(
        error.is_transient() && error.to_string().contains("tried 5 times"),
        "{error}"
    );
    assert_eq!(registry.requests().len(), 5);
    // A port where nobody listens any more.
    let gone = common::reference(&format!("127.0.0.1:{}/app:1", free_port()));
    let error = world.store.pull(&gone, None, |_| {}).await.expect_err("gives up");
    assert!(error.is_transient(), "{error}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port()
}

#[tokio::test]
async fn an_unknown_image_is_said_to_be_unknown_at_once() {
    let (world, image) = (world(), large());
    let registry = Registry::serve(&image, |_, right| right).await;
    let error = world
        .store
        .pull(&registry.reference("app:2"), None, |_| {})
        .await
        .expect_err("unknown");
    assert!(
        matches!(error, ImageError::NotInRegistry { .. }) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_of_a_pull_is_renewed() {
    let image = large();
    let tokens = Registry::serve(&image, {
        let count = Mutex::new(0);
        move |request, _| {
            if request.authorization.as_deref() != Some("Basic bWU6czNjcmV0") {
                return Answer::new(401);
            }
            let mut count = count.lock().expect("count");
            *count += 1;
            Answer::new(200).body(json!({"access_token": format!("t{count}")}).to_string())
        }
    })
    .await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:app:pull\"",
        tokens.address
    );
    let uses = Mutex::new(BTreeMap::<String, usize>::new());
    let registry = Registry::serve(&image, move |request, right| {
        let refuse = || Answer::new(401).header("WWW-Authenticate", &challenge);
        let Some(token) = &request.authorization else {
            return refuse();
        };
        let mut uses = uses.lock().expect("uses");
        let used = uses.entry(token.clone()).or_default();
        *used += 1;
        if token.starts_with("Bearer t") && *used <= 1 {
            right
        } else {
            refuse()
        }
    })
    .await;
    let me = Credentials::new("me", "s3cret");
    let world = world();
    let pulled = world.store.pull(&registry.reference("app:1"), Some(me), |_| {}).await;
    assert_whole(&world, &image, pulled).await;
    assert_eq!(
        tokens.requests().len(),
        3,
        "a token each for manifest, configuration and layer"
    );
    assert!(
        registry
            .requests()
            .iter()
            .all(|r| !r.authorization.clone().unwrap_or_default().starts_with("Basic"))
    );
    assert!(
        tokens.requests()[0].path.contains("scope=repository%3Aapp%3Apull"),
        "{:?}",
        tokens.requests()[0]
    );

    for wrong in [None, Some(Credentials::new("me", "wrong"))] {
        let error = world
            .store
            .pull(&registry.reference("app:1"), wrong, |_| {})
            .await
            .expect_err("refused");
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
        assert!(!error.to_string().contains("wrong\""), "no secret in {error}");
    }
}

#[tokio::test]
async fn a_registry_that_never_lets_us_in_is_not_asked_for_ever() {
    let (world, image) = (world(), large());
    let registry = Registry::serve(&image, |_, _| {
        Answer::new(401).header("WWW-Authenticate", "Basic realm=\"x\"")
    })
    .await;
    let me = Credentials::new("me", "s3cret");
    let error = world
        .store
        .pull(&registry.reference("app:1"), Some(me), |_| {})
        .await
        .expect_err("refused");
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(registry.requests().len(), 2);
}

#[tokio::test]
async fn a_redirect_is_followed_without_our_credentials() {
    let (world, image) = (world(), large());
    let storage = Registry::serve(&image, |_, right| right).await;
    let elsewhere = storage.address;
    let registry = Registry::serve(&image, move |request, right| {
        if request.authorization.is_none() {
            return Answer::new(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains("/blobs/") {
            return Answer::new(307).header(
                "Location",
                format!("http://localhost:{}{}", elsewhere.port(), request.path),
            );
        }
        right
    })
    .await;
    let me = Credentials::new("me", "s3cret");
    let pulled = world.store.pull(&registry.reference("app:1"), Some(me), |_| {}).await;
    assert_whole(&world, &image, pulled).await;
    assert!(!storage.requests().is_empty());
    assert!(storage.requests().iter().all(|request| request.authorization.is_none()));
}

#[tokio::test]
async fn no_registry_sends_us_to_the_metadata_service() {
    let image = large();
    for place in [
        "http://169.254.169.254/latest",
        "http://[::ffff:a9fe:a9fe]/latest",
        "http://2852039166/x",
        "file:///etc/passwd",
    ] {
        let world = world();
        let registry = Registry::serve(&image, move |_, _| Answer::new(302).header("Location", place)).await;
        let error = pull(&world, &registry).await.expect_err(place);
        let refused = matches!(error, ImageError::AddressRefused { .. } | ImageError::Registry { .. });
        assert!(refused && registry.requests().len() == 1, "{place}: {error}");

        let realm = format!("Bearer realm=\"{place}\"");
        let registry = Registry::serve(&image, move |_, _| Answer::new(401).header("WWW-Authenticate", &realm)).await;
        let error = pull(&world, &registry).await.expect_err(place);
        assert!(registry.requests().len() <= 5, "{place}: {error}");
    }
    let closed = World::with(
        Limits::default(),
        RegistryOptions {
            allow_private: false,
            ..quick()
        },
    );
    let registry = Registry::serve(&image, |_, right| right).await;
    for host in [
        registry.address.to_string(),
        format!("localhost:{}", registry.address.port()),
    ] {
        let reference = common::reference(&format!("{host}/app:1"));
        let error = closed.store.pull(&reference, None, |_| {}).await.expect_err("refused");
        assert!(matches!(error, ImageError::AddressRefused { .. }), "{host}: {error}");
    }
    assert!(registry.requests().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn abusive_manifests_are_refused_before_anything_is_fetched() {
    let image = large();
    let manifest = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_slice(&image.blobs[&image.manifest]).expect("JSON");
        change(&mut json);
        serde_json::to_vec(&json).expect("JSON")
    };
    let many = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": image.layers[0], "size": 1});
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "10^4 layers",
            manifest(&|m| m["layers"] = json!(vec![many.clone(); 10_000])),
            "images.layers",
        ),
        (
            "huge layer",
            manifest(&|m| m["layers"][0]["size"] = json!(u64::MAX)),
            "images.layer_bytes",
        ),
        (
            "negative size",
            manifest(&|m| m["layers"][0]["size"] = json!(-1)),
            "corrupt",
        ),
        (
            "huge configuration",
            manifest(&|m| m["config"]["size"] = json!(1_u64 << 40)),
            "images.config_bytes",
        ),
        (
            "foreign layer",
            manifest(&|m| {
                m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
                m["layers"][0]["urls"] = json!(["http://169.254.169.254/"]);
            }),
            "third place",
        ),
        (
            "no image",
            manifest(&|m| m["config"]["mediaType"] = json!("application/vnd.helm.config")),
            "container images",
        ),
        (
            "bad digest",
            manifest(&|m| m["layers"][0]["digest"] = json!("sha256:../../etc/passwd")),
            "corrupt",
        ),
        ("index and image", manifest(&|m| m["manifests"] = json!([])), "at once"),
        ("schema 1", br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), "schema 1"),
        ("no JSON", b"<html>".to_vec(), "corrupt"),
        ("too large", vec![b' '; 5 << 20], "images.manifest_bytes"),
        (
            "index of nothing",
            br#"{"schemaVersion":2,"manifests":[]}"#.to_vec(),
            "no machine at all",
        ),
        ("deep JSON", [vec![b'['; 1 << 20], Vec::new()].concat(), "corrupt"),
    ];
    for (case, body, expected) in cases {
        let world = world();
        let documents = BTreeMap::from([("1".to_owned(), (String::new(), body))]);
        let registry = Registry::serve_documents(&image, documents, |_, right| right).await;
        let error = pull(&world, &registry).await.expect_err(case);
        assert!(error.to_string().contains(expected), "{case}: {error}");
        assert!(
            registry.requests_of("/blobs/").is_empty(),
            "{case}: something was fetched"
        );
        assert_nothing_named(&world);
    }
    let inner = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
    let mut nested = image.clone();
    let outer = json!({"schemaVersion": 2, "manifests": [{"mediaType": "", "digest": Digest::of(&inner), "size": 1}]});
    nested.blobs.insert(Digest::of(&inner), inner);
    let outer = serde_json::to_vec(&outer).expect("JSON");
    let documents = BTreeMap::from([("1".to_owned(), (String::new(), outer))]);
    let registry = Registry::serve_documents(&nested, documents, |_, right| right).await;
    let error = pull(&world(), &registry).await.expect_err("nested").to_string();
    assert!(error.contains("index inside an index"), "{error}");
}

#[tokio::test]
async fn layers_come_three_at_a_time_and_only_those_that_are_missing() {
    let layers: Vec<Vec<u8>> = (0..8)
        .map(|n| Layer::new().file("noise", &noise(10_000 + n)).finish())
        .collect();
    let image = TestImage::packed(&layers, Packing::Zstd, |_| {});
    let registry = Registry::serve(&image, |_, right| right).await;
    let world = world();
    let seen = Mutex::new(Vec::new());
    let note = |progress| seen.lock().expect("seen").push(progress);
    world
        .store
        .pull(&registry.reference("app:1"), None, note)
        .await
        .expect("pulled");
    assert!(
        (2..=3).contains(&registry.most_busy()),
        "{} at once",
        registry.most_busy()
    );
    let seen = seen.into_inner().expect("seen");
    assert!(matches!(seen[0], Progress::Resolved { layers: 8, missing_bytes, .. } if missing_bytes > 0));
    let done = seen
        .iter()
        .filter(|p| matches!(p, Progress::Layer { done, total, .. } if done == total))
        .count();
    assert_eq!(done, 8);

    let before = registry.requests().len();
    world
        .store
        .pull(&registry.reference("app:1"), None, |_| {})
        .await
        .expect("pulled again");
    assert_eq!(
        registry.requests().len(),
        before + 1,
        "only the manifest is asked for again"
    );
    let reference = registry.reference("app:1");
    assert_eq!(
        world.store.resolve_local(&reference).expect("read"),
        None,
        "a pulled tag is not a local one"
    );
    assert_eq!(
        world.store.resolve_pulled(&reference).expect("read"),
        Some(image.manifest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_given_up_leaves_nothing_half_done() {
    let (world, image) = (world(), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, right| {
        if request.path.contains(&layer) {
            right.cut(150_000, Then::Hang)
        } else {
            right
        }
    })
    .await;
    let (store, reference) = (world.store.clone(), registry.reference("app:1"));
    let pulling = tokio::spawn(async move { store.pull(&reference, None, |_| {}).await });
    wait_until("the download began", || !world.leftovers().is_empty()).await;
    pulling.abort();
    wait_until("the half blob is gone", || world.leftovers().is_empty()).await;
    assert_nothing_named(&world);
}

async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_registry_that_drips_is_not_waited_for_for_ever() {
    let hasty = RegistryOptions {
        stall: Duration::from_millis(50),
        ..quick()
    };
    let (world, image) = (World::with(Limits::default(), hasty), large());
    let layer = image.layers[0].to_string();
    let registry = Registry::serve(&image, move |request, right| {
        if request.path.contains(&layer) {
            right.cut(100, Then::Drip)
        } else {
            right
        }
    })
    .await;
    let started = Instant::now();
    let error = pull(&world, &registry).await.expect_err("gives up");
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "took {:?}",
        started.elapsed()
    );
    assert_nothing_named(&world);
}
