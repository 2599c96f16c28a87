//! `[providers.X]`: where a provider is, who we are there, and its rules. What stands here goes before its preset.

use super::document::{ConfigError, Section, Value};
use super::secrets::{self, Secrets};
use super::{LIMIT_MAX, ProviderSettings, Source};
use crate::span;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokenkeep::config::{REFRESH_IN_FLIGHT_MAX, REFRESH_PER_SECOND};
use tokenkeep::connect::assertion::SigningKey;
use tokenkeep::connect::settings::{Identity, Redirects, Revocation, SignIn};
use tokenkeep::endpoint::hosts::{self, ApiHost};
use tokenkeep_core::catalogue::{self, PRESETS, Preset, preset};
use tokenkeep_core::model::{check_name, printable};
use tokenkeep_core::oauth::authorize;
use tokenkeep_core::oauth::request::Client;
use tokenkeep_core::provider::{ClientAuth, ErrorRule, Means, Rotation, Rules};
use url::Url;

/// The keys of a provider's section.
pub const KEYS: &[&str] = &[
    "preset",
    "parameters",
    "issuer",
    "token_url",
    "refresh_url",
    "authorize_url",
    "revoke_url",
    "device_url",
    "introspect_url",
    "identity_url",
    "identity_fields",
    "api_hosts",
    "redirect",
    "scopes",
    "authorize_params",
    "token_params",
    "resource",
    "client_id",
    "client_secret",
    "client_auth",
    "client_key",
    "client_key_id",
    "rotation",
    "access_life",
    "idle_life",
    "absolute_life",
    "one_grant",
    "errors",
    "refresh_per_second",
    "refresh_in_flight_max",
];

/// The shortest life that can be stated.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// The longest.
const LIFE_MAX: Duration = span::SPAN_MAX;
/// The most entries of a list or a table.
const ENTRIES_MAX: usize = 64;

const SCOPES_EXPECTED: &str = "an array of scopes such as [\"read:jira-work\", \"offline_access\"], at most 64";
const RESOURCE_EXPECTED: &str = "an address that tokens are to be for, or an array of them (RFC 8707)";
const IDENTITY_EXPECTED: &str = "the field that names the account, such as \"sub\" or \"data.id\", or an array of them";
const PARAMETERS_EXPECTED: &str = "a table such as { subdomain = \"acme\" }";
const AUTHORIZE_PARAMS_EXPECTED: &str = "a table such as { prompt = \"consent\" }";
const TOKEN_PARAMS_EXPECTED: &str = "a table such as { expires_in = \"1800\" }";
const ERRORS_EXPECTED: &str = "an array of { error = \"CODE\", means = \"dead\", \"reused\", \"throttled\", \"wrong_client\" or \"not_processed\" }, \
     each with status = 403 or description = \"part of it\" where only that is meant";

/// `None`: something is wrong with it, and kept for the end.
pub fn read(name: &str, section: &Section<'_>, secrets: &Secrets<'_>) -> Option<ProviderSettings> {
    let document = section.document();
    let named = check_name(name).map_err(|error| section.error(error.to_string(), "give the provider another name"));
    document.keep(named)?;
    let preset = section.read("preset", known_preset);
    let rules = rules(section, preset);
    let client = client(section, secrets, rules.client_auth);
    let issuer = section.read("issuer", issuer);
    let addresses = Addresses::new(section, preset, client.as_ref().map(|client| client.id.as_str()));
    let token_url = addresses.token_url(issuer.as_deref());
    let sign_in = sign_in(section, &addresses, secrets, issuer.clone());
    let limit = |key: &str, default: u32| {
        section.read_or(key, (default, default.to_string()), |value| value.number(1..=LIMIT_MAX))
    };
    let (refresh_per_second, refresh_in_flight_max) =
        (limit("refresh_per_second", REFRESH_PER_SECOND), limit("refresh_in_flight_max", REFRESH_IN_FLIGHT_MAX));
    let refresh_url = addresses.url("refresh_url", preset.and_then(|preset| preset.refresh_url));
    let api_hosts = addresses.api_hosts();
    let TokenUrl { url, discover } = token_url?;
    let provider = tokenkeep::Provider {
        refresh_url,
        sign_in,
        preset: preset.map(|preset| preset.id),
        api_hosts,
        refresh_per_second,
        refresh_in_flight_max,
        ..tokenkeep::Provider::new(name, url, client?, rules)
    };
    Some(ProviderSettings { provider, discover })
}

