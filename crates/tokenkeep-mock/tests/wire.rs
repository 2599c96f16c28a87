//! The server as a client meets it: every fault on the wire, TLS, the endpoints, and the small Jira.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokenkeep_mock::{
    Dialect, Endpoint, Fault, FaultPlan, GrantOptions, Provider, ProviderConfig, RateLimit, Rotation, Server, TlsFace,
    entries,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// What came back on one connection, to its end.
#[derive(Debug)]
struct Heard {
    bytes: Vec<u8>,
    is_reset: bool,
}

impl Heard {
    fn head(&self) -> String {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(self.bytes.len());
        String::from_utf8_lossy(&self.bytes[..end]).to_ascii_lowercase()
    }

    fn body(&self) -> &[u8] {
        let head = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        head.map_or(b"", |end| &self.bytes[end + 4..])
    }

    fn status(&self) -> u16 {
        self.head().get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn header(&self, name: &str) -> Option<String> {
        let head = self.head();
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))?;
        Some(line.to_owned())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Heard {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap();
    Heard { bytes, is_reset: ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset) }
}

struct Mock {
    server: Server,
    refresh_token: String,
    access_token: String,
}

impl Mock {
    async fn of(config: ProviderConfig) -> Self {
        let server = Server::start(([127, 0, 0, 1], 0).into(), Provider::new(config), FaultPlan::none()).await.unwrap();
        let token = server.state().grant(GrantOptions { label: "g".to_owned(), ..GrantOptions::default() }).token;
        Self { server, refresh_token: token.refresh_token, access_token: token.access_token }
    }

    async fn start() -> Self {
        Self::of(ProviderConfig { rotation: Rotation::UntilUsed, ..ProviderConfig::default() }).await
    }

    async fn send(&self, method: &str, target: &str, headers: &str, body: &str) -> Heard {
        let stream = TcpStream::connect(self.server.addr()).await.unwrap();
        talk(stream, &request(method, target, headers, body)).await
    }

    async fn get(&self, target: &str) -> Heard {
        self.send("GET", target, &format!("authorization: Bearer {}\r\n", self.access_token), "").await
    }

    async fn control(&self, target: &str, body: Value) -> Heard {
        let heard = self.send("POST", &format!("/control/{target}"), "", &body.to_string()).await;
        assert_eq!(heard.status(), 200, "{heard:?}");
        heard
    }

    fn refresh_body(&self) -> String {
        format!(
            "grant_type=refresh_token&client_id=mock-client&client_secret=mock-secret&refresh_token={}",
            self.refresh_token
        )
    }

    async fn refresh(&self) -> Heard {
        self.send("POST", "/token", "", &self.refresh_body()).await
    }

    /// A refresh that meets this fault, and whether the provider processed it.
    async fn faulty(&self, fault: Fault) -> (Heard, bool) {
        let before = self.server.state().totals().refreshes;
        self.server.state().script(Some("g"), vec![fault]).unwrap();
        let heard = self.refresh().await;
        (heard, self.server.state().totals().refreshes > before)
    }

    /// The body of a refresh that is processed and meets this fault.
    async fn spoilt(&self, fault: Fault) -> Heard {
        let (heard, processed) = self.faulty(fault.clone()).await;
        assert!(processed, "{fault:?}");
        heard
    }

    /// The answer to a refresh that is not processed.
    async fn refused(&self, fault: Fault) -> Heard {
        let (heard, processed) = self.faulty(fault.clone()).await;
        assert!(!processed, "{fault:?}");
        heard
    }
}

fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

// --- Faults ---

#[tokio::test]
async fn every_fault_happens_where_it_says() {
    let mock = Mock::start().await;
    for entry in entries() {
        let (heard, processed) = mock.faulty(entry.example.clone()).await;
        let is_before = entry.what.starts_with("before:");
        assert_eq!(processed, !is_before, "{}: {heard:?}", entry.kind);
    }
    let told = mock.send("GET", "/control/faults", "", "").await.json();
    let counts = told["token"]["counts"].as_object().unwrap();
    assert!(entries().iter().all(|entry| counts[entry.kind] == 1), "{counts:?}");
    assert_eq!(told["kinds"].as_array().unwrap().len(), entries().len());
}

