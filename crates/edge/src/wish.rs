//! Requests that ask for a version or an instance on purpose.
//!
//! These headers come from strangers. So they only narrow the choice down and never widen it: a version that takes no
//! part in the shares is reached at its preview host, with or without them.

use domain::{InstanceId, ServiceId};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::pages::Refusal;

const VERSION: HeaderName = HeaderName::from_static("x-hob-version");
const INSTANCE: HeaderName = HeaderName::from_static("x-hob-instance");
/// Cloud Foundry's: `<process guid>[:<index>]`. A service has one process, with the service's own id.
const PROCESS_INSTANCE: HeaderName = HeaderName::from_static("x-cf-process-instance");
/// Cloud Foundry's older one: `<app guid>:<index>`.
const APP_INSTANCE: HeaderName = HeaderName::from_static("x-cf-app-instance");

/// What a request asks for on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Version(i64),
    Instance(InstanceId),
    /// One of a service's instances by its place among them, or any.
    Place(ServiceId, Option<usize>),
}

impl Wish {
    /// The first wish that is found in the order above; others are not looked at.
    ///
    /// # Errors
    /// [`Refusal::BadWish`] for one that cannot be read.
    pub fn read(headers: &HeaderMap) -> Result<Option<Wish>, Refusal> {
        // Four look-ups cost more than one look at all names.
        let may_wish =
            |name: &HeaderName| matches!(name.as_str().as_bytes(), [b'x', b'-', b'h' | b'c', b'o' | b'f', ..]);
        if !headers.keys().any(may_wish) {
            return Ok(None);
        }
        type Read = fn(&str) -> Option<Wish>;
        let known: [(&HeaderName, Read); 4] = [
            (&VERSION, |text| text.parse().ok().map(Wish::Version)),
            (&INSTANCE, |text| text.parse().ok().map(Wish::Instance)),
            (&PROCESS_INSTANCE, |text| place(text, false)),
            (&APP_INSTANCE, |text| place(text, true)),
        ];
        for (name, read) in known {
            if let Some(value) = headers.get(name) {
                let wish = text(value).and_then(read).ok_or(Refusal::BadWish)?;
                return Ok(Some(wish));
            }
        }
        Ok(None)
    }

    /// What is answered when nothing that the request may reach fits.
    pub fn refusal(self) -> Refusal {
        match self {
            Wish::Version(_) | Wish::Instance(_) => Refusal::NoMatch,
            Wish::Place(..) => Refusal::NoSuchPlace,
        }
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim)
}

fn place(text: &str, needs_index: bool) -> Option<Wish> {
    let (guid, index) = match text.split_once(':') {
        Some((guid, index)) => (guid, Some(index.parse().ok()?)),
        None if needs_index => return None,
        None => (text, None),
    };
    Some(Wish::Place(guid.parse().ok()?, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "6f4a3c1e-0d0a-4f0e-8d5e-1f2a3b4c5d6e";

    fn read(name: &'static str, value: &str) -> Result<Option<Wish>, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        Wish::read(&headers)
    }

    #[test]
    fn each_header_is_read() {
        let service: ServiceId = GUID.parse().unwrap();
        assert_eq!(read("accept", "x"), Ok(None));
        assert_eq!(read("x-hob-version", "7"), Ok(Some(Wish::Version(7))));
        let instance = Wish::Instance(GUID.parse().unwrap());
        assert_eq!(read("x-hob-instance", GUID), Ok(Some(instance)));
        let second = Ok(Some(Wish::Place(service, Some(1))));
        assert_eq!(read("x-cf-app-instance", &format!("{GUID}:1")), second);
        assert_eq!(read("x-cf-process-instance", &format!("{GUID}:1")), second);
        assert_eq!(
            read("x-cf-process-instance", GUID),
            Ok(Some(Wish::Place(service, None)))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (name, value) in [
            ("x-hob-version", "latest"),
            ("x-hob-version", ""),
            ("x-hob-instance", "0"),
            ("x-cf-app-instance", GUID),
            ("x-cf-app-instance", &format!("{GUID}:")),
            ("x-cf-app-instance", &format!("{GUID}:-1")),
            ("x-cf-process-instance", ":0"),
        ] {
            assert_eq!(read(name, value), Err(Refusal::BadWish), "{name}: {value}");
        }
    }
}