fn known_preset(value: &Value<'_>) -> Result<&'static Preset, ConfigError> {
    let ids: Vec<&str> = PRESETS.iter().map(|preset| preset.id).collect();
    let expected = format!("one of: {}", ids.join(", "));
    let id = value.text(&expected)?;
    preset(id).ok_or_else(|| {
        let expected = match crate::suggest::nearest(id, ids) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None => {
                format!("expected {expected}; any other provider needs no preset, only token_url")
            }
        };
        value.error(format!("there is no preset `{}`", printable(id, 60)), expected)
    })
}

/// An issuer is compared letter by letter, so it stays as it is written.
fn issuer(value: &Value<'_>) -> Result<String, ConfigError> {
    value.endpoint()?;
    Ok(value.text("an address")?.to_owned())
}

struct TokenUrl {
    url: Url,
    discover: Option<String>,
}

/// The addresses of a provider: those of its section, else those of its preset with the parameters filled in.
struct Addresses<'s, 'a> {
    section: &'s Section<'a>,
    preset: Option<&'static Preset>,
    parameters: BTreeMap<String, String>,
    /// The token URL is of another server than the preset's, so that the preset's other addresses are not its own.
    moved: bool,
}

impl<'s, 'a> Addresses<'s, 'a> {
    fn new(section: &'s Section<'a>, preset: Option<&'static Preset>, client_id: Option<&str>) -> Self {
        let mut parameters: BTreeMap<String, String> =
            section.read("parameters", |value| parameters(value, preset)).unwrap_or_default().into_iter().collect();
        for (name, value) in preset.map(|preset| preset.template_defaults).unwrap_or_default() {
            parameters.entry((*name).to_owned()).or_insert_with(|| (*value).to_owned());
        }
        parameters.extend(client_id.map(|id| ("client_id".to_owned(), id.to_owned())));
        Self { section, preset, parameters, moved: section.value("token_url").is_some() }
    }

    fn token_url(&self, issuer: Option<&str>) -> Option<TokenUrl> {
        let known = |url| TokenUrl { url, discover: None };
        if self.moved {
            return self.section.read("token_url", Value::endpoint).map(known);
        }
        if let Some(preset) = self.preset {
            return self.url("token_url", Some(preset.token_url)).map(known);
        }
        if let Some(issuer) = issuer {
            // Until it has been asked; nothing is sent there before.
            let url = Url::parse(issuer).ok()?;
            return Some(TokenUrl { url, discover: Some(issuer.to_owned()) });
        }
        // A preset or an issuer that is wrong has been told of already.
        if self.section.value("preset").is_none() && self.section.value("issuer").is_none() {
            self.section.document().keep::<()>(Err(self.section.error(
                "this provider has no token_url",
                "add token_url = \"https://...\", a preset that knows it, or its issuer to be asked",
            )));
        }
        None
    }

    /// The address of this key, else that of `template`.
    fn url(&self, key: &str, template: Option<&str>) -> Option<Url> {
        if self.section.value(key).is_some() {
            return self.section.read(key, Value::endpoint);
        }
        let (preset, template) = (self.preset?, template.filter(|_| !self.moved)?);
        let document = self.section.document();
        let filled = catalogue::fill(template, |name| self.parameters.get(name).cloned()).map_err(|lacks| {
            self.section.error(
                format!("the preset `{}` needs the parameter `{lacks}`", preset.id),
                format!("add parameters = {{ {lacks} = \"...\" }}: its {key} is {template}"),
            )
        });
        let url = document.keep(filled)?;
        let parsed = Url::parse(&url).map_err(|error| {
            let found = format!("the preset's {key} becomes `{}`, which is no URL: {error}", printable(&url, 200));
            self.section.error(found, "correct the parameters")
        });
        let url = document.keep(parsed)?;
        let source = Source::Preset { id: preset.id.to_owned() };
        document.note(&self.section.name(), key, url.as_str(), source);
        Some(url)
    }

    fn revocation(&self) -> Revocation {
        use catalogue::Revocation as Known;
        let known = self.preset.map_or(Known::None, |preset| preset.revocation);
        let Some(url) = self.url("revoke_url", known.url()) else { return Revocation::None };
        match known {
            Known::AccessToken(_) => Revocation::AccessToken(url),
            Known::GitHub(_) => Revocation::GitHub(url),
            Known::None | Known::Standard(_) => Revocation::Standard(url),
        }
    }

