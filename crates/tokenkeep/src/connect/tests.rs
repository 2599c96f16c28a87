//! Sign-ins on a clock that moves as the test says, at a provider that gives whatever code is brought a token set.

use super::settings::{Identity, SignIn};
use super::*;
use crate::clock::{Clock, SeededDice};
use crate::endpoint::{Channel, SendFailure};
use crate::engine::{Engine, Options, Parts};
use crate::error::Error;
use crate::journal::file::FileJournal;
use crate::seal::Sealer;
use crate::store::memory::MemoryStore;
use crate::{Provider, TokenAsk, TokenKeep};
use async_trait::async_trait;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokenkeep_core::oauth::request::{Client, Method};
use tokenkeep_core::provider::Rules;
use tokenkeep_core::schedule::Policy;
use tokenkeep_core::{ConnectionKey, Timestamp};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

/// The life of a sign-in, and of the code of a device.
const TEN_MINUTES: Duration = Duration::from_secs(600);
const A_MOMENT: Duration = Duration::from_millis(1);
const DEVICE_CODES: &str =
    r#"{"device_code":"d","user_code":"u","verification_uri":"https://p.example/","expires_in":600,"interval":5}"#;

/// Steady time and wall time since a test began, at the pace of tokio's own clock.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0) + self.0.elapsed()
    }

    fn wall(&self) -> Timestamp {
        self.now()
    }
}

/// A provider, every field that it was sent, and whose account it says tokens are for; empty: it does not say.
#[derive(Clone, Default)]
struct Asked {
    fields: Arc<Mutex<Vec<(String, String)>>>,
    account: Arc<Mutex<&'static str>>,
}

impl Asked {
    /// This field of each request that had it.
    fn all(&self, field: &str) -> Vec<String> {
        let asked = self.fields.lock().unwrap();
        asked.iter().filter(|(name, _)| name == field).map(|(_, value)| value.clone()).collect()
    }
}

