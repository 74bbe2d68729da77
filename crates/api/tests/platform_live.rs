//! Instances, rollouts and logs: what only a running platform knows.

use std::time::Duration;

use api::{Health, LiveInstance};
use axum::body::Body;
use domain::{InstanceId, Stage};
use engine::{Exit, LogLine, Phase, Stream};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::Effect;
use tower::ServiceExt;
use uuid::Uuid;

use crate::world::{Actor, NOON_US, World};

const PATIENCE: Duration = Duration::from_secs(10);

fn live(id: InstanceId, phase: Phase, health: Health, routed: bool) -> LiveInstance {
    LiveInstance {
        id,
        phase,
        health,
        routed,
        address: "10.0.0.7".parse().ok(),
        pid: Some(42),
        started_at_us: Some(NOON_US),
    }
}

fn line(at_us: i64, text: &str) -> LogLine {
    LogLine {
        at_us,
        stream: Stream::Stdout,
        text: text.to_owned(),
    }
}

/// The instances of the service's newest deployment.
async fn instances_of(world: &World, service: &str) -> Vec<InstanceId> {
    let state = world.load(service.parse().expect("a service's id")).await;
    state.instances.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn instances_are_what_is_wanted_joined_with_what_is_seen() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "web", "image": "a", "port": 80, "replicas_target": 4});
    let service = alice.make("/api/services/", body).await;
    world.succeed(&service).await;
    let ids = instances_of(&world, &service).await;
    world.runtime.show(vec![
        live(ids[0], Phase::Running, Health::Passing, true),
        live(
            ids[1],
            Phase::Running,
            Health::Failing("no answer on port 80".to_owned()),
            true,
        ),
        live(
            ids[2],
            Phase::Exited(Box::new(Exit {
                code: Some(3),
                ..Exit::default()
            })),
            Health::Unknown,
            false,
        ),
    ]);
    let seen = alice
        .get(&format!("/api/services/{service}/instances/"))
        .await
        .expect(200);
    let by_id = |id: InstanceId| {
        let rows = seen["results"].as_array().expect("results");
        rows.iter()
            .find(|row| row["id"] == json!(id))
            .expect("the instance")
            .clone()
    };
    let first = by_id(ids[0]);
    assert_eq!(
        (&first["state"], &first["health"], &first["version"]),
        (&json!("serving"), &json!("passing"), &json!(1))
    );
    assert_eq!((&first["address"], &first["pid"]), (&json!("10.0.0.7"), &json!(42)));
    let second = by_id(ids[1]);
    assert_eq!(
        (&second["state"], &second["health_message"]),
        (&json!("unhealthy"), &json!("no answer on port 80"))
    );
    let third = by_id(ids[2]);
    assert_eq!(
        (&third["state"], &third["exit"]["text"]),
        (&json!("exited"), &json!("exit code 3"))
    );
    assert_eq!(by_id(ids[3])["state"], "starting");
}

#[tokio::test]
async fn those_that_are_gone_are_shown_on_request() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let dead = instances_of(&world, &service).await[0];
    let exit = Exit {
        code: Some(1),
        tail: vec!["panic!".to_owned()],
        at_us: NOON_US,
        ..Exit::default()
    };
    let gone = Effect::Gone {
        id: dead,
        crashed: true,
        exit: serde_json::to_value(exit).ok(),
        memory_peak: None,
    };
    world.apply(service.parse().expect("an id"), vec![gone]).await;
    let path = format!("/api/services/{service}/instances/");
    assert_eq!(alice.get(&path).await.expect(200)["results"], json!([]));
    let all = alice.get(&format!("{path}?all=1")).await.expect(200);
    let row = &all["results"][0];
    assert_eq!(
        (&row["state"], &row["crashed"], &row["exit"]["text"]),
        (&json!("gone"), &json!(true), &json!("exit code 1"))
    );

    let logs = alice.get(&format!("/api/services/{service}/logs/")).await;
    assert_eq!(
        logs.lines()[0]["text"],
        "panic!",
        "the last words of a crash are what one looks for"
    );
}

#[tokio::test]
async fn a_rollout_is_one_document() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let old = instances_of(&world, &service).await[0];
    alice
        .patch(&format!("/api/services/{service}/"), json!({"image": "b"}))
        .await
        .expect(200);
    let (state, deployment) = world.begin(&service).await;
    let new = InstanceId(Uuid::now_v7());
    let active = state.active.expect("it is on its way");
    world
        .apply(
            state.service.id,
            vec![
                Effect::AddInstance {
                    id: new,
                    deployment,
                    template: active.template,
                },
                Effect::SetWaiting {
                    deployment,
                    text: "waiting for 1 instance to become healthy".to_owned(),
                },
            ],
        )
        .await;
    world.runtime.show(vec![
        live(old, Phase::Running, Health::Passing, true),
        live(new, Phase::Running, Health::Failing("refused".to_owned()), false),
    ]);
    world.advance(5);
    let rollout = alice
        .get(&format!("/api/services/{service}/rollout/"))
        .await
        .expect(200);
    assert_eq!(rollout["deployment"], json!(deployment));
    assert_eq!(
        (&rollout["version"], &rollout["stage"], &rollout["done"]),
        (&json!(2), &json!("deploying"), &json!(false))
    );
    assert_eq!(rollout["waiting"], "waiting for 1 instance to become healthy");
    assert_eq!(
        rollout["instances"],
        json!({"new": {"starting": 1}, "old": {"serving": 1}})
    );
    assert_eq!(rollout["elapsed_ms"], 5000);
    assert_eq!(rollout["receipt"]["total"], 0);
    assert_eq!(rollout["digest"], crate::world::digest(2));
}

