//! Every state that a kill can leave is copied, and each copy is started.

use super::*;
use crate::keys::{KeySource, MASTER_KEY_FILE, NEXT_KEY_FILE};
use crate::store::EventQuery;
use crate::webhooks;
use crate::{Config, Import, Imported, Provider, TokenAsk, TokenKeep};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::Rules;
use tokenkeep_core::{ConnectionKey, Secret};

/// More than two batches.
const CONNECTIONS: usize = 2 * RESEAL_BATCH + 3;

fn config(folder: &Path) -> Config {
    let mut config = Config::new(folder);
    let client = Client { id: "c".into(), secret: None };
    // Nothing is due while a test runs, so nobody is asked.
    let nowhere = "http://127.0.0.1:9/token".parse().unwrap();
    config.providers.push(Provider::new("p", nowhere, client, Rules::default()));
    config.in_flight_max = 4;
    config.webhook_hosts = vec!["127.0.0.1:9".into()];
    config
}

fn key(nth: usize) -> ConnectionKey {
    ConnectionKey::in_default(format!("c{nth}")).unwrap()
}

fn import(nth: usize, refresh: &str) -> Import {
    let token = format!(
        r#"{{"access_token":"access-canary-{nth}","refresh_token":"{refresh}-canary-{nth}","expires_in":86400,"expires_at":4102444800}}"#
    );
    Import { key: key(nth), provider: "p".into(), token: Secret::new(token), labels: None }
}

async fn fill(keep: &TokenKeep) {
    let imports = (0..CONNECTIONS).map(|nth| import(nth, "refresh")).collect();
    for imported in keep.import_many(imports).await {
        assert!(matches!(imported.unwrap(), Imported::Created(_)));
    }
    let webhooks = keep.webhooks().unwrap();
    let settings = webhooks::model::Settings {
        url: "http://127.0.0.1:9/".into(),
        description: String::new(),
        types: webhooks::model::Types::default(),
        namespace: None,
    };
    let (webhook, _) = webhooks.create(settings).await.unwrap();
    webhooks.rotate_secret(webhook.id).await.unwrap();
}

/// Stops, and leaves the folder to the next.
async fn stop(keep: TokenKeep) {
    keep.shutdown().await;
}

/// Every access token is read, every refresh token opens, and is known again.
async fn check(keep: &TokenKeep, folder: &Path) {
    for nth in (0..CONNECTIONS).step_by(17).chain([CONNECTIONS - 1]) {
        let handed = keep.token(&key(nth), TokenAsk::default()).await.unwrap();
        assert_eq!(handed.token.access_token.expose(), format!("access-canary-{nth}"));
        assert!(matches!(keep.import(import(nth, "refresh")).await.unwrap(), Imported::AlreadyHeld(_)), "{folder:?}");
    }
    let webhooks = keep.webhooks().unwrap();
    for webhook in webhooks.list().await.unwrap() {
        // Nobody is there, but it is signed, with both secrets.
        webhooks.test(webhook.id, "webhook.test", String::new()).await.unwrap();
    }
}

