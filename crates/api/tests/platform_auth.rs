//! Who may ask.

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde_json::json;

use crate::world::World;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// S2.3, S2.19, S2.27, S0.7, I.2: everything asks for a key, before it says anything else; but for the login.
#[tokio::test]
async fn without_a_key_every_route_and_method_is_401() {
    let world = World::new().await;
    let nobody = world.anonymous();
    let id = "123e4567-e89b-12d3-a456-426614174000";
    for path in api::platform::router::paths()
        .iter()
        .filter(|path| *path != "/api/login/")
    {
        let path = path.replace("{id}", id).replace("{item}", id);
        for method in ["GET", "POST", "PATCH", "PUT", "DELETE"] {
            let answer = nobody.json(method.parse().expect("a method"), &path, json!({})).await;
            assert_eq!(
                answer.header("www-authenticate"),
                "Bearer realm=\"api\"",
                "{method} {path}"
            );
            let detail = json!({"detail": "Authentication credentials were not provided."});
            answer.refuses(401, detail);
        }
    }
}

/// S2.4, S2.5, G.3, I.3: both headers work, and `Authorization` wins.
#[tokio::test]
async fn either_header_works_and_authorization_wins() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/api-keys/", json!({"name": "k"})).await.expect(201);
    let key = made["key"].as_str().expect("the key");
    let with = |name, value: &str| world.anonymous().with_header(name, value);
    with(AUTHORIZATION, &format!("Bearer {key}"))
        .get("/api/services/")
        .await
        .expect(200);
    with(X_API_KEY, key).get("/api/services/").await.expect(200);
    with(X_API_KEY, key)
        .with_key("gob_wrong")
        .get("/api/services/")
        .await
        .expect(401);
    with(X_API_KEY, "gob_wrong")
        .with_key(key)
        .get("/api/services/")
        .await
        .expect(200);
}

/// S2.27, C6.5, I.2: whatever is wrong with a key, the answer is the same.
#[tokio::test]
async fn bad_keys_are_all_alike() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/api-keys/", json!({"name": "k"})).await.expect(201);
    let key = made["key"].as_str().expect("the key");
    let mut other_end = key.to_owned();
    let last = if key.ends_with('a') { 'b' } else { 'a' };
    other_end.replace_range(key.len() - 1.., &last.to_string());
    for bad in [
        "gob_",
        "gob_unknown",
        "token",
        "",
        &other_end,
        &key[..key.len() - 1],
        &format!("{key}x"),
        &"x".repeat(9000),
    ] {
        let answer = world.anonymous().with_key(bad).get("/api/services/").await;
        answer.refuses(401, json!({"detail": "Invalid API key."}));
    }
}

/// C6.5: a key in a URL is refused, even beside a good one.
#[tokio::test]
async fn a_key_in_a_url_is_refused() {
    let world = World::new().await;
    let alice = world.alice().await;
    let made = alice.post("/api/api-keys/", json!({"name": "k"})).await.expect(201);
    let key = made["key"].as_str().expect("the key");
    for actor in [world.anonymous(), alice] {
        let answer = actor.get(&format!("/api/services/?api_key={key}")).await;
        assert_eq!(answer.status, 401);
        assert!(!answer.text.contains(key));
    }
}

#[tokio::test]
async fn the_control_socket_speaks_for_the_operator() {
    let world = World::new().await;
    let operator = world.operator();
    let me = operator.get("/api/account/").await.expect(200);
    assert_eq!((&me["id"], &me["admin"]), (&json!(world.api.operator), &json!(true)));
    let body = json!({"name": "carol", "password": "correct horse"});
    let carol = operator.post("/local/users", body).await.expect(201);
    assert_eq!((&carol["name"], &carol["admin"]), (&json!("carol"), &json!(false)));
    let made = operator
        .post("/local/keys", json!({"name": "ci", "account": "carol"}))
        .await
        .expect(201);
    let key = made["key"].as_str().expect("the key");
    assert_eq!(
        world.anonymous().with_key(key).get("/api/account/").await.expect(200)["name"],
        "carol"
    );
    // A key that is sent counts, over the socket too.
    assert_eq!(
        operator.with_key(key).get("/api/account/").await.expect(200)["name"],
        "carol"
    );
}

