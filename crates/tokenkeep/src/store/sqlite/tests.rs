//! What only this store promises; what every store promises is in the conformance suite.

use super::*;
use crate::store::conformance;
use tempfile::TempDir;

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new(&[7; 32]))
}

/// Makes stores in a folder, each in a file of its own.
struct Maker {
    folder: TempDir,
    made: AtomicU64,
}

impl Maker {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), made: AtomicU64::new(0) }
    }

    fn make(&self) -> Arc<dyn Store> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Arc::new(SqliteStore::open(&self.folder.path().join(format!("{number}.db")), sealer()).unwrap())
    }
}

#[tokio::test]
async fn it_keeps_every_promise() {
    let maker = Maker::new();
    conformance::all(|| maker.make()).await;
}

#[test]
fn it_behaves_like_the_model() {
    let maker = Maker::new();
    conformance::sequences(|| maker.make(), 32);
}
