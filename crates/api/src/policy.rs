//! Who may do what: one function for every route of the platform face. What it does not name, nobody may do.

use http::Method;
use store::Role;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Nothing: it is how one comes to have rights.
    Anyone,
    /// An account. The route reaches nothing but the account's own things, or checks by itself.
    Account,
    /// At least this role in the project of whatever the request names.
    Project(Role),
    /// To administer the platform.
    Administrator,
}

/// The right that a request needs, by its method and the pattern of its path. `None`: denied to everybody.
///
/// Values of secrets need a developer although their lists need not ([`crate::platform`]'s `SecretReader`): whether a
/// list shows values is for its query to say.
pub fn right(method: &Method, route: &str) -> Option<Right> {
    use Right::{Account, Administrator, Anyone, Project};

    let verb = Verb::of(method)?;
    let path = route.strip_prefix("/api/")?;
    let (resource, below) = path.split_once('/').unwrap_or((path, ""));
    Some(match (resource, below, verb) {
        ("" | "account" | "schema", "", Verb::Read) => Account,
        ("login", "", Verb::Write) => Anyone,
        ("session" | "api-keys", _, _) => Account,
        // The store lets only owners read what is not their own.
        ("audit", "", Verb::Read) => Account,
        ("projects", "", Verb::Write) => Account,
        ("projects", _, Verb::Write) => Project(Role::Owner),
        ("secrets", "{id}/items/{item}/accesses/", Verb::Read) => Project(Role::Developer),
        ("images", "", _) => Administrator,
        (
            "services" | "workers" | "deployments" | "routes" | "domains" | "configs" | "secrets" | "projects",
            _,
            Verb::Read,
        ) => Project(Role::Viewer),
        ("services" | "workers" | "deployments" | "routes" | "domains" | "configs" | "secrets", _, Verb::Write) => {
            Project(Role::Developer)
        }
        _ => return None,
    })
}

/// What a method does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Read,
    Write,
}

impl Verb {
    /// `None` for methods that no route has.
    pub fn of(method: &Method) -> Option<Verb> {
        match *method {
            Method::GET | Method::HEAD => Some(Verb::Read),
            Method::POST | Method::PATCH | Method::DELETE => Some(Verb::Write),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_is_denied() {
        for route in [
            "/api/nothing/",
            "/api/",
            "/api/account/",
            "/api/schema/",
            "/api/audit/",
            "/elsewhere/",
        ] {
            assert_eq!(right(&Method::POST, route), None, "{route}");
        }
        for method in [Method::PUT, Method::OPTIONS, Method::TRACE] {
            assert_eq!(right(&method, "/api/services/"), None, "{method}");
        }
    }

    #[test]
    fn roles_grow_from_reading_to_deciding_about_members() {
        let project = |method, route| match right(&method, route) {
            Some(Right::Project(role)) => role,
            other => panic!("{method} {route}: {other:?}"),
        };
        assert_eq!(project(Method::GET, "/api/services/{id}/"), Role::Viewer);
        assert_eq!(project(Method::PATCH, "/api/services/{id}/"), Role::Developer);
        assert_eq!(project(Method::GET, "/api/projects/{id}/members/"), Role::Viewer);
        assert_eq!(project(Method::POST, "/api/projects/{id}/members/"), Role::Owner);
        assert_eq!(right(&Method::POST, "/api/projects/"), Some(Right::Account));
        assert_eq!(right(&Method::DELETE, "/api/images/"), Some(Right::Administrator));
    }
}
