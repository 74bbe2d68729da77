//! How a service's requests are divided between its versions, and that no change of that loses one.

mod rig;

use std::sync::atomic::Ordering;

use domain::routing::{Pool, ServiceEntry, Share};
use rig::{App, Load, Rig, get, host, pool, service};

fn with(entry: &ServiceEntry, pools: Vec<Pool>) -> ServiceEntry {
    ServiceEntry { pools, ..entry.clone() }
}

/// Asks `requests` times on a few connections and tells how many were answered by the new version.
async fn ask(rig: &Rig, requests: usize) -> usize {
    const CONNECTIONS: usize = 8;
    let mut new = 0;
    for _ in 0..CONNECTIONS {
        let mut conn = rig.connect().await;
        for _ in 0..requests / CONNECTIONS {
            let answer = conn.ask(&get("a.test", "/")).await;
            assert_eq!(answer.status, 200);
            new += usize::from(answer.body == "new");
        }
    }
    new
}

/// Four standard deviations of a binomial draw: what a share of `percent` may be off by if it is one.
fn binomial_limit(requests: usize, percent: u32) -> f64 {
    let p = f64::from(percent) / 100.0;
    4.0 * (requests as f64 * p * (1.0 - p)).sqrt()
}

#[tokio::test]
async fn the_observed_share_lies_within_binomial_limits_of_the_percentage() {
    const REQUESTS: usize = 1_600;
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    for percent in [0, 1, 10, 50, 99, 100] {
        let pools = vec![
            pool(1, Share::ByInstances, &[&old]),
            pool(2, Share::Percent(percent), &[&new]),
        ];
        rig.publish(vec![with(&entry, pools)]).await;
        let seen = ask(&rig, REQUESTS).await as f64;
        let off = (seen - REQUESTS as f64 * f64::from(percent) / 100.0).abs();
        assert!(
            off <= binomial_limit(REQUESTS, percent),
            "{percent} %: {seen} of {REQUESTS}"
        );
    }
}

#[tokio::test]
async fn versions_that_go_by_instances_are_balanced_as_if_they_were_one() {
    let old = [App::says("old").await, App::says("old").await, App::says("old").await];
    let new = App::says("new").await;
    let mut rig = Rig::start();
    let pools = vec![
        pool(1, Share::ByInstances, &old.each_ref()),
        pool(2, Share::ByInstances, &[&new]),
    ];
    rig.publish(vec![with(&service("a.test", &[]), pools)]).await;
    let seen = ask(&rig, 800).await;
    assert!(seen.abs_diff(200) <= 2, "{seen}");
}

#[tokio::test]
async fn a_version_without_a_target_yields_and_one_at_zero_is_not_chosen_even_then() {
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    let none = pool(2, Share::Percent(100), &[]);
    rig.publish(vec![with(&entry, vec![pool(1, Share::ByInstances, &[&old]), none])])
        .await;
    assert_eq!(rig.get("a.test", "/").await.body, "old");
    let zero = pool(2, Share::Percent(0), &[&new]);
    rig.publish(vec![with(&entry, vec![pool(1, Share::ByInstances, &[]), zero])])
        .await;
    assert_eq!(rig.get("a.test", "/").await.status, 503);
}

/// Nothing of a request reached the dead instance, so it may go to another version: better than an error.
#[tokio::test]
async fn a_request_that_cannot_reach_its_version_goes_to_another_one() {
    let (old, dead) = (App::says("old").await, App::absent());
    let mut rig = Rig::start();
    let pools = vec![
        pool(1, Share::ByInstances, &[&old]),
        pool(2, Share::Percent(50), &[&dead]),
    ];
    rig.publish(vec![with(&service("a.test", &[]), pools)]).await;
    for _ in 0..20 {
        assert_eq!(rig.get("a.test", "/").await.body, "old");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_shares_loses_no_request() {
    let (old, new) = (App::says("old").await, App::says("new").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[&old]);
    rig.publish(vec![entry.clone()]).await;
    let load = Load::begin(rig.address, 8, |_, answer| answer.status == 200);
    for round in 0..60_u32 {
        let pools = vec![
            pool(1, Share::ByInstances, &[&old]),
            pool(2, Share::Percent([0, 1, 50, 100][round as usize % 4]), &[&new]),
        ];
        rig.publish(vec![with(&entry, pools)]).await;
        let seen = old.seen() + new.seen();
        rig::wait_for("more requests", || old.seen() + new.seen() > seen + 20).await;
    }
    let (good, bad) = load.end().await;
    assert_eq!(bad, 0, "beside {good} good ones");
    assert!(old.seen() > 0 && new.seen() > 0);
}

/// Blue-green: one table, and from its acknowledgement on every new request is with the new version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_in_one_table_loses_nothing_and_leaves_nobody_behind() {
    let (blue, green) = (App::says("0").await, App::says("1").await);
    let mut rig = Rig::start();
    let entry = service("a.test", &[]);
    // The one that is not chosen is kept warm, reached at its preview host.
    let table = |serving: usize| {
        let share = |colour| {
            if colour == serving {
                Share::ByInstances
            } else {
                Share::Percent(0)
            }
        };
        let pools = [&blue, &green].into_iter().enumerate().map(|(colour, app)| Pool {
            preview: vec![host(&format!("{colour}.test"))],
            ..pool(colour as i64, share(colour), &[app])
        });
        vec![with(&entry, pools.collect())]
    };
    rig.publish(table(0)).await;
    // The mark is odd while a table is on its way; half of it says who serves since the last acknowledgement.
    let load = Load::begin(rig.address, 8, |[before, after], answer| {
        let is_settled = before == after && before.is_multiple_of(2);
        answer.status == 200 && (!is_settled || answer.body == (before / 2 % 2).to_string())
    });
    for switch in 1..=30 {
        load.mark.fetch_add(1, Ordering::SeqCst);
        rig.publish(table(switch % 2)).await;
        load.mark.fetch_add(1, Ordering::SeqCst);
        let seen = blue.seen() + green.seen();
        rig::wait_for("more requests", || blue.seen() + green.seen() > seen + 50).await;
    }
    let (good, bad) = load.end().await;
    assert_eq!(bad, 0, "beside {good} good ones");
    assert!(blue.seen() > 100 && green.seen() > 100);
}