#[tokio::test]
async fn limits_are_told_with_and_without_a_time() {
    let mock = Mock::start().await;
    let heard = mock.refused(Fault::Throttled { retry_after_s: 3 }).await;
    assert_eq!((heard.status(), heard.header("retry-after").unwrap().as_str()), (429, "3"));
    let heard = mock.refused(Fault::Unavailable { retry_after_s: None }).await;
    assert_eq!((heard.status(), heard.header("retry-after")), (503, None));
    let date = Some("Wed, 21 Oct 2015 07:28:00 GMT".to_owned());
    for (status, retry_after) in [(429, None), (429, date.clone()), (503, date), (503, Some("soon".to_owned()))] {
        let heard = mock.refused(Fault::Busy { status, retry_after: retry_after.clone() }).await;
        let expected = retry_after.map(|text| text.to_ascii_lowercase());
        assert_eq!((heard.status(), heard.header("retry-after")), (status, expected));
    }
    let reason = "jira-quota-tenant-based".to_owned();
    let heard = mock.refused(Fault::RateLimited { retry_after_s: 9, reason }).await;
    assert_eq!(heard.header("ratelimit-reason").unwrap(), "jira-quota-tenant-based");
}

#[tokio::test]
async fn redirects_and_foreign_pages_come_before() {
    let mock = Mock::start().await;
    let heard = mock.refused(Fault::Redirect { location: Some("/x".to_owned()) }).await;
    assert_eq!((heard.status(), heard.header("location").unwrap().as_str()), (307, "/x"));
    for status in [301, 302, 303, 307, 308] {
        assert_eq!(mock.refused(Fault::RedirectAs { status }).await.status(), status);
    }
    for (fault, status) in [(Fault::Html, 200), (Fault::HtmlForbidden, 403)] {
        let heard = mock.refused(fault).await;
        assert_eq!(heard.status(), status);
        assert!(heard.header("content-type").unwrap().starts_with("text/html") && heard.text().contains("<h1>"));
    }
}

#[tokio::test]
async fn a_connection_ends_as_the_fault_says() {
    let mock = Mock::start().await;
    for fault in [Fault::DropBefore, Fault::ResetBefore] {
        let heard = mock.refused(fault.clone()).await;
        assert_eq!((heard.bytes.len(), heard.is_reset), (0, fault == Fault::ResetBefore), "{fault:?}");
    }
    for fault in [Fault::DropAfter, Fault::ResetAfter] {
        let heard = mock.spoilt(fault.clone()).await;
        assert_eq!((heard.bytes.len(), heard.is_reset), (0, fault == Fault::ResetAfter), "{fault:?}");
    }
    let heard = mock.spoilt(Fault::Truncated).await;
    let announced: usize = heard.header("content-length").unwrap().parse().unwrap();
    assert_eq!(heard.body().len(), announced / 2);
    let heard = mock.spoilt(Fault::ChunkedCut).await;
    assert_eq!(
        (heard.header("transfer-encoding").unwrap().as_str(), heard.header("content-length")),
        ("chunked", None)
    );
    assert!(heard.text().contains("access_token") && !heard.text().ends_with("0\r\n\r\n"), "{heard:?}");
}

