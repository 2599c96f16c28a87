use super::*;
use crate::error::CliError;
use std::io;
use tokenkeep::config::REFRESH_PER_SECOND;
use tokenkeep::connect::settings::{Redirects, Revocation};
use tokenkeep::endpoint::hosts::ApiHost;
use tokenkeep_core::provider::{ClientAuth, Rotation};

const JIRA: &str =
    "[providers.jira]\npreset = \"atlassian\"\nclient_id = \"abc\"\nclient_secret = { env = \"SECRET\" }\n";

fn env(name: &str) -> Option<String> {
    match name {
        "SECRET" => Some("hush".to_owned()),
        "MULTILINE" => Some("a\nb".to_owned()),
        _ => None,
    }
}

fn file(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("etc/secret") => Ok("from a file\r\n".to_owned()),
        Some("etc/empty") => Ok("\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

const SOURCES: Sources<'static> =
    Sources { env: &env, variables: &[], file: &file, real: &Path::to_path_buf, listen: None, state_dir: None };

fn read(text: &str) -> Result<Settings, ConfigErrors> {
    parse(text, Path::new("etc/tokenkeep.toml"), SOURCES)
}

fn good(text: &str) -> Settings {
    read(text).unwrap_or_else(|error| panic!("{text}\n{}", CliError::from(error).report()))
}

fn report(text: &str) -> String {
    CliError::from(read(text).map(|_| ()).expect_err(text)).report()
}

/// Reads with these variables set; the file `KEEP` holds `kept`.
fn with_env(text: &str, set: &[(&str, &str)]) -> Result<Settings, String> {
    let env = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    let file = |path: &Path| match path.to_str() {
        Some("KEEP") => Ok("kept\n".to_owned()),
        Some("LISTEN") => Ok("[::1]:1\n".to_owned()),
        Some("/run/credentials/tk/jira") => Ok("from systemd\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let variables: Vec<String> = set.iter().map(|(name, _)| (*name).to_owned()).collect();
    let sources = Sources { env: &env, variables: &variables, file: &file, ..SOURCES };
    parse(text, Path::new("etc/tokenkeep.toml"), sources).map_err(|errors| CliError::from(errors).report())
}

fn shown<'a>(settings: &'a Settings, name: &str) -> (&'a str, String) {
    let found = settings.shown.iter().find(|setting| setting.name == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not shown: {:#?}", settings.shown));
    (&found.value, found.source.to_string())
}

#[test]
fn what_a_variable_names_may_be_a_pipe() {
    let env = |name: &str| (name == "TOKENKEEP_SERVER__LISTEN_FILE").then(|| "PIPE".to_owned());
    let left = std::cell::Cell::new(Some("[::1]:1\n"));
    // As a pipe: what was read is gone.
    let file = |_: &Path| Ok(left.take().unwrap_or_default().to_owned());
    let variables = ["TOKENKEEP_SERVER__LISTEN_FILE".to_owned()];
    let sources = Sources { env: &env, variables: &variables, file: &file, ..SOURCES };
    let settings = parse("", Path::new("etc/tokenkeep.toml"), sources).expect("it is read once");
    assert_eq!(settings.listen, Some("[::1]:1".parse().unwrap()));
    assert_eq!(left.take(), None);
}

#[test]
fn nothing_at_all_is_the_defaults() {
    let config = good("").into_config("/s");
    assert_eq!(config.policy, Policy::default());
    assert_eq!((config.in_flight_max, config.providers.len()), (IN_FLIGHT_MAX, 0));
    assert_eq!(config.state_dir, Path::new("/s"));
}

#[test]
fn the_master_key_comes_from_where_the_configuration_says() {
    let source = |text: &str| good(&format!("[store]\nmaster_key = {text}")).into_config("/s").master_key;
    assert_eq!(good("").into_config("/s").master_key, KeySource::StateFolder);
    assert_eq!(source(r#"{ file = "k" }"#), KeySource::File("etc/k".into()));
    assert_eq!(source(r#"{ file = "/k" }"#), KeySource::File("/k".into()));
    assert_eq!(source(r#"{ env = "KEY" }"#), KeySource::Environment("KEY".into()));
    assert_eq!(source(r#"{ credential = "tk" }"#), KeySource::Credential("tk".into()));
    for wrong in [r#""hunter2""#, r#"{ text = "hunter2" }"#, r#"{ credential = "../x" }"#, r#"{ file = "" }"#, "7"] {
        let told = report(&format!("[store]\nmaster_key = {wrong}"));
        assert!(told.contains("{ credential = \"NAME\" }") && told.contains(":2:"), "{told}");
        assert!(!told.contains("hunter2") || wrong.contains("text"), "{told}");
    }
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let settings = good(&format!(
        r#"
        [server]
        listen = "127.0.0.1:7979"
        public_url = "http://localhost:7979"
        [store]
        url = "sqlite:tokenkeep.db"
        [refresh]
        check_interval = "1m"
        refresh_threshold = 120
        max_retries = 5
        in_flight_max = 32
        {JIRA}
        [providers.corp]
        token_url = "https://sso.example.com/token"
        authorize_url = "https://sso.example.com/authorize"
        revoke_url = "https://sso.example.com/revoke"
        device_url = "https://sso.example.com/device"
        client_id = "c"
        client_secret = {{ file = "secret" }}
        client_auth = "client_secret_basic"
        rotation = "grace:30"
        refresh_per_second = 5
        refresh_in_flight_max = 6
        "#
    ));
    assert_eq!(settings.listen, Some("127.0.0.1:7979".parse().unwrap()));
    assert_eq!(settings.public_url.as_ref().unwrap().as_str(), "http://localhost:7979/");
    let corp = &settings.providers[0];
    let sign_in = &corp.provider.sign_in;
    assert_eq!(sign_in.device_url.as_ref().unwrap().path(), "/device");
    assert!(matches!(&sign_in.revocation, Revocation::Standard(url) if url.path() == "/revoke"));
    assert_eq!(sign_in.authorize_url.as_ref().unwrap().path(), "/authorize");
    let config = settings.into_config("/s");
    assert_eq!(config.policy.check_interval, Duration::from_secs(60));
    assert_eq!(config.policy.refresh_threshold, Duration::from_secs(120));
    assert_eq!((config.policy.max_retries, config.in_flight_max), (5, 32));
    let [corp, jira] = &config.providers[..] else { panic!("two providers") };
    assert_eq!((corp.name.as_str(), corp.client.id.as_str()), ("corp", "c"));
    assert_eq!(corp.client.secret.as_ref().unwrap().expose(), "from a file");
    assert_eq!(corp.rules.client_auth, ClientAuth::SecretBasic);
    assert_eq!(corp.rules.rotation, Rotation::Grace(Duration::from_secs(30)));
    assert_eq!((corp.refresh_per_second, corp.refresh_in_flight_max), (5, 6));
    assert_eq!(jira.token_url.as_str(), "https://auth.atlassian.com/oauth/token");
    assert_eq!(jira.client.secret.as_ref().unwrap().expose(), "hush");
    assert_eq!(jira.rules.errors.len(), 1);
}

#[test]
fn a_preset_s_addresses_take_parameters_and_the_file_goes_before_it() {
    let text = "[providers.z]\npreset = \"zendesk\"\nparameters = { subdomain = \"acme\" }\nclient_id = \"c\"\nclient_secret = { env = \"SECRET\" }\nidle_life = \"7d\"\nresource = \"https://api\"\nauthorize_params = { prompt = \"login\" }\nerrors = [{ error = \"gone\", status = 410, means = \"dead\" }]";
    let settings = good(text);
    let zendesk = &settings.providers[0].provider;
    assert_eq!(zendesk.token_url.as_str(), "https://acme.zendesk.com/oauth/tokens");
    assert_eq!(
        zendesk.sign_in.authorize_url.as_ref().unwrap().as_str(),
        "https://acme.zendesk.com/oauth/authorizations/new"
    );
    assert_eq!(zendesk.sign_in.identity.as_ref().unwrap().fields, ["user.id"]);
    assert_eq!(
        (zendesk.rules.idle_life, zendesk.rules.token_params[0].0.as_ref()),
        (Some(Duration::from_secs(7 * 86_400)), "expires_in")
    );
    assert_eq!(zendesk.rules.meaning(410, "gone", ""), Some(tokenkeep_core::provider::Means::Dead));
    assert_eq!(
        (zendesk.sign_in.redirects, zendesk.sign_in.resources.as_slice()),
        (Redirects::Registered, &["https://api".to_owned()][..])
    );
    let gitlab = "[providers.g]\npreset = \"gitlab\"\nclient_id = \"c\"\nclient_secret = { env = \"SECRET\" }";
    assert_eq!(
        good(gitlab).providers[0].provider.token_url.as_str(),
        "https://gitlab.com/oauth/token",
        "a usual value"
    );
}

#[test]
fn revocation_at_another_address_stays_the_preset_s_way() {
    let revocation = |preset: &str| {
        let text = format!(
            "[providers.p]\npreset = \"{preset}\"\nrevoke_url = \"https://proxy.example.com/end\"\nclient_id = \"c\"\nclient_secret = {{ env = \"SECRET\" }}"
        );
        good(&text).providers[0].provider.sign_in.revocation.clone()
    };
    assert!(matches!(revocation("slack"), Revocation::AccessToken(url) if url.path() == "/end"));
    assert!(matches!(revocation("github-app"), Revocation::GitHub(_)));
    assert!(matches!(revocation("google"), Revocation::Standard(_)));
    assert!(matches!(revocation("hubspot"), Revocation::Standard(_)), "a way that the catalogue does not know");
}

#[test]
fn a_token_url_of_another_server_takes_none_of_the_preset_s_addresses() {
    let text = "[providers.x]\npreset = \"atlassian\"\ntoken_url = \"http://127.0.0.1:1/token\"\nclient_id = \"c\"\nclient_secret = { env = \"SECRET\" }";
    let sign_in = good(text).providers[0].provider.sign_in.clone();
    assert!(sign_in.authorize_url.is_none() && sign_in.identity.is_none());
    assert_eq!(sign_in.offline_scopes, ["offline_access"]);
}

#[test]
fn an_issuer_is_to_be_asked() {
    let text = "[providers.x]\nissuer = \"https://sso.example/realm\"\nclient_id = \"c\"\nclient_auth = \"none\"";
    let found = &good(text).providers[0];
    assert_eq!(
        (found.discover.as_deref(), found.provider.sign_in.issuer.as_deref()),
        (Some("https://sso.example/realm"), Some("https://sso.example/realm"))
    );
}

#[test]
fn a_provider_without_preset_is_treated_as_strict() {
    let text = "[providers.x]\ntoken_url = \"https://x.example/t\"\nclient_id = \"c\"\nclient_auth = \"none\"";
    let provider = &good(text).providers[0].provider;
    assert_eq!(provider.rules.rotation, Rotation::Unknown);
    assert!(provider.client.secret.is_none());
    assert_eq!(provider.refresh_per_second, REFRESH_PER_SECOND);
}

#[test]
fn the_environment_stands_above_the_file() {
    let set = [
        ("TOKENKEEP_REFRESH__MAX_RETRIES", "9"),
        ("TOKENKEEP_REFRESH__CHECK_INTERVAL", "20"),
        ("TOKENKEEP_SERVER__LISTEN_FILE", "LISTEN"),
    ];
    let settings = with_env("[refresh]\nmax_retries = 1", &set).unwrap();
    assert_eq!((settings.policy.max_retries, settings.policy.check_interval.as_secs()), (9, 20));
    assert_eq!(settings.listen, Some("[::1]:1".parse().unwrap()));
    assert_eq!(shown(&settings, "refresh.max_retries"), ("9", "env TOKENKEEP_REFRESH__MAX_RETRIES".to_owned()));
    assert_eq!(shown(&settings, "server.listen"), ("[::1]:1", "env TOKENKEEP_SERVER__LISTEN_FILE".to_owned()));
    assert_eq!(shown(&settings, "refresh.refresh_threshold"), ("600s", "default".to_owned()));
}

#[test]
fn a_flag_stands_above_everything_and_what_is_below_must_be_right() {
    let sources = Sources { listen: Some("127.0.0.1:9".parse().unwrap()), ..SOURCES };
    let settings = parse("[server]\nlisten = \"127.0.0.1:8\"", Path::new("t"), sources).unwrap();
    assert_eq!(settings.listen.unwrap().port(), 9);
    assert_eq!(shown(&settings, "server.listen"), ("127.0.0.1:9", "flag --listen".to_owned()));
    assert!(parse("[server]\nlisten = \"nowhere\"", Path::new("t"), sources).is_err());
}

#[test]
fn a_wrong_variable_is_named() {
    let report = with_env("", &[("TOKENKEEP_REFRESH__MAX_RETRIES", "many")]).unwrap_err();
    assert!(report.starts_with("error: TOKENKEEP_REFRESH__MAX_RETRIES: `refresh.max_retries` is many\n"), "{report}");
    let report = with_env("", &[("TOKENKEEP_SERVER__LISTEN_FILE", "gone")]).unwrap_err();
    assert!(report.starts_with("error: TOKENKEEP_SERVER__LISTEN_FILE: the file gone cannot be read"), "{report}");
}

#[test]
fn a_variable_of_no_setting_is_refused_with_what_was_meant() {
    for (set, found, expected) in [
        (
            ("TOKENKEEP_SERVER__LISTN", "x"),
            "TOKENKEEP_SERVER__LISTN: no setting",
            "did you mean TOKENKEEP_SERVER__LISTEN?",
        ),
        (("TOKENKEEP_SERVER__LISTEN_FIEL", "x"), "no setting", "TOKENKEEP_SERVER__LISTEN_FILE?"),
        (("TOKENKEEP_ZZZ__YYY", "x"), "no setting", "TOKENKEEP_SECTION__KEY"),
        (("TOKENKEEP_PROVIDERS__JRIA__CLIENT_ID", "x"), "no setting", "TOKENKEEP_PROVIDERS__JIRA__CLIENT_ID?"),
    ] {
        let report = with_env(JIRA, &[set, ("SECRET", "hush")]).unwrap_err();
        assert!(report.contains(found) && report.contains(expected), "{report}");
    }
    // One word before the double underscore is not ours to judge.
    assert!(with_env("", &[("TOKENKEEP_LOG", "debug"), ("OTHER__THING", "x")]).is_ok());
}

#[test]
fn a_value_and_a_file_for_one_setting_contradict_each_other() {
    let set = [("TOKENKEEP_SERVER__LISTEN", "127.0.0.1:1"), ("TOKENKEEP_SERVER__LISTEN_FILE", "LISTEN")];
    let report = with_env("", &set).unwrap_err();
    assert!(report.contains("TOKENKEEP_SERVER__LISTEN is set too"), "{report}");
}

#[test]
fn providers_and_connections_have_variables_too() {
    let text = format!("{}[providers.\"my-idp\"]\nclient_id = \"c\"\nclient_auth = \"none\"\n", JIRA);
    let set = [
        ("SECRET", "hush"),
        ("TOKENKEEP_PROVIDERS__JIRA__CLIENT_SECRET_FILE", "KEEP"),
        ("TOKENKEEP_PROVIDERS__JIRA__REFRESH_PER_SECOND", "7"),
        ("TOKENKEEP_PROVIDERS__MY_IDP__TOKEN_URL", "https://idp.example/token"),
        ("TOKENKEEP_PROVIDERS__GIT__PRESET", "github-app"),
        ("TOKENKEEP_PROVIDERS__GIT__CLIENT_ID", "g"),
        ("TOKENKEEP_PROVIDERS__GIT__CLIENT_SECRET", "spoken"),
        ("TOKENKEEP_CONNECTIONS__CI__PROVIDER", "git"),
        ("TOKENKEEP_CONNECTIONS__CI__SCOPES", "repo, read:org"),
        ("TOKENKEEP_CONNECTIONS__CI__LABELS", "team=core,env=ci"),
        ("TOKENKEEP_CONNECTIONS__CI__TOKEN_FILE", "/var/ci/token.json"),
    ];
    let settings = with_env(&text, &set).unwrap();
    let found: BTreeMap<_, _> = settings.providers.iter().map(|p| (p.provider.name.as_str(), &p.provider)).collect();
    let secret = |name: &str| found[name].client.secret.as_ref().map(|secret| secret.expose().to_owned());
    assert_eq!((secret("jira").as_deref(), found["jira"].refresh_per_second), (Some("kept"), 7));
    assert_eq!((secret("git").as_deref(), secret("my-idp")), (Some("spoken"), None));
    assert_eq!(found["my-idp"].token_url.as_str(), "https://idp.example/token");
    let [ci] = &settings.connections[..] else { panic!("{:?}", settings.connections) };
    assert_eq!((ci.key.to_string().as_str(), ci.provider.as_str(), ci.labels["env"].as_str()), ("ci", "git", "ci"));
    assert_eq!((ci.scopes.as_slice(), ci.token_files.len()), (&["repo".to_owned(), "read:org".to_owned()][..], 1));
    assert_eq!(shown(&settings, "providers.jira.client_secret").0, "(set, from file KEEP)");
    assert_eq!(shown(&settings, "providers.git.client_secret").0, "(set, from the environment)");
    assert_eq!(shown(&settings, "providers.git.rotation"), ("strict", "preset github-app".to_owned()));
    assert!(!format!("{:?}", settings.shown).contains("spoken"));
}

#[test]
fn a_variable_of_two_settings_is_refused() {
    let none = "client_id = \"c\"\nclient_auth = \"none\"\ntoken_url = \"https://x.example/t\"\n";
    let text = format!("[providers.\"my-idp\"]\n{none}[providers.\"my.idp\"]\n{none}");
    assert!(with_env(&text, &[]).is_ok());
    let report = with_env(&text, &[("TOKENKEEP_PROVIDERS__MY_IDP__CLIENT_ID", "x")]).unwrap_err();
    assert!(report.contains("providers.my-idp.client_id, providers.my.idp.client_id"), "{report}");
}

#[test]
fn a_secret_may_be_a_credential_of_systemd() {
    let text = JIRA.replace("env = \"SECRET\"", "credential = \"jira\"");
    let settings = with_env(&text, &[("CREDENTIALS_DIRECTORY", "/run/credentials/tk")]).unwrap();
    assert_eq!(settings.providers[0].provider.client.secret.as_ref().unwrap().expose(), "from systemd");
    assert_eq!(shown(&settings, "providers.jira.client_secret").0, "(set, from credential jira)");
    let report = with_env(&text, &[]).unwrap_err();
    assert!(report.contains("CREDENTIALS_DIRECTORY is not set") && report.contains("LoadCredential=jira:"), "{report}");
    for wrong in ["../jira", "a/b", "/etc/passwd", "", ".."] {
        let text = JIRA.replace("env = \"SECRET\"", &format!("credential = \"{wrong}\""));
        let report = with_env(&text, &[("CREDENTIALS_DIRECTORY", "/run/credentials/tk")]).unwrap_err();
        assert!(report.contains("no name of a credential"), "{report}");
    }
}

#[test]
fn connections_are_declared() {
    let settings = good(&format!(
        r#"{JIRA}
        [connections.chat]
        provider = "jira"
        namespace = "team"
        scopes = ["read:jira-work", "offline_access"]
        labels = {{ team = "core" }}
        token_file = ["a.json", {{ path = "/srv/b.json", without_refresh_token = true }}]
        [connections.plain]
        provider = "jira"
        token_file = "sub/../c.json"
        "#
    ));
    let [chat, plain] = &settings.connections[..] else { panic!("{:?}", settings.connections) };
    assert_eq!((chat.key.to_string().as_str(), chat.labels["team"].as_str()), ("team/chat", "core"));
    assert_eq!(chat.scopes, ["read:jira-work", "offline_access"]);
    let folder = std::env::current_dir().unwrap().join("etc");
    assert_eq!(chat.token_files[0].path, folder.join("a.json"));
    assert!(!chat.token_files[0].without_refresh_token && chat.token_files[1].without_refresh_token);
    assert_eq!(plain.token_files[0].path, folder.join("c.json"), "beside the configuration");
    assert_eq!(settings.into_config("/s").connections.len(), 2);
}

#[test]
fn a_wrong_connection_is_refused_with_its_reason() {
    let with = |lines: &str| format!("{JIRA}[connections.a]\nprovider = \"jira\"\n{lines}");
    for (text, found, expected) in [
        (format!("{JIRA}[connections.a]"), "no provider", "provider ="),
        (format!("{JIRA}[connections.a]\nprovider = \"jria\""), "no provider `jria`", "did you mean \"jira\"?"),
        (format!("{JIRA}[connections.a]\nprovider = \"zzz\""), "no provider `zzz`", "[providers.zzz]"),
        (format!("{JIRA}[connections.\"a b\"]\nprovider = \"jira\""), "`a b` is not a name", "another name"),
        (with("namespace = \"a/b\""), "`a/b` is not a name", "namespace"),
        (with("scope = \"x\""), "unknown key `scope`", "did you mean `scopes`?"),
        (with("scopes = [\"a b\"]"), "`a b` is no scope", "an array of scopes"),
        (with("scopes = [7]"), "is an integer", "an array of scopes"),
        (with("labels = { \"a b\" = \"x\" }"), "label `a b`", "64 labels"),
        (with("labels = [\"x\"]"), "is an array", "64 labels"),
        (with("labels = { a = 1 }"), "is an integer", "a string"),
        (with("token_file = 7"), "is an integer", "without_refresh_token"),
        (with("token_file = \"\""), "empty", "a path"),
        (with("token_file = { path = \"x\", without = true }"), "unknown key `without`", "without_refresh_token"),
        (with("token_file = { without_refresh_token = true }"), "no path", "a path"),
        (with("token_file = { path = \"x\", without_refresh_token = \"yes\" }"), "is a string", "true or false"),
        (with("token_file = \"tokenkeep.toml\""), "configuration itself", "another file"),
        (with("token_file = [\"x\", \"./x\"]"), "one of connection `a` already", "its own file"),
        (
            with("token_file = \"x\"\n[connections.b]\nprovider = \"jira\"\ntoken_file = \"y/../x\""),
            "connection `a` already",
            "its own",
        ),
    ] {
        let report = report(&text);
        let (cause, next) = report.split_once("next: ").expect("a next step");
        assert!(cause.contains(found) && next.contains(expected), "{text}\n{report}");
    }
    let state = std::env::current_dir().unwrap().join("state");
    let sources = Sources { state_dir: Some(&state), ..SOURCES };
    let text = with("token_file = \"../state/x.json\"");
    let errors = parse(&text, Path::new("etc/tokenkeep.toml"), sources).map(|_| ()).unwrap_err();
    assert!(CliError::from(errors).report().contains("lies in the state folder"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once_in_the_order_of_the_file() {
    let text = "[refresh]\nmax_retries = \"x\"\nmax_retry = 1\n[server]\npublic_url = \"x\"\n[connections.c]\nprovider = \"b\"\n";
    assert_eq!(
        report(text),
        "error: 4 things are wrong with the configuration\n\n  \
         etc/tokenkeep.toml:2:15: `refresh.max_retries` is a string\n  \
         2 | max_retries = \"x\"\n  \
         \x20 |               ^^^\n  \
         = expected a whole number between 0 and 10000\n\n  \
         etc/tokenkeep.toml:3:1: unknown key `max_retry` in [refresh]\n  \
         3 | max_retry\n  \
         \x20 | ^^^^^^^^^\n  \
         = did you mean `max_retries`?\n\n  \
         etc/tokenkeep.toml:5:14: `server.public_url` is `x`\n  \
         5 | public_url = \"x\"\n  \
         \x20 |              ^^^\n  \
         = expected a URL such as https://sso.example.com/token\n\n  \
         etc/tokenkeep.toml:7:12: there is no provider `b` in this configuration\n  \
         7 | provider = \"b\"\n  \
         \x20 |            ^^^\n  \
         = add a section [providers.b], or name one that is there\n\
         next: correct them; `tokenkeep config check` looks again\n"
    );
}

#[test]
fn broken_toml_is_told_in_every_line() {
    let report = report("[server\nlisten = = 1\n\n[refresh]\nmax_retries = \n");
    assert!(report.contains("toml:1:") && report.contains("toml:2:") && report.contains("toml:5:"), "{report}");
}

#[test]
fn with_a_certificate_any_address_may_be_listened_on() {
    let text = "[server]\nlisten = \"0.0.0.0:1\"\ntls_cert = \"c.pem\"\ntls_key = \"/k.pem\"";
    let settings = parse(text, Path::new("etc/t.toml"), SOURCES).unwrap();
    assert_eq!(settings.listen, Some("0.0.0.0:1".parse().unwrap()));
    assert_eq!(settings.tls, Some(TlsFiles { cert: "etc/c.pem".into(), key: "/k.pem".into() }));
    let flag = Sources { listen: Some("0.0.0.0:2".parse().unwrap()), ..SOURCES };
    assert!(parse(text, Path::new("etc/t.toml"), flag).is_ok());
    let without = parse("", Path::new("t"), flag).unwrap_err();
    assert!(format!("{without:?}").contains("0.0.0.0:2 is not of this machine alone"), "{without:?}");
}

#[test]
fn an_error_shows_the_place_the_line_and_the_remedy() {
    assert_eq!(
        report("[refresh]\n  refesh_threshold = \"600s\"\n"),
        "error: etc/tokenkeep.toml:2:3: unknown key `refesh_threshold` in [refresh]\n\
         \x20 2 |   refesh_threshold\n\
         \x20   |   ^^^^^^^^^^^^^^^^\n\
         next: did you mean `refresh_threshold`?\n"
    );
    assert_eq!(
        report("[refresh]\nmax_retries = \"x\"\n"),
        "error: etc/tokenkeep.toml:2:15: `refresh.max_retries` is a string\n\
         \x20 2 | max_retries = \"x\"\n\
         \x20   |               ^^^\n\
         next: expected a whole number between 0 and 10000\n"
    );
}

#[test]
fn every_wrong_thing_is_refused_with_its_reason() {
    let provider = |lines: &str| format!("[providers.x]\nclient_id = \"c\"\nclient_auth = \"none\"\n{lines}");
    let https = "token_url = \"https://x.example/t\"";
    for (text, found, expected) in [
        ("[sever]".to_owned(), "unknown key `sever`", "did you mean `server`?"),
        ("zzz = 1".to_owned(), "unknown key `zzz`", "server, store"),
        ("server = 1".to_owned(), "`server` is an integer", "[server]"),
        ("[server]\nlisten = \"0.0.0.0:1\"".to_owned(), "0.0.0.0:1 is not of this machine alone", "tls_cert"),
        ("[server]\nlisten = \"[::]:1\"".to_owned(), "[::]:1 is not of this machine alone", "tls_cert"),
        ("[server]\nlisten = \"[::ffff:0.0.0.0]:1\"".to_owned(), "is not of this machine alone", "tls_cert"),
        ("[server]\ntls_cert = \"c.pem\"".to_owned(), "only one of tls_cert and tls_key", "both"),
        ("[server]\nlisten = \"127.0.0.1\"".to_owned(), "`server.listen`", "127.0.0.1:7878"),
        ("[server]\nlisten = 7878".to_owned(), "`server.listen` is an integer", "loopback"),
        ("[server]\npublic_url = \"nonsense\"".to_owned(), "`server.public_url`", "URL"),
        ("[store]\nurl = \"postgres://u:p@h/d\"".to_owned(), "PostgreSQL is not supported yet", "sqlite:tokenkeep.db"),
        ("[store]\nurl = \"sqlite:other.db\"".to_owned(), "not supported", "sqlite:tokenkeep.db"),
        ("[refresh]\ncheck_interval = \"soon\"".to_owned(), "`refresh.check_interval` is `soon`", "between 1s and 1d"),
        ("[refresh]\ncheck_interval = 0".to_owned(), "`refresh.check_interval` is 0", "between 1s"),
        ("[refresh]\nrefresh_threshold = true".to_owned(), "is a boolean", "span of time"),
        ("[refresh]\nmax_retries = -1".to_owned(), "is -1", "between 0 and"),
        ("[refresh]\nmax_retries = 0x10".to_owned(), "`refresh.max_retries` is an integer", "whole number"),
        ("[refresh]\nin_flight_max = 0".to_owned(), "is 0", "between 1 and 4096"),
        ("[providers.\"a b\"]".to_owned(), "`a b` is not a name", "another name"),
        ("[providers]\nx = 1".to_owned(), "`providers.x` is an integer", "[providers.x]"),
        ("[providers.x]".to_owned(), "no client_id", "client_id ="),
        ("[providers.x]\nclient_id = \"\"".to_owned(), "`client_id` is empty", "provider gave it"),
        (format!("[providers.x]\nclient_id = \"c\"\n{https}"), "no client_secret", "{ env = \"NAME\" }"),
        (provider(""), "no token_url", "https://"),
        (provider("issuer = \"http://x\""), "unencrypted", "https"),
        (provider("preset = \"zendesk\""), "needs the parameter `subdomain`", "parameters = { subdomain"),
        (provider("preset = \"zendesk\"\nparameters = { sub = \"a\" }"), "unknown parameter `sub`", "subdomain"),
        (provider("token_url = \"https://x/t\"\nerrors = [{ error = \"e\" }]"), "no `means`", "not_processed"),
        (provider("token_url = \"https://x/t\"\nerrors = [{ error = \"e\", means = \"bad\" }]"), "bad", "wrong_client"),
        (provider("token_url = \"https://x/t\"\nauthorize_params = { state = \"x\" }"), "`state` is set by", "prompt"),
        (provider("token_url = \"https://x/t\"\nredirect = \"there\""), "there", "daemon"),
        (JIRA.replace("preset", "client_key = { file = \"etc/secret\" }\npreset"), "client_key", "cannot be read"),
        (provider("preset = \"atlasian\""), "no preset `atlasian`", "did you mean \"atlassian\"?"),
        (provider("preset = \"zzzzzz\""), "no preset `zzzzzz`", "github-app"),
        (provider("token_url = \"http://x.example/t\""), "unencrypted", "loopback"),
        (provider("token_url = \"http://127.0.0.1.evil.example/t\""), "unencrypted", "loopback"),
        (provider("token_url = \"ftp://x/t\""), "scheme `ftp`", "https://"),
        (provider("token_url = \"https://u:p@x/t\""), "user, a password", "plain URL"),
        (provider("token_url = \"/t\""), "`providers.x.token_url` is `/t`", "URL"),
        (provider(&format!("{https}\nrotation = \"sometimes\"")), "is `sometimes`", "until-used"),
        (provider(&format!("{https}\nrefresh_per_second = 0")), "is 0", "between 1 and 10000"),
        (provider(&format!("{https}\nclient_secret = {{ env = \"SECRET\" }}")), "contradict", "remove one"),
        (JIRA.replace("preset", "client_auth = \"private_key_jwt\"\npreset"), "no client_key", "PEM"),
        (JIRA.replace("preset", "client_auth = \"magic\"\npreset"), "magic", "client_secret_post"),
        (JIRA.replace("SECRET", "MISSING"), "MISSING is not set", "tokenkeep serve"),
        (JIRA.replace("SECRET", "MULTILINE"), "control characters", "one line"),
        (JIRA.replace("env = \"SECRET\"", "file = \"gone\""), "etc/gone cannot be read", "configuration's folder"),
        (JIRA.replace("env = \"SECRET\"", "file = \"empty\""), "secret is empty", "alone"),
        (JIRA.replace("env = ", "vault = "), "unknown key `vault`", "{ env = \"NAME\" }"),
        (JIRA.replace("env = \"SECRET\"", ""), "must have one key", "{ env = \"NAME\" }"),
        (JIRA.replace("{ env = \"SECRET\" }", "7"), "is an integer", "{ env = \"NAME\" }"),
        ("[server".to_owned(), "this is not TOML", "toml.io"),
        ("a = 1\na = 2".to_owned(), "this is not TOML", "toml.io"),
    ] {
        let report = report(&text);
        assert!(report.contains("next: "), "{text}\n{report}");
        assert!(report.contains(found), "{text}\n{report}");
        assert!(report.contains(expected), "{text}\n{report}");
    }
}

#[test]
fn http_is_taken_for_loopback_hosts() {
    for host in ["localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:3", "mock.localhost"] {
        good(&format!("[providers.x]\nclient_id = \"c\"\nclient_auth = \"none\"\ntoken_url = \"http://{host}/t\""));
    }
}

#[test]
fn no_secret_is_ever_shown() {
    for text in [
        "[providers.x]\nclient_id = \"c\"\nclient_secret = \"hunter2\"",
        "[providers.x]\nclient_secret = hunter2",
        "[providers.x]\nclient_secrt = \"hunter2\"",
        "[providers.x]\npwd = \"hunter2\"",
        "[providers]\nx = { client_secret = \"hunter2\", client = \"c\" }",
        "[providers]\nx = { client_secret = \"hunter2\", preset = \"zz\", client_id = \"c\" }",
        "[store]\nurl = \"mysql://u:hunter2@h/d\"",
    ] {
        let report = report(text);
        assert!(!report.contains("hunter2"), "{report}");
    }
    let report = report("[providers.x]\nclient_id = \"c\"\nclient_secret = \"hunter2\"");
    assert!(report.contains("client_secret = \"...\"\n    |                 ^"), "{report}");
}

#[test]
fn odd_places_do_not_panic() {
    for text in
        ["é = 1\u{301}", "\u{feff}[refresh]\nx=1", "[refresh]\r\nx = 1\r\n", "x", "\"", "é\n\n=", "[providers.é]"]
    {
        assert!(report(text).contains("etc/tokenkeep.toml:"), "{text:?}");
    }
}

#[test]
fn api_hosts_are_the_section_s_else_the_preset_s() {
    let hosts = |text: &str| -> Vec<String> {
        good(text).providers[0].provider.api_hosts.iter().map(ToString::to_string).collect()
    };
    assert_eq!(hosts(JIRA), ["https://api.atlassian.com"]);
    let given = format!("{JIRA}api_hosts = [\"http://127.0.0.1:9400\", \"*.corp.example\"]\n");
    assert_eq!(hosts(&given), ["http://127.0.0.1:9400", "*.corp.example"]);
    assert_eq!(hosts(&format!("{JIRA}api_hosts = \"api.example.com\"\n")), ["https://api.example.com"]);
    // A token of another server must not go to the preset's API.
    assert!(hosts(&format!("{JIRA}token_url = \"https://elsewhere.example/token\"\n")).is_empty());
    let of = |preset: &str, parameters: &str| {
        hosts(
            &JIRA
                .replace("atlassian", preset)
                .replace("client_id", &format!("parameters = {{ {parameters} }}\nclient_id")),
        )
    };
    assert_eq!(of("zendesk", "subdomain = \"acme\""), ["https://acme.zendesk.com"]);
    assert_eq!(of("gitlab", "host = \"git.corp.example\""), ["https://git.corp.example"]);
    assert_eq!(of("jira-data-center", "base = \"https://jira.corp.example/jira\""), ["https://jira.corp.example"]);

    let wrong = report(&format!("{JIRA}api_hosts = [\"https://api.example.com/v1\"]\n"));
    assert!(
        wrong.contains("`https://api.example.com/v1` is no API host") && wrong.contains("expected a host"),
        "{wrong}"
    );
}

/// What the configuration itself names may be in a private network; what the catalogue names may not.
#[test]
fn a_parameter_that_is_the_whole_host_names_it() {
    let host = |text: &str| good(text).providers[0].provider.api_hosts[0].clone();
    let gitlab = JIRA.replace("atlassian", "gitlab");
    let own = gitlab.replace("client_id", "parameters = { host = \"git.corp.example\" }\nclient_id");
    assert_eq!(host(&own), ApiHost::configured("git.corp.example").unwrap());
    assert_eq!(host(&gitlab), ApiHost::known("gitlab.com").unwrap());
    assert_eq!(host(JIRA), ApiHost::known("api.atlassian.com").unwrap());
}
