//! What the commands need to know of the process that they run in.

use std::io::IsTerminal;
use std::path::PathBuf;

/// Read once by `main`, passed down.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `HOB_URL`: the server's origin.
    pub url: Option<String>,
    /// `HOB_API_KEY`.
    pub api_key: Option<String>,
    /// `HOB_DATA_DIR`, else the default: `/var/lib/hob` as root, else `$XDG_DATA_HOME/hob`. `None` without a home.
    pub data_dir: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`, else `~/.config`.
    pub config_home: Option<PathBuf>,
    /// For files without a name, while an image is packed.
    pub temp_dir: PathBuf,
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    pub stderr_is_terminal: bool,
}

impl Environment {
    /// Reads the process's environment. For `main` alone.
    pub fn of_process() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = path("HOME");
        let under_home = |tail: &str| home.as_ref().map(|home| home.join(tail));
        let default_data_dir = if nix::unistd::geteuid().is_root() {
            Some(PathBuf::from("/var/lib/hob"))
        } else {
            let base = path("XDG_DATA_HOME").or_else(|| under_home(".local/share"));
            base.map(|base| base.join("hob"))
        };
        Environment {
            url: var("HOB_URL"),
            api_key: var("HOB_API_KEY"),
            data_dir: path("HOB_DATA_DIR").or(default_data_dir),
            config_home: path("XDG_CONFIG_HOME").or_else(|| under_home(".config")),
            temp_dir: std::env::temp_dir(),
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        }
    }
}
