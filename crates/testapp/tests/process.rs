//! The app as its container runs it: a process with an environment, requests and signals.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct App {
    child: Child,
    output: BufReader<ChildStdout>,
    port: u16,
}

impl App {
    /// Starts it on a free port and waits until it listens.
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = command(settings).spawn().expect("the app starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        let port = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
        App { child, output, port }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }

    fn ask(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    fn get(&self, target: &str) -> String {
        self.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        ))
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("waited") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it did not end");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hob-testapp"));
    command
        .env_clear()
        .env("PORT", "0")
        .env("INSTANCE", "i1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.envs(settings.iter().copied());
    command
}

#[test]
fn pages_say_the_version_and_health_follows_the_setting() {
    let app = App::start(&[("VERSION", "seven"), ("FAIL_HEALTH", "1")]);
    assert!(app.get("/").contains("version seven, instance i1"));
    assert!(app.get("/any/path").starts_with("HTTP/1.1 200"));
    assert!(app.get("/healthz").starts_with("HTTP/1.1 503"));
    let well = App::start(&[]);
    assert!(well.get("/healthz").ends_with("\r\n\r\nok\n"));
}

#[test]
fn every_delivery_of_an_id_is_told() {
    let mut app = App::start(&[]);
    let post = "POST /echo HTTP/1.1\r\nX-Load-Id: abc-1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nxyz";
    for _ in 0..2 {
        assert!(app.ask(post).ends_with("\r\n\r\nxyz"));
        let mut line = String::new();
        app.output.read_line(&mut line).expect("a line");
        assert_eq!(line, "delivered abc-1\n");
    }
    assert!(app.get("/seen?id=abc-1").ends_with("\r\n\r\n2\n"));
    assert!(app.get("/seen?id=other").ends_with("\r\n\r\n0\n"));
}

#[test]
fn a_download_has_its_size_and_takes_its_time() {
    let app = App::start(&[]);
    let began = Instant::now();
    let answer = app.get("/download?bytes=200001&ms=300");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(answer.split_once("\r\n\r\n").map(|(_, body)| body.len()), Some(200_001));
}

#[test]
fn a_connection_carries_many_requests() {
    let app = App::start(&[]);
    let mut stream = app.connect();
    for n in 0..50 {
        let body = format!("{n:03}");
        let head = format!("POST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(body.as_bytes()) || !answer.windows(4).any(|w| w == b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("more");
            answer.push(byte[0]);
        }
    }
}

#[test]
fn what_is_in_progress_at_sigterm_is_finished() {
    let mut app = App::start(&[]);
    let mut stream = app.connect();
    stream
        .write_all(b"GET /download?bytes=1000&ms=400 HTTP/1.1\r\n\r\n")
        .expect("sent");
    let mut first = [0; 1];
    stream.read_exact(&mut first).expect("it has begun");
    app.terminate();
    let mut rest = String::new();
    // The idle connection goes with the process.
    stream.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest.split_once("\r\n\r\n").map(|(_, body)| body.len()), Some(1000));
    assert_eq!(app.exit_code(), Some(0));
    let mut said = String::new();
    app.output.read_to_string(&mut said).expect("output");
    assert!(said.contains("drained"), "{said}");
}

#[test]
fn a_hostile_app_leaves_in_the_middle() {
    let mut app = App::start(&[("HOSTILE", "1")]);
    let mut stream = app.connect();
    stream.write_all(b"GET /slow?ms=10000 HTTP/1.1\r\n\r\n").expect("sent");
    app.terminate();
    assert_eq!(app.exit_code(), Some(0));
    let mut rest = Vec::new();
    // Cut off: an end or a reset, and no answer.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn it_crashes_and_hangs_as_told() {
    let crashed = command(&[("CRASH_AT_START", "3")]).output().expect("runs");
    assert_eq!(crashed.status.code(), Some(3));
    assert!(!crashed.stderr.is_empty());

    let mut app = App::start(&[]);
    assert!(app.get("/crash?code=4").starts_with("HTTP/1.1 200"));
    assert_eq!(app.exit_code(), Some(4));

    let mut silent = command(&[("HANG_AT_START", "1")]).spawn().expect("runs");
    let mut line = String::new();
    BufReader::new(silent.stdout.take().expect("a pipe"))
        .read_line(&mut line)
        .expect("a line");
    assert!(line.contains("hangs"), "{line}");
    kill(Pid::from_raw(silent.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    assert_eq!(silent.wait().expect("ends").code(), Some(0));
}
