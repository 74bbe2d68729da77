//! What the app answers.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fetch;
use crate::http::Request;
use crate::settings::Settings;
use crate::websocket;

/// Longest answer that can be asked for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Largest download that can be asked for.
const DOWNLOAD_MAX: u64 = 4 << 30;
/// Longest id that is counted.
const ID_MAX: usize = 64;
/// Most ids that are counted.
const IDS_MAX: usize = 1_000_000;
/// Most of a file that is shown.
const FILE_MAX: u64 = 64 << 10;

pub struct App {
    pub settings: Settings,
    /// How often each id was delivered.
    seen: Mutex<HashMap<String, u32>>,
}

pub enum Answer {
    Whole {
        status: u16,
        kind: &'static str,
        body: Vec<u8>,
    },
    /// So many bytes, spread over the time.
    Download { bytes: u64, lasts: Duration },
    /// A WebSocket, with the answer to the client's key.
    Upgrade(String),
    /// An answer, and then the end with this code.
    Crash(u8),
}

impl Answer {
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Answer::Whole {
            status,
            kind: "text/plain; charset=utf-8",
            body: body.into().into_bytes(),
        }
    }
}

impl App {
    pub fn new(settings: Settings) -> Self {
        App {
            settings,
            seen: Mutex::default(),
        }
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let wait = || Duration::from_millis(request.number("ms").unwrap_or(0)).min(WAIT_MAX);
        match request.path.as_str() {
            "/slow" => {
                std::thread::sleep(wait());
                self.page()
            }
            "/download" => Answer::Download {
                bytes: request.number("bytes").unwrap_or(1_000_000).min(DOWNLOAD_MAX),
                lasts: wait(),
            },
            "/ws" => match request.header("sec-websocket-key") {
                Some(key) => Answer::Upgrade(websocket::accept(key)),
                None => Answer::text(400, "this is a WebSocket\n"),
            },
            "/echo" => self.echo(request),
            "/seen" => {
                let id = request.parameter("id").unwrap_or_default();
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                Answer::text(200, format!("{}\n", seen.get(&id).copied().unwrap_or(0)))
            }
            "/env" => {
                let name = request.parameter("name").unwrap_or_default();
                Answer::text(200, format!("{}\n", std::env::var(name).unwrap_or_default()))
            }
            "/file" => match file(&request.parameter("path").unwrap_or_default()) {
                Ok(text) => Answer::text(200, text),
                Err(error) => Answer::text(404, format!("{error}\n")),
            },
            "/fetch" => match fetch::get(&request.parameter("url").unwrap_or_default()) {
                Ok((status, body)) => Answer::Whole {
                    status,
                    kind: "text/plain; charset=utf-8",
                    body,
                },
                Err(error) => Answer::text(502, format!("{error}\n")),
            },
            "/healthz" if self.settings.fail_health => Answer::text(503, "ill, as asked\n"),
            "/healthz" => Answer::text(200, "ok\n"),
            "/crash" => Answer::Crash(request.number("code").and_then(|c| u8::try_from(c).ok()).unwrap_or(1)),
            _ => self.page(),
        }
    }

    fn page(&self) -> Answer {
        let Settings { version, instance, .. } = &self.settings;
        Answer::text(200, format!("hello from version {version}, instance {instance}\n"))
    }

    /// Says aloud that the id came in, before the client can know: a double delivery leaves two lines, whichever
    /// instances it reached.
    fn echo(&self, request: &Request) -> Answer {
        let id = request.header("x-load-id").or_else(|| request.header("x-request-id"));
        if let Some(id) = id.filter(|id| id.len() <= ID_MAX && id.bytes().all(|b| b.is_ascii_graphic())) {
            println!("delivered {id}");
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() < IDS_MAX || seen.contains_key(id) {
                *seen.entry(id.to_owned()).or_default() += 1;
            }
        }
        Answer::Whole {
            status: 200,
            kind: "application/octet-stream",
            body: request.body.clone(),
        }
    }
}

/// The beginning of a file, as the app sees it.
fn file(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}
