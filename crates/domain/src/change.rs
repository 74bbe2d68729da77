//! What differs between two deployments, and what going from one to the other costs.
//!
//! Secret values are never here: a [`Spec`] does not know them, only which version of each key it has.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::{Spec, Strategy, steps};

/// One thing that differs. Values are as they are written in requests; `null` where there is none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `image`, `digest`, `port`, `replicas`, `command`, `release`, `health_check`, `strategy`, `options`, `resources`,
    /// `config`, `secret`, `restart` or `route`.
    pub what: &'static str,
    /// The option, the limit, the config or secret key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub before: Value,
    /// Of a secret: `version 3`, never a value.
    pub after: Value,
    /// Instances are replaced because of it.
    pub replaces: bool,
}

/// Everything that differs, in a fixed order. Without a `before` everything is new.
pub fn changes(before: Option<&Spec>, after: &Spec) -> Vec<Change> {
    let mut found = Found::default();
    let old = |field: Field| before.map_or(Value::Null, field);
    let image = |spec: &Spec| Value::from(spec.image.clone());
    let digest = |spec: &Spec| json(&spec.digest);
    // Two names of one image are no reason to replace an instance.
    let same_image = before.is_some_and(|before| before.digest.is_some() && before.digest == after.digest);
    found.compare("image", None, old(image), image(after), !same_image);
    // An unknown digest differs from none: it will be looked up.
    if after.digest.is_some() {
        found.compare("digest", None, old(digest), digest(after), true);
    }
    let fields: [(&'static str, Field, bool); 7] = [
        ("port", |spec| json(&spec.port), true),
        ("replicas", |spec| json(&spec.instances), false),
        ("command", |spec| json(&spec.command), true),
        ("delivery", |spec| json(&spec.delivery), true),
        ("release", |spec| json(&spec.release), false),
        ("health_check", |spec| json(&spec.health), false),
        ("strategy", |spec| json(&spec.strategy), false),
    ];
    for (what, field, replaces) in fields {
        found.compare(what, None, old(field), field(after), replaces);
    }
    let options = |spec: &Spec| {
        let mut options = keys(&spec.options);
        let steps: Vec<String> = spec.options.steps.iter().map(ToString::to_string).collect();
        options.insert("steps".to_owned(), json(&steps));
        options
    };
    if let Some(before) = before {
        found.compare_keys("options", &options(before), &options(after), false);
        found.compare_keys("resources", &keys(&before.resources), &keys(&after.resources), true);
    }
    let config = |spec: &Spec| {
        spec.config
            .iter()
            .map(|(key, value)| (key.clone(), json(value)))
            .collect()
    };
    let secrets = |spec: &Spec| {
        let version = |version: &i64| Value::from(format!("version {version}"));
        spec.secrets.iter().map(|(key, n)| (key.clone(), version(n))).collect()
    };
    let none = BTreeMap::new();
    found.compare_keys("config", &before.map_or(none.clone(), config), &config(after), true);
    found.compare_keys("secret", &before.map_or(none, secrets), &secrets(after), true);
    if before.is_some_and(|before| before.restart != after.restart) {
        found.compare("restart", None, Value::Null, Value::Bool(true), true);
    }
    found.0
}

/// Routes that were added or taken away. Each is a hostname and a path.
pub fn route_changes(before: &[String], after: &[String]) -> Vec<Change> {
    let mut found = Found::default();
    let [old, new]: [BTreeSet<&String>; 2] = [before, after].map(|routes| routes.iter().collect());
    for route in old.symmetric_difference(&new) {
        let value = |routes: &BTreeSet<&String>| routes.get(route).map_or(Value::Null, json);
        found.compare("route", None, value(&old), value(&new), false);
    }
    found.0
}

/// Reads one field of a spec.
type Field = fn(&Spec) -> Value;

#[derive(Default)]
struct Found(Vec<Change>);

impl Found {
    fn compare(&mut self, what: &'static str, key: Option<&str>, before: Value, after: Value, replaces: bool) {
        if before != after {
            let key = key.map(str::to_owned);
            self.0.push(Change {
                what,
                key,
                before,
                after,
                replaces,
            });
        }
    }

    fn compare_keys(
        &mut self,
        what: &'static str,
        before: &BTreeMap<String, Value>,
        after: &BTreeMap<String, Value>,
        replaces: bool,
    ) {
        let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for key in all {
            let value = |of: &BTreeMap<String, Value>| of.get(key).cloned().unwrap_or_default();
            self.compare(what, Some(key), value(before), value(after), replaces);
        }
    }
}

/// Plain values always have a JSON form.
fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn keys<T: Serialize>(value: &T) -> BTreeMap<String, Value> {
    match json(value) {
        Value::Object(map) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

/// What users notice of the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Downtime {
    /// Requests are answered all the time.
    None,
    /// Requests wait while no instance is there, and are answered then.
    Hold,
    /// For a while nothing answers, or nothing runs.
    Restart,
}

/// The class and the reason, in a sentence without its full stop.
pub fn downtime(before: Option<&Spec>, after: &Spec, replaces: bool) -> (Downtime, String) {
    let Some(before) = before else {
        return (Downtime::None, "nothing serves yet".to_owned());
    };
    if !replaces {
        let why = match before.instances.cmp(&after.instances) {
            std::cmp::Ordering::Equal => "no instance is replaced",
            _ => "instances are added or taken away, none is replaced",
        };
        return (Downtime::None, why.to_owned());
    }
    let options = &after.options;
    match after.strategy {
        Strategy::Recreate if after.port.is_none() => (
            Downtime::Restart,
            "recreate stops the old instances before the new ones start".to_owned(),
        ),
        Strategy::Recreate if options.hold_ms > 0 => (
            Downtime::Hold,
            format!(
                "recreate stops the old instances first; the edge holds requests for up to {} meanwhile",
                steps::in_words(options.hold_ms)
            ),
        ),
        Strategy::Recreate => (
            Downtime::Restart,
            "recreate stops the old instances first, and hold_ms is 0".to_owned(),
        ),
        Strategy::Rolling if options.max_unavailable >= after.instances => (
            Downtime::Restart,
            format!(
                "max_unavailable is {}: all instances may be missing at once",
                options.max_unavailable
            ),
        ),
        Strategy::Rolling | Strategy::Canary => (
            Downtime::None,
            "new instances are healthy and routed before old ones leave".to_owned(),
        ),
        Strategy::BlueGreen => (
            Downtime::None,
            "the new version is there at full size before requests are switched to it".to_owned(),
        ),
    }
}

/// Most memory, in MiB, that the service's instances may use at one instant of the change, each at its limit.
/// `default_mb` is the limit of an instance that has none of its own.
pub fn peak_memory_mb(before: Option<&Spec>, after: &Spec, replaces: bool, default_mb: u64) -> u64 {
    let each = |spec: &Spec| spec.resources.memory_mb.unwrap_or(default_mb);
    let new = each(after);
    let wanted = u64::from(after.instances);
    let Some(before) = before.filter(|_| replaces) else {
        let most = before.map_or(0, |before| u64::from(before.instances)).max(wanted);
        return most * new;
    };
    let old = each(before);
    let running = u64::from(before.instances);
    let surge = u64::from(after.options.surge(after.instances));
    match after.strategy {
        Strategy::Recreate => (wanted * new).max(running * old),
        Strategy::BlueGreen => wanted * new + running * old,
        // At the worst instant all of the dearer kind are there, and the surge beside them.
        Strategy::Rolling | Strategy::Canary => wanted.max(running) * new.max(old) + surge.max(1) * new,
    }
}

/// A finished rollout of the same service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    pub duration_ms: u64,
    pub instances: u32,
}

/// Milliseconds that a rollout of `instances` will take, by the median time per instance of earlier ones. `None`
/// without any.
pub fn expected_ms(past: &[Past], instances: u32) -> Option<u64> {
    let mut each: Vec<u64> = past
        .iter()
        .map(|past| past.duration_ms / u64::from(past.instances.max(1)))
        .collect();
    each.sort_unstable();
    let median = each.get(each.len() / 2)?;
    Some(median.saturating_mul(instances.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{HealthCheck, Resources, RolloutOptions};

    fn spec() -> Spec {
        Spec {
            image: "app:1".to_owned(),
            digest: Some("sha256:aa".to_owned()),
            port: Some(8080),
            instances: 4,
            config: [("LEVEL".to_owned(), "info".to_owned())].into(),
            secrets: [("TOKEN".to_owned(), 3)].into(),
            delivery: crate::Delivery::Env,
            command: None,
            release: None,
            health: HealthCheck::default(),
            resources: Resources {
                memory_mb: Some(100),
                ..Resources::default()
            },
            strategy: Strategy::Rolling,
            options: RolloutOptions::default(),
            restart: 0,
        }
    }

    /// `what.key: before -> after`, with a mark where instances are replaced.
    fn told(before: Option<&Spec>, after: &Spec) -> Vec<String> {
        let line = |change: Change| {
            let key = change.key.map(|key| format!(".{key}")).unwrap_or_default();
            let mark = if change.replaces { " !" } else { "" };
            format!("{}{key}: {} -> {}{mark}", change.what, change.before, change.after)
        };
        changes(before, after).into_iter().map(line).collect()
    }

    #[test]
    fn each_field_that_differs_is_told_once_and_nothing_else() {
        type Edit = fn(&mut Spec);
        let cases: [(Edit, &[&str]); 14] = [
            (|_| (), &[]),
            (|s| s.image = "app:2".into(), &["image: \"app:1\" -> \"app:2\""]),
            (
                |s| {
                    s.image = "app:2".into();
                    s.digest = None;
                },
                &["image: \"app:1\" -> \"app:2\" !"],
            ),
            (
                |s| s.digest = Some("sha256:bb".into()),
                &["digest: \"sha256:aa\" -> \"sha256:bb\" !"],
            ),
            (|s| s.digest = None, &[]),
            (|s| s.port = Some(9000), &["port: 8080 -> 9000 !"]),
            (|s| s.instances = 5, &["replicas: 4 -> 5"]),
            (
                |s| s.strategy = Strategy::BlueGreen,
                &["strategy: \"rolling\" -> \"blue_green\""],
            ),
            (
                |s| s.options.steps = steps::parse("10,50 for 5m").unwrap(),
                &["options.steps: [] -> [\"10%\",\"50% for 5m\"]"],
            ),
            (
                |s| s.resources.memory_mb = None,
                &["resources.memory_mb: 100 -> null !"],
            ),
            (
                |s| s.config = [("LEVEL".into(), "debug".into()), ("NEW".into(), "1".into())].into(),
                &["config.LEVEL: \"info\" -> \"debug\" !", "config.NEW: null -> \"1\" !"],
            ),
            (
                |s| s.secrets = [("TOKEN".into(), 4), ("KEY".into(), 5)].into(),
                &[
                    "secret.KEY: null -> \"version 5\" !",
                    "secret.TOKEN: \"version 3\" -> \"version 4\" !",
                ],
            ),
            (
                |s| s.delivery = crate::Delivery::SecretFiles,
                &["delivery: \"env\" -> \"secret_files\" !"],
            ),
            (|s| s.restart = 1, &["restart: null -> true !"]),
        ];
        for (edit, expected) in cases {
            let mut after = spec();
            edit(&mut after);
            assert_eq!(told(Some(&spec()), &after), expected);
            let replaces = changes(Some(&spec()), &after).iter().any(|change| change.replaces);
            let differs = match after.digest {
                None => after.image != "app:1",
                Some(_) => spec().template_text() != after.template_text(),
            };
            assert_eq!(replaces, differs, "{after:?}");
        }
    }

    #[test]
    fn a_first_deployment_is_all_new() {
        let told = told(None, &spec());
        assert!(told.contains(&"image: null -> \"app:1\" !".to_owned()), "{told:?}");
        assert!(
            told.contains(&"secret.TOKEN: null -> \"version 3\" !".to_owned()),
            "{told:?}"
        );
    }

    #[test]
    fn the_downtime_class_follows_strategy_and_limits() {
        type Edit = fn(&mut Spec);
        let cases: [(Edit, bool, Downtime, &str); 9] = [
            (|_| (), false, Downtime::None, "no instance is replaced"),
            (|s| s.instances = 2, false, Downtime::None, "taken away"),
            (|_| (), true, Downtime::None, "before old ones leave"),
            (
                |s| s.strategy = Strategy::Canary,
                true,
                Downtime::None,
                "before old ones leave",
            ),
            (
                |s| s.strategy = Strategy::BlueGreen,
                true,
                Downtime::None,
                "at full size",
            ),
            (
                |s| s.options.max_unavailable = 4,
                true,
                Downtime::Restart,
                "missing at once",
            ),
            (
                |s| s.strategy = Strategy::Recreate,
                true,
                Downtime::Hold,
                "for up to 30s",
            ),
            (
                |s| {
                    s.strategy = Strategy::Recreate;
                    s.options.hold_ms = 0;
                },
                true,
                Downtime::Restart,
                "hold_ms is 0",
            ),
            (
                |s| {
                    s.strategy = Strategy::Recreate;
                    s.port = None;
                },
                true,
                Downtime::Restart,
                "before the new ones start",
            ),
        ];
        for (edit, replaces, class, why) in cases {
            let mut after = spec();
            edit(&mut after);
            let (found, text) = downtime(Some(&spec()), &after, replaces);
            assert!(found == class && text.contains(why), "{found:?}: {text}");
        }
        assert_eq!(downtime(None, &spec(), true).0, Downtime::None);
    }

    #[test]
    fn memory_is_counted_at_the_worst_instant() {
        type Edit = fn(&mut Spec);
        let cases: [(Edit, bool, u64); 7] = [
            (|s| s.instances = 6, false, 600),
            (|_| (), true, 500),
            (|s| s.resources.memory_mb = Some(200), true, 1_000),
            (|s| s.strategy = Strategy::BlueGreen, true, 800),
            (|s| s.strategy = Strategy::Recreate, true, 400),
            (|s| s.resources.memory_mb = None, true, 2_500),
            (|s| s.options.max_surge = Some(3), true, 700),
        ];
        for (edit, replaces, expected) in cases {
            let mut after = spec();
            edit(&mut after);
            assert_eq!(
                peak_memory_mb(Some(&spec()), &after, replaces, 500),
                expected,
                "{after:?}"
            );
        }
        assert_eq!(peak_memory_mb(None, &spec(), true, 500), 400);
    }

    #[test]
    fn the_expected_time_is_the_median_per_instance() {
        let past = |duration_ms, instances| Past { duration_ms, instances };
        assert_eq!(expected_ms(&[], 3), None);
        assert_eq!(
            expected_ms(&[past(8_000, 4), past(3_000, 1), past(100_000, 2)], 3),
            Some(9_000)
        );
        assert_eq!(expected_ms(&[past(8_000, 0)], 1), Some(8_000));
    }

    #[test]
    fn a_change_is_written_for_programs() {
        let mut after = spec();
        after.config.clear();
        let change = &changes(Some(&spec()), &after)[0];
        let expected = json!({ "what": "config", "key": "LEVEL", "before": "info", "after": null, "replaces": true });
        assert_eq!(serde_json::to_value(change).unwrap(), expected);
    }
}
