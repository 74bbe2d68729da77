//! `hob completions`: scripts for shells.

use clap::Args;
use clap_complete::Shell;

use super::Common;
use crate::error::Result;
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hob completions bash > /etc/bash_completion.d/hob
  hob completions fish > ~/.config/fish/completions/hob.fish")]
pub struct Completions {
    #[arg(value_enum)]
    shell: Shell,
    #[command(flatten)]
    pub common: Common,
}

impl Completions {
    pub fn run(self, screen: &mut Screen, mut root: clap::Command) -> Result<()> {
        let mut script = Vec::new();
        let name = root.get_name().to_owned();
        clap_complete::generate(self.shell, &mut root, name, &mut script);
        screen.bytes(&script)
    }
}
