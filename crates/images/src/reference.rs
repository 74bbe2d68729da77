//! What people call an image: `[registry/]name[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// Longest reference (faces 3.3).
pub const REFERENCE_MAX: usize = 255;
/// Longest tag.
const TAG_MAX: usize = 128;
/// The registry that a name without one is pulled from.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where Docker Hub really answers.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";
/// The namespace of a one-word name on the default registry.
const DEFAULT_NAMESPACE: &str = "library/";

/// A parsed reference. Shows itself as the user wrote it.
///
/// Two readings exist. For a pull, [`Reference::registry`] and [`Reference::repository`] apply Docker's rules: no
/// registry means `docker.io`, one word there means `library/…`. For the local store, [`Reference::local_name`] keeps
/// what the user wrote and only adds `:latest`, so that an imported `web` is found as `web`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and optional port to pull from, e.g. `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        self.registry.as_deref().unwrap_or(DEFAULT_REGISTRY)
    }

    /// Host and optional port that requests go to.
    pub(crate) fn endpoint(&self) -> &str {
        match self.registry() {
            DEFAULT_REGISTRY | "index.docker.io" => DEFAULT_REGISTRY_HOST,
            other => other,
        }
    }

    /// The repository inside the registry, e.g. `library/nginx`.
    pub fn repository(&self) -> String {
        if self.registry() == DEFAULT_REGISTRY && !self.path.contains('/') {
            format!("{DEFAULT_NAMESPACE}{}", self.path)
        } else {
            self.path.clone()
        }
    }

    /// The tag as written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest as written. It wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub(crate) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The key in the local store. `docker.io/library/x` and `x` are one image, everything else is compared as written.
    pub fn local_name(&self) -> String {
        let name = self.familiar_name();
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, Some(tag)) => format!("{name}:{tag}"),
            (None, None) => format!("{name}:latest"),
        }
    }

    fn familiar_name(&self) -> String {
        match &self.registry {
            None => self.path.clone(),
            Some(registry) if registry == DEFAULT_REGISTRY => {
                let short = self
                    .path
                    .strip_prefix(DEFAULT_NAMESPACE)
                    .filter(|rest| !rest.contains('/'));
                short.unwrap_or(&self.path).to_owned()
            }
            Some(registry) => format!("{registry}/{}", self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(input: &str) -> Result<Reference> {
        parse(input).map_err(|problem| ImageError::InvalidReference {
            input: input.chars().take(REFERENCE_MAX).flat_map(char::escape_debug).collect(),
            problem,
        })
    }
}

fn parse(input: &str) -> Result<Reference, String> {
    if input.is_empty() {
        return Err("it is empty".to_owned());
    }
    if input.len() > REFERENCE_MAX {
        return Err(format!("it is longer than {REFERENCE_MAX} characters"));
    }
    let (rest, digest) = match input.split_once('@') {
        None => (input, None),
        Some((rest, digest)) => {
            let digest = digest
                .parse()
                .map_err(|_| "after @ comes sha256: and 64 lower-case hexadecimal digits")?;
            (rest, Some(digest))
        }
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !(tag.ends_with(']')) => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if looks_like_host(first) => (Some(first), path),
        _ => (None, name),
    };
    if let Some(registry) = registry {
        check_registry(registry)?;
    }
    for component in path.split('/') {
        check_component(component)?;
    }
    Ok(Reference {
        registry: registry.map(str::to_ascii_lowercase),
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

fn looks_like_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':'])
}

fn check_tag(tag: &str) -> Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = tag.bytes();
    let head = bytes.next().is_some_and(word);
    if head && tag.len() <= TAG_MAX && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
        Ok(())
    } else {
        Err(format!(
            "a tag is up to {TAG_MAX} letters, digits, underscores, dots and hyphens, and starts with a letter, digit \
             or underscore"
        ))
    }
}

fn check_registry(registry: &str) -> Result<(), String> {
    let bad = || format!("`{registry}` is not a registry's host name with an optional port");
    let (host, port) = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, after)) => {
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
            (
                None,
                after
                    .strip_prefix(':')
                    .or(if after.is_empty() { None } else { Some("") }),
            )
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(label)) {
        return Err(bad());
    }
    match port {
        None => Ok(()),
        Some(port) if !port.starts_with('+') && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        Some(_) => Err(bad()),
    }
}

