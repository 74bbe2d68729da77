//! What can be asked of the face, one line each.

use serde_json::{Value, json};
use store::Ordered;

use super::shapes;
use super::terms::{self, named};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

pub struct Operation {
    pub method: &'static str,
    pub path: String,
    pub summary: String,
    pub query: Vec<(&'static str, Value)>,
    pub body: Option<Body>,
    pub status: u16,
    pub answer: Option<(&'static str, Value)>,
}

pub struct Body {
    pub media: &'static str,
    pub schema: Value,
    pub required: bool,
}

impl Operation {
    fn new(method: &'static str, path: impl Into<String>, summary: impl Into<String>) -> Self {
        Operation {
            method,
            path: path.into(),
            summary: summary.into(),
            query: Vec::new(),
            body: None,
            status: 200,
            answer: None,
        }
    }

    fn takes(mut self, schema: &str) -> Self {
        self.body = Some(Body {
            media: JSON,
            schema: named(schema),
            required: true,
        });
        self
    }

    /// A body that may be left out.
    fn may_take(mut self, schema: &str) -> Self {
        self.body = Some(Body {
            media: JSON,
            schema: named(schema),
            required: false,
        });
        self
    }

    fn answers(self, status: u16, schema: &str) -> Self {
        self.answers_as(status, JSON, named(schema))
    }

    fn answers_as(mut self, status: u16, media: &'static str, schema: Value) -> Self {
        self.status = status;
        self.answer = Some((media, schema));
        self
    }

    fn says_nothing(mut self) -> Self {
        self.status = 204;
        self
    }

    fn asks(mut self, name: &'static str, schema: Value) -> Self {
        self.query.push((name, schema));
        self
    }

    /// In pages, ordered, narrowed to a project.
    fn lists(self, schema: &str, ordered: Ordered) -> Self {
        self.answers_as(200, JSON, shapes::page_of(schema))
            .asks(
                "page",
                json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "enum": ["last", ""] }] }),
            )
            .asks("page_size", terms::anything())
            .asks("ordering", terms::ordering(&store::orderings(ordered)))
            .asks("project", terms::uuid_or_nothing())
    }

    /// Narrowed to the one that has this name.
    fn finds(self, by: &'static str) -> Self {
        self.asks(by, terms::anything())
    }

    /// `get_services_id_logs`.
    pub fn id(&self) -> String {
        let words = self.path.trim_start_matches("/api").split(['/', '{', '}', '-']);
        let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        let words = if words.is_empty() {
            "root".to_owned()
        } else {
            words.join("_")
        };
        format!("{}_{words}", self.method.to_ascii_lowercase())
    }

    /// The resource.
    pub fn tag(&self) -> &str {
        self.path
            .split('/')
            .nth(2)
            .filter(|word| !word.is_empty())
            .unwrap_or("api")
    }
}

