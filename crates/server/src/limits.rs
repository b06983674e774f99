//! Bodies: how they are read, and what of them is refused before anyone looks at their meaning.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value as Json;

use crate::error::ApiError;
use crate::heap::{HeapShare, HeldShare, too_little};
use crate::state::App;

/// How long what is too much is read and thrown away, so that a client that is still sending hears why.
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// How much of it.
const DISCARD_BYTES_MAX: usize = 512 << 20;

/// What takes memory, for those who get none.
const READING: &str = "to read the body";

/// A body that is JSON, of whatever form. Nested deeper than 127 levels it is refused.
pub struct JsonBody(pub Json);

impl FromRequest<App> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let held = request.extensions().get::<HeldShare>().cloned();
        let (bytes, mut share) = read_body(request, app).await?;
        if bytes.trim_ascii().is_empty() {
            return Err(ApiError::bad_request("the body is empty: send a JSON object").coded("invalid_json"));
        }
        let needed = bytes_as_json(&bytes);
        if !share.resize(needed) {
            return Err(too_little(needed, READING, app));
        }
        let body = serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::bad_request(format!("the body is not valid JSON: {error}")).coded("invalid_json")
        })?;
        if let Some(held) = held {
            held.put(share);
        }
        Ok(Self(body))
    }
}

/// Bytes that a JSON text holds until its request is answered, at most: its strings as they are sent, as they are read, and as
/// tokens of four bytes each, and the nodes of its tree, of which each but the first follows one of four characters.
pub(crate) fn bytes_as_json(text: &[u8]) -> usize {
    let nodes = 1 + text.iter().filter(|&byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    // A list that grows has room for as much again.
    6 * text.len() + 2 * size_of::<Json>() * nodes
}

/// A body as it is, within the limits, and its share of the memory.
///
/// # Errors
/// 413 where it is too large, 408 where it takes too long, 503 where too much is read at once.
pub async fn read_body(request: Request, app: &App) -> Result<(Vec<u8>, HeapShare), ApiError> {
    read_body_within(request, app, app.config().limits.body_bytes).await
}

/// The same with a limit of its own.
///
/// # Errors
/// As above.
pub async fn read_body_within(request: Request, app: &App, bytes_max: usize) -> Result<(Vec<u8>, HeapShare), ApiError> {
    let limits = &app.config().limits;
    let (parts, body) = request.into_parts();
    let declared =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_large = |found: &str| {
        let message = format!("the body has {found} bytes, at most {bytes_max} are taken: send less");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).coded("body_too_large")
    };
    if let Some(length) = declared.filter(|&length| length > bytes_max as u64) {
        // Who asks first is told at once, and sends nothing.
        if !parts.headers.contains_key(header::EXPECT) {
            let _ = tokio::time::timeout(DISCARD_TIME, discard(body)).await;
        }
        return Err(too_large(&length.to_string()));
    }
    // The bytes, and once more what is made of them.
    let needed = 2 * declared.unwrap_or(0) as usize;
    let mut share = app.heap().take(needed).ok_or_else(|| too_little(needed, READING, app))?;
    let mut body = body;
    let mut bytes = Vec::with_capacity(declared.unwrap_or(0) as usize);
    let read = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ApiError::bad_request("the body broke off before its end"))?;
            if let Ok(data) = frame.into_data() {
                if bytes.len() + data.len() > bytes_max {
                    return Err(too_large("more"));
                }
                let needed = 2 * (bytes.len() + data.len());
                if declared.is_none() && !share.resize(needed) {
                    return Err(too_little(needed, READING, app));
                }
                bytes.extend_from_slice(&data);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(limits.body_time, read).await {
        Ok(Ok(())) => Ok((bytes, share)),
        Ok(Err(error)) => {
            if error.status == StatusCode::PAYLOAD_TOO_LARGE {
                let _ = tokio::time::timeout(DISCARD_TIME, discard(body)).await;
            }
            Err(error)
        }
        Err(_) => {
            let message = format!("the body was not there within {} s", limits.body_time.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

async fn discard(mut body: Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, bytes::Bytes::len);
        if read > DISCARD_BYTES_MAX {
            return;
        }
    }
}

/// JSON, or what clients send that say nothing better: no type at all, or that of `curl -d`. A page of another origin
/// could send those two without asking, which is why [`crate::security`] looks at the origin itself.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or("?");
    let kind = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fine = matches!(kind.as_str(), "" | "application/json" | "text/json" | "application/x-www-form-urlencoded")
        || kind.starts_with("application/") && kind.ends_with("+json");
    if fine {
        return Ok(());
    }
    let message = format!("the body is said to be `{given}`: send JSON, as `Content-Type: application/json`");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message).coded("unsupported_media_type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_several_names() {
        let check = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            check_content_type(&headers).is_ok()
        };
        for fine in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(check(fine), "{fine}");
        }
        for wrong in ["text/plain", "multipart/form-data; boundary=x", "application/xml", "text/html"] {
            assert!(!check(wrong), "{wrong}");
        }
        assert!(check_content_type(&HeaderMap::new()).is_ok());
    }
}
