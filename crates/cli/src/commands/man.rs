//! `hob man`: manual pages, one for each command.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use crate::error::{Result, Trouble};
use crate::screen::Screen;

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  hob man /usr/local/share/man/man1 && man hob-deploy")]
pub struct Man {
    /// Directory for the pages; it is made where it is missing
    dir: PathBuf,
    #[command(flatten)]
    pub common: Common,
}

impl Man {
    pub fn run(self, screen: &mut Screen, mut root: clap::Command) -> Result<()> {
        root.build();
        std::fs::create_dir_all(&self.dir).map_err(|error| cannot(&self.dir, &error))?;
        let pages = write_pages(&root, root.get_name(), &self.dir)?;
        screen.either(&serde_json::json!({ "pages": pages, "dir": self.dir }), || {
            format!("{pages} pages are in {}", self.dir.display())
        })
    }
}

/// The page of a command and of all below it; answers how many there are.
fn write_pages(command: &clap::Command, name: &str, dir: &Path) -> Result<usize> {
    let path = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name)
        .render(&mut page)
        .and_then(|()| std::fs::write(&path, page))
        .map_err(|error| cannot(&path, &error))?;
    let below = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help");
    let mut pages = 1;
    for below in below {
        pages += write_pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(pages)
}

fn cannot(path: &Path, error: &std::io::Error) -> Trouble {
    Trouble::failed(format!("cannot write {}: {error}", path.display()))
}