#[async_trait]
impl Endpoint for Asked {
    async fn connect(&self, _url: &Url, _reuse: Reuse) -> Result<Box<dyn Channel>, Failure> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Channel for Asked {
    async fn send(self: Box<Self>, request: ProviderRequest, _timeout: Duration) -> Result<RawAnswer, SendFailure> {
        let form: Vec<(String, String)> =
            url::form_urlencoded::parse(request.body.expose().as_bytes()).into_owned().collect();
        let field = |wanted: &str| form.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let (status, body) = match (field("code"), field("device_code")) {
            _ if request.method == Method::Get => match *self.account.lock().unwrap() {
                "" => (503, String::new()),
                account => (200, format!(r#"{{"sub":"{account}"}}"#)),
            },
            (Some(code), _) => {
                let tokens = r#""token_type":"Bearer","expires_in":86400"#;
                (200, format!(r#"{{"access_token":"access-{code}","refresh_token":"refresh-{code}",{tokens}}}"#))
            }
            (_, Some(_)) => (400, r#"{"error":"authorization_pending"}"#.to_owned()),
            _ => (200, DEVICE_CODES.to_owned()),
        };
        self.fields.lock().unwrap().extend(form);
        let content_type = Some("application/json".to_owned());
        Ok(RawAnswer { status, content_type, retry_after: None, body: Zeroizing::new(body.into_bytes()) })
    }
}

struct World {
    keep: TokenKeep,
    asked: Asked,
    _folder: TempDir,
}

fn key() -> ConnectionKey {
    ConnectionKey::in_default("jira").unwrap()
}

fn provider() -> Provider {
    let url = |path: &str| Url::parse("https://p.example/").unwrap().join(path).unwrap();
    let client = Client { id: "c".into(), secret: None };
    let mut provider = Provider::new("p", url("token"), client, Rules::default());
    provider.sign_in =
        SignIn { authorize_url: Some(url("authorize")), device_url: Some(url("device")), ..SignIn::default() };
    provider
}

impl World {
    async fn new() -> Self {
        Self::at(provider()).await
    }

    async fn at(provider: Provider) -> Self {
        let (folder, asked) = (tempfile::tempdir().unwrap(), Asked::default());
        let journal = FileJournal::open(&folder.path().join("journal"), 1, Arc::new(Sealer::new(&[7; 32])), Some(1));
        let parts = Parts {
            store: Arc::new(MemoryStore::new()),
            journal: Arc::new(journal.unwrap()),
            endpoint: Arc::new(asked.clone()),
            clock: Arc::new(TestClock(Instant::now())),
            dice: Arc::new(SeededDice::new(1)),
        };
        let options = Options {
            policy: Policy::default(),
            providers: vec![provider],
            in_flight_max: 1,
            workers: 1,
            boot: 1,
            process: 1,
        };
        let keep = TokenKeep::on_engine(Engine::new(parts, options)).await.unwrap();
        Self { keep, asked, _folder: folder }
    }

    fn begin(&self) -> Begun {
        let redirect_uri = "http://127.0.0.1:9/callback".parse().unwrap();
        self.keep.connect(Connect::new(key(), "p"), &redirect_uri).unwrap()
    }

    /// What comes of this code, brought with the state of that sign-in.
    async fn bring(&self, code: &str, begun: &Begun) -> Result<(), SignInError> {
        match self.keep.finish_sign_in(&format!("code={code}&state={}", begun.id), &begun.proof).await {
            Ok(_) => Ok(()),
            Err(Error::SignIn(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    async fn token(&self) -> String {
        let handed = self.keep.token(&key(), TokenAsk::default()).await.unwrap();
        handed.token.access_token.expose().to_owned()
    }

    /// `None`: it is not known any more.
    fn standing(&self, id: &str) -> Option<Standing> {
        self.keep.sign_in(id).map(|(_, standing)| standing)
    }
}

#[tokio::test(start_paused = true)]
async fn a_sign_in_lives_for_ten_minutes_and_its_outcome_for_as_long() {
    let world = World::new().await;
    let (in_time, late) = (world.begin(), world.begin());
    sleep(TEN_MINUTES - A_MOMENT).await;
    assert!(matches!(world.standing(&late.id), Some(Standing::Waiting)));
    assert_eq!(world.bring("one", &in_time).await, Ok(()));

    sleep(A_MOMENT).await;
    assert!(world.standing(&late.id).is_none());
    assert_eq!(world.bring("two", &late).await, Err(SignInError::Unknown));
    assert_eq!((world.asked.all("code"), &*world.token().await), (vec!["one".to_owned()], "access-one"));

    sleep(TEN_MINUTES - A_MOMENT * 2).await;
    assert!(matches!(world.standing(&in_time.id), Some(Standing::Connected(_))));
    sleep(A_MOMENT).await;
    assert!(world.standing(&in_time.id).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_code_is_sent_once_whatever_state_it_is_brought_with() {
    let world = World::new().await;
    let (first, second) = (world.begin(), world.begin());
    assert_eq!(world.bring("one", &first).await, Ok(()));
    assert_eq!(world.bring("one", &first).await, Err(SignInError::Unknown));
    assert_eq!(world.bring("one", &second).await, Err(SignInError::Unknown));
    assert!(matches!(world.standing(&first.id), Some(Standing::Connected(_))));
    assert!(matches!(world.standing(&second.id), Some(Standing::Failed(SignInError::Unknown))));
    assert_eq!((world.asked.all("code"), &*world.token().await), (vec!["one".to_owned()], "access-one"));
}

#[tokio::test(start_paused = true)]
async fn a_device_code_that_nobody_confirms_ends_with_its_life_whatever_the_provider_says() {
    let world = World::new().await;
    world.bring("one", &world.begin()).await.unwrap();
    let begun = world.keep.connect_at_device(Connect::new(key(), "p")).await.unwrap();
    sleep(TEN_MINUTES - A_MOMENT).await;
    assert!(matches!(world.standing(&begun.id), Some(Standing::Waiting)));
    sleep(A_MOMENT * 2).await;
    assert!(matches!(world.standing(&begun.id), Some(Standing::Failed(SignInError::Expired))));
    // Every five seconds, and not at the end of the last five.
    assert_eq!(world.asked.all("device_code").len(), 119);
    sleep(TEN_MINUTES).await;
    assert_eq!((world.asked.all("device_code").len(), &*world.token().await), (119, "access-one"));
}

#[test]
fn the_challenge_is_the_one_of_the_standard_s_example() {
    // RFC 7636 appendix B.
    let pkce = Pkce::of(Secret::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"));
    assert_eq!(pkce.challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    let (one, other) = (Pkce::new(), Pkce::new());
    assert_eq!(one.verifier.expose().len(), 43);
    assert_ne!(one.challenge, other.challenge);
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_a_connection_over_while_its_provider_does_not_say_who_signed_in() {
    let mut provider = provider();
    let url = "https://p.example/me".parse().unwrap();
    provider.sign_in.identity = Some(Identity { url, fields: vec!["sub".to_owned()] });
    let world = World::at(provider).await;
    let account = |whose| *world.asked.account.lock().unwrap() = whose;
    account("anna");
    world.bring("1", &world.begin()).await.unwrap();
    account("");
    let refused = world.bring("2", &world.begin()).await.unwrap_err();
    assert_eq!(refused, SignInError::UnknownAccount { connected: "anna".to_owned() });
    account("ben");
    assert!(matches!(world.bring("3", &world.begin()).await, Err(SignInError::OtherAccount { .. })));
    assert_eq!(world.token().await, "access-1", "the grant in hand stands");
    account("anna");
    world.bring("4", &world.begin()).await.unwrap();
    assert_eq!(world.token().await, "access-4");
}
