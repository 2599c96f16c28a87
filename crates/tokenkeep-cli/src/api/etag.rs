//! `ETag` and `If-None-Match`: what a reader has already is not sent again.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Tags what a GET answers with 200 by its content; 304 where `If-None-Match` names the tag. For routes whose answers
/// are made as a whole and hold no secret.
pub async fn tagged(request: Request, next: Next) -> Response {
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let is_get = request.method() == Method::GET;
    let response = next.run(request).await;
    if !is_get || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // It is in memory as a whole already.
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let Ok(tag) = HeaderValue::try_from(tag_of(&body)) else { return Response::from_parts(head, Body::from(body)) };
    head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    let is_known = known.is_some_and(|known| names(&known, &tag));
    head.headers.insert(header::ETAG, tag);
    if is_known {
        return (StatusCode::NOT_MODIFIED, only_about_caching(&head.headers)).into_response();
    }
    Response::from_parts(head, Body::from(body))
}

/// A weak tag: the same content, perhaps in other bytes after an upgrade.
fn tag_of(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    format!("W/\"{:016x}\"", hasher.finish())
}

fn names(known: &HeaderValue, tag: &HeaderValue) -> bool {
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let (Ok(known), Ok(tag)) = (known.to_str(), tag.to_str()) else { return false };
    known.split(',').any(|one| one.trim() == "*" || weak(one) == weak(tag))
}

fn only_about_caching(headers: &HeaderMap) -> HeaderMap {
    let kept = [header::ETAG, header::CACHE_CONTROL];
    kept.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::middleware;
    use axum::routing::get;
    use tower::ServiceExt as _;

    async fn ask(method: &str, known: Option<&str>) -> Response {
        let app = Router::new().route("/", get(|| async { "yes" }).post(|| async { "done" }));
        let app = app.layer(middleware::from_fn(tagged));
        let mut request = Request::builder().method(method).uri("/");
        if let Some(known) = known {
            request = request.header(header::IF_NONE_MATCH, known);
        }
        app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_known_is_not_sent_again() {
        let first = ask("GET", None).await;
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(
            (first.status(), first.headers()[header::CACHE_CONTROL].to_str().unwrap()),
            (StatusCode::OK, "private, no-cache")
        );
        for known in [tag.as_str(), "*", &format!("\"x\", {tag}"), tag.trim_start_matches("W/")] {
            let second = ask("GET", Some(known)).await;
            assert_eq!(
                (second.status(), second.headers()[header::ETAG].to_str().unwrap()),
                (StatusCode::NOT_MODIFIED, &*tag),
                "{known}"
            );
            assert!(to_bytes(second.into_body(), 10).await.unwrap().is_empty());
        }
        assert_eq!(ask("GET", Some("\"x\"")).await.status(), StatusCode::OK);
        let posted = ask("POST", Some("*")).await;
        assert_eq!((posted.status(), posted.headers().get(header::ETAG)), (StatusCode::OK, None));
    }
}