/// Every operation of the face.
pub fn operations() -> Vec<Operation> {
    let get = |path: &str, summary: &str| Operation::new("GET", path, summary);
    let post = |path: &str, summary: &str| Operation::new("POST", path, summary);
    let mut all = vec![
        get("/api/", "Resources by name").answers(200, "Root"),
        get("/api/schema/", "This document").answers(200, "Anything"),
        get("/api/account/", "Who asks").answers(200, "Account"),
    ];
    all.extend(workloads("/api/services/", "service", "Service"));
    all.extend(workloads("/api/workers/", "worker", "Worker"));
    all.extend([
        deployments(get("/api/deployments/", "List deployments, newest first"))
            .asks("service", terms::uuid_or_nothing()),
        get("/api/deployments/{id}/", "Get a deployment")
            .answers(200, "Deployment")
            .asks("detail", terms::anything()),
        post("/api/deployments/{id}/rollback/", "Roll back to a deployment")
            .may_take("Rollback")
            .answers(201, "Deployment"),
        get("/api/deployments/{id}/events/", "The journal of a deployment")
            .answers(200, "Events")
            .asks("after", terms::number_or_nothing())
            .asks("limit", terms::number_or_nothing()),
        get("/api/deployments/{id}/receipt/", "Requests counted for a deployment").answers(200, "Receipt"),
        post(
            "/api/deployments/{id}/plan/",
            "What going back to a deployment would do",
        )
        .may_take("Rollback")
        .answers(200, "Plan"),
        get(
            "/api/deployments/{id}/diff/{item}/",
            "What differs between two deployments",
        )
        .answers(200, "Diff"),
    ]);
    all.extend(controls("/api/deployments/{id}/"));
    let routes = list("/api/routes/", "route", "Route", Ordered::Routes);
    all.extend(resource(
        routes.asks("service", terms::uuid_or_nothing()),
        "route",
        "Route",
    ));
    let domains = list("/api/domains/", "domain", "Domain", Ordered::Domains);
    all.extend(resource(domains.finds("hostname"), "domain", "Domain"));
    let configs = list("/api/configs/", "config", "Config", Ordered::Sets);
    all.extend(resource(configs.finds("name"), "config", "Config"));
    let config_items = list("/api/configs/{id}/items/", "item", "ConfigItem", Ordered::Items);
    all.extend(items(config_items, "ConfigItem"));
    let secrets = list("/api/secrets/", "secret", "Secret", Ordered::Sets);
    all.extend(resource(secrets.finds("name"), "secret", "Secret"));
    let secret_items = list("/api/secrets/{id}/items/", "item", "SecretItem", Ordered::Items);
    all.extend(items(secret_items.asks("keys", terms::anything()), "SecretItem"));
    let projects = list("/api/projects/", "project", "Project", Ordered::Projects);
    all.extend(resource(projects.finds("name"), "project", "Project"));
    all.extend([
        get("/api/projects/{id}/members/", "List the members of a project").lists("Member", Ordered::Members),
        post("/api/projects/{id}/members/", "Let an account into a project (owners)")
            .takes("MemberNew")
            .answers(201, "Member"),
        get(
            "/api/projects/{id}/members/{item}/",
            "Get a member, by the account's id",
        )
        .answers(200, "Member"),
        Operation::new(
            "PATCH",
            "/api/projects/{id}/members/{item}/",
            "Change a member's role (owners)",
        )
        .may_take("MemberPatch")
        .answers(200, "Member"),
        Operation::new(
            "DELETE",
            "/api/projects/{id}/members/{item}/",
            "Remove a member (owners)",
        )
        .says_nothing(),
        get(
            "/api/audit/",
            "Who did what: one's own acts, a project's (owners), all (administrators)",
        )
        .answers(200, "AuditLines")
        .asks("project", terms::uuid_or_nothing())
        .asks("before", terms::number_or_nothing())
        .asks("after", terms::number_or_nothing())
        .asks("limit", terms::number_or_nothing()),
        get(
            "/api/secrets/{id}/items/{item}/accesses/",
            "Who has read the value of a secret's item",
        )
        .answers(200, "Accesses")
        .asks("after", terms::number_or_nothing())
        .asks("limit", terms::number_or_nothing()),
        post("/api/login/", "Begin a browser's session")
            .takes("Login")
            .answers(201, "Session"),
        get("/api/session/", "The browser's session, with its CSRF token").answers(200, "Session"),
        Operation::new("DELETE", "/api/session/", "Log out").says_nothing(),
        get("/api/api-keys/", "List API keys").lists("ApiKey", Ordered::ApiKeys),
        post("/api/api-keys/", "Make an API key; it is shown this once")
            .takes("ApiKeyNew")
            .answers(201, "ApiKeyMade"),
        get("/api/api-keys/{id}/", "Get an API key's record").answers(200, "ApiKey"),
        Operation::new("DELETE", "/api/api-keys/{id}/", "Revoke an API key").says_nothing(),
        get("/api/images/", "List images (administrators)").answers(200, "Images"),
        import_image(),
        Operation::new("DELETE", "/api/images/", "Forget an image (administrators)")
            .says_nothing()
            .asks("ref", json!({ "type": "string", "minLength": 1, "maxLength": 255 })),
    ]);
    all
}

fn list(path: &str, noun: &str, schema: &str, ordered: Ordered) -> Operation {
    Operation::new("GET", path, format!("List {noun}s")).lists(schema, ordered)
}

