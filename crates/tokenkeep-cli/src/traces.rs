//! Traces by OpenTelemetry: requests to the API and attempts at a refresh, as spans over OTLP (HTTP with JSON).
//!
//! The standard variables say where they go and how many: `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`,
//! `OTEL_BSP_*`. Without an endpoint there are none.

use crate::env;
use crate::error::CliError;
use async_trait::async_trait;
use axum::body::Bytes;
use http::{HeaderMap, Request, Response};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{
    HttpExporterBuilderSet, Protocol, SpanExporter, SpanExporterBuilder, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::Duration;
use tokenkeep::endpoint::http::{HttpEndpoint, Options};
use tokenkeep::endpoint::{Endpoint as _, Reuse, SendFailure};
use tokenkeep::metrics::SPANS;
use tokenkeep_core::Secret;
use tokenkeep_core::oauth::request::{Method, ProviderRequest};
use tokio::runtime::{Builder, Runtime};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// How long the last spans may take when the daemon ends.
const END_MAX: Duration = Duration::from_secs(5);
/// How long one request to the collector may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// What makes spans of what happens, where an endpoint is named.
///
/// # Errors
/// What is named is no URL that could be reached.
pub fn layer<S>() -> Result<Option<impl Layer<S>>, CliError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let Some((variable, url)) = endpoint() else { return Ok(None) };
    let client = Collector::new(&url).map_err(|why| {
        CliError::usage(format!("{variable} is `{url}`: {why}"))
            .next_step("expected a URL such as http://localhost:4318")
    })?;
    let exporter = exporter().with_http_client(client).build();
    let exporter = exporter.map_err(|error| CliError::usage(format!("traces cannot be sent: {error}")))?;
    let provider = provider(exporter);
    let layer = spans(&provider);
    // The first one stays: logging is started once.
    let _ = PROVIDER.set(provider);
    Ok(Some(layer))
}

/// Sends what has not been sent yet.
pub fn end() {
    if let Some(Err(error)) = PROVIDER.get().map(|provider| provider.shutdown_with_timeout(END_MAX)) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}

/// Makes a request's span a part of the trace that its `traceparent` names (W3C Trace Context).
pub fn follow(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() {
        // A span that goes nowhere follows nothing.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&HeaderExtractor(headers)));
    }
}

fn endpoint() -> Option<(&'static str, String)> {
    [env::OTLP_TRACES_ENDPOINT, env::OTLP_ENDPOINT]
        .into_iter()
        .find_map(|variable| Some((variable, env::read(variable).filter(|url| !url.is_empty())?)))
}

fn exporter() -> SpanExporterBuilder<HttpExporterBuilderSet> {
    SpanExporter::builder().with_http().with_protocol(Protocol::HttpJson)
}

fn provider(exporter: SpanExporter) -> SdkTracerProvider {
    let mut resource = Resource::builder();
    if env::read(env::OTEL_SERVICE_NAME).is_none() {
        resource = resource.with_service_name("tokenkeep");
    }
    SdkTracerProvider::builder().with_resource(resource.build()).with_batch_exporter(exporter).build()
}

/// Spans are ours alone, and what is logged meanwhile becomes an event of its span.
fn spans<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let ours = Targets::new().with_target("tokenkeep", Level::INFO).with_target(SPANS, Level::DEBUG);
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tokenkeep"));
    layer.with_location(false).with_threads(false).with_tracked_inactivity(false).with_filter(ours)
}

/// Where spans are sent to: by the client that asks providers, in a runtime of its own, since the exporter's thread has
/// none.
#[derive(Debug)]
struct Collector {
    endpoint: HttpEndpoint,
    runtime: Runtime,
}

