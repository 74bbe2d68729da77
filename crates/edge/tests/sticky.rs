//! Clients that stay with the version that they have met.

mod rig;

use domain::routing::{ServiceEntry, Share};
use rig::{Answer, App, Conn, Rig, pool, service};

struct Two {
    rig: Rig,
    entry: ServiceEntry,
    _apps: [App; 2],
}

impl Two {
    /// A sticky canary at 50 %.
    async fn start() -> Two {
        let apps = [App::says("old").await, App::says("new").await];
        let pools = vec![
            pool(1, Share::ByInstances, &[&apps[0]]),
            pool(2, Share::Percent(50), &[&apps[1]]),
        ];
        let entry = ServiceEntry {
            pools,
            sticky: true,
            ..service("a.test", &[])
        };
        let mut two = Two {
            rig: Rig::start(),
            entry,
            _apps: apps,
        };
        two.publish().await;
        two
    }

    async fn publish(&mut self) {
        self.rig.publish(vec![self.entry.clone()]).await;
    }

    async fn ask(&self, cookie: &str) -> Answer {
        ask(&mut self.rig.connect().await, cookie).await
    }

    /// A client that has met `version`, and what it sends back.
    async fn client_of(&self, version: &str) -> String {
        loop {
            let answer = self.ask("").await;
            if answer.body == version {
                let cookie = answer.header("set-cookie").expect("a cookie");
                return cookie.split(';').next().expect("its value").to_owned();
            }
        }
    }
}

async fn ask(conn: &mut Conn, cookie: &str) -> Answer {
    let line = match cookie {
        "" => String::new(),
        cookie => format!("Cookie: {cookie}\r\n"),
    };
    conn.ask(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n")).await
}

#[tokio::test]
async fn a_client_stays_with_the_version_that_it_has_met() {
    let two = Two::start().await;
    for version in ["old", "new"] {
        let cookie = two.client_of(version).await;
        let mut conn = two.rig.connect().await;
        for _ in 0..20 {
            let answer = ask(&mut conn, &format!("theme=dark; {cookie}; lang=en")).await;
            assert_eq!(answer.body, version);
            assert_eq!(answer.header("set-cookie"), None, "it knows already");
        }
    }
}

#[tokio::test]
async fn the_cookie_is_kept_from_scripts_and_from_other_sites() {
    let two = Two::start().await;
    let answer = two.ask("").await;
    let cookie = answer.header("set-cookie").unwrap();
    let (value, attributes) = cookie.split_once("; ").unwrap();
    assert!(
        value.starts_with("hob_version=1.") || value.starts_with("hob_version=2."),
        "{cookie}"
    );
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
}

#[tokio::test]
async fn a_cookie_that_names_no_version_of_the_service_is_replaced() {
    let two = Two::start().await;
    let stranger = Two::start().await;
    let foreign = stranger.client_of("old").await;
    for cookie in [
        "hob_version=",
        "hob_version=1",
        "hob_version=2.zzzzzzzz",
        "hob_version=\"",
        &foreign,
    ] {
        let answer = two.ask(cookie).await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("set-cookie").is_some(), "{cookie}");
    }
    // Services that share a host do not take each other's for theirs.
    let own = two.client_of("new").await;
    assert_eq!(two.ask(&format!("{foreign}; {own}")).await.header("set-cookie"), None);
}

#[tokio::test]
async fn a_version_that_takes_no_part_any_more_keeps_nobody() {
    let mut two = Two::start().await;
    let cookie = two.client_of("new").await;
    two.entry.pools[1].share = Share::Percent(0);
    two.publish().await;
    let answer = two.ask(&cookie).await;
    assert_eq!((answer.body.as_str(), answer.header("set-cookie")), ("old", None));
    two.entry.pools[1].share = Share::Percent(50);
    two.entry.pools[1].targets.clear();
    two.publish().await;
    assert_eq!(two.ask(&cookie).await.body, "old");
}

#[tokio::test]
async fn no_cookie_is_set_without_need() {
    let mut two = Two::start().await;
    two.entry.sticky = false;
    two.publish().await;
    assert_eq!(two.ask("").await.header("set-cookie"), None);
    two.entry.sticky = true;
    two.entry.pools.truncate(1);
    two.publish().await;
    assert_eq!(two.ask("").await.header("set-cookie"), None);
}

#[tokio::test]
async fn versions_that_go_by_instances_keep_their_clients_too() {
    let mut two = Two::start().await;
    two.entry.pools[1].share = Share::ByInstances;
    two.publish().await;
    let cookie = two.client_of("new").await;
    for _ in 0..10 {
        assert_eq!(two.ask(&cookie).await.body, "new");
    }
}