    /// The hosts of the API: of the section, else of the preset, for which the configuration speaks where a parameter is
    /// the whole host.
    fn api_hosts(&self) -> Vec<ApiHost> {
        if self.section.value("api_hosts").is_some() {
            return self.section.read("api_hosts", api_hosts).unwrap_or_default();
        }
        let Some(preset) = self.preset.filter(|_| !self.moved) else { return Vec::new() };
        let is_named = |template: &str| {
            let parameter = template.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let known =
                |name| preset.template_defaults.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            parameter.is_some_and(|name| self.parameters.get(name).map(String::as_str) != known(name))
        };
        let host = |template: &&str| {
            // A parameter that is missing has been told of with the token_url.
            let filled = catalogue::fill(template, |name| self.parameters.get(name).cloned()).ok()?;
            let host = Url::parse(&filled).ok().filter(|url| url.has_host());
            let host = host.map_or(filled, |url| url.origin().ascii_serialization());
            if is_named(template) { ApiHost::configured(&host).ok() } else { ApiHost::known(&host).ok() }
        };
        let hosts: Vec<ApiHost> = preset.api_hosts.iter().filter_map(host).collect();
        let shown: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let source = Source::Preset { id: preset.id.to_owned() };
        self.section.document().note(&self.section.name(), "api_hosts", shown.join(", "), source);
        hosts
    }

    fn identity(&self) -> Option<Identity> {
        let known = self.preset.and_then(|preset| preset.identity);
        let url = self.url("identity_url", known.map(|known| known.url));
        let fields = self.section.read("identity_fields", |value| texts(value, IDENTITY_EXPECTED));
        let known = known.map(|known| known.fields.iter().map(|field| (*field).to_owned()).collect());
        Some(Identity { url: url?, fields: fields.or(known).unwrap_or_else(|| vec!["sub".to_owned()]) })
    }
}

fn sign_in(
    section: &Section<'_>,
    addresses: &Addresses<'_, '_>,
    secrets: &Secrets<'_>,
    issuer: Option<String>,
) -> SignIn {
    let preset = addresses.preset;
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let known: Vec<(String, String)> = preset
        .map(|preset| preset.authorize_params)
        .unwrap_or_default()
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let given = section.read("authorize_params", authorize_params).unwrap_or_default();
    let usual = match preset {
        Some(preset) if !preset.any_loopback => Redirects::Registered,
        _ => Redirects::AnyLoopback,
    };
    let shown = if usual == Redirects::AnyLoopback { "loopback" } else { "daemon" };
    SignIn {
        issuer,
        sends_issuer: false,
        authorize_url: addresses.url("authorize_url", preset.map(|preset| preset.authorize_url)),
        device_url: addresses.url("device_url", preset.and_then(|preset| preset.device_url)),
        revocation: addresses.revocation(),
        introspect_url: section.read("introspect_url", Value::endpoint),
        identity: addresses.identity(),
        redirects: section.read_or("redirect", (usual, shown.to_owned()), redirects),
        scope_separator: preset.map_or(' ', |preset| preset.scope_separator),
        scopes: section.read("scopes", |value| texts(value, SCOPES_EXPECTED)).unwrap_or_default(),
        offline_scopes: owned(preset.map(|preset| preset.offline_scopes).unwrap_or_default()),
        // A later one replaces an earlier one of its name.
        params: known.into_iter().chain(given).collect(),
        resources: section.read("resource", |value| texts(value, RESOURCE_EXPECTED)).unwrap_or_default(),
        signing_key: signing_key(section, secrets),
    }
}

fn api_hosts(value: &Value<'_>) -> Result<Vec<ApiHost>, ConfigError> {
    let host = |text: String| {
        ApiHost::configured(&text).map_err(|why| {
            value.error(
                format!("`{}` is no API host: {why}", printable(&text, 80)),
                format!("expected {}", hosts::EXPECTED),
            )
        })
    };
    texts(value, hosts::EXPECTED)?.into_iter().map(host).collect()
}

