//! Who may ask the daemon: keys of every scope and reach, the sessions that come with them, the socket, and nobody.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::http::{Answer, Request};

/// What a body is, unless said otherwise.
const JSON: (&str, &str) = ("content-type", "application/json");

/// Every scope.
pub const SCOPES: [&str; 5] = ["status", "token", "refresh", "manage", "admin"];

/// What a caller's rights reach, seen from a connection of the namespace `default`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Everything.
    All,
    /// Another namespace.
    OtherNamespace,
    /// Other names.
    OtherNames,
}

/// How a caller is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum By {
    /// Not at all.
    Nothing,
    /// An API key.
    Key(String),
    /// The cookie of a session.
    Cookie(String),
    /// The socket.
    Socket,
}

/// A caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its one scope; `admin` on the socket, and empty for nobody.
    pub scope: &'static str,
    /// What its rights reach.
    pub reach: Reach,
    /// How it is known.
    pub by: By,
    /// As the audit trail writes it.
    pub actor: String,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            By::Nothing => return f.write_str("nobody"),
            By::Socket => return f.write_str("the socket"),
            By::Key(_) => "the key",
            By::Cookie(_) => "the session",
        };
        write!(f, "{by} with {} to {:?}", self.scope, self.reach)
    }
}

impl Caller {
    /// Whether it has this scope.
    pub fn has(&self, scope: &str) -> bool {
        self.scope == scope || self.scope == "admin"
    }
}

/// A daemon as its callers have it.
#[derive(Clone, Debug)]
pub struct Door {
    address: String,
    socket: PathBuf,
}

impl Door {
    /// Of this daemon.
    #[track_caller]
    pub fn of(daemon: &Daemon) -> Self {
        Self { address: daemon.tcp(), socket: daemon.socket().to_owned() }
    }

    /// Where it listens on TCP.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Asks as this caller does: a browser says that a page of ours sent it.
    #[track_caller]
    pub fn ask(&self, caller: &Caller, request: Request<'_>) -> Answer {
        let bearer = match &caller.by {
            By::Key(key) => format!("Bearer {key}"),
            By::Nothing | By::Cookie(_) | By::Socket => String::new(),
        };
        let own: Vec<(&str, &str)> = match &caller.by {
            By::Key(_) => vec![("authorization", &bearer)],
            By::Cookie(cookie) => vec![("cookie", cookie), ("sec-fetch-site", "same-origin")],
            By::Nothing | By::Socket => Vec::new(),
        };
        let headers = [request.headers, &own].concat();
        let request = Request { headers: &headers, ..request };
        let answer = match caller.by {
            By::Socket => request.at_socket(&self.socket),
            _ => request.at_address(&self.address),
        };
        answer.unwrap_or_else(|error| panic!("{caller}: {} {}: {error}", request.method, request.path))
    }

    /// Asks at the socket with a body of JSON.
    #[track_caller]
    pub fn own(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = Request { method, path, headers: &[JSON], body };
        request.at_socket(&self.socket).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Asks at the socket for what must be there.
    #[track_caller]
    pub fn see(&self, path: &str) -> Value {
        let answer = self.own("GET", path, "");
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Makes a key; gives the answer to that.
    #[track_caller]
    pub fn make_key(&self, like: &Value) -> Value {
        let made = self.own("POST", "/v1/api-keys", &like.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        made.json()
    }

    /// The text of a new key.
    #[track_caller]
    pub fn key(&self, like: &Value) -> String {
        text(&self.make_key(like)["key"])
    }

    /// A key of one scope.
    #[track_caller]
    pub fn key_of(&self, scope: &'static str, reach: Reach) -> Caller {
        let (namespaces, names): (&[&str], &[&str]) = match reach {
            Reach::All => (&[], &[]),
            Reach::OtherNamespace => (&["other"], &[]),
            Reach::OtherNames => (&[], &["other-*"]),
        };
        let made = self.make_key(&json!({"name": scope, "scopes": [scope], "namespaces": namespaces, "names": names}));
        let actor = format!("key:{}", text(&made["id"]));
        Caller { scope, reach, by: By::Key(text(&made["key"])), actor }
    }

    /// The session that begins with this body; the whole answer.
    #[track_caller]
    pub fn sign_in(&self, proof: &Value) -> Answer {
        let body = proof.to_string();
        let request = Request::post("/v1/session", &[JSON], &body);
        request.at_address(&self.address).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The session of a key.
    #[track_caller]
    pub fn session_of(&self, key: &Caller) -> Caller {
        let By::Key(text) = &key.by else { panic!("{key} is no key") };
        self.session(&json!({"api_key": text}), key.scope, key.reach)
    }

    /// The session of a setup code.
    #[track_caller]
    pub fn session_of_setup(&self) -> Caller {
        let code = self.own("POST", "/v1/session/setup", "").json();
        self.session(&json!({"setup_code": code["setup_code"]}), "admin", Reach::All)
    }

    #[track_caller]
    fn session(&self, proof: &Value, scope: &'static str, reach: Reach) -> Caller {
        let answer = self.sign_in(proof);
        assert_eq!(answer.status, 201, "{answer:?}");
        let by = By::Cookie(cookie_of(&answer));
        Caller { scope, reach, by, actor: text(&answer.json()["actor"]) }
    }

    /// Every kind of caller.
    #[track_caller]
    pub fn callers(&self) -> Vec<Caller> {
        let mut callers = vec![
            Caller { scope: "", reach: Reach::All, by: By::Nothing, actor: "anonymous".to_owned() },
            self.session_of_setup(),
        ];
        for scope in SCOPES {
            for reach in [Reach::All, Reach::OtherNamespace, Reach::OtherNames] {
                let key = self.key_of(scope, reach);
                let session = self.session_of(&key);
                callers.extend([key, session]);
            }
        }
        let actor = text(&self.see("/v1/session")["actor"]);
        callers.push(Caller { scope: "admin", reach: Reach::All, by: By::Socket, actor });
        callers
    }
}

/// `NAME=VALUE` of the cookie that an answer sets.
#[track_caller]
pub fn cookie_of(answer: &Answer) -> String {
    header(answer, "set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a cookie").to_owned()
}

/// The value of a header of an answer.
pub fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A string of JSON.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
