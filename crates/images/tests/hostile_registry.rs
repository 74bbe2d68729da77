//! C6.7: registries that mean ill. They send us elsewhere, send too much, or never end.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::World;
use common::pulling::{assert_nothing_named, assert_whole, large, pull, quick, world};
use common::registry::{Answer, Registry, Then};
use images::{Credentials, Digest, ImageError, Limits, RegistryOptions};
use serde_json::json;

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
