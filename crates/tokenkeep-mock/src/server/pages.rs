//! The pages that a resource owner sees: plain HTML that works without script.

use http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use http::{HeaderValue, StatusCode};

use crate::answer::Answer;
use crate::provider::Ask;

/// Asks the resource owner; the form posts to the URL that it came from.
pub(crate) fn consent(ask: &Ask) -> Answer {
    let who = format!("{} asks {} for:", ask.client_id(), ask.owner());
    page(StatusCode::OK, "Allow access?", &decision(&who, ask.scope(), ""))
}

/// Asks for the user code of a device.
pub(crate) fn device_code() -> Answer {
    let form = "<form method=get><label>The code that the device shows <input name=user_code autofocus required></label>\
                <button>Go on</button></form>";
    page(StatusCode::OK, "Connect a device", form)
}

/// Asks the resource owner about a device.
pub(crate) fn device(client_id: &str, scope: &str, user_code: &str) -> Answer {
    let code = format!("<input type=hidden name=user_code value=\"{}\">", escaped(user_code));
    let who = format!("{client_id}, on the device that shows {user_code}, asks for:");
    page(StatusCode::OK, "Connect a device?", &decision(&who, scope, &code))
}

/// Says something.
pub(crate) fn told(status: StatusCode, text: &str) -> Answer {
    page(status, text, "")
}

/// Sends the browser on.
pub(crate) fn sent_to(url: &str) -> Answer {
    match HeaderValue::from_str(url) {
        Ok(url) => told(StatusCode::FOUND, "Go on").with_header(LOCATION, url),
        Err(_) => told(StatusCode::BAD_REQUEST, "The redirection fits no header."),
    }
}

fn decision(who: &str, scope: &str, hidden: &str) -> String {
    let scopes: String = scope.split_ascii_whitespace().map(|scope| format!("<li>{}</li>", escaped(scope))).collect();
    format!(
        "<p>{}</p><ul>{scopes}</ul><form method=post>{hidden}\
         <button name=decision value=allow>Allow</button> <button name=decision value=deny>Deny</button></form>",
        escaped(who)
    )
}

fn page(status: StatusCode, title: &str, body: &str) -> Answer {
    let title = escaped(title);
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><h1>{title}</h1>{body}</html>\n"
    );
    Answer::new(status, HeaderValue::from_static("text/html; charset=utf-8"), html)
        .with_header(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_does_not_become_markup() {
        let page = device("<b>", "\"><script>", "&\"");
        let text = String::from_utf8(page.body.to_vec()).unwrap();
        assert!(
            text.contains("&lt;b&gt;") && text.contains("&lt;script&gt;") && text.contains("value=\"&amp;&quot;\"")
        );
        assert!(!text.contains("<script") && !text.contains("<b>"), "{text}");
    }
}
