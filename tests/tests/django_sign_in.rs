//! Sign-ins at django-oauth-toolkit, through a real browser: what comes of one is kept fresh, also where an answer is
//! lost, and whatever goes wrong ends with one clear sentence and leaves the grant in hand as it was.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenkeep_tests::browser::{Answer, Browser, Report, Scripts, Visit};
use tokenkeep_tests::daemon::{Daemon, Installation};
use tokenkeep_tests::django::{ACCESS_TTL, Django, Family};
use tokenkeep_tests::http::Request;
use tokenkeep_tests::proxy::{Passed, Proxy};
use tokenkeep_tests::sign_in::{NAME, SignIn, altered, expect_page, expect_told, told};

/// Three lives of an access token.
const KEPT_FRESH_FOR: Duration = ACCESS_TTL.saturating_mul(3);
/// A token of 20 s is renewed 11 to 14 s before its end.
const RENEWALS_MIN: u64 = 5;
const READ_EVERY: Duration = Duration::from_millis(100);
/// An eaten answer is asked for again much sooner than the grace of a minute ends.
const MENDED_WITHIN: Duration = Duration::from_secs(10);
/// Of the first fifteen renewals the second is eaten, and no other.
const EATS_THE_SECOND: u64 = 70;

/// Whether Tokenkeep can know whose account a token set is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    Told,
    /// OAuth alone has no word for it.
    Untold,
}

/// A site, its person's browser, and the daemon between them, to which the site's answers come through a proxy.
struct World {
    daemon: Daemon,
    installation: Installation,
    browser: Browser,
    proxy: Proxy,
    django: Django,
}

impl World {
    fn new(accounts: Accounts) -> Self {
        let django = Django::start();
        let proxy = Proxy::start(django.address(), EATS_THE_SECOND);
        let mut config = django.section(&proxy) + &format!("authorize_url = \"{}\"\n", django.authorize_url());
        if accounts == Accounts::Told {
            config += &format!("identity_url = \"{}\"\nidentity_fields = [\"username\"]\n", django.me_url());
        }
        let installation = Installation::new(&config);
        fs::write(installation.path("secret"), django.client_secret()).expect("the folder is ours");
        Self { daemon: installation.start(), installation, browser: Browser::start(), proxy, django }
    }

    #[track_caller]
    fn begin(&self) -> SignIn {
        SignIn::begin(&self.installation, &["--provider", "django", "--scopes", "read"])
    }

    /// In a browser of its own, as this person.
    #[track_caller]
    fn visit(&self, url: &str, account: &str, answer: Answer) -> Report {
        self.browser.profile(Scripts::Off).visit(Visit { answer, ..Visit::new(url, account) })
    }

    /// This person connects [`NAME`].
    #[track_caller]
    fn connect(&self, account: &str) {
        let sign_in = self.begin();
        let report = self.visit(&sign_in.url, account, Answer::Allow);
        report.expect_clean(&sign_in.origin());
        assert!(report.status == Some(200) && report.text.contains(NAME), "{report:#?}");
        sign_in.expect_connected();
        assert_eq!(self.django.account_of(&self.token()).as_deref(), Some(account));
    }

