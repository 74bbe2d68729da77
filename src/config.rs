//! The server's settings: a flag beats its environment variable, which beats its key in `hob.toml`, which beats the
//! default. Read once, here.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use api::RateLimits;
use clap::{Args, ValueEnum};
use serde::Deserialize;

/// Run the platform: API, edge and engine.
#[derive(Args, Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(after_help = "Examples:
  hob up                                        as root: data in /var/lib/hob, API on 127.0.0.1:7700, traffic on :8080
  hob up --data-dir ./data --edge-http 0.0.0.0:80
  HOB_BASE_DOMAIN=apps.example.com hob up       services answer at NAME.apps.example.com")]
pub struct UpArgs {
    /// Everything that Hob owns on disk [default: /var/lib/hob as root, else $XDG_DATA_HOME/hob]
    #[arg(long, env = "HOB_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// API, dashboard, docs, metrics [default: 127.0.0.1:7700]
    #[arg(long, env = "HOB_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// The edge: users' traffic, plain HTTP [default: 0.0.0.0:8080]
    #[arg(long, env = "HOB_EDGE_HTTP")]
    pub edge_http: Option<SocketAddr>,
    /// Most connections at once of one client address, 0 for any number; for edges that start from now on [default: 8000]
    #[arg(long, env = "HOB_EDGE_CLIENT_CONNECTIONS")]
    pub edge_client_connections: Option<usize>,
    /// A service without a route of its own answers at NAME.BASE_DOMAIN [default: localhost]
    #[arg(long, env = "HOB_BASE_DOMAIN")]
    pub base_domain: Option<String>,
    /// Origin of every absolute link that Hob prints [default: http:// and the listen address]
    #[arg(long, env = "HOB_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// sqlite://PATH or postgres://… [default: sqlite://DATA_DIR/hob.db]
    #[arg(long, env = "HOB_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// What runs containers [default: embedded]
    #[arg(long, env = "HOB_ENGINE", value_enum)]
    pub engine: Option<EngineKind>,
    /// The key that wraps the keys of all secrets; made at the first start [default: DATA_DIR/root.key]
    #[arg(long, env = "HOB_ROOT_KEY_FILE")]
    pub root_key_file: Option<PathBuf>,
    /// Requests of one account in an hour: `on` (100 writes, 100 reads of secrets), `off`, WRITES, or WRITES,READS
    /// [default: on]
    #[arg(long, env = "HOB_RATE_LIMITS")]
    pub rate_limits: Option<Allowance>,
    /// [default: text on a terminal, else json]
    #[arg(long, env = "HOB_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    /// Private IPv4 range of the instances' addresses [default: 10.213.0.0/16]
    #[arg(long, env = "HOB_INSTANCE_NETWORK")]
    pub instance_network: Option<String>,
    /// Registries that may be spoken to without TLS, besides those on loopback
    #[arg(long, env = "HOB_INSECURE_REGISTRIES", value_delimiter = ',')]
    pub insecure_registries: Option<Vec<String>>,
    /// Certificates (PEM) of authorities that may vouch for registries, besides those that the system trusts
    #[arg(long, env = "HOB_REGISTRY_CA_FILE")]
    pub registry_ca_file: Option<PathBuf>,
    /// On SIGTERM also stop all instances and the edge, and remove the instances' network
    #[arg(long, env = "HOB_STOP_INSTANCES")]
    pub stop_instances: bool,
    /// Settings file [default: /etc/hob/hob.toml as root, else $XDG_CONFIG_HOME/hob/hob.toml, if it exists]
    #[arg(long, env = "HOB_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Embedded,
}

/// What one account may ask for in an hour; `None` for anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Allowance(pub Option<RateLimits>);

impl Default for Allowance {
    fn default() -> Self {
        Allowance(Some(RateLimits::default()))
    }
}

impl FromStr for Allowance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let number = text.trim().parse::<u32>();
            number.map_err(|_| format!("`{text}` is no number; use on, off, WRITES or WRITES,READS"))
        };
        Ok(match text {
            "on" => Allowance::default(),
            "off" => Allowance(None),
            _ => {
                let (writes, reads) = text.split_once(',').unwrap_or((text, text));
                Allowance(Some(RateLimits {
                    resources: number(writes)?,
                    secrets: number(reads)?,
                }))
            }
        })
    }
}

impl TryFrom<String> for Allowance {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// What is read once of the process and its user.
#[derive(Debug, Clone)]
pub struct Host {
    pub is_root: bool,
    pub stderr_is_terminal: bool,
    /// Which log lines are wanted.
    pub log_filter: Option<String>,
    pub home: Option<PathBuf>,
    pub xdg_data_home: Option<PathBuf>,
    pub xdg_config_home: Option<PathBuf>,
}

/// Settings with every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub edge_http: SocketAddr,
    /// `None`: the edge's own default.
    pub edge_client_connections: Option<usize>,
    pub base_domain: String,
    pub public_url: String,
    pub database_url: String,
    pub root_key_file: PathBuf,
    /// `None`: no limits.
    pub rate_limits: Option<RateLimits>,
    pub log_format: LogFormat,
    pub instance_network: String,
    pub insecure_registries: Vec<String>,
    pub registry_ca_file: Option<PathBuf>,
    pub stop_instances: bool,
}

impl Host {
    pub fn default_data_dir(&self) -> Result<PathBuf> {
        if self.is_root {
            return Ok(PathBuf::from("/var/lib/hob"));
        }
        let home = || self.home.as_ref().map(|home| home.join(".local/share"));
        let base = self.xdg_data_home.clone().or_else(home);
        Ok(base.context("no home directory is known; give --data-dir")?.join("hob"))
    }

