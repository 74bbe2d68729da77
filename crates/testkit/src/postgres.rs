//! A real PostgreSQL for tests and measurements: one server per process, from Debian's package, on a Unix socket in a
//! temporary directory.
//!
//! # Guarantees
//! It ends with the process that started it, however that ends, and its directory goes when the process ends by itself.
//! It is never reachable by network.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The server of this process.
pub struct Server {
    directory: PathBuf,
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
/// For the handler at exit: the process and its directory.
static RUNNING: Mutex<Option<(Child, PathBuf)>> = Mutex::new(None);

impl Server {
    /// The server, started at the first call; may take seconds.
    ///
    /// # Errors
    /// Why this machine cannot run one: for the line that says `SKIPPED`.
    pub fn of_this_process() -> Result<&'static Server, &'static str> {
        SERVER
            .get_or_init(|| start("fsync=off"))
            .as_ref()
            .map_err(String::as_str)
    }

    /// The same, for measurements: what it has acknowledged survives a power cut. To be asked for before the other.
    ///
    /// # Errors
    /// As [`Server::of_this_process`].
    pub fn durable() -> Result<&'static Server, &'static str> {
        SERVER
            .get_or_init(|| start("fsync=on"))
            .as_ref()
            .map_err(String::as_str)
    }

    /// The process whose children serve the connections.
    pub fn pid(&self) -> Option<u32> {
        let file = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).ok()?;
        file.lines().next()?.parse().ok()
    }

    /// Where a database of that name is reached, by its superuser.
    pub fn url(&self, database: &str) -> String {
        let host = self.directory.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    /// The directory of its socket, for clients that take no URL.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All that the database `name` holds, as `pg_dump` writes it.
    ///
    /// # Errors
    /// What `pg_dump` complained about.
    pub fn dump(&self, name: &str) -> Result<Vec<u8>, String> {
        self.client("pg_dump", &[name])
    }

    /// Makes the database `name` and tells its URL. With a `template` it is a copy of that database.
    ///
    /// # Errors
    /// What `createdb` complained about.
    pub fn create(&self, name: &str, template: Option<&str>) -> Result<String, String> {
        self.client("createdb", &["--template", template.unwrap_or("template1"), name])?;
        Ok(self.url(name))
    }

    fn client(&self, program: &str, arguments: &[&str]) -> Result<Vec<u8>, String> {
        let output = Command::new(Path::new(BIN).join(program))
            .args(["--username", "postgres", "--host"])
            .arg(&self.directory)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }
}

fn start(fsync: &'static str) -> Result<Server, String> {
    if !Path::new(BIN).join("initdb").exists() {
        return Err(format!(
            "PostgreSQL is not installed at {BIN} (apt-get install postgresql-15)"
        ));
    }
    // The server ends with the thread that started it, so that thread lives as long as the process.
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        send.send(start_here(fsync)).ok();
        loop {
            std::thread::park();
        }
    });
    receive.recv().map_err(|error| error.to_string())?
}

fn start_here(fsync: &str) -> Result<Server, String> {
    let user = server_user()?;
    let directory = tempfile::Builder::new()
        .prefix("hob-postgres-")
        .tempdir()
        .map_err(|e| e.to_string())?
        .keep();
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(&directory, Some(uid), Some(gid)).map_err(|e| e.to_string())?;
    }
    let data = directory.join("data");
    let mut initdb = as_user(Path::new(BIN).join("initdb"), user);
    initdb
        .args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ])
        .arg(&data);
    let made = initdb.current_dir(&directory).output().map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(format!("initdb failed: {}", String::from_utf8_lossy(&made.stderr)));
    }
    let mut server = as_user(Path::new(BIN).join("postgres"), user);
    server.arg("-D").arg(&data).arg("-k").arg(&directory);
    for setting in ["listen_addresses=", fsync, "max_connections=300", "shared_buffers=64MB"] {
        server.args(["-c", setting]);
    }
    let child = server
        .current_dir(&directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut errors = keep_until_exit(child, &directory)?;
    wait(&directory, &mut errors)?;
    // Somebody must read on, or the server would block.
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    Ok(Server { directory })
}

/// PostgreSQL refuses to run as root, so root runs it as Debian's user `postgres`.
fn server_user() -> Result<Option<(u32, u32)>, String> {
    // SAFETY: always succeeds, touches no memory.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| e.to_string())?;
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .ok_or("there is no user `postgres`")?;
    let mut ids = line
        .split(':')
        .skip(2)
        .map(|field| field.parse().map_err(|_| "bad /etc/passwd".to_owned()));
    match (ids.next(), ids.next()) {
        (Some(uid), Some(gid)) => Ok(Some((uid?, gid?))),
        _ => Err("bad /etc/passwd".to_owned()),
    }
}

fn as_user(program: PathBuf, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    // SAFETY: prctl is async-signal-safe. It comes after the change of user, which would undo it.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT);
            Ok(())
        });
    }
    command
}

fn keep_until_exit(mut child: Child, directory: &Path) -> Result<std::process::ChildStderr, String> {
    let errors = child.stderr.take().ok_or("no standard error")?;
    *RUNNING.lock().map_err(|e| e.to_string())? = Some((child, directory.to_owned()));
    extern "C" fn stop() {
        let Ok(mut running) = RUNNING.lock() else { return };
        let Some((mut child, directory)) = running.take() else {
            return;
        };
        // SIGQUIT would leave shared memory behind; SIGINT is the fast, clean way.
        // SAFETY: our own child, not yet waited for, so the number is still its.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        child.wait().ok();
        std::fs::remove_dir_all(directory).ok();
    }
    // SAFETY: the handler is a plain function that does not unwind.
    unsafe { libc::atexit(stop) };
    Ok(errors)
}

/// Until the socket answers.
fn wait(directory: &Path, errors: &mut impl Read) -> Result<(), String> {
    let deadline = Instant::now() + START_DEADLINE;
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains("ready to accept connections") {
        let read = errors.read(&mut buffer).map_err(|e| e.to_string())?;
        if read == 0 || Instant::now() > deadline {
            return Err(format!(
                "PostgreSQL in {} does not start: {}",
                directory.display(),
                String::from_utf8_lossy(&seen)
            ));
        }
        seen.extend_from_slice(&buffer[..read]);
    }
    Ok(())
}
