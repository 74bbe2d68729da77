//! The grammar of names, checked once at the boundary and relied on everywhere behind it.
//!
//! Each check answers with a sentence for the client, in the style of the platform face (no final full stop).

/// Longest service or worker name (G.9).
pub const SERVICE_NAME_MAX: usize = 32;
/// Longest image reference (faces 3.3).
pub const IMAGE_MAX: usize = 255;
/// Longest route path (faces 3.3).
pub const PATH_MAX: usize = 255;
/// Longest DNS name.
pub const HOST_MAX: usize = 253;
/// Longest environment variable name (faces 3.3).
pub const ENV_KEY_MAX: usize = 255;
/// Most bytes of one environment value (faces 3.3).
pub const ENV_VALUE_MAX: usize = 64 * 1024;
/// Fewest and most instances of one service (G.9).
pub const INSTANCES: std::ops::RangeInclusive<u32> = 1..=12;

/// A DNS label: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most [`SERVICE_NAME_MAX`] characters.
pub fn service_name(name: &str) -> Result<(), String> {
    if name.chars().count() > SERVICE_NAME_MAX {
        return Err(format!(
            "Ensure this field has no more than {SERVICE_NAME_MAX} characters."
        ));
    }
    if is_label(name) {
        Ok(())
    } else {
        Err("Use lower-case letters, digits and hyphens; start and end with a letter or digit".to_owned())
    }
}

/// A lower-case DNS name of at least one label, no port, no final dot, not an IP address.
pub fn hostname(host: &str) -> Result<(), String> {
    let bad = || Err("Enter a valid host name such as app.example.com".to_owned());
    if host.is_empty() || host.len() > HOST_MAX || !host.split('.').all(is_label) {
        return bad();
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return bad();
    }
    Ok(())
}

/// A path prefix for a route: starts with `/`, visible ASCII, no query, no `.`/`..` segment, no empty segment.
pub fn route_path(path: &str) -> Result<(), String> {
    if path.chars().count() > PATH_MAX {
        return Err(format!("Ensure this field has no more than {PATH_MAX} characters."));
    }
    if !path.starts_with('/') {
        return Err("A path starts with /".to_owned());
    }
    let visible = path
        .bytes()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\' | b'%'));
    let inner = path.strip_suffix('/').unwrap_or(path);
    let clean = inner.is_empty() || inner[1..].split('/').all(|s| !s.is_empty() && s != "." && s != "..");
    if visible && clean {
        Ok(())
    } else {
        Err("Use a plain path such as /api, without query, dots or empty segments".to_owned())
    }
}

/// An environment variable name: `[A-Za-z_][A-Za-z0-9_]*`.
pub fn env_key(key: &str) -> Result<(), String> {
    if key.len() > ENV_KEY_MAX {
        return Err(format!("Ensure this field has no more than {ENV_KEY_MAX} characters."));
    }
    let mut bytes = key.bytes();
    let head = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if head && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        Ok(())
    } else {
        Err("Use letters, digits and underscores, not starting with a digit".to_owned())
    }
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !bytes.is_empty()
        && bytes.len() <= 63
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_is_a_dns_label_of_at_most_32_characters() {
        for good in ["a", "web", "my-app-v2", "0day", &"x".repeat(32)] {
            assert_eq!(service_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "Web", "a_b", "a.b", "a b", "é", "a\0", &"x".repeat(33)] {
            assert!(service_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_host_name_is_lower_case_dns_and_never_an_address() {
        for good in ["localhost", "app.example.com", "xn--bcher-kva.example", "a.b.c.d"] {
            assert_eq!(hostname(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            "a.",
            "127.0.0.1",
            "1.2",
            "A.com",
            "a:80",
            "a/b",
            "[::1]",
            "*.a.com",
        ] {
            assert!(hostname(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_route_path_is_plain() {
        for good in ["/", "/api", "/api/", "/a/b.c/d-e_f~"] {
            assert_eq!(route_path(good), Ok(()), "{good}");
        }
        for bad in [
            "", "api", "//", "/a//b", "/../x", "/a/./b", "/a?b", "/a#b", "/a b", "/%2e%2e", "/a\\b", "/\u{e9}",
        ] {
            assert!(route_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_environment_key_is_an_identifier() {
        for good in ["A", "_x", "DATABASE_URL", "a1"] {
            assert_eq!(env_key(good), Ok(()), "{good}");
        }
        for bad in ["", "1A", "A-B", "A=B", "A B", "É"] {
            assert!(env_key(bad).is_err(), "{bad:?}");
        }
    }
}
