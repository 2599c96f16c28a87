//! Debian's `oidc-agent` with one account, to measure `oidc-token` beside `tokenkeep token`.

use super::Outcome;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use tempfile::TempDir;

/// The account's short name.
const ACCOUNT: &str = "bench";
/// The password that encrypts the account's file.
const PASSWORD: &str = "bench";

/// A running agent. It ends with this.
pub struct Agent {
    home: TempDir,
    socket: String,
    process: Pid,
}

impl Agent {
    /// Starts one and gives it an account at an issuer of ours; `None` where it is not installed.
    ///
    /// # Errors
    /// It does not do what it should.
    pub fn start(access_token: &str) -> Outcome<Option<Self>> {
        let home = tempfile::tempdir()?;
        std::fs::create_dir(home.path().join(".config"))?;
        let Ok(output) = Command::new("oidc-agent").env("HOME", home.path()).stdin(Stdio::null()).output() else {
            return Ok(None);
        };
        let told = String::from_utf8(output.stdout)?;
        let socket = told_value(&told, "OIDC_SOCK=")?.to_owned();
        let process = Pid::from_raw(told_value(&told, "OIDCD_PID=")?.parse()?).ok_or("no process")?;
        let agent = Self { home, socket, process };
        agent.add_account(&issuer(access_token)?)?;
        Ok(Some(agent))
    }

    fn add_account(&self, issuer: &str) -> Outcome<()> {
        let words = ["--manual", "--client-id=mock-client", "--client-secret=mock-secret", "--rt=first", "--pw-env"];
        let output = self
            .command("oidc-gen")
            .arg(ACCOUNT)
            .arg(format!("--iss={issuer}"))
            .args(words)
            .args(["--scope=openid offline_access", "--redirect-uri=http://localhost:4242"])
            .args(["--prompt=none", "--confirm-default"])
            .env("OIDC_ENCRYPTION_PW", PASSWORD)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("oidc-gen: {}", String::from_utf8_lossy(&output.stdout)).into())
    }

    /// `oidc-token` of the account.
    pub fn token(&self) -> Command {
        let mut command = self.command("oidc-token");
        command.arg(ACCOUNT);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", self.home.path()).env("OIDC_SOCK", &self.socket);
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process(self.process, Signal::TERM);
    }
}

fn told_value<'a>(told: &'a str, name: &str) -> Outcome<&'a str> {
    let value = told.split_once(name).and_then(|(_, rest)| rest.split(';').next());
    value.ok_or_else(|| format!("oidc-agent did not say its {name}").into())
}

/// An issuer on loopback that gives this access token to anybody, until the process ends. Its URL.
fn issuer(access_token: &str) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let discovery = format!(
        r#"{{"issuer":"{url}","authorization_endpoint":"{url}/authorize","token_endpoint":"{url}/token","response_types_supported":["code"],"grant_types_supported":["refresh_token","authorization_code"],"scopes_supported":["openid","offline_access"]}}"#
    );
    let token = format!(
        r#"{{"access_token":"{access_token}","token_type":"Bearer","expires_in":3600,"refresh_token":"next","scope":"openid offline_access"}}"#
    );
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who goes away early is not served; the account then fails, and says so.
            let _ = answer(&stream, &discovery, &token);
        }
    });
    Ok(url)
}

fn answer(mut stream: &TcpStream, discovery: &str, token: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    lines.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut lines.take(length), &mut std::io::sink())?;
    let body = if first.starts_with("POST") { token } else { discovery };
    let size = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n{body}"
    )
}