async fn rotated(keep: &TokenKeep) {
    let started = std::time::Instant::now();
    while keep.master_key().unwrap().rotation.is_some() {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", keep.master_key());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Copies the folder at every step, as a kill would leave it.
fn copy_at_each_step(keep: &TokenKeep, folder: &Path, copies: &Path) -> Arc<Mutex<Vec<(String, PathBuf)>>> {
    let made = Arc::<Mutex<Vec<(String, PathBuf)>>>::default();
    let (into, folder, copies) = (Arc::clone(&made), folder.to_owned(), copies.to_owned());
    let hook = move |step: &str| {
        let mut into = into.lock().unwrap();
        let path = copies.join(into.len().to_string());
        copy(&folder, &path);
        into.push((step.to_owned(), path));
    };
    *keep.rotator().at_each_step.lock().unwrap() = Some(Box::new(hook));
    made
}

/// Whether any file of the folder holds this key id behind the two bytes that begin each sealed value.
fn mentions(folder: &Path, key_id: u32) -> Vec<PathBuf> {
    let needle = [&[1, 1][..], &key_id.to_be_bytes()].concat();
    let holds = |path: &PathBuf| std::fs::read(path).unwrap().windows(6).any(|six| six == needle);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).filter(holds).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_loses_nothing_and_the_next_start_goes_on() {
    let (folder, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let keep = TokenKeep::open(config(folder.path())).await.unwrap();
    fill(&keep).await;
    let former = keep.master_key().unwrap().key_id;
    let former_key = std::fs::read(folder.path().join(MASTER_KEY_FILE)).unwrap();
    let made = copy_at_each_step(&keep, folder.path(), copies.path());
    keep.rotate_master_key().await.unwrap();
    rotated(&keep).await;
    check(&keep, folder.path()).await;
    stop(keep).await;

    let made = made.lock().unwrap().clone();
    let steps: Vec<_> = made.iter().map(|(step, _)| step.as_str()).collect();
    assert!(steps.len() >= 10, "{steps:?}");
    for (nth, (step, copy)) in made.iter().enumerate() {
        let keep = TokenKeep::open(config(copy)).await.unwrap_or_else(|error| panic!("{step}: {error}"));
        check(&keep, copy).await;
        rotated(&keep).await;
        check(&keep, copy).await;
        // Before the database names the new key, there is no rotation.
        let has_begun = nth > 0;
        assert_eq!(keep.master_key().unwrap().key_id == former, !has_begun, "{step}");
        stop(keep).await;
        assert!(!copy.join(NEXT_KEY_FILE).exists(), "{step}");
        assert_eq!(std::fs::read(copy.join(MASTER_KEY_FILE)).unwrap() == former_key, !has_begun, "{step}");
        assert_eq!(mentions(copy, former).is_empty(), has_begun, "{step}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_that_the_former_key_opens() {
    let folder = TempDir::new().unwrap();
    let keep = TokenKeep::open(config(folder.path())).await.unwrap();
    fill(&keep).await;
    let former = keep.master_key().unwrap().key_id;
    assert!(!mentions(folder.path(), former).is_empty(), "the search finds what is there");
    keep.rotate_master_key().await.unwrap();
    keep.rotate_master_key().await.unwrap();
    rotated(&keep).await;
    // The daemon goes on: nothing waits for its end.
    assert_eq!(mentions(folder.path(), former), Vec::<PathBuf>::new());
    let now = keep.master_key().unwrap().key_id;
    assert!(now != former && !mentions(folder.path(), now).is_empty());
    let events = keep.events(&EventQuery { limit: 1_000, after: CONNECTIONS as u64, ..Default::default() }).await;
    let kinds: Vec<_> = events.unwrap().iter().map(|event| event.event.kind.as_str()).collect();
    assert_eq!(kinds[kinds.len() - 2..], ["system.key_rotation_started", "system.key_rotated"]);
    stop(keep).await;
}

/// Renewals, imports and reads go on while everything is sealed anew.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_meanwhile_is_under_the_new_key_too() {
    let folder = TempDir::new().unwrap();
    let keep = TokenKeep::open(config(folder.path())).await.unwrap();
    fill(&keep).await;
    let former = keep.master_key().unwrap().key_id;
    let writer = {
        let keep = keep.clone();
        tokio::spawn(async move {
            for nth in 0..CONNECTIONS {
                assert!(matches!(keep.import(import(nth, "newer")).await.unwrap(), Imported::Renewed(_)));
            }
        })
    };
    keep.rotate_master_key().await.unwrap();
    rotated(&keep).await;
    writer.await.unwrap();
    for nth in 0..CONNECTIONS {
        assert!(matches!(keep.import(import(nth, "newer")).await.unwrap(), Imported::AlreadyHeld(_)));
    }
    stop(keep).await;
    assert_eq!(mentions(folder.path(), former), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_keys_nothing_starts_and_nothing_changes() {
    let (folder, copies) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let keep = TokenKeep::open(config(folder.path())).await.unwrap();
    fill(&keep).await;
    let made = copy_at_each_step(&keep, folder.path(), copies.path());
    keep.rotate_master_key().await.unwrap();
    rotated(&keep).await;
    stop(keep).await;
    let made = made.lock().unwrap().clone();
    let (_, halfway) = made.iter().find(|(step, _)| step == "a batch is sealed anew").unwrap();
    for missing in [MASTER_KEY_FILE, NEXT_KEY_FILE] {
        let path = halfway.join(missing);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let before = contents(halfway);
        let error = TokenKeep::open(config(halfway)).await.unwrap_err().to_string();
        assert!(error.contains("master.key"), "{error}");
        assert_eq!(contents(halfway), before);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let keep = TokenKeep::open(config(halfway)).await.unwrap();
    check(&keep, halfway).await;
    stop(keep).await;
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| !path.ends_with("lock") && !path.ends_with("tokenkeep.db-shm")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_elsewhere_waits_until_its_source_gives_the_new_one() {
    let (folder, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = elsewhere.path().join("key");
    crate::keys::write_file(&source, &MasterKey::generate()).unwrap();
    let config = || Config { master_key: KeySource::File(source.clone()), ..config(folder.path()) };
    let next = folder.path().join(NEXT_KEY_FILE);
    let keep = TokenKeep::open(config()).await.unwrap();
    keep.import(import(0, "refresh")).await.unwrap();
    keep.rotate_master_key().await.unwrap();
    rotated(&keep).await;
    assert_eq!(keep.master_key().unwrap().take_over_from.as_deref(), Some(next.as_path()));
    let refused = keep.rotate_master_key().await.unwrap_err().to_string();
    assert!(refused.contains("still gives the former master key"), "{refused}");
    stop(keep).await;

    let keep = TokenKeep::open(config()).await.unwrap();
    assert!(keep.master_key().unwrap().take_over_from.is_some());
    stop(keep).await;
    std::fs::copy(&next, &source).unwrap();
    let keep = TokenKeep::open(config()).await.unwrap();
    assert_eq!(keep.master_key().unwrap().take_over_from, None);
    assert!(!next.exists() && !folder.path().join(MASTER_KEY_FILE).exists());
    let handed = keep.token(&key(0), TokenAsk::default()).await.unwrap();
    assert_eq!(handed.token.access_token.expose(), "access-canary-0");
    stop(keep).await;
}
