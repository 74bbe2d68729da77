//! Connections: one thread each.

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::app::{Answer, App};
use crate::drain::Drain;
use crate::{http, websocket};

/// Most connections at once; further ones are closed.
const CONNECTIONS_MAX: usize = 8_192;
/// A thread parses heads and copies bodies, and needs no more.
const STACK_BYTES: usize = 128 * 1024;
/// Longest silence within a connection. Longer than any proxy keeps an idle one, so that the proxy closes first.
const IDLE_MAX: Duration = Duration::from_secs(600);
/// Longest wait for a client to take what is sent.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// Pause after a failed accept (usually: out of descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

/// Accepts until the listener is shut down.
pub fn spawn(listener: Arc<TcpListener>, app: Arc<App>, drain: Arc<Drain>) {
    let open = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => connect(stream, &app, &drain, &open),
                Err(_) if drain.is_ending() => return,
                Err(_) => thread::sleep(ACCEPT_RETRY),
            }
        }
    });
}

fn connect(stream: TcpStream, app: &Arc<App>, drain: &Arc<Drain>, open: &Arc<AtomicUsize>) {
    if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let (app, drain, count) = (app.clone(), drain.clone(), open.clone());
    let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // Clients leave in the middle of things; that is theirs to report.
        let _ = serve(&stream, &app, &drain);
        count.fetch_sub(1, Ordering::Relaxed);
    });
    if let Err(error) = spawned {
        open.fetch_sub(1, Ordering::Relaxed);
        eprintln!("a connection was closed: no thread for it: {error}");
    }
}

fn serve(stream: &TcpStream, app: &App, drain: &Drain) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while http::arrives(&mut reader)? {
        let _busy = drain.begin();
        let request = match http::read(&mut reader, &mut writer) {
            Ok(request) => request,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return send(&mut writer, &Answer::text(400, error.to_string()), false, false);
            }
            Err(error) => return Err(error),
        };
        match app.answer(&request) {
            Answer::Upgrade(accept) => {
                writer.write_all(websocket::accepted(&accept).as_bytes())?;
                return websocket::echo(&mut reader, &mut writer);
            }
            answer => {
                let keep_alive = request.keep_alive && !drain.is_ending();
                send(&mut writer, &answer, keep_alive, request.method == "HEAD")?;
                if let Answer::Crash(code) = answer {
                    eprintln!("crashing with code {code}, as asked");
                    std::process::exit(code.into());
                }
                if !keep_alive {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Small answers leave in one piece.
fn send(writer: &mut impl Write, answer: &Answer, keep_alive: bool, head_only: bool) -> io::Result<()> {
    match answer {
        Answer::Whole { status, kind, body } => {
            let mut bytes = http::head(*status, kind, Some(body.len() as u64), keep_alive).into_bytes();
            if !head_only {
                bytes.extend_from_slice(body);
            }
            writer.write_all(&bytes)
        }
        Answer::Download { bytes, lasts } => {
            let head = http::head(200, "application/octet-stream", Some(*bytes), keep_alive);
            writer.write_all(head.as_bytes())?;
            if head_only {
                Ok(())
            } else {
                trickle(writer, *bytes, *lasts)
            }
        }
        Answer::Crash(_) => send(writer, &Answer::text(200, "crashing\n"), false, head_only),
        Answer::Upgrade(_) => Ok(()),
    }
}

/// Sends `bytes` evenly over `lasts`.
fn trickle(writer: &mut impl Write, bytes: u64, lasts: Duration) -> io::Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    const PIECE_MAX: u64 = 64 * 1024;
    let piece = [b'.'; PIECE_MAX as usize];
    let steps = u64::try_from(lasts.as_millis() / STEP.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let mut sent = 0;
    for step in 1..=steps {
        let due = if step == steps { bytes } else { bytes / steps * step };
        while sent < due {
            let size = (due - sent).min(PIECE_MAX);
            writer.write_all(&piece[..usize::try_from(size).unwrap_or(piece.len())])?;
            sent += size;
        }
        if !lasts.is_zero() {
            thread::sleep(STEP.min(lasts));
        }
    }
    Ok(())
}
