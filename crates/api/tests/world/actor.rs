//! Somebody who makes requests.

use api::LocalOperator;
use axum::Router;
use axum::body::Body;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::TestClock;

/// Each write happens a second after whatever was before it, so that "newest first" has a meaning.
#[derive(Clone)]
pub struct Actor {
    router: Router,
    clock: TestClock,
    headers: HeaderMap,
    local: bool,
}

impl Actor {
    pub fn new(router: Router, clock: TestClock) -> Actor {
        Actor {
            router,
            clock,
            headers: HeaderMap::new(),
            local: false,
        }
    }

    pub fn with_key(self, key: &str) -> Actor {
        self.with_header(AUTHORIZATION, &format!("Bearer {key}"))
    }

    pub fn with_header(mut self, name: HeaderName, value: &str) -> Actor {
        let value = HeaderValue::from_str(value).expect("a test's header is valid");
        self.headers.insert(name, value);
        self
    }

    /// The same credentials as somebody else.
    pub fn with_headers_of(mut self, other: &Actor) -> Actor {
        self.headers = other.headers.clone();
        self
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub fn over_the_control_socket(mut self) -> Actor {
        self.local = true;
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.json(Method::POST, path, body).await
    }

    /// Without a body and without a content type.
    pub async fn post_nothing(&self, path: &str) -> Answer {
        self.send(Method::POST, path, Body::empty()).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.json(Method::PATCH, path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, Body::empty()).await
    }

    pub async fn json(&self, method: Method, path: &str, body: Value) -> Answer {
        let actor = self.clone().with_header(CONTENT_TYPE, "application/json");
        actor.send(method, path, Body::from(body.to_string())).await
    }

    pub async fn send(&self, method: Method, path: &str, body: Body) -> Answer {
        if method != Method::GET {
            self.clock.advance(1);
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().expect("a test's path is valid");
        *request.headers_mut() = self.headers.clone();
        if self.local {
            request.extensions_mut().insert(LocalOperator);
        }
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("an answer can be read").to_bytes();
        Answer {
            what: format!("{method} {path}"),
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("answers are text"),
        }
    }

    /// Makes something and answers with its id.
    pub async fn make(&self, path: &str, body: Value) -> String {
        let made = self.post(path, body).await.expect(201);
        made["id"].as_str().expect("what is made has an id").to_owned()
    }

    /// S2.15's service, by another name if need be.
    pub async fn make_service(&self, name: &str) -> String {
        let body = json!({"name": name, "image": "nginx:1.25", "port": 80});
        self.make("/api/services/", body).await
    }

    /// Ids of the newest deployments of a service, newest first.
    pub async fn deployments(&self, service: &str) -> Vec<String> {
        let list = self
            .get(&format!("/api/services/{service}/deployments/"))
            .await
            .expect(200);
        let ids = list["results"].as_array().expect("results").iter();
        ids.map(|d| d["id"].as_str().expect("an id").to_owned()).collect()
    }

    pub async fn newest_deployment(&self, service: &str) -> String {
        let mut ids = self.deployments(service).await;
        assert!(!ids.is_empty(), "{service} has deployments");
        ids.swap_remove(0)
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    what: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    /// The JSON body, after a look at the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}: {}", self.what, self.text);
        if self.text.is_empty() {
            return Value::Null;
        }
        self.value()
    }

    #[track_caller]
    pub fn refuses(self, status: u16, body: Value) {
        let what = self.what.clone();
        assert_eq!(self.expect(status), body, "{what}");
    }

    #[track_caller]
    pub fn value(&self) -> Value {
        match serde_json::from_str(&self.text) {
            Ok(value) => value,
            Err(e) => panic!("{}: {e}: {}", self.what, self.text),
        }
    }

    /// One value for each line.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let line = |text: &str| serde_json::from_str(text).unwrap_or_else(|e| panic!("{}: {e}: {text}", self.what));
        self.text.lines().map(line).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Names of the object's fields in the order of the text.
    #[track_caller]
    pub fn field_order(&self) -> Vec<String> {
        field_order(&self.text)
    }
}

/// The top-level keys of a JSON object's text, in order; `serde_json::Value` would sort them.
pub fn field_order(text: &str) -> Vec<String> {
    struct Keys(Vec<String>);
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Keys;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    serde_json::from_str::<Keys>(text).expect("a JSON object").0
}
