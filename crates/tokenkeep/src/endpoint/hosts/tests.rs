use super::*;

fn hosts(texts: &[&str]) -> Vec<ApiHost> {
    texts.iter().map(|text| ApiHost::configured(text).unwrap()).collect()
}

fn place(text: &str) -> Place {
    target(&hosts(&[text]), None).unwrap()
}

#[test]
fn the_first_host_is_meant_unless_the_caller_names_another() {
    let allowed = hosts(&["api.example.com", "http://127.0.0.1:9400", "*.example.org", "[2606:4700::1]:8443"]);
    let meant = |asked: Option<&str>| target(&allowed, asked).unwrap().to_string();
    assert_eq!(meant(None), "https://api.example.com");
    for (asked, expected) in [
        ("api.example.com", "https://api.example.com"),
        ("API.Example.COM", "https://api.example.com"),
        ("api.example.com:443", "https://api.example.com"),
        ("https://api.example.com/", "https://api.example.com"),
        ("http://127.0.0.1:9400", "http://127.0.0.1:9400"),
        ("127.0.0.1:9400", "http://127.0.0.1:9400"),
        ("a.example.org", "https://a.example.org"),
        ("a.b.example.org:443", "https://a.b.example.org"),
        ("https://[2606:4700::1]:8443", "https://[2606:4700::1]:8443"),
    ] {
        assert_eq!(meant(Some(asked)), expected, "{asked}");
    }
    assert_eq!(target(&hosts(&["*.example.org", "api.example.com"]), None), Err(NoTarget::Needed));
    assert_eq!(target(&[], Some("api.example.com")), Err(NoTarget::Unknown));
}

#[test]
fn wrong_hosts_are_refused_with_the_reason() {
    for wrong in [
        "",
        "*",
        "*.",
        "*.com",
        "*.1.2.3.4",
        "*.example.com:8443",
        "*.example.com/",
        "http://*.example.com",
        "api.*.com",
        "https://user@example.com",
        "https://example.com/v1",
        "https://example.com?x",
        "ftp://example.com",
        "example.com.",
        "exa mple.com",
        "0x7f000001",
        "127.1",
        "example.com:0",
        "https:example.com",
    ] {
        assert!(ApiHost::configured(wrong).is_err(), "{wrong}");
    }
    assert!(ApiHost::known("http://example.com").unwrap_err().contains("plain http"));
}

#[test]
fn only_what_the_configuration_names_may_have_a_private_address() {
    let check = |place: &Place, address: &str| place.check(address.parse().unwrap()).is_ok();
    let known = target(&[ApiHost::known("api.example.com").unwrap()], None).unwrap();
    let below = target(&hosts(&["*.example.org"]), Some("a.example.org")).unwrap();
    for place in [&known, &below] {
        assert!(check(place, "93.184.216.34"));
        for address in ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:192.168.1.1", "fd00::1"] {
            assert!(!check(place, address), "{address}");
        }
    }
    let named = place("jira.corp.example");
    assert!(check(&named, "10.1.2.3") && check(&named, "127.0.0.1") && check(&named, "93.184.216.34"));
    for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"] {
        assert!(!check(&named, metadata), "{metadata}");
    }
    assert!(check(&place("http://169.254.169.254"), "169.254.169.254"), "somebody wrote exactly this address");
}

