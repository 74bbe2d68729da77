//! `/api/images/`

use axum::body::Body;
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn an_image_is_uploaded_listed_and_forgotten() {
    let world = World::new().await;
    let operator = world.operator();
    let tar = operator.clone().with_header(CONTENT_TYPE, "application/x-tar");
    let made = tar
        .send(Method::POST, "/api/images/?name=app:1", Body::from(vec![7; 500]))
        .await
        .expect(201);
    assert_eq!(
        (&made["results"][0]["reference"], &made["results"][0]["size_bytes"]),
        (&json!("app:1"), &json!(500))
    );
    let list = operator.get("/api/images/").await.expect(200);
    assert_eq!(list["results"], made["results"]);
    operator.delete("/api/images/?ref=app:1").await.expect(204);
    operator.delete("/api/images/?ref=app:1").await.expect(404);
    operator
        .delete("/api/images/")
        .await
        .refuses(400, json!({"ref": ["This field is required"]}));
}

#[tokio::test]
async fn an_upload_is_capped_whether_it_says_its_size_or_not() {
    let world = World::new().await;
    let operator = world.operator();
    let announced = operator.clone().with_header(http::header::CONTENT_LENGTH, "2000");
    announced
        .send(Method::POST, "/api/images/", Body::from(vec![0; 2000]))
        .await
        .expect(413);
    let pieces = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 100])));
    let answer = operator
        .send(Method::POST, "/api/images/", Body::from_stream(pieces))
        .await;
    let problem = answer.expect(400);
    assert!(
        problem["error"]
            .as_str()
            .is_some_and(|text| text.contains("1024 bytes")),
        "{problem}"
    );
    assert_eq!(operator.get("/api/images/").await.expect(200)["results"], json!([]));
}

#[tokio::test]
async fn what_is_no_tar_or_no_name_is_refused() {
    let world = World::new().await;
    let operator = world.operator();
    operator.post("/api/images/", json!({})).await.expect(415);
    for name in ["a%20b", "%0a", &"x".repeat(256)] {
        let answer = operator
            .post_nothing(&format!("/api/images/?name={name}"))
            .await
            .expect(400);
        assert!(answer["name"].is_array(), "{answer}");
    }
}