/// Wake-driven: each change is a line, and the last one says that it is over.
#[tokio::test]
async fn a_watched_rollout_tells_every_stage_and_ends() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let mut stream = Lines::open(&world, &alice, &format!("/api/services/{service}/rollout/?watch=1")).await;
    assert_eq!(stream.next().await.expect("a line")["stage"], "queued");
    world.begin(&service).await;
    let begun = stream.next().await.expect("a line");
    assert_eq!((&begun["stage"], &begun["done"]), (&json!("deploying"), &json!(false)));
    let state = world.load(service.parse().expect("an id")).await;
    let deployment = state.active.expect("it is on its way").id;
    let end = Effect::SetStage {
        deployment,
        from: Stage::Deploying,
        to: Stage::Failed,
        reason: "test".to_owned(),
        error_message: Some("exit code 3".to_owned()),
    };
    world.apply(state.service.id, vec![end]).await;
    let last = stream.next().await.expect("a line");
    assert_eq!(
        (&last["stage"], &last["done"], &last["error_message"]),
        (&json!("failed"), &json!(true), &json!("exit code 3"))
    );
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn logs_are_merged_by_time_and_begin_near_the_end() {
    let world = World::new().await;
    let alice = world.alice().await;
    let body = json!({"name": "web", "image": "a", "port": 80, "replicas_target": 2});
    let service = alice.make("/api/services/", body).await;
    world.succeed(&service).await;
    let ids = instances_of(&world, &service).await;
    for n in 0..5 {
        world
            .runtime
            .write(ids[n % 2], line(NOON_US + n as i64, &format!("line {n}")));
    }
    let texts = async |query: &str| {
        let answer = alice.get(&format!("/api/services/{service}/logs/{query}")).await;
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        answer
            .lines()
            .into_iter()
            .map(|line| line["text"].clone())
            .collect::<Vec<Value>>()
    };
    assert_eq!(texts("").await, ["line 0", "line 1", "line 2", "line 3", "line 4"]);
    assert_eq!(texts("?tail=1").await, ["line 3", "line 4"]);
    assert_eq!(texts(&format!("?instance={}", ids[1])).await, ["line 1", "line 3"]);
    let line = alice
        .get(&format!("/api/services/{service}/logs/?tail=1"))
        .await
        .lines()
        .swap_remove(1);
    assert_eq!(
        line,
        json!({"at": "2024-10-15T12:00:00.000004Z", "instance": ids[0], "version": 1, "stream": "stdout", "text": "line 4"})
    );
    alice
        .get(&format!("/api/services/{service}/logs/?instance=x"))
        .await
        .expect(400);
    alice
        .get(&format!("/api/services/{service}/logs/?tail=many"))
        .await
        .expect(400);
}

#[tokio::test]
async fn a_followed_log_goes_on_with_what_is_written_later() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    world.succeed(&service).await;
    let id = instances_of(&world, &service).await[0];
    world.runtime.write(id, line(NOON_US, "before"));
    let mut stream = Lines::open(&world, &alice, &format!("/api/services/{service}/logs/?follow=1")).await;
    assert_eq!(stream.next().await.expect("a line")["text"], "before");
    world.runtime.write(id, line(NOON_US + 1, "after"));
    assert_eq!(stream.next().await.expect("a line")["text"], "after");
    alice.delete(&format!("/api/services/{service}/")).await.expect(204);
    assert_eq!(stream.next().await, None, "it ends with the service");
}

/// G.4: a revoked key ends the streams that it had opened.
#[tokio::test]
async fn a_stream_does_not_outlive_its_key() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let made = alice.post("/api/api-keys/", json!({"name": "k"})).await.expect(201);
    let reader = world.anonymous().with_key(made["key"].as_str().expect("the key"));
    let path = format!("/api/services/{service}/rollout/?watch=1");
    let mut stream = Lines::open(&world, &reader, &path).await;
    assert_eq!(stream.next().await.expect("a line")["done"], false);
    alice
        .delete(&format!("/api/api-keys/{}/", made["id"].as_str().expect("an id")))
        .await
        .expect(204);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn streams_end_with_the_server_and_are_counted() {
    let world = World::new().await;
    let alice = world.alice().await;
    let service = alice.make_service("web").await;
    let path = format!("/api/services/{service}/rollout/?watch=1");
    let mut stream = Lines::open(&world, &alice, &path).await;
    assert_eq!(stream.next().await.expect("a line")["done"], false);
    let metrics = world.anonymous().get("/metrics").await;
    assert!(metrics.text.contains("hob_api_streams 1"), "{}", metrics.text);
    world.close();
    assert_eq!(stream.next().await, None);
}

/// An open answer of NDJSON.
struct Lines {
    body: Body,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(world: &World, actor: &Actor, path: &str) -> Lines {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = path.parse().expect("a path");
        *request.headers_mut() = actor.headers().clone();
        let Ok(response) = world.router.clone().oneshot(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Lines {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next line with news, or `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let value: Value = serde_json::from_slice(&line).expect("a line of JSON");
                if value != json!({}) {
                    return Some(value);
                }
                continue;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("a line in time");
            let data = frame?.expect("no error").into_data().expect("data");
            self.rest.extend_from_slice(&data);
        }
    }
}
