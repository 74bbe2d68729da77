//! The rules for what comes from outside, in the words of the platform face (S2.18, G.36, I.12).

use domain::error::Problems;
use domain::{Error, HealthCheck, Resources, Result, RolloutOptions, names, spec::CheckKind};

use crate::rows::ServiceKind;

/// Longest name of a project, config, secret or API key (faces 3.3).
pub(crate) const NAME_MAX: usize = 64;
/// Longest note on a deployment.
pub(crate) const NOTES_MAX: usize = 1000;
/// Most words of a command, and most bytes of all of them.
const COMMAND_WORDS_MAX: usize = 256;
const COMMAND_BYTES_MAX: usize = 32 * 1024;
/// Limits of waits, intervals and the like, in ms: one day.
const WAIT_MS_MAX: u64 = 24 * 3600 * 1000;
/// Most passed or failed checks in a row.
const CHECKS_MAX: u32 = 100;
/// Largest memory (MiB), CPU (thousandths), processes of an instance.
const MEMORY_MB_MAX: u64 = 1 << 20;
const CPU_MILLIS_MAX: u64 = 1_000_000;
const PIDS_MAX: u64 = 1 << 20;
/// Smallest memory in which anything starts.
const MEMORY_MB_MIN: u64 = 4;

const REQUIRED: &str = "This field is required";
const BLANK: &str = "This field may not be blank.";
const NUL: &str = "Null characters are not allowed.";

/// # Errors
/// `NotFound` for what no row can hold: PostgreSQL does not even take it as an argument.
pub(crate) fn findable(name: &str) -> Result<()> {
    match name.contains('\0') {
        true => Err(Error::not_found("a name with a null character")),
        false => Ok(()),
    }
}

/// A name of a project, config, secret or API key: text for people, 1 to [`NAME_MAX`] characters.
pub(crate) fn title(problems: &mut Problems, field: &str, name: &str) {
    if name.trim().is_empty() {
        problems.add(field, BLANK);
    } else if name.chars().count() > NAME_MAX {
        problems.add(field, too_long(NAME_MAX));
    } else if name.chars().any(char::is_control) {
        problems.add(field, "Control characters are not allowed.");
    }
}

pub(crate) fn one_title(field: &str, name: &str) -> Result<()> {
    let mut problems = Problems::default();
    title(&mut problems, field, name);
    problems.check()
}

pub(crate) fn service_name(problems: &mut Problems, name: &str) {
    if name.is_empty() {
        problems.add("name", BLANK);
    } else if let Err(message) = names::service_name(name) {
        problems.add("name", message);
    }
}

pub(crate) fn image(problems: &mut Problems, image: &str) {
    if image.trim().is_empty() {
        problems.add("image", BLANK);
    } else if image.chars().count() > names::IMAGE_MAX {
        problems.add("image", too_long(names::IMAGE_MAX));
    } else if image.chars().any(|c| c.is_whitespace() || c.is_control()) {
        problems.add("image", "An image reference has no spaces");
    }
}

pub(crate) fn port(problems: &mut Problems, kind: ServiceKind, port: Option<u16>) {
    match (kind, port) {
        (ServiceKind::Service, None) => problems.add("port", REQUIRED),
        (ServiceKind::Service, Some(0)) => problems.add("port", "Ensure this value is between 1 and 65535"),
        (ServiceKind::Worker, Some(_)) => problems.add("port", "A worker has no port"),
        (ServiceKind::Service, Some(_)) | (ServiceKind::Worker, None) => {}
    }
}

/// On the platform face the field is `replicas_target`.
pub(crate) fn instances(problems: &mut Problems, instances: u32) {
    if !names::INSTANCES.contains(&instances) {
        let message = format!(
            "Ensure this value is between {} and {}",
            names::INSTANCES.start(),
            names::INSTANCES.end()
        );
        problems.add("replicas_target", message);
    }
}

/// `field`: `command` or `release`.
pub(crate) fn command(problems: &mut Problems, field: &str, command: Option<&[String]>) {
    let Some(words) = command else { return };
    if words.first().is_none_or(String::is_empty) {
        problems.add(field, "A command names a program");
    } else if words.iter().any(|word| word.contains('\0')) {
        problems.add(field, NUL);
    } else if words.len() > COMMAND_WORDS_MAX || words.iter().map(String::len).sum::<usize>() > COMMAND_BYTES_MAX {
        problems.add(field, "The command is too long");
    }
}

