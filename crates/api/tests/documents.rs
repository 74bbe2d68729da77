//! The documents' workflows as their readers would run them: bash, curl and jq against a listening server.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

use crate::world::{Actor, World};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server, an account on it, and a shell that knows both.
struct Desk {
    world: World,
    alice: Actor,
    url: String,
    key: String,
    _end: watch::Sender<bool>,
}

/// How a script ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
}

impl Desk {
    /// `None`, and a printed reason, where this machine lacks a tool.
    async fn open() -> Option<Desk> {
        for tool in ["bash", "curl", "jq"] {
            let found = Command::new(tool)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .await;
            if !found.is_ok_and(|status| status.success()) {
                println!("SKIPPED: {tool} is not installed");
                return None;
            }
        }
        let world = World::new().await;
        let alice = world.alice().await;
        let made = alice
            .post("/api/api-keys/", json!({"name": "script"}))
            .await
            .expect(201);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (end, shutdown) = watch::channel(false);
        tokio::spawn(api::serve(listener, world.router.clone(), shutdown));
        Some(Desk {
            world,
            alice,
            url,
            key: made["key"].as_str().expect("the key").to_owned(),
            _end: end,
        })
    }

    async fn run(&self, script: &str, variables: &[(&str, &str)]) -> Ran {
        let output = Command::new("bash")
            .args(["-c", script])
            .env("URL", &self.url)
            .env("API_KEY", &self.key)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, output)
            .await
            .expect("it ends in time")
            .expect("bash runs");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        }
    }
}

/// S0.45, S0.46: list, find the last good one with that very line of jq, roll back to it.
#[tokio::test]
async fn rolling_back_after_a_failure() {
    let Some(desk) = Desk::open().await else { return };
    let service = desk.alice.make_service("web").await;
    desk.world.succeed(&service).await;
    desk.alice
        .patch(&format!("/api/services/{service}/"), json!({"image": "myapp:v1.2.0"}))
        .await
        .expect(200);
    let good = desk.world.succeed(&service).await;
    desk.alice
        .patch(&format!("/api/services/{service}/"), json!({"image": "myapp:v1.3.0"}))
        .await
        .expect(200);
    desk.world.fail(&service, "exit code 3; \"quoted\"\nand \\ more").await;
    let script = r#"
        DEPLOYMENTS=$(curl -s -H "Authorization: Bearer $API_KEY" $URL/api/services/$SERVICE_ID/deployments/)
        LAST_GOOD=$(echo $DEPLOYMENTS | jq -r '.results[] | select(.status=="success") | .id' | head -1)
        curl -s -o /dev/null -w '%{http_code} ' -X POST $URL/api/deployments/$LAST_GOOD/rollback/ \
            -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" \
            -d '{"notes": "Automatic rollback after failed deployment"}'
        echo $LAST_GOOD
    "#;
    let ran = desk.run(script, &[("SERVICE_ID", &service)]).await;
    assert_eq!(ran.stdout.trim(), format!("201 {good}"), "{ran:?}");
    let newest = desk.alice.newest_deployment(&service).await;
    let newest = desk.alice.get(&format!("/api/deployments/{newest}/")).await.expect(200);
    assert_eq!(
        (&newest["image"], &newest["version_number"]),
        (&json!("myapp:v1.2.0"), &json!(4))
    );
    assert_eq!(newest["notes"], "Automatic rollback after failed deployment");
}

/// S0.47: the loop goes on while it is under way, ends on `ready`, fails on `error`.
#[tokio::test]
async fn monitoring_a_deployment() {
    let Some(desk) = Desk::open().await else { return };
    let service = desk.alice.make_service("web").await;
    // The documents sleep for 5 seconds here; this asks once more instead, so that the test need not.
    let script = r#"
        for attempt in 1 2; do
            STATUS=$(curl -s -H "Authorization: Bearer $API_KEY" $URL/api/services/$SERVICE_ID/ | jq -r '.status')
            if [ "$STATUS" = "ready" ]; then echo "successful"; exit 0
            elif [ "$STATUS" = "error" ]; then echo "failed"; exit 1
            fi
            echo -n "$STATUS "
        done
    "#;
    let seen = async || {
        let ran = desk.run(script, &[("SERVICE_ID", &service)]).await;
        (ran.stdout.trim().to_owned(), ran.code)
    };
    assert_eq!(seen().await, ("pending pending".to_owned(), Some(0)));
    desk.world.succeed(&service).await;
    assert_eq!(seen().await, ("successful".to_owned(), Some(0)));
    desk.alice
        .patch(&format!("/api/services/{service}/"), json!({"port": 81}))
        .await
        .expect(200);
    assert_eq!(seen().await, ("updating updating".to_owned(), Some(0)));
    desk.world.fail(&service, "no").await;
    assert_eq!(seen().await, ("failed".to_owned(), Some(1)));
}

/// S0.48 to S0.51, S2.15, S2.41, S2.42: blue-green by a route, then a rolling update of what it leads to.
#[tokio::test]
async fn blue_green_and_a_rolling_update() {
    let Some(desk) = Desk::open().await else { return };
    let alice = &desk.alice;
    let blue = alice.make_service("my-app-v1").await;
    let domain = alice
        .make("/api/domains/", json!({"hostname": "app.example.com"}))
        .await;
    let route = alice
        .make("/api/routes/", json!({"path": "/", "domain": domain, "service": blue}))
        .await;
    let config = alice.make("/api/configs/", json!({"name": "c"})).await;
    let secret = alice.make("/api/secrets/", json!({"name": "s"})).await;
    let script = r#"
        send() { curl -s -w '\n%{http_code}\n' -H "Authorization: Bearer $API_KEY" -H "Content-Type: application/json" "$@"; }
        NEW=$(send -X POST $URL/api/services/ -d '{
            "name": "my-app-v2", "image": "myapp:v2.0.0", "port": 8080,
            "config": "'$CONFIG_ID'", "secret": "'$SECRET_ID'" }' | head -1 | jq -r .id)
        send -X PATCH $URL/api/routes/$ROUTE_ID/ -d '{"service": "'$NEW'"}' | tail -1
        send -X DELETE $URL/api/services/$OLD_ID/ | tail -1
        send -X PATCH $URL/api/services/$NEW/ -d '{"image": "myapp:v2.1.0", "replicas_target": 3}' | tail -1
        echo $NEW
    "#;
    let variables = [
        ("CONFIG_ID", config.as_str()),
        ("SECRET_ID", &secret),
        ("ROUTE_ID", &route),
        ("OLD_ID", &blue),
    ];
    let ran = desk.run(script, &variables).await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [moved, deleted, updated, green] = lines[..] else {
        panic!("{ran:?}")
    };
    assert_eq!([moved, deleted, updated], ["200", "204", "200"], "{ran:?}");
    assert_eq!(
        alice.get(&format!("/api/routes/{route}/")).await.expect(200)["service"],
        green
    );
    alice.get(&format!("/api/services/{blue}/")).await.expect(404);
    assert_eq!(alice.deployments(green).await.len(), 2);
}
