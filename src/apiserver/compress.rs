//! Gzip of large answers (apiserver `endpoints/handlers/responsewriters` `deferredResponseWriter`).

use std::io::Write;

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY};
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;

use crate::negotiate::quality;
use crate::respond::{Response, Turns};

/// Smaller answers go as they are.
const SIZE_MIN: u64 = 128 << 10;

/// Whether the client takes gzip, and does not forbid it (`gzip;q=0`).
pub(crate) fn takes_gzip(request: &HeaderMap) -> bool {
    let all = request.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(','))
        .any(|clause| clause.split(';').next().unwrap_or_default().trim() == "gzip" && quality(clause) > 0)
}

/// Compresses the response if the client names gzip, whatever it thinks of it (upstream looks no closer), and it is
/// worth it.
pub fn maybe(request: &HeaderMap, response: Response) -> Response {
    let takes = request
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|v| v.split(';').next().unwrap_or_default().trim() == "gzip");
    if !takes || response.body().size_hint().exact().is_some_and(|size| size < SIZE_MIN) {
        return response;
    }
    let mut response = always(response);
    response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Compresses figures for a client that takes gzip (Prometheus' handler, which says nothing of it in `Vary`).
pub fn figures(request: &HeaderMap, response: Response) -> Response {
    let small = response.body().size_hint().exact().is_some_and(|size| size < SIZE_MIN);
    if small || !takes_gzip(request) { response } else { always(response) }
}

fn always(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(CONTENT_LENGTH);
    let encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let state = (body.into_data_stream(), Some(encoder), Turns::default());
    let stream = futures::stream::unfold(state, |(mut body, encoder, mut turns)| async move {
        let mut encoder = encoder?;
        loop {
            let step = match body.next().await {
                None => {
                    let end = encoder.finish().map(Bytes::from).map_err(axum::Error::new);
                    return Some((end, (body, None, turns)));
                }
                Some(Err(error)) => return Some((Err(error), (body, None, turns))),
                Some(Ok(chunk)) => {
                    turns.after(chunk.len()).await;
                    encoder.write_all(&chunk)
                }
            };
            if let Err(error) = step {
                return Some((Err(axum::Error::new(error)), (body, None, turns)));
            }
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                return Some((Ok(Bytes::from(out)), (body, Some(encoder), turns)));
            }
        }
    });
    Response::from_parts(parts, Body::from_stream(stream))
}
