//! Where output goes, and in which form.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::text;

/// How often a live display moves.
const TICK: Duration = Duration::from_millis(120);

/// The user's view: results on one stream, remarks and errors on the other.
pub struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    /// Programs read: JSON only.
    is_json: bool,
    /// Somebody watches: displays may redraw themselves.
    is_live: bool,
}

impl Screen {
    pub fn of_process(environment: &Environment) -> Self {
        Screen {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            is_json: false,
            is_live: environment.stdout_is_terminal && environment.stderr_is_terminal && io::stderr().is_terminal(),
        }
    }

    /// Output for somebody who reads it later.
    pub fn plain(out: impl Write + Send + 'static, err: impl Write + Send + 'static) -> Self {
        Screen {
            out: Box::new(out),
            err: Box::new(err),
            is_json: false,
            is_live: false,
        }
    }

    pub(crate) fn json(mut self, is_json: bool) -> Self {
        self.is_json = is_json;
        self.is_live &= !is_json;
        self
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// A part of the result, for people. Whatever others have put into it cannot play with the terminal.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<()> {
        written(writeln!(self.out, "{}", text::printable_lines(text.as_ref())))
    }

    /// A part of the result as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        written(self.out.write_all(bytes).and_then(|()| self.out.flush()))
    }

    /// One document, or one object of a stream, on a line of its own.
    pub(crate) fn document(&mut self, document: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(document).map_err(|e| Trouble::failed(format!("cannot print JSON: {e}")))?;
        written(writeln!(self.out, "{text}").and_then(|()| self.out.flush()))
    }

    /// The document for programs, or the text for people.
    pub(crate) fn either(&mut self, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.is_json {
            return self.document(document);
        }
        let text = text();
        if text.is_empty() {
            Ok(())
        } else {
            self.line(text.trim_end())
        }
    }

    /// A remark beside the result. Programs do not get any.
    pub(crate) fn remark(&mut self, text: impl AsRef<str>) {
        if !self.is_json {
            // Remarks are no result: where they cannot be shown, nothing is lost.
            let _ = writeln!(self.err, "{}", text::printable_lines(text.as_ref()));
        }
    }

    /// The last word of a command that failed.
    pub(crate) fn trouble(&mut self, trouble: &Trouble) {
        if trouble.silent {
            return;
        }
        let message = text::printable_lines(&trouble.message);
        let _ = if self.is_json {
            writeln!(self.err, "{}", trouble.document())
        } else if trouble.advice.is_empty() {
            writeln!(self.err, "error: {message}")
        } else {
            writeln!(self.err, "error: {message}\n{}", indent(&trouble.advice))
        };
        let _ = self.err.flush();
    }

    /// A display that moves until it is dropped; hidden where nobody watches.
    pub(crate) fn live(&self, template: &str) -> ProgressBar {
        if !self.is_live {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TICK);
        bar
    }
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn written(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Trouble::reader_left(),
        _ => Trouble::failed(format!("cannot write the output: {error}")),
    })
}