    fn default_config_file(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some(PathBuf::from("/etc/hob/hob.toml"));
        }
        let home = || self.home.as_ref().map(|home| home.join(".config"));
        Some(self.xdg_config_home.clone().or_else(home)?.join("hob/hob.toml"))
    }
}

impl UpArgs {
    /// Fills in file and defaults.
    ///
    /// # Errors
    /// Names the setting that makes no sense, or the file and line that cannot be read.
    pub fn resolve(self, host: &Host) -> Result<Config> {
        let file = self.read_file(host)?;
        let data_dir = match self.data_dir.or(file.data_dir) {
            Some(dir) => std::path::absolute(&dir).with_context(|| format!("--data-dir {}", dir.display()))?,
            None => host.default_data_dir()?,
        };
        let listen = self
            .listen
            .or(file.listen)
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7700)));
        let base_domain = self
            .base_domain
            .or(file.base_domain)
            .unwrap_or_else(|| "localhost".to_owned());
        if let Err(why) = domain::names::hostname(&base_domain) {
            bail!("--base-domain {base_domain}: {why}");
        }
        let log_default = if host.stderr_is_terminal {
            LogFormat::Text
        } else {
            LogFormat::Json
        };
        Ok(Config {
            edge_http: self
                .edge_http
                .or(file.edge_http)
                .unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8080))),
            edge_client_connections: self.edge_client_connections.or(file.edge_client_connections),
            public_url: public_url(self.public_url.or(file.public_url), listen)?,
            database_url: self
                .database_url
                .or(file.database_url)
                .unwrap_or_else(|| sqlite_url(&data_dir)),
            root_key_file: self
                .root_key_file
                .or(file.root_key_file)
                .unwrap_or_else(|| data_dir.join("root.key")),
            rate_limits: self.rate_limits.or(file.rate_limits).unwrap_or_default().0,
            log_format: self.log_format.or(file.log_format).unwrap_or(log_default),
            instance_network: self
                .instance_network
                .or(file.instance_network)
                .unwrap_or("10.213.0.0/16".to_owned()),
            insecure_registries: self
                .insecure_registries
                .or(file.insecure_registries)
                .unwrap_or_default(),
            registry_ca_file: self.registry_ca_file.or(file.registry_ca_file),
            stop_instances: self.stop_instances || file.stop_instances,
            data_dir,
            listen,
            base_domain,
        })
    }

    fn read_file(&self, host: &Host) -> Result<UpArgs> {
        let asked = self.config.is_some();
        let Some(path) = self.config.clone().or_else(|| host.default_config_file()) else {
            return Ok(UpArgs::default());
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("in {}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked => Ok(UpArgs::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

fn sqlite_url(data_dir: &Path) -> String {
    format!("sqlite://{}", data_dir.join("hob.db").display())
}

/// An origin: scheme, host, port; no path, so that links can be made by appending one.
fn public_url(given: Option<String>, listen: SocketAddr) -> Result<String> {
    let Some(url) = given else {
        let ip = match listen.ip() {
            ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
            ip => ip,
        };
        return Ok(format!("http://{}", SocketAddr::new(ip, listen.port())));
    };
    let origin = url.trim_end_matches('/');
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(['/', '?', '#', '@', ' ']) => Ok(origin.to_owned()),
        _ => bail!("--public-url {url}: give an origin such as https://hob.example.com, without a path"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            is_root: false,
            stderr_is_terminal: false,
            log_filter: None,
            home: Some("/home/u".into()),
            xdg_data_home: None,
            xdg_config_home: None,
        }
    }

    fn resolve(file: &str, args: UpArgs) -> Result<Config> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        UpArgs {
            config: Some(path.path().to_owned()),
            ..args
        }
        .resolve(&host())
    }

    #[test]
    fn rate_limits_are_on_off_or_numbers() {
        let limits = |resources, secrets| Some(Some(RateLimits { resources, secrets }));
        let read = |text: &str| text.parse::<Allowance>().ok().map(|allowance| allowance.0);
        assert_eq!(read("on"), limits(100, 100));
        assert_eq!(read("off"), Some(None));
        assert_eq!(read("500"), limits(500, 500));
        assert_eq!(read("500, 20"), limits(500, 20));
        for bad in ["", "yes", "-1", "5,", "1,2,3", "4294967296"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let file = resolve("rate-limits = \"7,8\"\n", UpArgs::default()).unwrap();
        assert_eq!(Some(file.rate_limits), limits(7, 8));
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = "listen = \"127.0.0.1:1\"\nbase-domain = \"file.example\"\n";
        let args = UpArgs {
            base_domain: Some("flag.example".into()),
            ..UpArgs::default()
        };
        let config = resolve(file, args).unwrap();
        assert_eq!(config.base_domain, "flag.example");
        assert_eq!(config.listen.port(), 1);
        assert_eq!(config.public_url, "http://127.0.0.1:1");
        assert_eq!(config.edge_http.to_string(), "0.0.0.0:8080");
        assert_eq!(config.data_dir, Path::new("/home/u/.local/share/hob"));
        assert_eq!(config.database_url, "sqlite:///home/u/.local/share/hob/hob.db");
    }

    #[test]
    fn nonsense_is_named() {
        let unknown = format!("{:#}", resolve("listne = \"x\"", UpArgs::default()).unwrap_err());
        assert!(unknown.contains("listne"), "{unknown}");
        for bad in ["ftp://x", "http://", "http://a/b", "https://u@h"] {
            assert!(
                public_url(Some(bad.into()), ([127, 0, 0, 1], 1).into()).is_err(),
                "{bad}"
            );
        }
        let args = UpArgs {
            base_domain: Some("Not A Name".into()),
            ..UpArgs::default()
        };
        assert!(format!("{:#}", resolve("", args).unwrap_err()).contains("--base-domain"));
    }
}