pub(crate) fn health(problems: &mut Problems, kind: ServiceKind, health: &HealthCheck) {
    match &health.kind {
        CheckKind::Process => {}
        CheckKind::Tcp | CheckKind::Http { .. } if kind == ServiceKind::Worker => {
            problems.add("health", "A worker has no port; only the check `process` works");
        }
        CheckKind::Tcp => {}
        CheckKind::Http { path, status } => {
            let plain = path.bytes().all(|b| b.is_ascii_graphic());
            if !path.starts_with('/') || path.len() > names::PATH_MAX || !plain {
                problems.add(
                    "health",
                    "A health check's path starts with / and has visible ASCII characters only",
                );
            }
            if status.is_some_and(|status| !(100..=599).contains(&status)) {
                problems.add("health", "A health check's status is between 100 and 599");
            }
        }
    }
    let waits = [health.interval_ms, health.timeout_ms];
    if waits.iter().any(|wait| !(1..=WAIT_MS_MAX).contains(wait)) {
        problems.add(
            "health",
            format!("Intervals and timeouts are between 1 and {WAIT_MS_MAX} ms"),
        );
    }
    let thresholds = [health.healthy_after, health.unhealthy_after];
    if thresholds.iter().any(|threshold| !(1..=CHECKS_MAX).contains(threshold)) {
        problems.add("health", format!("Thresholds are between 1 and {CHECKS_MAX}"));
    }
}

pub(crate) fn resources(problems: &mut Problems, resources: &Resources) {
    let mut within = |name: &str, value: Option<u64>, least: u64, most: u64| {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            problems.add("resources", format!("{name} is between {least} and {most}"));
        }
    };
    within("memory_mb", resources.memory_mb, MEMORY_MB_MIN, MEMORY_MB_MAX);
    within("cpu_millis", resources.cpu_millis, 1, CPU_MILLIS_MAX);
    within("pids", resources.pids, 1, PIDS_MAX);
}

pub(crate) fn options(problems: &mut Problems, options: &RolloutOptions) {
    let most = *names::INSTANCES.end();
    if options.max_in_flight.is_some_and(|n| !(1..=most).contains(&n)) {
        problems.add("options", format!("max_in_flight is between 1 and {most}"));
    }
    if options.max_surge.is_some_and(|n| n > most) || options.max_unavailable > most {
        problems.add("options", format!("max_surge and max_unavailable are at most {most}"));
    }
    let waits = [
        options.min_ready_ms,
        options.drain_ms,
        options.stop_grace_ms,
        options.progress_deadline_ms,
        options.hold_ms,
        options.keep_warm_ms,
        options.watch_ms,
    ];
    if waits.iter().any(|wait| *wait > WAIT_MS_MAX) {
        problems.add("options", format!("Waits are at most {WAIT_MS_MAX} ms"));
    }
    if let Err(problem) = domain::steps::check(&options.steps) {
        problems.add("options.steps", problem);
    }
    if let Some(Err(problem)) = options.preview_host.as_deref().map(names::hostname) {
        problems.add("options.preview_host", problem);
    }
}

pub(crate) fn notes(problems: &mut Problems, notes: &str) {
    if notes.chars().count() > NOTES_MAX {
        problems.add("notes", too_long(NOTES_MAX));
    } else if notes.contains('\0') {
        problems.add("notes", NUL);
    }
}

pub(crate) fn one_note(text: &str) -> Result<()> {
    let mut problems = Problems::default();
    notes(&mut problems, text);
    problems.check()
}

pub(crate) fn env_key(problems: &mut Problems, key: &str) {
    if key.is_empty() {
        problems.add("key", BLANK);
    } else if let Err(message) = names::env_key(key) {
        problems.add("key", message);
    }
}

/// The text of a problem never repeats the value: it may be a secret.
pub(crate) fn env_value(problems: &mut Problems, value: &str) {
    if value.len() > names::ENV_VALUE_MAX {
        problems.add(
            "value",
            format!("Ensure this field has no more than {} bytes.", names::ENV_VALUE_MAX),
        );
    } else if value.contains('\0') {
        problems.add("value", NUL);
    }
}

/// A host name in its one stored form: lower case, without a final dot.
pub(crate) fn hostname(hostname: &str) -> Result<String> {
    let lower = hostname.trim().to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if name.is_empty() {
        return Err(Error::invalid("hostname", BLANK));
    }
    names::hostname(name).map_err(|message| Error::invalid("hostname", message))?;
    Ok(name.to_owned())
}

pub(crate) fn route_path(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::invalid("path", BLANK));
    }
    names::route_path(path).map_err(|message| Error::invalid("path", message))
}

/// For a foreign key in a body: another's id and an absent one look alike (OPEN-4).
pub(crate) fn no_such(field: &str, id: impl std::fmt::Display) -> Error {
    Error::invalid(field, format!("Invalid pk \"{id}\" - object does not exist."))
}

pub(crate) fn taken(field: &str, noun: &str) -> Error {
    Error::invalid(field, format!("{noun} with this {field} already exists."))
}

fn too_long(most: usize) -> String {
    format!("Ensure this field has no more than {most} characters.")
}
