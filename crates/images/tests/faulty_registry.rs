//! C5.13: a registry that fails, lies or stalls.

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::pulling::{assert_nothing_named, assert_whole, large, noise, pull, quick, world};
use common::registry::{Answer, Registry, Then};
use common::{Layer, Packing, TestImage, World};
use images::{Credentials, ImageError, Limits, Progress};
use serde_json::json;

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