fn redirects(value: &Value<'_>) -> Result<Redirects, ConfigError> {
    value.parsed("\"loopback\" (any port of this machine) or \"daemon\" (only the daemon's own address)", |text| {
        match text {
            "loopback" => Ok(Redirects::AnyLoopback),
            "daemon" => Ok(Redirects::Registered),
            _ => Err(String::new()),
        }
    })
}

fn signing_key(section: &Section<'_>, secrets: &Secrets<'_>) -> Option<Arc<SigningKey>> {
    let key_id = section.read("client_key_id", client_id);
    let value = section.value("client_key")?;
    let pem = secrets.read_lines(section, "client_key", &value)?;
    let key = SigningKey::from_pem(&pem, key_id)
        .map_err(|error| value.error("`client_key` is no key that signs".to_owned(), error.to_string()));
    section.document().keep(key).map(Arc::new)
}

/// The texts of an array, or a single one.
fn texts(value: &Value<'_>, expected: &str) -> Result<Vec<String>, ConfigError> {
    let found: Vec<String> = match value.of_environment() {
        Some((text, _)) => text.split([' ', ',']).filter(|text| !text.is_empty()).map(str::to_owned).collect(),
        None => value.items().iter().map(|item| item.text(expected).map(str::to_owned)).collect::<Result<_, _>>()?,
    };
    let fits = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if found.len() > ENTRIES_MAX || !found.iter().all(fits) {
        return Err(
            value.error("an entry is empty or has blanks, or there are too many", format!("expected {expected}"))
        );
    }
    Ok(found)
}

/// The pairs of a table of texts.
fn pairs(value: &Value<'_>, expected: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let entries = value.entries(expected)?;
    if entries.len() > ENTRIES_MAX {
        return Err(value.error(
            format!("there are {} entries", entries.len()),
            format!("expected {expected}, of at most {ENTRIES_MAX}"),
        ));
    }
    let pair = |(name, value): &(&str, Value<'_>)| {
        let text = value.text("a string")?;
        if text.chars().any(char::is_control) || name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(
                value.error("a name or value has characters that it cannot have", format!("expected {expected}"))
            );
        }
        Ok(((*name).to_owned(), text.to_owned()))
    };
    entries.iter().map(pair).collect()
}

fn parameters(value: &Value<'_>, preset: Option<&'static Preset>) -> Result<Vec<(String, String)>, ConfigError> {
    let found = pairs(value, PARAMETERS_EXPECTED)?;
    let known = preset.map(Preset::parameters).unwrap_or_default();
    match found.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(found),
        Some((name, _)) => {
            let expected = if known.is_empty() {
                "this provider needs none".to_owned()
            } else {
                format!("expected {}", known.join(", "))
            };
            Err(value.error(format!("unknown parameter `{}`", printable(name, 60)), expected))
        }
    }
}

fn authorize_params(value: &Value<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let found = pairs(value, AUTHORIZE_PARAMS_EXPECTED)?;
    match found.iter().find(|(name, _)| !authorize::may_be_given(name)) {
        None => Ok(found),
        Some((name, _)) => Err(value.error(
            format!("`{}` is set by Tokenkeep itself", printable(name, 60)),
            format!("expected {AUTHORIZE_PARAMS_EXPECTED}, of other parameters"),
        )),
    }
}

fn error_rules(value: &Value<'_>) -> Result<Vec<ErrorRule>, ConfigError> {
    let items = value.items();
    if items.len() > ENTRIES_MAX {
        return Err(value.error(format!("there are {} rules", items.len()), format!("expected at most {ENTRIES_MAX}")));
    }
    items.iter().map(error_rule).collect()
}

fn error_rule(item: &Value<'_>) -> Result<ErrorRule, ConfigError> {
    let (mut rule, mut means) = (ErrorRule::known(None, "", "", Means::Dead), None);
    for (key, entry) in item.entries(ERRORS_EXPECTED)? {
        match key {
            "error" => rule.error = entry.text("a string")?.to_owned().into(),
            "description" => rule.description_contains = entry.text("a string")?.to_owned().into(),
            "status" => rule.status = u16::try_from(entry.number(100..=599)?).ok(),
            "means" => means = Some(entry.parsed("dead, reused, throttled, wrong_client or not_processed", means_of)?),
            other => {
                let found = format!("unknown key `{}` in a rule for errors", printable(other, 60));
                return Err(entry.error(found, format!("expected {ERRORS_EXPECTED}")));
            }
        }
    }
    match means {
        Some(means) if !rule.error.is_empty() => Ok(ErrorRule { means, ..rule }),
        _ => Err(item.error("this rule has no `error` or no `means`", format!("expected {ERRORS_EXPECTED}"))),
    }
}

