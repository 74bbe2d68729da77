//! The ready instances of one version, as requests find them.

use std::ops::Range;
use std::sync::Arc;

use domain::ServiceId;
use http::HeaderValue;

use crate::tally::Tally;

/// A compiled [`domain::routing::Pool`].
pub struct Pool {
    /// Whose behaviour the answers are.
    pub tally: Arc<Tally>,
    pub version: i64,
    /// Not at 0 percent, which is reached at its preview host alone.
    pub is_open: bool,
    /// Gets requests by its share now.
    pub takes_part: bool,
    /// Its part of the service's members.
    pub members: Range<usize>,
    /// What clients that stay with this version send back.
    pub token: Box<str>,
}

/// The cookie of clients that stay with a version.
pub const COOKIE: &str = "hob_version";

impl Pool {
    /// The cookie's value: the version, and of which service, since services may share a host.
    pub fn token(service: ServiceId, version: i64) -> Box<str> {
        // The last digits of a UUID are random ones; the first would tell when the service was made.
        format!("{version}.{:08x}", service.0.as_u128() as u32).into()
    }

    /// What makes a client stay with this version for as long as its browser runs.
    pub fn set_cookie(&self, is_secure: bool) -> Option<HeaderValue> {
        let secure = if is_secure { "; Secure" } else { "" };
        let text = format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax{secure}", self.token);
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tally::Books;

    #[test]
    fn a_cookie_is_for_requests_only_and_secure_where_the_request_was() {
        let service: ServiceId = uuid::Uuid::from_u128(0xabcd).into();
        let pool = Pool {
            tally: Arc::clone(&Books::new(1).tally(uuid::Uuid::new_v4().into())),
            version: 12,
            is_open: true,
            takes_part: true,
            members: 0..0,
            token: Pool::token(service, 12),
        };
        let plain = "hob_version=12.0000abcd; Path=/; HttpOnly; SameSite=Lax";
        assert_eq!(pool.set_cookie(false).unwrap(), plain);
        assert_eq!(pool.set_cookie(true).unwrap(), format!("{plain}; Secure"));
    }
}
