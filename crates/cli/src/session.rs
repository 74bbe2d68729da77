//! One command's way to the server and to the user.

use crate::client::Client;
use crate::commands::Common;
use crate::environment::Environment;
use crate::error::Result;
use crate::screen::Screen;

pub struct Session<'a> {
    pub client: Client,
    pub screen: &'a mut Screen,
    pub environment: &'a Environment,
    /// `--project`, a name or an id.
    pub project: Option<String>,
}

impl<'a> Session<'a> {
    /// By `HOB_URL`, by login, or by the control socket.
    pub fn open(environment: &'a Environment, common: &Common, screen: &'a mut Screen) -> Result<Self> {
        let client = Client::connect(environment, common.data_dir.as_deref())?;
        Ok(Session {
            client,
            screen,
            environment,
            project: common.project.clone(),
        })
    }

    /// By the control socket, for what only the owner of the machine may do.
    pub fn open_local(environment: &'a Environment, common: &Common, screen: &'a mut Screen) -> Result<Self> {
        let client = Client::connect_local(environment, common.data_dir.as_deref())?;
        Ok(Session {
            client,
            screen,
            environment,
            project: common.project.clone(),
        })
    }
}
