//! `/api/login/` and `/api/session/`: C6.6, I.15.

use axum::body::Body;
use http::Method;
use http::header::{CONTENT_TYPE, COOKIE, HeaderName, ORIGIN};
use serde_json::{Value, json};

use crate::world::{Actor, Answer, PUBLIC_URL, World};

const X_CSRF_TOKEN: HeaderName = HeaderName::from_static("x-csrftoken");

fn password() -> Value {
    json!({"name": "carol", "password": "correct horse"})
}

/// `name=value` of the cookie that an answer sets.
fn cookie(answer: &Answer) -> String {
    answer
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap_or_default()
        .to_owned()
}

async fn with_carol() -> World {
    let world = World::new().await;
    world.operator().post("/local/users", password()).await.expect(201);
    world
}

/// A browser after its login, and the token of its pages.
async fn browser(world: &World) -> (Actor, String) {
    let answer = world.anonymous().post("/api/login/", password()).await;
    let cookie = cookie(&answer);
    let token = answer.expect(201)["csrf_token"].as_str().expect("a token").to_owned();
    (world.anonymous().with_header(COOKIE, &cookie), token)
}

/// S2.4, I.15: reads need the cookie alone; changes need the page's token too.
#[tokio::test]
async fn a_browser_reads_with_its_cookie_and_writes_with_its_token() {
    let world = with_carol().await;
    let (browser, token) = browser(&world).await;
    assert_eq!(browser.get("/api/account/").await.expect(200)["name"], "carol");
    let shown = browser.get("/api/session/").await.expect(200);
    assert_eq!(
        (&shown["csrf_token"], &shown["account"]["name"]),
        (&json!(token), &json!("carol"))
    );

    let project = json!({"name": "p"});
    let missing = json!({"detail": "CSRF Failed: CSRF token missing."});
    browser
        .post("/api/projects/", project.clone())
        .await
        .refuses(403, missing);
    let wrong = browser.clone().with_header(X_CSRF_TOKEN, &"0".repeat(64));
    let incorrect = json!({"detail": "CSRF Failed: CSRF token incorrect."});
    wrong
        .post("/api/projects/", project.clone())
        .await
        .refuses(403, incorrect);
    let page = browser.with_header(X_CSRF_TOKEN, &token);
    page.post("/api/projects/", project).await.expect(201);
}

/// C6.6: foreign origins, forms and plain text change nothing, and log nobody in.
#[tokio::test]
async fn other_sites_can_do_nothing_with_a_browsers_cookie() {
    let world = with_carol().await;
    let (browser, token) = browser(&world).await;
    let page = browser.clone().with_header(X_CSRF_TOKEN, &token);
    let foreign = json!({"detail": "CSRF Failed: Origin checking failed."});
    for origin in [
        "https://evil.example",
        "null",
        "https://hob.example.evil.example",
        "http://hob.example",
    ] {
        let there = page.clone().with_header(ORIGIN, origin);
        there
            .post("/api/projects/", json!({"name": "p"}))
            .await
            .refuses(403, foreign.clone());
        let login = world.anonymous().with_header(ORIGIN, origin);
        login
            .post("/api/login/", password())
            .await
            .refuses(403, foreign.clone());
    }
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let form = page.clone().with_header(CONTENT_TYPE, media);
        let body = json!({"name": "p"}).to_string();
        form.send(Method::POST, "/api/projects/", Body::from(body))
            .await
            .expect(415);
        let login = world.anonymous().with_header(CONTENT_TYPE, media);
        let body = password().to_string();
        login
            .send(Method::POST, "/api/login/", Body::from(body))
            .await
            .expect(415);
    }
    let own = page.with_header(ORIGIN, PUBLIC_URL);
    own.post("/api/projects/", json!({"name": "p"})).await.expect(201);
}

/// C6.6: a name that somebody planted in the browser never becomes a session, and a login ends the session before it.
#[tokio::test]
async fn every_login_has_a_new_name_and_the_old_one_is_over() {
    let world = with_carol().await;
    let planted = world.anonymous().with_header(COOKIE, "__Host-hob_session=hobs_planted");
    let answer = planted.post("/api/login/", password()).await;
    let first = cookie(&answer);
    answer.expect(201);
    planted.get("/api/account/").await.expect(401);
    let before = world.anonymous().with_header(COOKIE, &first);
    before.get("/api/account/").await.expect(200);
    let answer = before.post("/api/login/", password()).await;
    assert_ne!(cookie(&answer), first);
    before.get("/api/account/").await.expect(401);
}

#[tokio::test]
async fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
    let world = with_carol().await;
    let answer = world.anonymous().post("/api/login/", password()).await;
    let cookie = answer.header("set-cookie");
    for part in [
        "__Host-hob_session=hobs_",
        "; Path=/",
        "; HttpOnly",
        "; SameSite=Lax",
        "; Secure",
    ] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
}

/// C6.6: what was logged out cannot be used again, and nothing lasts for ever.
#[tokio::test]
async fn sessions_end_by_logout_by_age_and_unused() {
    let world = with_carol().await;
    let (leaving, token) = browser(&world).await;
    leaving.delete("/api/session/").await.expect(403);
    let answer = leaving
        .clone()
        .with_header(X_CSRF_TOKEN, &token)
        .delete("/api/session/")
        .await;
    assert!(answer.header("set-cookie").contains("Max-Age=0"));
    answer.expect(204);
    leaving.get("/api/account/").await.expect(401);

    let (unused, _) = browser(&world).await;
    world.advance(12 * 3600 + 60);
    unused.get("/api/account/").await.expect(401);

    let (old, _) = browser(&world).await;
    for _ in 0..(7 * 24 - 1) {
        world.advance(3600);
        old.get("/api/account/").await.expect(200);
    }
    world.advance(3600);
    old.get("/api/account/").await.expect(401);
}

/// C6.5, C6.20: nothing tells a wrong name from a wrong password, guessing is slow, and the log tells of it.
#[tokio::test]
async fn guessing_passwords_is_slow_and_seen() {
    let world = World::with(Some(api::RateLimits::default())).await;
    world.operator().post("/local/users", password()).await.expect(201);
    let wrong = json!({"detail": "Invalid name or password."});
    let guess = async |name: &str| {
        let body = json!({"name": name, "password": "wrong horse"});
        world.anonymous().post("/api/login/", body).await
    };
    guess("nobody").await.refuses(401, wrong.clone());
    for _ in 0..3 {
        guess("carol").await.refuses(401, wrong.clone());
    }
    let lines = world.operator().get("/api/audit/?limit=1").await.expect(200);
    assert_eq!(lines["results"][0]["action"], "POST /api/login/");
    assert_eq!(lines["results"][0]["outcome"], "denied");
    // An account without a password cannot log in.
    guess("operator").await.refuses(401, wrong);
    for n in 0..=30 {
        let answer = world
            .anonymous()
            .post("/api/login/", json!({"name": "x", "password": ""}))
            .await;
        assert_eq!(answer.status == 429, n == 30, "{n}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_key_has_no_session_and_a_session_is_no_key() {
    let world = with_carol().await;
    let alice = world.alice().await;
    alice.get("/api/session/").await.expect(404);
    let answer = world.anonymous().post("/api/login/", password()).await;
    let token = cookie(&answer).split_once('=').expect("a value").1.to_owned();
    world
        .anonymous()
        .with_key(&token)
        .get("/api/account/")
        .await
        .expect(401);
}
