//! What goes wrong, and how the face says it.

use axum::body::Body;
use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::world::World;

/// S2.20, S2.21, S2.28, S2.29, OPEN-4: what one may not do is forbidden; another's and nobody's are not found.
#[tokio::test]
async fn what_one_may_not_do_is_forbidden_and_what_one_may_not_know_is_not_found() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let id = alice.make_service("web").await;
    let nobody = "123e4567-e89b-12d3-a456-426614174000";
    let not_found = json!({"detail": "Not found."});
    for unknown in [&id, nobody] {
        let answer = bob.get(&format!("/api/services/{unknown}/")).await;
        answer.refuses(404, not_found.clone());
    }
    let project = alice.get(&format!("/api/services/{id}/")).await.expect(200)["project"].clone();
    let members = format!("/api/projects/{}/members/", project.as_str().expect("an id"));
    alice
        .post(&members, json!({"name": "bob", "role": "viewer"}))
        .await
        .expect(201);
    bob.get(&format!("/api/services/{id}/")).await.expect(200);
    let forbidden = json!({"detail": "You do not have permission to perform this action."});
    bob.delete(&format!("/api/services/{id}/"))
        .await
        .refuses(403, forbidden);
}

/// I.6: 404, like any id of nothing.
#[tokio::test]
async fn an_id_that_is_no_uuid_does_not_exist() {
    let world = World::new().await;
    let alice = world.alice().await;
    for id in [
        "1",
        "x",
        "%00",
        "123e4567e89b12d3a456426614174000",
        "..%2f",
        "null",
        "%F0%9F",
    ] {
        alice
            .get(&format!("/api/services/{id}/"))
            .await
            .refuses(404, json!({"detail": "Not found."}));
    }
}

/// S2.43, G.7, I.4: PUT is nobody's verb; `Allow` says whose are.
#[tokio::test]
async fn a_wrong_verb_is_405_with_allow() {
    let world = World::new().await;
    let alice = world.alice().await;
    let id = alice.make_service("web").await;
    let answer = alice
        .json(Method::PUT, &format!("/api/services/{id}/"), json!({}))
        .await;
    let allow: Vec<&str> = answer.header("allow").split(',').collect();
    for verb in ["GET", "PATCH", "DELETE"] {
        assert!(allow.contains(&verb), "{allow:?}");
    }
    answer.refuses(405, json!({"detail": "Method \"PUT\" not allowed."}));
    let answer = alice.delete("/api/services/").await;
    assert!(answer.header("allow").contains("POST"), "{}", answer.header("allow"));
    answer.refuses(405, json!({"detail": "Method \"DELETE\" not allowed."}));
}

/// S2.14, I.4: JSON, and nothing else.
#[tokio::test]
async fn what_is_not_json_is_415() {
    let world = World::new().await;
    let alice = world.alice().await;
    for sent in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "multipart/form-data; boundary=x",
    ] {
        let actor = alice.clone().with_header(CONTENT_TYPE, sent);
        let answer = actor
            .send(Method::POST, "/api/projects/", Body::from("{\"name\":\"x\"}"))
            .await;
        answer.refuses(
            415,
            json!({"detail": format!("Unsupported media type \"{sent}\" in request.")}),
        );
    }
    let untyped = alice.send(Method::POST, "/api/projects/", Body::from("{}")).await;
    untyped.refuses(415, json!({"detail": "Unsupported media type \"\" in request."}));
    let actor = alice.with_header(CONTENT_TYPE, "Application/JSON; charset=utf-8");
    let answer = actor
        .send(Method::POST, "/api/projects/", Body::from("{\"name\":\"x\"}"))
        .await;
    answer.expect(201);
}

/// I.4: what was sent is not repeated.
#[tokio::test]
async fn broken_json_is_400_and_quotes_nothing() {
    let world = World::new().await;
    let alice = world.alice().await.with_header(CONTENT_TYPE, "application/json");
    let deep = "[".repeat(100_000);
    let digits = format!("{{\"port\": {}}}", "9".repeat(500_000));
    let broken: [&[u8]; 6] = [
        b"{",
        b"{\"name\": hunter2}",
        b"\xff\xfe",
        deep.as_bytes(),
        digits.as_bytes(),
        b"{} {}",
    ];
    for body in broken {
        let answer = alice
            .send(Method::POST, "/api/services/", Body::from(body.to_vec()))
            .await;
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
        assert!(answer.text.len() < 500, "{}", answer.text.len());
        let problem = answer.expect(400);
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with("JSON parse error - "), "{problem}");
    }
}

