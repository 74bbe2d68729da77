//! Pages of lists.

use serde_json::{Value, json};

use crate::world::{Actor, World};

async fn many(alice: &Actor, count: usize) {
    for n in 0..count {
        alice.make("/api/projects/", json!({"name": format!("p{n:03}")})).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    let rows = list["results"].as_array().expect("results");
    rows.iter().map(|row| row["name"].as_str().expect("a name")).collect()
}

/// S2.17, S2.32, S2.33, S0.26: count, absolute links, twenty rows, in order and without gaps.
#[tokio::test]
async fn pages_follow_each_other_by_absolute_links() {
    let world = World::new().await;
    let alice = world.alice().await;
    many(&alice, 41).await;
    let first = alice.get("/api/projects/").await;
    assert_eq!(first.field_order(), ["count", "next", "previous", "results"]);
    let first = first.expect(200);
    assert_eq!(first["count"], 42);
    assert_eq!(first["next"], "https://hob.example/api/projects/?page=2");
    assert_eq!(first["previous"], Value::Null);

    let mut seen = Vec::new();
    let mut next = first["next"].clone();
    seen.extend(names(&first).into_iter().map(str::to_owned));
    while let Some(url) = next.as_str() {
        let page = alice
            .get(url.strip_prefix("https://hob.example").expect("our origin"))
            .await
            .expect(200);
        seen.extend(names(&page).into_iter().map(str::to_owned));
        next = page["next"].clone();
    }
    assert_eq!(seen.len(), 42);
    assert_eq!(seen[0], "p040");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 42);

    let last = alice.get("/api/projects/?page=3").await.expect(200);
    assert_eq!(
        (&last["next"], &last["previous"]),
        (&Value::Null, &json!("https://hob.example/api/projects/?page=2"))
    );
    assert_eq!(names(&last).len(), 2);
    assert_eq!(
        alice.get("/api/projects/?page=last").await.expect(200)["results"],
        last["results"]
    );
    let second = alice.get("/api/projects/?page=2").await.expect(200);
    assert_eq!(
        second["previous"], "https://hob.example/api/projects/",
        "page 1 needs no name"
    );
}

/// I.7: the origin of links is the configured one, whatever `Host` says (C6.8), and everything else of the query is kept.
#[tokio::test]
async fn links_keep_the_query_and_never_trust_the_host() {
    let world = World::new().await;
    let alice = world.alice().await.with_header(http::header::HOST, "evil.example");
    many(&alice, 5).await;
    let page = alice
        .get("/api/projects/?ordering=-name&page=2&page_size=2&x=%2F%22")
        .await
        .expect(200);
    let base = "https://hob.example/api/projects/?ordering=-name&page_size=2&x=%2F%22";
    assert_eq!(page["next"], format!("{base}&page=3"));
    assert_eq!(page["previous"], base);
    assert_eq!(names(&page), ["p002", "p001"]);
}

/// I.7: beyond the end, or no number; the first page of nothing is there.
#[tokio::test]
async fn a_page_that_is_not_there_is_404() {
    let world = World::new().await;
    let alice = world.alice().await;
    for page in [
        "0",
        "-1",
        "2",
        "x",
        "1.5",
        "1e9",
        "99999999999999999999999",
        "18446744073709551615",
        "9223372036854775807",
    ] {
        let answer = alice.get(&format!("/api/projects/?page={page}")).await;
        answer.refuses(404, json!({"detail": "Invalid page."}));
    }
    let bob = world.bob().await;
    let empty = bob.get("/api/services/?page=1").await.expect(200);
    let nothing = json!({"count": 0, "next": null, "previous": null, "results": []});
    assert_eq!(empty, nothing);
    bob.get("/api/services/?page=last").await.expect(200);
    bob.get("/api/services/?page=2").await.expect(404);
}

#[tokio::test]
async fn the_page_size_is_twenty_unless_asked_and_at_most_a_hundred() {
    let world = World::new().await;
    let alice = world.alice().await;
    many(&alice, 104).await;
    let count = async |query: &str| names(&alice.get(&format!("/api/projects/{query}")).await.expect(200)).len();
    assert_eq!(count("").await, 20);
    assert_eq!(count("?page_size=7").await, 7);
    assert_eq!(count("?page_size=1000").await, 100);
    for ignored in ["0", "-3", "x", ""] {
        assert_eq!(count(&format!("?page_size={ignored}")).await, 20, "{ignored}");
    }
}