/// List, create, get, patch, delete.
fn resource(list: Operation, noun: &str, schema: &str) -> Vec<Operation> {
    crud(list, "{id}", noun, schema)
}

fn items(list: Operation, schema: &str) -> Vec<Operation> {
    crud(list, "{item}", "item", schema)
}

fn crud(list: Operation, id: &str, noun: &str, schema: &str) -> Vec<Operation> {
    let (base, one) = (list.path.clone(), format!("{}{id}/", list.path));
    let one = one.as_str();
    vec![
        list,
        Operation::new("POST", base, format!("Make a {noun}"))
            .takes(&format!("{schema}New"))
            .answers(201, schema),
        Operation::new("GET", one, format!("Get a {noun}")).answers(200, schema),
        Operation::new("PATCH", one, format!("Change a {noun}"))
            .may_take(&format!("{schema}Patch"))
            .answers(200, schema),
        Operation::new("DELETE", one, format!("Delete a {noun}")).says_nothing(),
    ]
}

fn deployments(list: Operation) -> Operation {
    list.lists("Deployment", Ordered::Deployments)
        .asks("detail", terms::anything())
}

fn workloads(base: &str, noun: &str, schema: &str) -> Vec<Operation> {
    let flag = terms::anything;
    let one = |method, verb: &str, summary: String| Operation::new(method, format!("{base}{{id}}/{verb}/"), summary);
    let mut all = resource(list(base, noun, schema, Ordered::Services).finds("name"), noun, schema);
    all.extend([
        deployments(one("GET", "deployments", format!("The history of a {noun}")))
            .asks("version", terms::number_or_nothing()),
        one(
            "POST",
            "deployments",
            format!("Deploy a {noun} again, with the config of now"),
        )
        .may_take("Notes")
        .answers(201, "Deployment"),
        one("POST", "restart", format!("Replace every instance of a {noun}"))
            .may_take("Notes")
            .answers(201, "Deployment"),
        Operation::new("POST", format!("{base}plan/"), format!("What making a {noun} would do"))
            .takes(&format!("{schema}New"))
            .answers(200, "Plan"),
        one("POST", "plan", format!("What changing a {noun} would do"))
            .may_take(&format!("{schema}Patch"))
            .answers(200, "Plan"),
        one(
            "GET",
            "outcomes",
            format!("How all deployments of a {noun} ended, pruned ones included"),
        )
        .answers(200, "Outcomes"),
        one("GET", "instances", format!("What runs of a {noun}"))
            .answers(200, "Instances")
            .asks("all", flag()),
        one("GET", "logs", format!("The output of a {noun}, one JSON object a line"))
            .answers_as(200, NDJSON, named("LogLine"))
            .asks("tail", terms::number_or_nothing())
            .asks("instance", terms::uuid_or_nothing())
            .asks("follow", flag()),
        one(
            "GET",
            "rollout",
            "How far a rollout is; with watch=1 one JSON object a line until its end".to_owned(),
        )
        .answers(200, "Rollout")
        .asks("deployment", terms::uuid_or_nothing())
        .asks("watch", flag()),
    ]);
    all.extend(controls(&format!("{base}{{id}}/")));
    all
}

/// Commands for a rollout that is on its way.
fn controls(base: &str) -> Vec<Operation> {
    let command = |verb: &str, summary: &str| {
        Operation::new("POST", format!("{base}{verb}/"), summary).answers(200, "Deployment")
    };
    vec![
        command("continue", "Pass the step that a rollout waits at"),
        command("cancel", "Stop the rollout that is on its way"),
        command("pause", "Keep the rollout where it is"),
        command("resume", "Let a paused rollout go on"),
    ]
}

fn import_image() -> Operation {
    let mut operation = Operation::new("POST", "/api/images/", "Import an image from a tar (administrators)")
        .answers(201, "Images")
        .asks("name", json!({ "type": "string", "minLength": 1, "maxLength": 255 }));
    operation.body = Some(Body {
        media: "application/x-tar",
        schema: json!({ "type": "string", "format": "binary" }),
        required: true,
    });
    operation
}
