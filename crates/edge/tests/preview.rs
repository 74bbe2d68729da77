//! Requests that ask for a version or an instance on purpose: by a preview host or by a header.

mod rig;

use domain::routing::{Pool, ServiceEntry, Share};
use rig::{Answer, App, Rig, host, pool, service};

/// Version 1 serves with two instances, version 2 takes 10 %, version 3 is reached at its preview host alone.
struct Three {
    rig: Rig,
    entry: ServiceEntry,
    old: [App; 2],
    canary: App,
    _preview: App,
}

impl Three {
    async fn start() -> Three {
        let mut rig = Rig::start();
        let old = [App::says("old").await, App::says("old").await];
        let (canary, preview) = (App::says("canary").await, App::says("preview").await);
        let pools = vec![
            pool(1, Share::ByInstances, &old.each_ref()),
            pool(2, Share::Percent(10), &[&canary]),
            Pool {
                preview: vec![host("preview.test")],
                ..pool(3, Share::Percent(0), &[&preview])
            },
        ];
        let entry = ServiceEntry {
            pools,
            ..service("a.test", &[])
        };
        rig.publish(vec![entry.clone()]).await;
        Three {
            rig,
            entry,
            old,
            canary,
            _preview: preview,
        }
    }

    async fn ask(&self, host: &str, header: &str) -> Answer {
        let mut conn = self.rig.connect().await;
        conn.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n{header}\r\n\r\n"))
            .await
    }

    /// What a header brings, as often as it is asked.
    async fn always(&self, host: &str, header: &str) -> (u16, String) {
        let first = self.ask(host, header).await;
        for _ in 0..15 {
            let next = self.ask(host, header).await;
            assert_eq!((next.status, &next.body), (first.status, &first.body), "{header}");
        }
        (first.status, first.body)
    }
}

#[tokio::test]
async fn a_preview_host_leads_to_its_version_alone() {
    let three = Three::start().await;
    assert_eq!(
        three.always("preview.test", "Accept: */*").await,
        (200, "preview".into())
    );
    for _ in 0..30 {
        assert_ne!(three.ask("a.test", "Accept: */*").await.body, "preview");
    }
}

#[tokio::test]
async fn a_preview_host_without_a_ready_instance_is_no_way_to_another_version() {
    let mut three = Three::start().await;
    three.entry.pools[2].targets.clear();
    three.rig.publish(vec![three.entry.clone()]).await;
    assert_eq!(three.ask("preview.test", "Accept: */*").await.status, 503);
}

#[tokio::test]
async fn a_version_is_reached_by_its_number() {
    let three = Three::start().await;
    assert_eq!(three.always("a.test", "X-Hob-Version: 1").await, (200, "old".into()));
    assert_eq!(three.always("a.test", "X-Hob-Version: 2").await, (200, "canary".into()));
    assert_eq!(
        three.always("preview.test", "X-Hob-Version: 3").await,
        (200, "preview".into())
    );
}

/// These headers come from strangers: they narrow the choice down and never widen it.
#[tokio::test]
async fn no_header_leads_to_a_version_that_is_only_previewed() {
    let three = Three::start().await;
    let hidden = three.entry.pools[2].targets[0].instance;
    for header in ["X-Hob-Version: 3".to_owned(), format!("X-Hob-Instance: {hidden}")] {
        assert_eq!(three.ask("a.test", &header).await.status, 404, "{header}");
    }
    let service = three.entry.service;
    let beyond = format!("X-CF-APP-INSTANCE: {service}:3");
    assert_eq!(three.ask("a.test", &beyond).await.status, 400);
    // Nor does one lead away from a preview host.
    assert_eq!(three.ask("preview.test", "X-Hob-Version: 1").await.status, 404);
}

#[tokio::test]
async fn an_instance_is_reached_by_its_id_and_by_its_place() {
    let three = Three::start().await;
    let mut apps = [&three.old[0], &three.old[1], &three.canary];
    apps.sort_by_key(|app| app.id);
    let service = three.entry.service;
    for (place, app) in apps.iter().enumerate() {
        for header in [
            format!("X-Hob-Instance: {}", app.id),
            format!("X-CF-APP-INSTANCE: {service}:{place}"),
            format!("X-CF-Process-Instance: {service}:{place}"),
        ] {
            let before = app.seen();
            for _ in 0..5 {
                assert_eq!(three.ask("a.test", &header).await.status, 200, "{header}");
            }
            assert_eq!(app.seen(), before + 5, "{header}");
        }
    }
    let any = format!("X-CF-Process-Instance: {service}");
    assert_eq!(three.ask("a.test", &any).await.status, 200);
}

#[tokio::test]
async fn what_nobody_fits_is_refused_in_words_and_counts_as_nobodys_failure() {
    let three = Three::start().await;
    let other = uuid::Uuid::new_v4();
    for (header, status) in [
        ("X-Hob-Version: 9".to_owned(), 404),
        (format!("X-Hob-Instance: {other}"), 404),
        (format!("X-CF-APP-INSTANCE: {other}:0"), 400),
        (format!("X-CF-APP-INSTANCE: {}:17", three.entry.service), 400),
        (format!("X-CF-APP-INSTANCE: {}", three.entry.service), 400),
        ("X-Hob-Version: newest".to_owned(), 400),
        ("X-Hob-Instance: 0".to_owned(), 400),
    ] {
        let answer = three.ask("a.test", &header).await;
        assert_eq!(answer.status, status, "{header}");
        assert!(
            answer.body.contains("asked for") || answer.body.contains("asks for"),
            "{answer:?}"
        );
    }
    let missing = format!("X-CF-APP-INSTANCE: {other}:0");
    let answer = three.ask("a.test", &missing).await;
    assert_eq!(answer.header("x-cf-routererror"), Some("unknown_route"));
    assert_eq!(three.ask("a.test", "Accept: */*").await.status, 200);
    let receipt = three.rig.receipt(three.entry.receipt, |receipt| receipt.ok == 1).await;
    assert_eq!(receipt.total(), 1);
}
