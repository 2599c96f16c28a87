//! What a refresh cannot be had without: the request, and one row in a database, synced in groups. No claim, no
//! journal, no seal, no schedule, no history: it loses tokens, and shows what keeping them costs.

use super::Outcome;
use super::folder::Folder;
use super::provider::Running;
use rusqlite::{Connection as Database, params};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokenkeep::Provider;
use tokenkeep::endpoint::http::{HttpEndpoint, Options as HttpOptions};
use tokenkeep::endpoint::{Endpoint, Reuse, TOTAL_TIMEOUT};
use tokenkeep_core::Secret;
use tokenkeep_core::oauth::RawAnswer;
use tokenkeep_core::oauth::request::{Extras, Grant, token_request};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// How many rows share one transaction at most, as in our store.
const ROWS_PER_TRANSACTION: usize = 512;

/// A row to be written, and who waits for it.
struct Row {
    id: u32,
    answer: RawAnswer,
    durable: oneshot::Sender<()>,
}

/// Refreshes every grant of `running` once; how long that took.
///
/// # Errors
/// Something did not work.
pub async fn refresh_all(parent: &Path, running: &Running, in_flight: u32) -> Outcome<Duration> {
    let folder = Folder::empty(parent)?;
    let database = database(&folder.store(), running.refresh_tokens.len())?;
    let (rows, queue) = channel();
    let writer = std::thread::Builder::new().name("bare-writer".to_owned()).spawn(move || write(&database, &queue))?;
    let endpoint = Arc::new(HttpEndpoint::new(HttpOptions::default()));
    let provider = Arc::new(running.provider.clone());
    let places = Arc::new(Semaphore::new(in_flight as usize));
    let started = Instant::now();
    let mut attempts = JoinSet::new();
    for (id, token) in (0..).zip(&running.refresh_tokens) {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (endpoint, provider, rows) = (Arc::clone(&endpoint), Arc::clone(&provider), rows.clone());
        let token = Secret::new(token.clone());
        attempts.spawn(async move {
            let refreshed = refresh(&endpoint, &provider, id, &token, &rows).await;
            drop(place);
            refreshed
        });
        while let Some(ended) = attempts.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = attempts.join_next().await {
        ended??;
    }
    let spent = started.elapsed();
    drop(rows);
    writer.join().map_err(|_| "the writer panicked")??;
    Ok(spent)
}

async fn refresh(
    endpoint: &HttpEndpoint,
    provider: &Provider,
    id: u32,
    token: &Secret,
    rows: &Sender<Row>,
) -> Outcome<()> {
    let reuse = if provider.rules.rotation.is_strict() { Reuse::Fresh } else { Reuse::Pooled };
    let request = token_request(
        &provider.rules,
        &provider.client,
        Grant::RefreshToken { token, redirect_uri: None },
        Extras::default(),
    );
    let channel = endpoint.connect(&provider.token_url, reuse).await.map_err(|failure| failure.detail)?;
    let answer = channel.send(request, TOTAL_TIMEOUT).await.map_err(|failure| format!("{failure:?}"))?;
    if answer.status != 200 {
        return Err(format!("the provider answered {}", answer.status).into());
    }
    let (durable, waiting) = oneshot::channel();
    rows.send(Row { id, answer, durable })?;
    Ok(waiting.await?)
}

fn database(path: &Path, rows: usize) -> Outcome<Database> {
    let mut database = Database::open(path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE token (id INTEGER PRIMARY KEY, answer BLOB NOT NULL)",
    )?;
    let transaction = database.transaction()?;
    for id in 0..u32::try_from(rows)? {
        transaction.prepare_cached("INSERT INTO token VALUES (?1, zeroblob(800))")?.execute([id])?;
    }
    transaction.commit()?;
    Ok(database)
}

fn write(database: &Database, queue: &Receiver<Row>) -> rusqlite::Result<()> {
    while let Ok(first) = queue.recv() {
        let rows: Vec<Row> = std::iter::once(first).chain(queue.try_iter().take(ROWS_PER_TRANSACTION - 1)).collect();
        let transaction = database.unchecked_transaction()?;
        for row in &rows {
            database
                .prepare_cached("UPDATE token SET answer = ?2 WHERE id = ?1")?
                .execute(params![row.id, row.answer.body.as_slice()])?;
        }
        transaction.commit()?;
        for row in rows {
            // Whoever no longer waits needs no word.
            let _ = row.durable.send(());
        }
    }
    Ok(())
}
