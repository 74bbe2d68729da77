//! `hob doctor`: what works and what does not.

use clap::Args;

use super::Common;
use crate::environment::Environment;
use crate::error::{Result, Trouble};
use crate::model::{self, Finding};
use crate::screen::Screen;
use crate::session::Session;
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Works on the server's machine, for the owner of the data directory. Exit code 1 when something is broken.

Examples:
  hob doctor
  hob doctor --json | jq '.results[] | select(.level != \"ok\")'")]
pub struct Doctor {
    #[command(flatten)]
    pub common: Common,
}

impl Doctor {
    pub async fn run(self, environment: &Environment, screen: &mut Screen) -> Result<()> {
        let session = Session::open_local(environment, &self.common, screen)?;
        let document = session.client.get("/local/doctor").await?;
        let findings: Vec<Finding> = document["results"]
            .as_array()
            .into_iter()
            .flatten()
            .map(model::read)
            .collect::<Result<_>>()?;
        session.screen.either(&document, || listing(&findings))?;
        match findings.iter().filter(|finding| finding.level == "error").count() {
            0 => Ok(()),
            n => Err(Trouble::failed(format!("{} found", text::count(n as u64, "error")))
                .advise("Mend what is marked with error above, then run `hob doctor` again")),
        }
    }
}

/// Worst first.
fn listing(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| match finding.level.as_str() {
        "error" => 0,
        "warning" => 1,
        _ => 2,
    });
    let mut lines = Vec::new();
    for finding in sorted {
        let message = text::printable(&finding.message);
        lines.push(format!("{:<8} {:<14} {message}", finding.level, finding.subject));
        if !finding.advice.is_empty() {
            lines.push(format!("{:<23} -> {}", "", text::printable(&finding.advice)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tests_support::check;

    #[test]
    fn findings_are_told_worst_first_with_what_to_do() {
        let finding = |level: &str, subject: &str, message: &str, advice: &str| Finding {
            level: level.to_owned(),
            subject: subject.to_owned(),
            message: message.to_owned(),
            advice: advice.to_owned(),
        };
        let findings = [
            finding("ok", "overlayfs", "layers are shared", ""),
            finding("error", "network", "no route out", "install nftables"),
            finding("warning", "cgroups", "no limits on memory", "boot with cgroup v2"),
        ];
        check("doctor.txt", &listing(&findings));
    }
}