#[tokio::test]
async fn a_slow_body_is_whole_in_the_end() {
    let mock = Mock::start().await;
    let begun = Instant::now();
    let heard = mock.spoilt(Fault::SlowDrip { bytes: 100, every_ms: 40 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(80), "a body of over 200 bytes takes two pauses");
    assert!(heard.json()["access_token"].is_string());
}

#[tokio::test]
async fn answers_are_spoilt_as_the_fault_says() {
    let mock = Mock::start().await;
    assert_eq!(mock.spoilt(Fault::Created).await.status(), 201);
    assert_eq!(mock.spoilt(Fault::OddBearer).await.json()["token_type"], "bEARER");
    let heard = mock.spoilt(Fault::FormEncoded).await;
    assert!(
        heard.header("content-type").unwrap().contains("form-urlencoded") && heard.text().starts_with("access_token=")
    );
    let heard = mock.spoilt(Fault::ContentType { value: Some("text/plain".to_owned()) }).await;
    assert_eq!(heard.header("content-type").unwrap(), "text/plain");
    assert_eq!(mock.spoilt(Fault::ContentType { value: None }).await.header("content-type"), None);
    assert_eq!(mock.spoilt(Fault::Empty).await.body(), b"");
    assert!(mock.spoilt(Fault::Garbage).await.body().starts_with(b"\xff\x00"));
    let marked = mock.spoilt(Fault::ByteOrderMark).await;
    assert!(marked.body().starts_with(b"\xef\xbb\xbf{") && marked.body().ends_with(b"}"));
    let trailed = mock.spoilt(Fault::TrailingText).await;
    assert!(trailed.body().starts_with(b"{") && trailed.body().ends_with(b"-->\n"));
    let decorated = mock.spoilt(Fault::Decorated).await;
    assert!(decorated.body().starts_with(b"\xef\xbb\xbf{") && decorated.body().ends_with(b"-->\n"));
    assert!(String::from_utf8(mock.spoilt(Fault::Latin1).await.body().to_vec()).is_err());
    assert!(mock.spoilt(Fault::Deep { levels: 500 }).await.text().contains(&"[".repeat(500)));
    assert!(mock.spoilt(Fault::Oversized { bytes: 100_000 }).await.body().len() > 100_000);
    assert!(mock.spoilt(Fault::HugeHeaders { bytes: 100_000 }).await.head().len() > 100_000);
}

#[tokio::test]
async fn duplicate_keys_come_stale_first() {
    let mock = Mock::start().await;
    let heard = mock.spoilt(Fault::DuplicateKeys).await;
    assert_eq!(heard.text().matches("\"access_token\"").count(), 2);
    assert!(heard.text().starts_with("{\"access_token\":\"stale\""), "{heard:?}");
    assert_ne!(heard.json()["access_token"], "stale", "the last one counts");
}

#[tokio::test]
async fn any_field_can_have_any_value_or_none() {
    let mock = Mock::start().await;
    for field in ["access_token", "token_type", "expires_in", "refresh_token", "scope"] {
        for value in [json!(1), json!(""), json!([]), json!({"a": 1}), json!(true), Value::Null] {
            let heard = mock.spoilt(Fault::OddField { field: field.to_owned(), value: Some(value.clone()) }).await;
            assert_eq!(heard.json()[field], value);
        }
        let heard = mock.spoilt(Fault::OddField { field: field.to_owned(), value: None }).await;
        assert_eq!(heard.json().get(field), None);
    }
    let null: Fault = serde_json::from_str(r#"{"kind":"odd_field","field":"scope","value":null}"#).unwrap();
    assert_eq!(null, Fault::OddField { field: "scope".to_owned(), value: Some(Value::Null) });
}

// --- TLS ---

/// Talks TLS with trust in this authority.
async fn talk_tls(addr: SocketAddr, authority: &str, request: &str) -> Result<Heard, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await {
        Ok(stream) => Ok(talk(stream, request).await),
        Err(error) => Err(error.to_string()),
    }
}

#[tokio::test]
async fn tls_presents_itself_as_it_is_told() {
    let mut mock = Mock::start().await;
    assert_eq!(mock.send("GET", "/control/tls", "", "").await.status(), 404, "there is no such listener yet");
    let addr = mock.server.listen_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
    let authority = mock.send("GET", "/control/tls", "", "").await.text();
    let metadata = request("GET", "/.well-known/openid-configuration", "", "");
    let good = talk_tls(addr, &authority, &metadata).await.unwrap();
    assert_eq!(good.json()["issuer"], format!("https://{addr}"));
    let cases = [
        (TlsFace::WrongName, "not valid for name"),
        (TlsFace::Expired, "expired"),
        (TlsFace::Untrusted, "UnknownIssuer"),
        (TlsFace::Cut, "eof"),
        (TlsFace::Plain, "InvalidContentType"),
    ];
    for (face, expected) in cases {
        mock.control("tls", json!({"face": face})).await;
        let error = talk_tls(addr, &authority, &metadata).await.unwrap_err();
        assert!(error.contains(expected), "{face:?}: {error}");
    }
    mock.control("reset", json!({})).await;
    assert!(talk_tls(addr, &authority, &metadata).await.is_ok());
}

#[tokio::test]
async fn faults_happen_behind_tls_too() {
    let mut mock = Mock::start().await;
    let addr = mock.server.listen_tls(([127, 0, 0, 1], 0).into()).await.unwrap();
    let authority = mock.server.state().authority_pem().unwrap().to_owned();
    mock.server.state().script(Some("g"), vec![Fault::ResetAfter]).unwrap();
    let body = mock.refresh_body();
    let heard = talk_tls(addr, &authority, &request("POST", "/token", "", &body)).await.unwrap();
    assert!(heard.is_reset && heard.bytes.is_empty(), "{heard:?}");
}

// --- Endpoints ---

#[tokio::test]
async fn discovery_names_endpoints_that_are_there() {
    let mock = Mock::start().await;
    let oauth = mock.send("GET", "/.well-known/oauth-authorization-server", "", "").await.json();
    let oidc = mock.send("GET", "/.well-known/openid-configuration", "", "").await.json();
    assert_eq!(oauth, oidc);
    for (name, url) in oauth.as_object().unwrap() {
        if name.ends_with("_endpoint") || name == "jwks_uri" {
            let path = url.as_str().unwrap().strip_prefix(&mock.server.url("")).unwrap();
            let status = mock.send("PUT", path, "", "").await.status();
            assert_eq!(status, 405, "{name}: {path}");
        }
    }
}

#[tokio::test]
async fn a_browser_signs_in_by_form_or_by_itself() {
    let mock = Mock::start().await;
    let ask =
        "/authorize?response_type=code&client_id=mock-client&redirect_uri=http%3A%2F%2F127.0.0.1%3A7%2Fcb&scope=a";
    let form = mock.send("GET", ask, "", "").await;
    assert!(form.text().contains("value=allow") && form.text().contains("<li>a</li>"), "{form:?}");
    let allowed = mock.send("POST", ask, "", "decision=allow").await;
    let location = allowed.header("location").unwrap();
    assert!(allowed.status() == 302 && location.starts_with("http://127.0.0.1:7/cb?code="), "{allowed:?}");
    let denied = mock.send("GET", &format!("{ask}&auto=deny"), "", "").await;
    assert!(denied.header("location").unwrap().contains("error=access_denied"));
    assert_eq!(mock.send("POST", ask, "", "decision=maybe").await.status(), 400);
    assert_eq!(mock.send("GET", "/authorize?client_id=nobody", "", "").await.status(), 400);
    let wrong = mock.send("GET", &ask.replace("=code&", "=token&"), "", "").await;
    assert!(wrong.header("location").unwrap().contains("unsupported_response_type"));

    // The head is in lower case, and codes are not: the browser's own way must not lose them.
    let raw = String::from_utf8(mock.send("GET", &format!("{ask}&auto=allow"), "", "").await.bytes).unwrap();
    let code = raw.split("cb?code=").nth(1).unwrap().split_whitespace().next().unwrap();
    let body = format!(
        "grant_type=authorization_code&client_id=mock-client&client_secret=mock-secret&code={code}\
         &redirect_uri=http%3A%2F%2F127.0.0.1%3A7%2Fcb"
    );
    let tokens = mock.send("POST", "/token", "", &body).await.json();
    let bearer = format!("authorization: Bearer {}\r\n", tokens["access_token"].as_str().unwrap());
    assert_eq!(mock.send("GET", "/userinfo", &bearer, "").await.json()["sub"], "user");
    assert_eq!(mock.send("GET", "/userinfo", "", "").await.status(), 401);
}

#[tokio::test]
async fn a_device_signs_in_by_its_page() {
    let mock = Mock::start().await;
    let client = "client_id=mock-client&client_secret=mock-secret";
    let begun = mock.send("POST", "/device_authorization", "", client).await.json();
    let complete = begun["verification_uri_complete"].as_str().unwrap().strip_prefix(&mock.server.url("")).unwrap();
    let page = mock.send("GET", complete, "", "").await;
    assert!(page.text().contains("mock-client") && page.text().contains("value=deny"), "{page:?}");
    assert!(mock.send("GET", "/device", "", "").await.text().contains("name=user_code"));
    assert_eq!(mock.send("GET", "/device?user_code=nope", "", "").await.status(), 404);
    let user_code = begun["user_code"].as_str().unwrap();
    let done = mock.send("POST", "/device", "", &format!("user_code={user_code}&decision=allow")).await;
    assert_eq!(done.status(), 200);
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
    let body = format!("grant_type={grant}&{client}&device_code={}", begun["device_code"].as_str().unwrap());
    assert!(mock.send("POST", "/token", "", &body).await.json()["refresh_token"].is_string());
}

#[tokio::test]
async fn one_request_gives_a_token_file() {
    let mock = Mock::start().await;
    let token = mock.send("POST", "/control/grants?as=token", "", "").await.json();
    assert!(token["refresh_token"].is_string() && token["expires_at"].is_i64(), "{token}");
    let named = mock.control("grants?as=token", json!({"label": "x", "owner": "ada", "access_ttl_s": 9})).await.json();
    assert_eq!(named["expires_in"], 9);
    assert!(mock.server.state().ledger("x").is_some());
    for (target, body) in
        [("grants?as=file", "{}"), ("grants?as=token", "{\"count\":2}"), ("script?at=x", "{\"faults\":[]}")]
    {
        assert_eq!(mock.send("POST", &format!("/control/{target}"), "", body).await.status(), 400, "{target}");
    }
}

// --- Jira ---

async fn jira() -> (Mock, String) {
    let mock = Mock::of(ProviderConfig { seed: 7, ..Dialect::Atlassian.config() }).await;
    let sites = mock.get("/oauth/token/accessible-resources").await.json();
    assert_eq!(sites[0]["scopes"], json!(["read:jira-work", "read:jira-user"]));
    let cloud = format!("/ex/jira/{}", sites[0]["id"].as_str().unwrap());
    (mock, cloud)
}

#[tokio::test]
async fn jira_lists_what_there_is() {
    let (mock, cloud) = jira().await;
    assert_eq!(mock.get("/me").await.json()["name"], "g");
    for version in [2, 3] {
        let api = format!("{cloud}/rest/api/{version}");
        assert_eq!(mock.get(&format!("{api}/serverInfo")).await.json()["deploymentType"], "Cloud");
        assert_eq!(mock.get(&format!("{api}/myself")).await.json()["displayName"], "g");
        let projects = mock.get(&format!("{api}/project")).await.json();
        assert_eq!(projects.as_array().unwrap().len(), 3);
        assert_eq!(mock.get(&format!("{api}/project/OPS")).await.json()["name"], "Operations");
        let page = mock.get(&format!("{api}/project/search?maxResults=2")).await.json();
        assert_eq!((&page["total"], &page["isLast"]), (&3.into(), &false.into()));
        let next = page["nextPage"].as_str().unwrap().strip_prefix(&mock.server.url("")).unwrap();
        assert_eq!(mock.get(next).await.json()["values"][0]["key"], "WEB");
        let issue = mock.get(&format!("{api}/issue/TK-1")).await.json();
        assert_eq!(issue["fields"]["project"]["key"], "TK");
        assert_eq!(issue["fields"]["description"].is_object(), version == 3);
        let own = issue["self"].as_str().unwrap().strip_prefix(&mock.server.url("")).unwrap();
        assert_eq!(mock.get(own).await.json()["key"], "TK-1");
        assert_eq!(mock.get(&format!("{api}/issue/TK-999")).await.status(), 404);
        assert_eq!(mock.get(&format!("{api}/nothing")).await.status(), 404);
    }
    assert_eq!(mock.get("/ex/jira/nope/rest/api/3/myself").await.status(), 404);
    assert_eq!(mock.send("POST", "/me", "", "").await.status(), 401);
}

#[tokio::test]
async fn jira_pages_by_token_until_the_last_page() {
    let (mock, cloud) = jira().await;
    let search = format!("{cloud}/rest/api/3/search/jql");
    let (mut keys, mut more) = (Vec::new(), String::new());
    loop {
        let target =
            format!("{search}?jql=project%20%3D%20TK%20ORDER%20BY%20key&fields=summary,status&maxResults=10{more}");
        let page = mock.get(&target).await.json();
        for issue in page["issues"].as_array().unwrap() {
            assert_eq!(issue["fields"].as_object().unwrap().len(), 2);
            keys.push(issue["key"].as_str().unwrap().to_owned());
        }
        match page["nextPageToken"].as_str() {
            Some(token) => more = format!("&nextPageToken={token}"),
            None => break assert_eq!(page["isLast"], true),
        }
    }
    assert_eq!(keys, (1..=24).map(|nth| format!("TK-{nth}")).collect::<Vec<_>>());
    let other = mock.get(&format!("{search}?jql=project%3DOPS{more}")).await;
    assert_eq!(other.status(), 400, "a page token belongs to its query");
}

#[tokio::test]
async fn jira_searches_as_the_cloud_of_today() {
    let (mock, cloud) = jira().await;
    let search = format!("{cloud}/rest/api/3/search/jql");
    let bearer = format!("authorization: Bearer {}\r\n", mock.access_token);
    let body = json!({"jql": "project = WEB", "maxResults": 5, "fields": ["summary", "created"]}).to_string();
    let posted = mock.send("POST", &search, &bearer, &body).await.json();
    assert_eq!(posted["issues"].as_array().unwrap().len(), 5);
    assert_eq!(posted["issues"][0]["fields"].as_object().unwrap().len(), 2);
    let ids = mock.get(&format!("{search}?jql=project%3DWEB")).await.json();
    assert_eq!(ids["issues"][0].as_object().unwrap().len(), 1, "only ids unless fields are asked for");
    for (jql, expected) in
        [("", "Unbounded"), ("order%20by%20key", "Unbounded"), ("foo%3D1", "Field 'foo'"), ("a%20OR", "Field 'a'")]
    {
        let refused = mock.get(&format!("{search}?jql={jql}")).await;
        assert_eq!(refused.status(), 400);
        assert!(refused.json()["errorMessages"][0].as_str().unwrap().contains(expected), "{refused:?}");
    }
    for version in [2, 3] {
        let gone = mock.get(&format!("{cloud}/rest/api/{version}/search?jql=project%3DTK")).await;
        assert_eq!(gone.status(), 410);
        assert!(gone.text().contains("/rest/api/3/search/jql"));
    }
    assert_eq!(mock.get(&format!("{search}?jql=project%3DTK&maxResults=x")).await.status(), 400);
}

#[tokio::test]
async fn jira_as_a_data_center_keeps_the_classic_search() {
    let (mock, _) = jira().await;
    assert_eq!(mock.get("/rest/api/2/serverInfo").await.json()["deploymentType"], "Server");
    let page = mock.get("/rest/api/2/search?jql=project%3DOPS&startAt=16&maxResults=5").await.json();
    assert_eq!((&page["total"], page["issues"].as_array().unwrap().len()), (&18.into(), 2));
    assert!(page["issues"][0]["fields"]["summary"].is_string());
    assert_eq!(mock.get("/rest/api/2/search/jql?jql=project%3DOPS").await.status(), 404);
    assert_eq!(mock.get("/rest/api/3/myself").await.status(), 404);
}

#[tokio::test]
async fn jira_knows_the_ledger_and_the_scope() {
    let (mock, cloud) = jira().await;
    let api = format!("{cloud}/rest/api/3/myself");
    assert_eq!(mock.send("GET", &api, "", "").await.status(), 401);
    let narrow = mock.control("grants?as=token", json!({"scope": "read:me"})).await.json();
    let bearer = format!("authorization: Bearer {}\r\n", narrow["access_token"].as_str().unwrap());
    let refused = mock.send("GET", &api, &bearer, "").await;
    assert_eq!(refused.json(), json!({"code": 401, "message": "Unauthorized; scope does not match"}));
    assert_eq!(mock.get(&api).await.status(), 200);
    mock.control("clock", json!({"offset_ms": 3_600_000})).await;
    assert_eq!(mock.get(&api).await.json(), json!({"code": 401, "message": "Unauthorized"}), "the token has ended");
    mock.control("clock", json!({"offset_ms": 0})).await;
    mock.control("grants/g/kill", json!({})).await;
    assert_eq!(mock.get(&api).await.status(), 401);
}

#[tokio::test]
async fn jira_limits_by_fault_and_by_a_bucket() {
    let (mock, cloud) = jira().await;
    let api = format!("{cloud}/rest/api/3/myself");
    let fault = json!({"label": "g", "faults": [{"kind": "rate_limited", "retry_after_s": 7, "reason": "jira-quota-global-based"}]});
    mock.control("script?at=api", fault).await;
    let limited = mock.get(&api).await;
    assert_eq!((limited.status(), limited.header("retry-after").unwrap().as_str()), (429, "7"));
    assert_eq!(limited.header("ratelimit-reason").unwrap(), "jira-quota-global-based");
    assert!(limited.header("x-ratelimit-reset").unwrap().ends_with('z'), "{limited:?}");
    assert_eq!(mock.get(&api).await.status(), 200);
    mock.server.state().set_rate_limit(Some(RateLimit { per_s: 0.001, burst: 1 }));
    let last = mock.get(&api).await;
    assert_eq!((last.status(), last.header("x-ratelimit-remaining").unwrap().as_str()), (200, "0"));
    let limited = mock.get(&api).await;
    assert_eq!((limited.status(), limited.header("x-ratelimit-limit").unwrap().as_str()), (429, "1"));
    assert_eq!(limited.header("ratelimit-reason").unwrap(), "jira-burst-based");
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() > 900);
    mock.control("rate", json!({})).await;
    assert_eq!(mock.get(&api).await.status(), 200);
    assert_eq!(mock.send("POST", "/control/rate", "", r#"{"per_s":0}"#).await.status(), 400);
}

#[tokio::test]
async fn faults_of_the_api_leave_the_token_endpoint_alone() {
    let (mock, _) = jira().await;
    let everything = json!({"faults": [{"probability": 1, "fault": {"kind": "html_forbidden"}}]});
    mock.control("faults?at=api", everything).await;
    assert_eq!(mock.get("/me").await.status(), 403);
    assert_eq!(mock.refresh().await.status(), 200);
    mock.server.state().set_faults_at(Endpoint::Api, FaultPlan::none());
    mock.server.state().script_at(Endpoint::Api, None, vec![Fault::DropAfter]).unwrap();
    assert_eq!(mock.get("/me").await.bytes, b"");
    assert_eq!(mock.get("/me").await.status(), 200);
}