    #[track_caller]
    fn connection(&self) -> Value {
        let answer = self.daemon.ask(Request::get(&format!("/v1/connections/{NAME}")));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// What is handed out.
    #[track_caller]
    fn handed(&self) -> Value {
        let answer = self.daemon.ask(Request::get(&format!("/v1/connections/{NAME}/token")));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    #[track_caller]
    fn token(&self) -> String {
        self.handed()["access_token"].as_str().expect("an access token").to_owned()
    }

    /// What the site's database says of this person, whose one family was not revoked.
    #[track_caller]
    fn living_family(&self, account: &str) -> Family {
        let family = self.django.families().remove(account).unwrap_or_else(|| panic!("{account} never signed in"));
        assert_eq!((family.families, family.live), (1, 1), "{family:?}");
        family
    }

    /// Panics unless the grant is the one that `anna` gave, its token is good, and it can be renewed.
    #[track_caller]
    fn expect_intact(&self) {
        let renewals = self.living_family("anna").renewals;
        self.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
        assert!(self.living_family("anna").renewals > renewals);
        assert_eq!(self.django.account_of(&self.token()).as_deref(), Some("anna"));
    }
}

/// What a reader of tokens saw who used each at the site.
#[derive(Debug, Default)]
struct Seen {
    good: usize,
    /// Tokens that the site no longer took, for it had just given their successor.
    superseded: usize,
    /// The same, while the successor was lost, and Tokenkeep said so.
    in_doubt: usize,
    /// The longest time without a good one.
    longest_without: Duration,
    /// Anything else.
    wrong: Vec<String>,
}

impl Seen {
    /// `last_good` is when the token was good the last time.
    fn look(&mut self, world: &World, last_good: &mut Instant) {
        let before = world.connection();
        let handed = world.handed();
        let account = world.django.account_of(handed["access_token"].as_str().expect("an access token"));
        let after = world.connection();
        let is_told = handed["warnings"].as_array().is_some_and(|told| told.contains(&"in_doubt".into()));
        let is_renewed = before["generation"] != after["generation"] || after["status"] != "fresh";
        let good = account.as_deref() == Some("anna") && handed["stale"] == false;
        match account {
            Some(_) if good => self.good += 1,
            None if is_told => self.in_doubt += 1,
            None if is_renewed => self.superseded += 1,
            _ => self.wrong.push(format!("{account:?} {} {} {before} {after}", handed["stale"], handed["warnings"])),
        }
        self.longest_without = self.longest_without.max(last_good.elapsed());
        if good {
            *last_good = Instant::now();
        }
    }
}

/// Of three lives of the token, while the answer to the second renewal is lost.
#[test]
fn what_is_signed_in_is_kept_fresh_though_an_answer_is_lost() {
    let world = World::new(Accounts::Told);
    world.connect("anna");
    let (started, mut seen, mut nth) = (Instant::now(), Seen::default(), 0);
    let mut last_good = started;
    while started.elapsed() < KEPT_FRESH_FOR {
        seen.look(&world, &mut last_good);
        nth += 1;
        // Not a wait for something: this is the reader's pace.
        thread::sleep((READ_EVERY * nth).saturating_sub(started.elapsed()));
    }
    let (passed, family, connection) = (world.proxy.passed(), world.living_family("anna"), world.connection());
    println!("{seen:?}\n{passed:?}\n{family:?}\n{}", connection["stats"]);
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    assert!(seen.in_doubt > 0, "the lost answer was never noticed");
    assert!(seen.longest_without < MENDED_WITHIN, "{:?}", seen.longest_without);
    assert!(matches!(passed, Passed { dropped: 1, repeated: 1, .. }), "{passed:?}");
    assert!(family.renewals >= RENEWALS_MIN, "{family:?}");
    world.expect_intact();
}

#[test]
fn denied_consent_ends_with_a_sentence() {
    let world = World::new(Accounts::Told);
    world.connect("anna");
    let sign_in = world.begin();
    let report = world.visit(&sign_in.url, "anna", Answer::Deny);
    expect_page(&report, &sign_in.origin(), told::DENIED);
    expect_told(sign_in.end(), told::DENIED);
    world.expect_intact();
}

#[test]
fn a_request_without_the_proof_of_pkce_ends_with_the_site_s_own_words() {
    let world = World::new(Accounts::Told);
    world.connect("anna");
    let changes = [
        (&[("code_challenge", None), ("code_challenge_method", None)][..], "Code challenge required"),
        (&[("code_challenge_method", Some("plain"))], "S256"),
    ];
    for (changed, words) in changes {
        let sign_in = world.begin();
        let report = world.visit(&altered(&sign_in.url, changed), "anna", Answer::Allow);
        expect_page(&report, &sign_in.origin(), words);
        expect_told(sign_in.end(), words);
    }
    world.expect_intact();
}

#[test]
fn another_account_is_refused_where_the_site_tells_it() {
    let world = World::new(Accounts::Told);
    world.connect("anna");
    let sign_in = world.begin();
    let report = world.visit(&sign_in.url, "ben", Answer::Allow);
    expect_page(&report, &sign_in.origin(), "`anna`");
    expect_told(sign_in.end(), "`ben`");
    world.expect_intact();
}

#[test]
fn another_account_takes_over_where_the_site_does_not_tell_it() {
    let world = World::new(Accounts::Untold);
    world.connect("anna");
    world.connect("ben");
    let events = world.installation.run(&["events", NAME, "--json"]).expect_code(0).stdout;
    assert_eq!(events.matches("connection.connected").count(), 2, "{events}");
    world.installation.run(&["refresh", NAME, "--force"]).expect_code(0);
    assert_eq!(world.django.account_of(&world.token()).as_deref(), Some("ben"));
    // Nobody ended the grant of before.
    world.living_family("anna");
    world.living_family("ben");
}
