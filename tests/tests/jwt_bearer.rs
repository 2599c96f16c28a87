//! A client that acts for an account by assertions which it signs (RFC 7523), through the real binary.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokenkeep_tests::callers::Door;
use tokenkeep_tests::daemon::Installation;
use tokenkeep_tests::http::Request;
use tokenkeep_tests::oidc::ClientKey;

/// A request may come in pieces.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// A token endpoint that answers every assertion for `ada`, and tells what each request asserted.
fn endpoint() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/token", listener.local_addr().expect("it has one"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().flatten().enumerate() {
            let claims = asserted(&stream);
            let body = if claims["sub"] == "ada" {
                format!(r#"{{"access_token":"token-{nth}","token_type":"Bearer","expires_in":3600}}"#)
            } else {
                r#"{"error":"invalid_grant"}"#.to_owned()
            };
            let status = if claims["sub"] == "ada" { "200 OK" } else { "400 Bad Request" };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            let _ = (&stream).write_all(answer.as_bytes());
            if tell.send(claims).is_err() {
                return;
            }
        }
    });
    (url, told)
}

/// The claims of a request's assertion.
fn asserted(mut stream: &TcpStream) -> Value {
    stream.set_read_timeout(Some(READ_WITHIN)).expect("a span");
    let mut text = String::new();
    let mut piece = [0; 4096];
    while !text.contains("assertion=") || !text.contains("client_id=") {
        let length = stream.read(&mut piece).expect("a request");
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..length]));
    }
    assert!(text.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer"), "{text}");
    let assertion =
        text.split("assertion=").nth(1).and_then(|rest| rest.split(['&', ' ']).next()).expect("an assertion");
    let claims = assertion.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64url")).expect("claims")
}

#[test]
fn a_client_acts_for_an_account_and_goes_on_to() {
    let (url, asked) = endpoint();
    let key = ClientKey::generate();
    let installation = Installation::new(&format!(
        "[providers.corp]\ntoken_url = \"{url}\"\nclient_id = \"app\"\nclient_auth = \"none\"\nclient_key = {{ file = \"client.pem\" }}\n"
    ));
    fs::write(installation.path("client.pem"), key.pem()).expect("the folder is ours");
    let daemon = installation.start();
    let connect =
        |account| installation.run(&["connect", "work", "--provider", "corp", "--jwt", "--login-hint", account]);

    let refused = connect("eve").expect_code(1);
    assert!(refused.stderr.contains("invalid_grant"), "{}", refused.stderr);
    assert!(installation.connections().is_empty(), "something half done stays");

    connect("ada").expect_code(0);
    assert_eq!(installation.run(&["token", "work"]).expect_code(0).stdout, "token-1\n");
    installation.run(&["refresh", "work"]).expect_code(0);
    assert_eq!(installation.run(&["token", "work"]).expect_code(0).stdout, "token-2\n");
    let claims: Vec<Value> = asked.try_iter().collect();
    assert_eq!(claims.len(), 3);
    assert!(claims[1..].iter().all(|claims| claims["iss"] == "app" && claims["aud"] == url.as_str()), "{claims:?}");
    assert_ne!(claims[1]["jti"], claims[2]["jti"], "each is for one request");
    daemon.kill();
    let _daemon = installation.start();
    installation.run(&["refresh", "work"]).expect_code(0);
    assert_eq!(installation.run(&["token", "work"]).expect_code(0).stdout, "token-3\n");
}

#[test]
fn a_shared_grant_is_told_to_whoever_may_know_of_both() {
    let (url, _asked) = endpoint();
    let installation = Installation::new(&format!(
        "[providers.corp]\ntoken_url = \"{url}\"\nclient_id = \"app\"\nclient_auth = \"none\"\none_grant = true\n\
         client_key = {{ file = \"client.pem\" }}\n"
    ));
    fs::write(installation.path("client.pem"), ClientKey::generate().pem()).expect("the folder is ours");
    let daemon = installation.start();
    for name in ["wiki", "work"] {
        installation.run(&["connect", name, "--provider", "corp", "--jwt", "--login-hint", "ada"]).expect_code(0);
    }
    let door = Door::of(&daemon);
    let told = |names: &[&str]| {
        let key = door.key(&json!({"name": "k", "scopes": ["status"], "names": names}));
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let answer = Request { headers: &headers, ..Request::get("/v1/connections/wiki") }.at_address(door.address());
        answer.expect("an answer").json()["shares_grant_with"].clone()
    };
    assert_eq!(told(&["w*"]), json!(["work"]));
    assert_eq!(told(&["wiki"]), Value::Null);
}
