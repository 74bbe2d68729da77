//! `/api/images/`: the machine's image store, for administrators. Hob's own.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use bytes::Bytes;
use domain::names::IMAGE_MAX;
use domain::{Error, Result};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Serialize;
use tokio_util::io::StreamReader;

use super::error::{Failure, Reply};
use super::extract::Params;
use super::fields;
use super::page::Whole;
use crate::limits::UPLOAD_IDLE_TIMEOUT;
use crate::time::Stamp;
use crate::{ApiState, ImageInfo};

#[derive(Debug, Serialize)]
pub struct ImageView {
    reference: String,
    digest: String,
    size_bytes: u64,
    created_at: Stamp,
    in_use: bool,
}

impl From<ImageInfo> for ImageView {
    fn from(image: ImageInfo) -> Self {
        ImageView {
            reference: image.reference,
            digest: image.digest,
            size_bytes: image.size_bytes,
            created_at: Stamp(image.created_at_us),
            in_use: image.in_use,
        }
    }
}

pub async fn list(State(api): State<ApiState>) -> Reply<Json<Whole<ImageView>>> {
    let images = api.runtime.images().await?;
    Ok(Json(whole(images)))
}

/// Takes a tar, streamed: an OCI image layout or a `docker save` archive. `?name=` is the reference that it gets.
pub async fn import(
    State(api): State<ApiState>,
    params: Params,
    request: Request,
) -> Reply<(StatusCode, Json<Whole<ImageView>>)> {
    let name = params.get("name").map(reference).transpose()?;
    let bytes_max = api.settings.image_upload_bytes_max;
    must_be_tar(&request)?;
    if announced_bytes(&request).is_some_and(|bytes| bytes > bytes_max) {
        return Err(Failure::BodyTooLarge { bytes_max });
    }
    let pieces = patient(request.into_body());
    let archive = StreamReader::new(Box::pin(capped(pieces, bytes_max)));
    let images = api.runtime.import_image(Box::pin(archive), name).await?;
    Ok((StatusCode::CREATED, Json(whole(images))))
}

/// `?ref=` names the reference to forget.
pub async fn remove(State(api): State<ApiState>, params: Params) -> Reply<StatusCode> {
    let Some(text) = params.get("ref") else {
        return Err(Error::invalid("ref", "This field is required").into());
    };
    api.runtime.remove_image(&reference(text)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn whole(images: Vec<ImageInfo>) -> Whole<ImageView> {
    Whole {
        results: images.into_iter().map(ImageView::from).collect(),
    }
}

/// For the two parameters that hold a reference.
fn reference(text: &str) -> Result<String> {
    if text.chars().count() > IMAGE_MAX {
        let problem = format!("Ensure this field has no more than {IMAGE_MAX} characters.");
        return Err(Error::invalid("name", problem));
    }
    match fields::image(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(problem) => Err(Error::invalid("name", problem)),
    }
}

fn must_be_tar(request: &Request) -> Result<(), Failure> {
    let sent = request
        .headers()
        .get(CONTENT_TYPE)
        .map(|value| String::from_utf8_lossy(value.as_bytes()));
    match sent.as_deref() {
        None | Some("application/x-tar" | "application/octet-stream") => Ok(()),
        Some(other) => Err(Failure::UnsupportedMediaType(other.to_owned())),
    }
}

fn announced_bytes(request: &Request) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Gives up on a sender that pauses for too long.
fn patient(body: Body) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let pieces = body.into_data_stream().map_err(io::Error::other);
    stream::unfold(Some(Box::pin(pieces)), |pieces| async {
        let mut pieces = pieces?;
        match tokio::time::timeout(UPLOAD_IDLE_TIMEOUT, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(e))) => Some((Err(e), None)),
            Err(_) => Some((Err(too_slow(UPLOAD_IDLE_TIMEOUT)), None)),
        }
    })
}

fn too_slow(limit: Duration) -> io::Error {
    let text = format!("nothing of the upload arrived for {} seconds", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Fails as soon as more than `bytes_max` have arrived, whatever was announced.
fn capped(
    pieces: impl Stream<Item = io::Result<Bytes>> + Send,
    bytes_max: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let mut left = bytes_max;
    pieces.map(move |piece| {
        let piece = piece?;
        match left.checked_sub(piece.len() as u64) {
            Some(rest) => {
                left = rest;
                Ok(piece)
            }
            None => Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the upload is larger than {bytes_max} bytes"),
            )),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upload_beyond_its_limit_is_cut_off_whatever_it_announced() {
        let piece = || Ok(Bytes::from_static(b"12345678"));
        let pieces = stream::iter([piece(), piece(), piece()]);
        let seen: Vec<bool> = capped(pieces, 16).map(|piece| piece.is_ok()).collect().await;
        assert_eq!(seen, [true, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_pauses_for_too_long_is_given_up() {
        let silence = Body::from_stream(stream::pending::<io::Result<Bytes>>());
        let seen: Vec<io::Result<Bytes>> = patient(silence).collect().await;
        assert_eq!(seen.len(), 1);
        assert!(seen[0].as_ref().is_err_and(|e| e.kind() == io::ErrorKind::TimedOut));
    }
}
