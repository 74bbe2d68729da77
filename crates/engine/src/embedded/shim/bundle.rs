//! From an image's configuration and an order to a program: arguments, environment, user.

use std::collections::BTreeMap;
use std::ffi::CString;

use super::StartError;
use super::program::DEFAULT_PATH;
use super::user::User;
use crate::embedded::launch::LaunchOrder;

/// Arguments of the program, its name first.
pub fn arguments(order: &LaunchOrder) -> Result<Vec<CString>, StartError> {
    let args: Vec<&String> = match &order.command {
        Some(command) => command.iter().collect(),
        None => order.image.entrypoint.iter().chain(&order.image.cmd).collect(),
    };
    if args.is_empty() || args[0].is_empty() {
        return Err(StartError(
            "the image names no program to run (no entrypoint, no command); give a command".into(),
        ));
    }
    args.into_iter().map(|arg| c_string(arg, "an argument")).collect()
}

/// The environment as one map: image, then the port, then the user's, then Hob's own.
pub fn environment(order: &LaunchOrder, user: &User) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
    env.insert("HOME".to_owned(), user.home.clone());
    env.insert("HOSTNAME".to_owned(), order.hostname.clone());
    let image = order.image.env.iter().filter_map(|pair| pair.split_once('='));
    env.extend(image.map(|(key, value)| (key.to_owned(), value.to_owned())));
    if let Some(port) = order.port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    for (key, value) in order.env.iter().chain(&order.platform_env) {
        env.insert(key.clone(), value.clone());
    }
    env
}

/// `KEY=VALUE` for `execve`.
pub fn environment_strings(env: &BTreeMap<String, String>) -> Result<Vec<CString>, StartError> {
    env.iter()
        .map(|(key, value)| {
            c_string(
                &format!("{key}={value}"),
                &format!("the variable {}", key.escape_debug()),
            )
        })
        .collect()
}

/// The text itself is not repeated in the error: it may be a secret.
fn c_string(text: &str, what: &str) -> Result<CString, StartError> {
    CString::new(text).map_err(|_| StartError(format!("{what} holds a NUL byte")))
}
