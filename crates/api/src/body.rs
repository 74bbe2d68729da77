//! Request bodies: read whole, up to a limit, and only then judged.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use domain::Error;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};

use crate::limits;
use crate::platform::error::Failure;

/// A body that has been received and not looked at yet.
///
/// Handlers ask for the object behind it after they have looked up what the request is about, so that a missing thing
/// is a 404 whatever the body says.
pub struct RawBody {
    content_type: String,
    bytes: Bytes,
}

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        let header = |name| {
            parts
                .headers
                .get(name)
                .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        };
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let announced = header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes > limits::JSON_BODY_BYTES_MAX as u64) {
            return Err(too_large());
        }
        let bytes = collect(body).await?;
        Ok(RawBody { content_type, bytes })
    }
}

impl RawBody {
    /// The JSON object that was sent; `{}` when nothing was.
    pub fn object(&self) -> Result<Map<String, Value>, Failure> {
        if self.bytes.is_empty() {
            return Ok(Map::new());
        }
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Failure::UnsupportedMediaType(self.content_type.clone()));
        }
        match serde_json::from_slice(&self.bytes) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(other) => Err(not_an_object(&other)),
            Err(e) => Err(Failure::MalformedJson(e.to_string())),
        }
    }
}

/// I.4, with the names that types have in Python.
fn not_an_object(value: &Value) -> Failure {
    let kind = match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    };
    let text = format!("Invalid data. Expected a dictionary, but got {kind}.");
    Error::invalid("non_field_errors", text).into()
}

async fn collect(body: Body) -> Result<Bytes, Failure> {
    match Limited::new(body, limits::JSON_BODY_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        // The client broke off or sent a broken body: whatever is answered, hardly anybody will read it.
        Err(_) => Err(Error::invalid("non_field_errors", "The body could not be read to its end.").into()),
    }
}

fn too_large() -> Failure {
    Failure::BodyTooLarge {
        bytes_max: limits::JSON_BODY_BYTES_MAX as u64,
    }
}
