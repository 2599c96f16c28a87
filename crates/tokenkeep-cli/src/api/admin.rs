//! `/v1/admin/*`, on the socket alone: the master key, and backups.

use super::Api;
use super::json::KeyJson;
use super::params::Params;
use super::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use std::io::{self, Write};
use tokenkeep::backup::Backup;
use tokio::sync::mpsc;

/// The media type of a backup.
const BACKUP_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// How many pieces of a backup may wait for a slow reader.
const PIECES_WAITING_MAX: usize = 4;
/// How much of a backup is one piece.
const PIECE_BYTES: usize = 256 * 1024;

/// Which master key is in use, and how far its rotation is.
#[utoipa::path(get, path = "/v1/admin/master-key", operation_id = "master_key", tag = "admin",
    security(("api_key" = ["admin"])), responses(
    (status = 200, description = "The key's number, source and rotation.", body = KeyJson),
))]
pub async fn master_key(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<KeyJson>, Problem> {
    Params::new(query.as_deref()).finish()?;
    api.keep.master_key().map(|state| Json(KeyJson::new(&state))).map_err(|error| api.problem(&error))
}

/// Begins a rotation of the master key, or joins the one that goes on: 202, and `GET` says how far it is.
#[utoipa::path(post, path = "/v1/admin/master-key/rotate", operation_id = "rotate_master_key", tag = "socket only",
    extensions(("x-socket-only" = json!(true))), responses(
    (status = 202, description = "It goes on.", body = KeyJson),
    (status = 409, description = "`master_key_not_taken_over`: the configured source still gives the former key."),
))]
pub async fn rotate(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<(StatusCode, Json<KeyJson>), Problem> {
    Params::new(query.as_deref()).finish()?;
    api.keep.rotate_master_key().await.map_err(|error| api.problem(&error))?;
    let state = api.keep.master_key().map_err(|error| api.problem(&error))?;
    Ok((StatusCode::ACCEPTED, Json(KeyJson::new(&state))))
}

/// A backup of this moment. An answer that ends early is no backup.
#[utoipa::path(post, path = "/v1/admin/backup", operation_id = "backup", tag = "socket only",
    extensions(("x-socket-only" = json!(true))), responses(
    (status = 200, description = "The backup.", body = Vec<u8>, content_type = "application/octet-stream"),
))]
pub async fn backup(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    Params::new(query.as_deref()).finish()?;
    let backup = api.keep.backup().await.map_err(|error| api.problem(&error))?;
    let (pieces, waiting) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::task::spawn_blocking(move || write(&backup, &pieces));
    let next = |mut waiting: mpsc::Receiver<Piece>| async move { Some((waiting.recv().await?, waiting)) };
    let mut response = Response::new(Body::from_stream(futures_util::stream::unfold(waiting, next)));
    response.headers_mut().insert(header::CONTENT_TYPE, BACKUP_TYPE);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

type Piece = Result<Bytes, io::Error>;

fn write(backup: &Backup, pieces: &mpsc::Sender<Piece>) {
    let mut out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(pieces));
    if let Err(error) = backup.write(&mut out) {
        tracing::warn!(%error, "a backup ended early");
        // A reader that went away knows already.
        let _ = pieces.blocking_send(Err(error));
    }
}

/// Sends what is written, as far as its reader keeps up.
struct Pieces<'a>(&'a mpsc::Sender<Piece>);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