/// S2.35, C6.21: only known fields order; anything else is ignored, nothing is executed.
#[tokio::test]
async fn odd_orderings_change_nothing() {
    let world = World::new().await;
    let alice = world.alice().await;
    many(&alice, 3).await;
    let plain = alice.get("/api/projects/").await.expect(200)["results"].clone();
    for odd in [
        "-",
        ",,,",
        "id;--",
        "project__name",
        "(select+1)",
        "-secret",
        "%00",
        &"name2,".repeat(500),
    ] {
        let list = alice.get(&format!("/api/projects/?ordering={odd}")).await.expect(200);
        assert_eq!(list["results"], plain, "{odd}");
    }
    let list = alice.get("/api/projects/?ordering=colour,name").await.expect(200);
    assert_eq!(names(&list)[..2], [names(&list)[0], "p000"]);
}

/// S2.35, I.8: every field that may order does, both ways.
#[tokio::test]
async fn every_allowed_field_orders_both_ways() {
    let world = World::new().await;
    let alice = world.alice().await;
    let domain = alice.make("/api/domains/", json!({"hostname": "z.example.com"})).await;
    for name in ["b", "a", "c"] {
        let service = alice.make_service(name).await;
        alice.make("/api/workers/", json!({"name": name, "image": "a"})).await;
        alice.make("/api/configs/", json!({"name": name})).await;
        alice.make("/api/secrets/", json!({"name": name})).await;
        alice
            .make("/api/domains/", json!({"hostname": format!("{name}.example.com")}))
            .await;
        let route = json!({"path": format!("/{name}"), "domain": domain, "service": service});
        alice.make("/api/routes/", route).await;
    }
    let first = alice.get("/api/services/?name=b").await.expect(200)["results"][0]["id"].clone();
    let first = first.as_str().expect("an id");
    world.succeed(first).await;
    alice
        .patch(&format!("/api/services/{first}/"), json!({"image": "b"}))
        .await
        .expect(200);

    for (path, fields) in [
        ("/api/services/", &["name", "created_at", "updated_at", "status"][..]),
        ("/api/workers/", &["name", "created_at", "updated_at", "status"]),
        ("/api/deployments/", &["deployed_at", "version_number"]),
        ("/api/configs/", &["name", "created_at"]),
        ("/api/secrets/", &["name", "created_at"]),
        ("/api/domains/", &["hostname", "created_at"]),
        ("/api/routes/", &["path", "created_at"]),
    ] {
        for field in fields {
            let values = async |ordering: String| {
                let list = alice.get(&format!("{path}?ordering={ordering}")).await.expect(200);
                let rows = list["results"].as_array().expect("results").clone();
                rows.iter().map(|row| row[field].to_string()).collect::<Vec<String>>()
            };
            let mut sorted = values(field.to_string()).await;
            let up = sorted.clone();
            sorted.sort();
            assert_eq!(up, sorted, "{path} {field}");
            sorted.reverse();
            assert_eq!(values(format!("-{field}")).await, sorted, "{path} -{field}");
        }
    }
}

/// I.9: a filter for one row leaves the others in force.
#[tokio::test]
async fn a_row_that_is_found_by_name_is_still_one_of_the_project_that_was_asked_for() {
    let world = World::new().await;
    let alice = world.alice().await;
    let shop = alice.make("/api/projects/", json!({"name": "shop"})).await;
    let other = alice.make("/api/projects/", json!({"name": "other"})).await;
    alice
        .make("/api/domains/", json!({"hostname": "a.example.com", "project": shop}))
        .await;
    for (path, found_in) in [
        ("/api/domains/?hostname=a.example.com", &shop),
        ("/api/projects/?name=shop", &shop),
    ] {
        for project in [&shop, &other] {
            let list = alice.get(&format!("{path}&project={project}")).await.expect(200);
            assert_eq!(list["count"], u64::from(project == found_in), "{path}");
        }
        alice.get(&format!("{path}&project=none")).await.expect(400);
        assert_eq!(alice.get(&format!("{path}%00")).await.expect(200)["count"], 0, "{path}");
    }
}