#[tokio::test]
async fn local_paths_do_not_exist_from_outside() {
    let world = World::new().await;
    let operator = world.operator();
    let made = operator.post("/local/keys", json!({"name": "root"})).await.expect(201);
    let administrator = world.anonymous().with_key(made["key"].as_str().expect("the key"));
    assert_eq!(administrator.get("/api/account/").await.expect(200)["admin"], true);
    for outsider in [administrator, world.anonymous()] {
        for path in ["/local/keys", "/local/users", "/local/claim"] {
            outsider
                .post(path, json!({"name": "x"}))
                .await
                .refuses(404, json!({"detail": "Not found."}));
        }
        for path in ["/local/status", "/local/doctor"] {
            outsider.get(path).await.expect(404);
        }
    }
}

#[tokio::test]
async fn local_input_is_checked() {
    let world = World::new().await;
    let operator = world.operator();
    let unknown = operator
        .post("/local/keys", json!({"name": "x", "account": "nobody"}))
        .await
        .expect(400);
    assert!(unknown["account"].is_array(), "{unknown}");
    operator
        .post("/local/keys", json!({}))
        .await
        .refuses(400, json!({"name": ["This field is required"]}));
    let weak = operator
        .post("/local/users", json!({"name": "d", "password": "short"}))
        .await;
    assert!(!weak.text.contains("short"));
    assert!(weak.expect(400)["password"].is_array());
    let key = operator
        .post("/local/keys", json!({"name": "x", "expires_in_s": 60}))
        .await
        .expect(201);
    assert!(key["expires_at"].is_string());
}

/// C6.2: images are the machine's; only administrators get at them.
#[tokio::test]
async fn what_is_for_administrators_is_forbidden_to_others() {
    let world = World::new().await;
    let alice = world.alice().await;
    let forbidden = json!({"detail": "You do not have permission to perform this action."});
    alice.get("/api/images/").await.refuses(403, forbidden.clone());
    alice
        .delete("/api/images/?ref=a:1")
        .await
        .refuses(403, forbidden.clone());
    alice
        .post_nothing("/api/images/?name=a:1")
        .await
        .refuses(403, forbidden);
    world.operator().get("/api/images/").await.expect(200);
}

#[tokio::test]
async fn a_claim_link_gives_one_key_once() {
    let world = World::new().await;
    let link = world.operator().post_nothing("/local/claim").await.expect(201);
    let url = link["url"].as_str().expect("a link");
    let path = url
        .strip_prefix(crate::world::PUBLIC_URL)
        .expect("our own origin")
        .to_owned();
    let visitor = world.anonymous();
    assert_eq!(visitor.get(&path).await.status, 200, "opening the link takes nothing");
    let taken = visitor.post_nothing(&path).await.expect(201);
    let owner = world.anonymous().with_key(taken["key"].as_str().expect("the key"));
    assert_eq!(owner.get("/api/account/").await.expect(200)["admin"], true);
    assert!(visitor.post_nothing(&path).await.expect(400)["error"].is_string());
}

#[tokio::test]
async fn a_claim_link_expires_and_cannot_be_guessed() {
    let world = World::new().await;
    let link = world.operator().post_nothing("/local/claim").await.expect(201);
    let path = link["url"]
        .as_str()
        .expect("a link")
        .replace(crate::world::PUBLIC_URL, "");
    world.anonymous().post_nothing("/claim/0000").await.expect(400);
    world.advance(15 * 60);
    world.anonymous().post_nothing(&path).await.expect(400);
}