/// Spellings by which servers have been led to where they must not go. The allowed hosts are near to each of them.
const FORBIDDEN: [&str; 131] = [
    // This machine, in every notation of an address.
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.1:443",
    "127.0.0.1:9401",
    "https://127.0.0.1:9400",
    "http://127.0.0.1",
    "http://127.0.0.1:9400/",
    "http://127.1:9400",
    "http://127.0.1:9400",
    "http://127.000.000.001:9400",
    "http://0127.0.0.1:9400",
    "http://0177.0.0.1:9400",
    "http://0177.0.0.01:9400",
    "http://0x7f.0.0.1:9400",
    "http://0x7f.0x0.0x0.0x1:9400",
    "http://0x7f000001:9400",
    "http://0X7F000001:9400",
    "http://2130706433:9400",
    "http://017700000001:9400",
    "http://00000017700000001:9400",
    "http://127.0.0.1.:9400",
    "http://127.0.0.0x1:9400",
    "http://127.0.0.01:9400",
    "http://127.0x000001:9400",
    "http://127.1.:9400",
    "http://127.0.0.2:9400",
    "http://127.127.127.127:9400",
    "http://0.0.0.0:9400",
    "http://0:9400",
    "http://0x0:9400",
    "http://00.0.0.0:9400",
    "http://localhost:9400",
    "http://LOCALHOST:9400",
    "http://localhost.:9400",
    "http://localhost.localdomain:9400",
    "http://ip6-localhost:9400",
    "http://a.localhost:9400",
    "http://[::1]:9400",
    "http://[::]:9400",
    "http://[0:0:0:0:0:0:0:1]:9400",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:9400",
    "http://[::ffff:127.0.0.1]:9400",
    "http://[::ffff:7f00:1]:9400",
    "http://[::FFFF:7F00:0001]:9400",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:9400",
    "http://[::127.0.0.1]:9400",
    "http://[::ffff:0:127.0.0.1]:9400",
    "http://[64:ff9b::127.0.0.1]:9400",
    "http://[2002:7f00:1::]:9400",
    "http://[::1%25lo]:9400",
    "http://[fe80::1%25eth0]:9400",
    // Metadata services and private networks.
    "http://169.254.169.254",
    "https://169.254.169.254",
    "http://169.254.169.254.",
    "http://169.254.43518",
    "http://169.16689662",
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0xa9.0xfe.0xa9.0xfe",
    "http://0251.0376.0251.0376",
    "http://025177524776",
    "http://169.254.170.2",
    "http://[::ffff:169.254.169.254]",
    "http://[::ffff:a9fe:a9fe]",
    "http://[fd00:ec2::254]",
    "http://[fe80::a9fe:a9fe]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://metadata.google.internal",
    "http://metadata",
    "http://instance-data",
    "http://100.100.100.200",
    "http://192.0.0.192",
    "http://10.0.0.1",
    "http://10.1",
    "http://012.0.0.1",
    "http://172.16.0.1",
    "http://192.168.0.1",
    "http://192.168.1",
    "http://3232235521",
    "http://[fc00::1]",
    // Names that only look like an allowed one.
    "example.com",
    "xapi.example.com",
    "api.example.com.evil.test",
    "api.example.co",
    "api.example.com.",
    "api-example.com",
    "api.example.com:8443",
    "http://api.example.com",
    "https://api.example.com:80",
    "example.org",
    ".example.org",
    "a..example.org",
    "xexample.org",
    "a.example.org.",
    "a.example.org.evil.test",
    "a.example.org:8443",
    "http://a.example.org",
    "*.example.org",
    "127.0.0.1.nip.io",
    "10-0-0-1.example.net",
    // Users, paths, and what parsers read differently.
    "https://api.example.com@evil.test",
    "https://evil.test@api.example.com",
    "https://user:password@api.example.com",
    "https://api.example.com:443@evil.test",
    "https://evil.test#@api.example.com",
    "https://evil.test?@api.example.com",
    "https://evil.test/api.example.com",
    "https://evil.test\\@api.example.com",
    "https://api.example.com\\@evil.test",
    "https://api.example.com/../evil.test",
    "https://api.example.com/path",
    "https://api.example.com?query",
    "https://api.example.com#fragment",
    "https:\\\\evil.test",
    "https:api.example.com",
    "https:/api.example.com",
    "https:///api.example.com",
    "//api.example.com",
    "https://api.example.com,evil.test",
    "https://api.example.com evil.test",
    " https://api.example.com",
    "https://api.example.com\t",
    "https://api.exa\nmple.com",
    "https://api.example.com\r\nHost: evil.test",
    "https://api%2eexample%2ecom",
    "https://%61pi.example.com",
    "https://127.0.0.1%00.example.org",
    "https://\u{ff41}pi.example.com",
    "https://api\u{3002}example.com",
    "file:///etc/passwd",
    "gopher://127.0.0.1:9400/_",
];

#[test]
fn no_spelling_leads_elsewhere() {
    let allowed = hosts(&["api.example.com", "http://127.0.0.1:9409", "*.example.org"]);
    for spelling in FORBIDDEN {
        let found = target(&allowed, Some(spelling));
        assert!(matches!(found, Err(NoTarget::Forbidden | NoTarget::Malformed)), "{spelling:?} leads to {found:?}");
    }
    // The same by a host that is allowed: another spelling of it is not.
    let allowed = hosts(&["http://127.0.0.1:9400"]);
    let written = ["http://127.0.0.1:9400/", "http://127.0.0.1:9400", "127.0.0.1:9400"];
    for spelling in FORBIDDEN.into_iter().filter(|spelling| !written.contains(spelling)) {
        assert!(target(&allowed, Some(spelling)).is_err(), "{spelling:?}");
    }
}
