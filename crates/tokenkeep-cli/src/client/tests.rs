use super::*;
use axum::http::StatusCode;

/// Gives a byte at a time, so that every place is a place where reading is cut.
pub(super) struct Slow<'a>(pub(super) &'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let size = self.0.len().min(out.len()).min(1);
        out[..size].copy_from_slice(&self.0[..size]);
        self.0 = &self.0[size..];
        Ok(size)
    }
}

fn read(text: &[u8]) -> Result<(u16, String), String> {
    let whole = read_answer(&mut &text[..]);
    let slow = read_answer(&mut Slow(text));
    let show = |answer: Result<Answer, ReadError>| {
        answer
            .map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()))
            .map_err(|error| format!("{error:?}"))
    };
    let (whole, slow) = (show(whole), show(slow));
    assert_eq!(whole, slow);
    whole
}

#[test]
fn bodies_of_every_kind_are_read() {
    let ok = |body: &str| Ok((200, body.to_owned()));
    assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), ok("hello"));
    assert_eq!(read(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), ok(""));
    assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nto the end"), ok("to the end"));
    assert_eq!(
        read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n, everyone\r\n0\r\n\r\n"),
        ok("hello, everyone")
    );
    assert_eq!(read(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), ok("ok"));
    assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\n"), Ok((204, String::new())));
}

#[test]
fn what_is_cut_off_or_no_http_is_an_error() {
    for text in [
        &b""[..],
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00\x01\x02",
    ] {
        assert!(read(text).is_err(), "{}", String::from_utf8_lossy(text));
    }
    let endless = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; HEAD_MAX * 2]].concat();
    assert!(read_answer(&mut &endless[..]).is_err());
}

#[test]
fn names_are_encoded() {
    assert_eq!(encode("jira"), "jira");
    assert_eq!(encode("a+b c/é&"), "a%2Bb%20c%2F%C3%A9%26");
    assert_eq!(encode("team:a@x.y_z-0"), "team:a@x.y_z-0");
}

fn exit(status: u16, code: &str, retry_at: Option<&str>) -> Exit {
    let mut problem = Problem::new(StatusCode::from_u16(status).unwrap(), code, "it is so.").next("Do it.");
    problem.retry_at = retry_at.map(Into::into);
    problem_error(&problem).exit()
}

#[test]
fn problems_end_with_the_documented_exit_codes() {
    assert_eq!(exit(409, "needs_reauth", None), Exit::NeedsReauth);
    assert_eq!(exit(409, "needs_reauth", Some("2026-11-23T10:00:00Z")), Exit::NeedsReauth);
    assert_eq!(exit(404, "not_found", None), Exit::NotFound);
    assert_eq!(exit(404, "no_such_route", None), Exit::Error);
    assert_eq!(exit(503, "expired", None), Exit::Temporary);
    assert_eq!(exit(503, "store_unusable", None), Exit::Temporary);
    assert_eq!(exit(409, "in_doubt", Some("2026-11-23T10:00:00Z")), Exit::Temporary);
    assert_eq!(exit(409, "paused", None), Exit::Error);
    assert_eq!(exit(400, "invalid", None), Exit::Error);
    assert_eq!(exit(500, "store_damaged", None), Exit::Error);
}

#[test]
fn a_problem_is_told_with_cause_evidence_and_next_step() {
    let mut problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "expired", "It is so.").next("Do it.");
    problem.retry_at = Some("T".into());
    let report = problem_error(&problem).report();
    assert_eq!(report, "error: It is so\n  it may be worth trying again at T\nnext: Do it.\n");
}

#[test]
fn an_answer_that_is_no_problem_is_told_by_its_status() {
    let answer = |status| Answer { status, body: b"<html>".to_vec(), from: None };
    assert_eq!(answer(503).problem().exit(), Exit::Temporary);
    assert_eq!(answer(404).problem().exit(), Exit::Error);
}

#[test]
fn a_wrong_answer_is_told_without_its_text() {
    let answer = Answer { status: 200, body: br#"{"access_token": hunter2}"#.to_vec(), from: None };
    let report = answer.json::<Problem>().unwrap_err().report();
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn without_a_daemon_the_remedy_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(folder.path().join("tokenkeep.sock"));
    let Err(error) = client.get("/livez") else { panic!("nobody is there") };
    assert_eq!(error.exit(), Exit::Error);
    let report = error.report();
    assert!(report.contains("no daemon answers at") && report.contains("tokenkeep serve"), "{report}");
}

#[test]
fn a_daemon_that_breaks_off_is_temporary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || drop(listener.accept()));
    let Err(error) = Client::new(path).get("/livez") else { panic!("it broke off") };
    assert_eq!(error.exit(), Exit::Temporary);
    server.join().unwrap();
}
