//! Making and starting the container.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::unistd::Pid;

use super::groups::Groups;
use super::output::Output;
use super::program::Program;
use super::{StartError, bundle, files, network, profile, root, user};
use crate::Stream;
use crate::embedded::cgroup;
use crate::embedded::home::{Home, private_dir};
use crate::embedded::launch::LaunchOrder;

/// Bytes of the reason why the program could not be run.
const REPORT_MAX: u64 = 4 << 10;

/// Name of the container in its own private state directory.
const CONTAINER: &str = "instance";

/// Starts the program; it runs when this returns. On an error nothing of the container is left.
pub fn start(home: &Home, order: LaunchOrder, output: &mut Output) -> Result<Pid, StartError> {
    root::enter_private_mounts()?;
    network::enter(order.network.as_ref())?;
    let outfit = outfit(home, &order)?;
    let (report, report_end) = Program::report_pipe().map_err(|errno| StartError::new("cannot make a pipe", errno))?;
    let program = Program {
        args: bundle::arguments(&order)?,
        path: outfit.env.get("PATH").cloned().unwrap_or_default(),
        env: bundle::environment_strings(&outfit.env)?,
        report: Rc::new(report_end),
    };
    let groups = match &order.cgroup {
        None => {
            cgroup::pretend().map_err(|error| StartError::new("cannot do without control groups", error))?;
            None
        }
        Some(group) => Groups::enter(group, home)?,
    };
    let limits = groups.is_none().then(|| profile::resources(&order));
    let config = profile::runtime_config(home, &order, &outfit.user, &outfit.working_dir, limits);

    let run = home.join("run");
    let _ = fs::remove_dir_all(&run);
    private_dir(&run)
        .and_then(|()| fs::write(run.join("config.json"), config.to_string()))
        .map_err(|error| root::disk_error("writing the bundle", &error))?;
    let created = create(&run, program, output);
    let settled = groups.map_or(Ok(()), |groups| groups.leave(&profile::limits(&order)));
    let mut container = created?;
    settled?;
    let init = container
        .pid()
        .ok_or_else(|| StartError("the container has no process".into()))?;
    container.start().map_err(setup)?;
    let init = Pid::from_raw(init.as_raw());

    // The program's end of the pipe closes when it is executed; before that, something went wrong.
    let mut problem = String::new();
    let _ = fs::File::from(report).take(REPORT_MAX).read_to_string(&mut problem);
    if problem.is_empty() {
        Ok(init)
    } else {
        let _ = nix::sys::wait::waitpid(init, None);
        Err(StartError(problem))
    }
}

/// What the library left of its own; of no use once the program runs.
pub fn clear_up(home: &Home) {
    let _ = fs::remove_dir_all(home.join("run"));
}

/// Writes `config.json` of an order into `home`, with its root file system mounted beside it, for a runtime of another
/// make. Such a runtime makes the network namespace itself, and leaves it empty.
pub fn write_bundle(home: &Home, order: &LaunchOrder) -> Result<(), StartError> {
    let outfit = outfit(home, order)?;
    let limits = order.cgroup.is_some().then(|| profile::resources(order));
    let mut config = profile::runtime_config(home, order, &outfit.user, &outfit.working_dir, limits);
    let text = |texts: Vec<std::ffi::CString>| -> serde_json::Value {
        let texts = texts.iter().map(|text| text.to_string_lossy().into_owned());
        texts.collect::<Vec<String>>().into()
    };
    config["process"]["args"] = text(bundle::arguments(order)?);
    config["process"]["env"] = text(bundle::environment_strings(&outfit.env)?);
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        namespaces.push(serde_json::json!({ "type": "network" }));
    }
    fs::write(home.join("config.json"), config.to_string())
        .map_err(|error| root::disk_error("writing the bundle", &error))
}

/// What the image and the order say, once the root file system can be looked into.
struct Outfit {
    user: user::User,
    working_dir: String,
    env: std::collections::BTreeMap<String, String>,
}

fn outfit(home: &Home, order: &LaunchOrder) -> Result<Outfit, StartError> {
    let root = root::prepare(home, order)?;
    root::write_etc(home, order)?;
    let user = user::resolve_in(std::os::fd::AsFd::as_fd(&root), &order.image.user)?;
    files::mount_all(home, &order.files, &user)?;
    Ok(Outfit {
        working_dir: working_dir(order, &root)?,
        env: bundle::environment(order, &user),
        user,
    })
}

fn setup(error: libcontainer::error::LibcontainerError) -> StartError {
    StartError(describe(&error))
}

fn create(run: &Path, program: Program, output: &mut Output) -> Result<Container, StartError> {
    let io = |error| StartError::new("cannot make a pipe", error);
    let null: OwnedFd = fs::File::open("/dev/null").map_err(io)?.into();
    ContainerBuilder::new(CONTAINER.to_owned(), SyscallType::Linux)
        .with_executor(program)
        .with_root_path(run.join("state"))
        .map_err(setup)?
        .with_stdin(null)
        .with_stdout(output.pipe(Stream::Stdout).map_err(io)?)
        .with_stderr(output.pipe(Stream::Stderr).map_err(io)?)
        .as_init(run)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(setup)
}

/// The chain of causes, each clause once.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = format!("the container could not be set up: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let clause = error.to_string();
        if !text.contains(&clause) {
            text.push_str(": ");
            text.push_str(&clause);
        }
        cause = error.source();
    }
    // How clearing up went after it is of no use to the reader.
    text.split(". error during cleanup")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The image's working directory, made where it is missing; and a `/tmp`, which nearly every program takes for granted
/// and an image of a single binary does not have.
fn working_dir(order: &LaunchOrder, root: &OwnedFd) -> Result<String, StartError> {
    let wanted = order.image.working_dir.as_str();
    let dir = match wanted {
        "" => "/".to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("/{relative}"),
    };
    root::make_dir(root, &dir, 0o755)?;
    root::make_dir(root, "/tmp", 0o1777)?;
    Ok(dir)
}