/// One path component: runs of `[a-z0-9]` separated by `.`, `_`, `__` or any number of hyphens.
fn check_component(component: &str) -> Result<(), String> {
    let bad = || {
        "a name is made of lower-case letters and digits, separated by single dots, slashes, hyphens or one or two \
         underscores"
            .to_owned()
    };
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(bad());
    };
    if !alnum(*first) || !alnum(*last) {
        return Err(bad());
    }
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    for separator in separators.filter(|s| !s.is_empty()) {
        if !matches!(separator, "." | "_" | "__") && !separator.bytes().all(|b| b == b'-') {
            return Err(bad());
        }
    }
    Ok(())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}", self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_name_without_a_registry_is_pulled_from_docker_hub() {
        let nginx = reference("nginx");
        assert_eq!(
            (nginx.registry(), nginx.repository().as_str()),
            ("docker.io", "library/nginx")
        );
        assert_eq!(nginx.endpoint(), "registry-1.docker.io");
        assert_eq!(nginx.selector(), "latest");
        let user = reference("someone/app:1.2");
        assert_eq!(
            (user.registry(), user.repository().as_str()),
            ("docker.io", "someone/app")
        );
    }

    #[test]
    fn a_first_part_with_a_dot_a_port_or_localhost_is_a_registry() {
        for (text, registry, path) in [
            ("localhost/app", "localhost", "app"),
            ("localhost:5000/a/b:t", "localhost:5000", "a/b"),
            ("ghcr.io/x/y", "ghcr.io", "x/y"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000", "app"),
            ("[::1]:5000/app:1", "[::1]:5000", "app"),
            ("Example.COM/app", "example.com", "app"),
        ] {
            let parsed = reference(text);
            assert_eq!(
                (parsed.registry(), parsed.repository().as_str()),
                (registry, path),
                "{text}"
            );
        }
    }

    #[test]
    fn the_local_store_compares_the_name_as_written_with_latest_as_default() {
        assert_eq!(reference("web").local_name(), "web:latest");
        assert_eq!(
            reference("web").local_name(),
            reference("docker.io/library/web:latest").local_name()
        );
        assert_ne!(reference("web").local_name(), reference("localhost/web").local_name());
        let digest = Digest::of(b"x");
        assert_eq!(
            reference(&format!("web:1@{digest}")).local_name(),
            format!("web@{digest}")
        );
    }

    #[test]
    fn what_is_not_a_reference_is_refused_with_a_reason() {
        let long = "a".repeat(256);
        for bad in [
            "",
            " ",
            "Web",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:",
            ":a",
            "a:b:c",
            "a:-x",
            "a@",
            "a@sha256:00",
            "a..b",
            "a___b",
            "a._b",
            "é",
            "a\0",
            "../a",
            "a/../b",
            "http://x/y",
            "x.y:0/a",
            "x.y:65536/a",
            "x.y:+5/a",
            "-x.y/a",
            "[::1/a",
            "[x]:1/a",
            "[::1]x/a",
            "a;b",
            "$(a)",
            "a@sha256:é",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_is_refused(text in "\\PC{0,300}") {
            if let Ok(parsed) = text.parse::<Reference>() {
                prop_assert_eq!(parsed.to_string().to_lowercase(), text.to_lowercase());
            }
        }

        #[test]
        fn a_reference_survives_writing_and_reading(
            registry in proptest::option::of("[a-z]{1,8}\\.[a-z]{2,3}(:[1-9][0-9]{0,3})?"),
            path in "[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,2}(/[a-z0-9]{1,6}([._-][a-z0-9]{1,6})?){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
        ) {
            let mut text = registry.map(|r| format!("{r}/")).unwrap_or_default() + &path;
            if let Some(tag) = tag {
                text = format!("{text}:{tag}");
            }
            prop_assert_eq!(reference(&text).to_string(), text);
        }
    }
}