fn means_of(text: &str) -> Result<Means, String> {
    match text {
        "dead" => Ok(Means::Dead),
        "reused" => Ok(Means::Reused),
        "throttled" => Ok(Means::Throttled),
        "wrong_client" => Ok(Means::WrongClient),
        "not_processed" => Ok(Means::NotProcessed),
        _ => Err(String::new()),
    }
}

fn rules(section: &Section<'_>, preset: Option<&Preset>) -> Rules {
    let mut rules = preset.map_or_else(Rules::default, |preset| preset.rules.clone());
    let note = |key: &str, value: String| {
        if section.value(key).is_none() {
            let source = preset.map_or(Source::Default, |preset| Source::Preset { id: preset.id.to_owned() });
            section.document().note(&section.name(), key, value, source);
        }
    };
    let expected = "client_secret_post, client_secret_basic, private_key_jwt or none";
    note("client_auth", rules.client_auth.as_str().to_owned());
    if let Some(auth) = section.read("client_auth", |value| value.parsed(expected, ClientAuth::parse)) {
        rules.client_auth = auth;
    }
    let expected = "persistent, grace:SECONDS (1 to 86400), until-used, strict or unknown";
    note("rotation", rules.rotation.to_string());
    if let Some(rotation) = section.read("rotation", |value| value.parsed(expected, Rotation::parse)) {
        rules.rotation = rotation;
    }
    let span = |key: &str, known: Option<Duration>| {
        if let (Some(known), None) = (known, section.value(key)) {
            note(key, span::show(known));
        }
        section.read(key, |value| value.span(LIFE_MIN..=LIFE_MAX)).or(known)
    };
    rules.access_life = span("access_life", rules.access_life);
    rules.idle_life = span("idle_life", rules.idle_life);
    rules.absolute_life = span("absolute_life", rules.absolute_life);
    note("one_grant", rules.one_grant.to_string());
    if let Some(one_grant) = section.read("one_grant", Value::truth) {
        rules.one_grant = one_grant;
    }
    if let Some(params) = section.read("token_params", |value| pairs(value, TOKEN_PARAMS_EXPECTED)) {
        rules.token_params = params.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    }
    if let Some(mut errors) = section.read("errors", error_rules) {
        // Those of the file are looked at first.
        errors.extend_from_slice(&rules.errors);
        rules.errors = errors.into();
    }
    rules
}

fn client(section: &Section<'_>, secrets: &Secrets<'_>, auth: ClientAuth) -> Option<Client> {
    let document = section.document();
    let id = section.read("client_id", client_id);
    if section.value("client_id").is_none() {
        let next = "add client_id = \"...\", as the provider gave it";
        document.keep::<()>(Err(section.error("this provider has no client_id", next)));
    }
    let given = section.value("client_secret");
    let secret = given.as_ref().and_then(|value| secrets.read(section, "client_secret", value));
    let fits = match (auth, given.is_some()) {
        (ClientAuth::None, true) => Err(section.error(
            "client_auth = \"none\" and a client_secret contradict each other",
            "remove one of them: a public client has no secret",
        )),
        (ClientAuth::SecretPost | ClientAuth::SecretBasic, false) => Err(section.error(
            "this provider has no client_secret",
            format!("add client_secret = {}, or client_auth = \"none\" for a public client", secrets::EXPECTED),
        )),
        (ClientAuth::PrivateKeyJwt, _) if section.value("client_key").is_none() => Err(section.error(
            "this provider has no client_key",
            format!(
                "add client_key = {}, the private key in PEM whose public half the provider has",
                secrets::EXPECTED
            ),
        )),
        _ => Ok(()),
    };
    document.keep(fits)?;
    Some(Client { id: id?, secret })
}

fn client_id(value: &Value<'_>) -> Result<String, ConfigError> {
    let text = value.text("a string")?;
    if text.is_empty() || text.chars().any(char::is_control) {
        let expected = "expected the client id as the provider gave it";
        return Err(value.error("`client_id` is empty or has control characters", expected));
    }
    Ok(text.to_owned())
}