/// I.4: arrays, texts and numbers are no bodies.
#[tokio::test]
async fn a_body_that_is_no_object_is_named_by_its_type() {
    let world = World::new().await;
    let alice = world.alice().await;
    for (body, kind) in [
        (json!([1]), "list"),
        (json!("x"), "str"),
        (json!(1), "int"),
        (json!(1.5), "float"),
        (json!(true), "bool"),
        (Value::Null, "NoneType"),
    ] {
        let text = format!("Invalid data. Expected a dictionary, but got {kind}.");
        alice
            .post("/api/services/", body)
            .await
            .refuses(400, json!({"non_field_errors": [text]}));
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_is_sent() {
    let world = World::new().await;
    let alice = world.alice().await.with_header(CONTENT_TYPE, "application/json");
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1024 * 1024));
    alice
        .send(Method::POST, "/api/projects/", Body::from(large))
        .await
        .expect(413);
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 4096])));
    alice
        .send(Method::POST, "/api/projects/", Body::from_stream(endless))
        .await
        .expect(413);
}

/// S0.6, I.5: paths end with a slash; readers are sent there, writers are told that there is nothing.
#[tokio::test]
async fn a_path_without_its_slash_redirects_readers_only() {
    let world = World::new().await;
    let alice = world.alice().await;
    let answer = alice.get("/api/services?page=2&name=x").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("location")),
        (301, "/api/services/?page=2&name=x")
    );
    let id = alice.make_service("web").await;
    let answer = alice.get(&format!("/api/services/{id}")).await;
    assert_eq!(answer.header("location"), format!("/api/services/{id}/"));
    for method in [Method::POST, Method::PATCH, Method::DELETE] {
        let answer = alice.json(method, &format!("/api/services/{id}"), json!({})).await;
        answer.refuses(404, json!({"detail": "Not found."}));
    }
    alice.get(&format!("/api/services/{id}/")).await.expect(200);
    alice.get("/api/nothing").await.expect(404);
}

/// A missing thing is missing whatever the body says, and another's likewise.
#[tokio::test]
async fn existence_is_judged_before_the_body() {
    let world = World::new().await;
    let (alice, bob) = (world.alice().await, world.bob().await);
    let id = alice.make_service("web").await;
    let broken = |actor: crate::world::Actor| actor.with_header(CONTENT_TYPE, "application/json");
    let path = format!("/api/services/{id}/");
    broken(bob)
        .send(Method::PATCH, &path, Body::from("{"))
        .await
        .expect(404);
    let nobody = "/api/services/123e4567-e89b-12d3-a456-426614174000/";
    broken(alice)
        .send(Method::PATCH, nobody, Body::from("{"))
        .await
        .expect(404);
}

#[tokio::test]
async fn every_answer_has_an_id_and_careful_headers() {
    let world = World::new().await;
    let one = world.anonymous().get("/api/services/").await;
    let two = world.anonymous().get("/healthz").await;
    assert_eq!(one.header("x-request-id").len(), 36);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    for answer in [one, two] {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none'")
        );
    }
}

/// S2.31: a handler that panics answers 500 in the face's shape, tells nothing, and is counted.
#[tokio::test]
async fn a_panic_is_a_500_in_the_faces_shape() {
    let world = World::new().await;
    let poisoned = world.runtime.clone();
    let _ = std::thread::spawn(move || {
        let _held = poisoned.images.lock();
        panic!("on purpose, to poison the lock");
    })
    .join();
    let answer = world.operator().get("/api/images/").await;
    assert_eq!(answer.header("x-request-id").len(), 36);
    answer.refuses(500, json!({"detail": "A server error occurred."}));
    let metrics = world.anonymous().get("/metrics").await;
    assert!(metrics.text.contains("hob_api_panics_total 1"), "{}", metrics.text);
}

/// S2.23 to S2.26: the codes of a whole life.
#[tokio::test]
async fn a_whole_life_in_status_codes() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice
        .post("/api/domains/", json!({"hostname": "a.example.com"}))
        .await
        .expect(201);
    let path = format!("/api/domains/{}/", made["id"].as_str().expect("an id"));
    alice.get(&path).await.expect(200);
    alice
        .patch(&path, json!({"hostname": "b.example.com"}))
        .await
        .expect(200);
    alice.patch(&path, json!({"hostname": "?"})).await.expect(400);
    alice.delete(&path).await.expect(204);
    alice.delete(&path).await.expect(404);
}

/// C6.11: a body that trickles or never comes costs half a minute, not a connection for ever.
#[tokio::test]
async fn a_body_that_never_comes_is_given_up() {
    let world = World::new().await;
    let operator = world.operator().with_header(CONTENT_TYPE, "application/json");
    let silence = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    // From here on nothing touches the store, so that only the deadline can move the clock.
    tokio::time::pause();
    let answer = operator
        .send(Method::POST, "/api/projects/", Body::from_stream(silence))
        .await;
    assert_eq!(answer.header("retry-after"), "5");
    assert!(answer.expect(503)["detail"].is_string());
}
