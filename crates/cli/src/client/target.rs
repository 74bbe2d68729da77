//! Paths with queries.

use std::fmt::Write;

/// The path with a query of these pairs.
pub fn query(path: &str, pairs: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (n, (key, value)) in pairs.iter().enumerate() {
        target.push(if n == 0 { '?' } else { '&' });
        target.push_str(key);
        target.push('=');
        push_escaped(&mut target, value);
    }
    target
}

fn push_escaped(target: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/@".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_cannot_add_parameters() {
        assert_eq!(query("/a/", &[]), "/a/");
        assert_eq!(
            query("/a/", &[("b", "x:1@sha"), ("c", "1&d=2 é")]),
            "/a/?b=x:1@sha&c=1%26d%3D2%20%C3%A9"
        );
    }
}
