//! Signing in by device code (RFC 8628).

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::grant::Refreshable;
use super::ledger::GrantId;
use super::signin::OWNER_DEFAULT;
use super::style::DeviceStyle;
use super::{Decision, Provider};
use crate::answer::{Answer, Refusal, Unfit};
use crate::random::keyed;
use crate::request::OAuthRequest;
use crate::token::{Kind, Stamp};

/// How many sign-ins of devices are remembered; older ones are unknown.
const DEVICES_MAX: usize = 1_000;

/// How much each `slow_down` adds to the interval (RFC 8628, 3.5).
const SLOWER_BY_S: u32 = 5;

/// How much too early a question may come. A client's timer and the network are not exact.
const EARLY_MS_MAX: i64 = 500;

/// The letters of user codes: no vowels, so that they spell nothing (RFC 8628, 6.1).
const USER_CODE_LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// A device that waits for its resource owner.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    client: usize,
    scope: Arc<str>,
    refreshable: Refreshable,
    user_code: String,
    expires_at_ms: i64,
    interval_s: u32,
    asked_at_ms: Option<i64>,
    decision: Option<Decision>,
}

impl Device {
    /// Notes a question. Says whether it came too early, which makes the interval longer.
    fn ask(&mut self, now_ms: i64) -> Result<(), Refusal> {
        let before = self.asked_at_ms.replace(now_ms);
        let wait_ms = i64::from(self.interval_s) * 1_000 - EARLY_MS_MAX;
        if before.is_none_or(|before| now_ms.saturating_sub(before) >= wait_ms) {
            return Ok(());
        }
        self.interval_s = self.interval_s.saturating_add(SLOWER_BY_S);
        Err(Refusal::SlowDown { interval_s: self.interval_s })
    }
}

/// A user code without what people change about it: case, hyphens, spaces.
fn plain(user_code: &str) -> String {
    user_code.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_uppercase()).collect()
}

impl Provider {
    /// Answers a request at the device authorization endpoint. `origin` is the provider's own URL.
    pub fn device_authorization(&mut self, now_ms: i64, request: &OAuthRequest<'_>, origin: &str) -> Answer {
        let client = match self.authenticate(&request.credentials) {
            Ok(client) => client,
            Err(refusal) => return self.refused(refusal),
        };
        let number = self.devices_made;
        let scope = request.scope.as_deref().map_or_else(|| Arc::clone(&self.config.scope), Arc::from);
        let life_s = self.config.device_ttl_s;
        let device = Device {
            client,
            // Google's devices have refresh tokens unasked: only a scope can be missing here.
            refreshable: self.refreshable(&scope, Some("offline")),
            scope,
            user_code: self.user_code(number),
            expires_at_ms: now_ms.saturating_add(i64::from(life_s) * 1_000),
            interval_s: self.config.device_interval_s,
            asked_at_ms: None,
            decision: None,
        };
        let stamp = Stamp { owner: number, serial: 0, expires_at_ms: device.expires_at_ms };
        let mut answer = json!({
            "device_code": self.mint.issue(Kind::Device, stamp),
            "user_code": device.user_code,
            "verification_uri": format!("{origin}/device"),
            "verification_uri_complete": format!("{origin}/device?user_code={}", device.user_code),
            "expires_in": life_s,
            "interval": device.interval_s,
        });
        if self.config.device == DeviceStyle::Google
            && let Some(fields) = answer.as_object_mut()
            && let Some(uri) = fields.remove("verification_uri")
        {
            fields.remove("verification_uri_complete");
            fields.insert("verification_url".to_owned(), uri);
        }
        self.remember_device(number, device);
        self.as_accepted(Answer::json(StatusCode::OK, &answer), request.accepts)
    }

    fn remember_device(&mut self, number: u64, device: Device) {
        self.devices_made += 1;
        self.devices.insert(number, device);
        if self.devices.len() > DEVICES_MAX {
            self.devices.pop_first();
        }
    }

    fn user_code(&self, number: u64) -> String {
        let letter = |nth: u64| {
            let drawn = keyed(&[self.config.seed, number, nth]) as usize % USER_CODE_LETTERS.len();
            USER_CODE_LETTERS.get(drawn).copied().map_or('B', char::from)
        };
        let half = |from: u64| (from..from + 4).map(letter).collect::<String>();
        format!("{}-{}", half(0), half(4))
    }

    /// The client and the scope that wait behind a user code, written in any case, if its time has not passed.
    pub fn device_ask(&self, now_ms: i64, user_code: &str) -> Option<(&str, &str)> {
        let device = self.devices.get(&self.waiting_device(now_ms, user_code)?)?;
        let client = self.config.clients.get(device.client)?;
        Some((&client.id, &device.scope))
    }

    /// Whether the device behind a user code has asked for its tokens, and waits.
    pub fn device_has_asked(&self, now_ms: i64, user_code: &str) -> bool {
        let waiting = self.waiting_device(now_ms, user_code).and_then(|number| self.devices.get(&number));
        waiting.is_some_and(|device| device.asked_at_ms.is_some())
    }

    /// The resource owner answers a device. Says whether one waited.
    pub fn decide_device(&mut self, now_ms: i64, user_code: &str, decision: Decision) -> bool {
        let waiting = self.waiting_device(now_ms, user_code);
        match waiting.and_then(|number| self.devices.get_mut(&number)) {
            Some(device) => {
                device.decision = Some(decision);
                true
            }
            None => false,
        }
    }

    fn waiting_device(&self, now_ms: i64, user_code: &str) -> Option<u64> {
        let wanted = plain(user_code);
        let waits = |device: &Device| {
            device.decision.is_none() && now_ms < device.expires_at_ms && plain(&device.user_code) == wanted
        };
        self.devices.iter().find(|(_, device)| waits(device)).map(|(&number, _)| number)
    }

    /// Answers a device that asks for its tokens.
    pub(super) fn exchange_device_code(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Answer {
        match self.try_exchange_device_code(now_ms, request) {
            Ok(id) => self.token_answer(id, None, true),
            Err(refusal) => self.refused(refusal),
        }
    }

    fn try_exchange_device_code(&mut self, now_ms: i64, request: &OAuthRequest<'_>) -> Result<GrantId, Refusal> {
        let unknown = Refusal::InvalidGrant(Unfit::Code("The device code is unknown."));
        let client = self.authenticate(&request.credentials)?;
        let code = request.device_code.as_deref().ok_or(Refusal::InvalidRequest("device_code is missing."))?;
        let number = self.mint.read(Kind::Device, code).ok_or(unknown)?.owner;
        let device = self.devices.get_mut(&number).filter(|device| device.client == client).ok_or(unknown)?;
        if now_ms >= device.expires_at_ms {
            return Err(Refusal::ExpiredToken);
        }
        device.ask(now_ms)?;
        let decision = device.decision.ok_or(Refusal::AuthorizationPending)?;
        // Either answer is given once.
        let Device { scope, refreshable, .. } = self.devices.remove(&number).ok_or(unknown)?;
        match decision {
            Decision::Allow => Ok(self.sign_in(now_ms, client, &OWNER_DEFAULT.into(), scope, refreshable)),
            Decision::Deny => Err(Refusal::AccessDenied),
        }
    }
}