impl Collector {
    fn new(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        let host = url.host_str().ok_or("it has no host")?.to_owned();
        // Whoever operates it says where the traces go: plain http inside their network too.
        let options = Options { allow_http_hosts: vec![host], ..Options::default() };
        let endpoint = HttpEndpoint::new(options);
        endpoint.check(&url).map_err(|failure| failure.detail)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Ok(Self { endpoint, runtime })
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string())?;
        let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned);
        let mut headers = Vec::new();
        for (name, value) in head.headers.iter().filter(|(name, _)| **name != http::header::CONTENT_TYPE) {
            headers.push((Cow::Owned(name.as_str().to_owned()), Cow::Owned(text(value)?)));
        }
        let request = ProviderRequest {
            method: Method::Post,
            authorization: None,
            headers: Cow::Owned(headers),
            content_type: Some("application/json"),
            body: Secret::new(str::from_utf8(&body)?),
        };
        let channel = self.endpoint.connect(&url, Reuse::Fresh).await.map_err(|failure| format!("{failure:?}"))?;
        let answer = match channel.send(request, REQUEST_MAX).await {
            Ok(answer) => answer,
            Err(SendFailure::Unsent(failure) | SendFailure::Unknown(failure)) => {
                return Err(format!("{failure:?}").into());
            }
        };
        let mut response = Response::builder().status(answer.status);
        if let Some(wait) = answer.retry_after {
            response = response.header(http::header::RETRY_AFTER, wait.as_secs());
        }
        Ok(response.body(Bytes::copy_from_slice(&answer.body))?)
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Only the exporter's own thread comes here.
        self.runtime.block_on(self.exchange(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::oauth::SignIns;
    use crate::api::stream::Streams;
    use crate::api::{Api, whole};
    use crate::server::Peer;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::State;
    use axum::routing::post;
    use serde_json::Value;
    use std::sync::Arc;
    use tokenkeep::{Config, TokenKeep};
    use tokio::net::TcpListener;
    use tokio::sync::{mpsc, watch};
    use tower::ServiceExt as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// A collector that gives what it gets.
    async fn collector() -> (String, mpsc::UnboundedReceiver<Value>) {
        let (tell, got) = mpsc::unbounded_channel();
        let take = async |State(tell): State<mpsc::UnboundedSender<Value>>, body: Bytes| {
            tell.send(serde_json::from_slice(&body).unwrap()).unwrap();
        };
        let router = Router::new().route("/v1/traces", post(take)).with_state(tell);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        (url, got)
    }

    #[tokio::test]
    async fn a_request_is_a_span_of_its_caller_s_trace_and_nothing_foreign_is_sent() {
        let (url, mut got) = collector().await;
        let client = tokio::task::spawn_blocking({
            let url = url.clone();
            move || Collector::new(&url).unwrap()
        });
        let exporter = exporter().with_http_client(client.await.unwrap()).with_endpoint(&url).build().unwrap();
        let provider = provider(exporter);
        let folder = tempfile::tempdir().unwrap();
        let keep = TokenKeep::open(Config::new(folder.path())).await.unwrap();
        let (_, stopped) = watch::channel(false);
        let app = whole(Api::new(keep.clone(), Streams::new(stopped), Arc::default(), SignIns::default()));

        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans(&provider)));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let mut request = Request::get("/v1/providers/atlassian")
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
            .header("x-secret", "canary")
            .body(Body::empty())
            .unwrap();
        request.extensions_mut().insert(Peer::User(7));
        assert_eq!(app.oneshot(request).await.unwrap().status(), 200);
        tracing::info_span!(target: "hyper", "foreign").in_scope(|| tracing::warn!(target: "hyper", "canary"));
        drop(guard);
        keep.shutdown().await;

        tokio::task::spawn_blocking(move || provider.shutdown()).await.unwrap().unwrap();
        let sent = got.recv().await.unwrap();
        let spans = &sent["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!((spans.as_array().map(Vec::len), &spans[0]["traceId"]), (Some(1), &trace.into()), "{sent}");
        assert_eq!(spans[0]["parentSpanId"], "b7ad6b7169203331");
        assert_eq!(spans[0]["name"], "GET /v1/providers/{name}");
        let text = sent.to_string();
        assert!(text.contains("http.response.status_code") && text.contains("service.name"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn what_is_no_address_of_a_collector_is_refused() {
        for (url, why) in [("localhost:4318", "host"), ("ftp://localhost/", "http"), ("/v1", "relative")] {
            let refused = Collector::new(url).unwrap_err();
            assert!(refused.contains(why), "{url}: {refused}");
        }
        assert!(Collector::new("http://collector.internal:4318").is_ok());
    }
}
