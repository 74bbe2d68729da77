//! What a tenant may do.
//!
//! Every row is reached through a statement that knows the caller: by [`Scope::visible`] for a row in a path,
//! [`Scope::chosen`] for one that a body names, and the lists of [`crate::list`]. What hangs below such a row (items,
//! instances, journal lines) is then read by its parent's id.

mod api_keys;
mod audit;
mod configs;
mod deployments;
mod domains;
mod foresee;
mod members;
mod pending;
mod projects;
mod routes;
mod secrets;
mod services;
mod sets;

use std::fmt::Display;
use std::sync::Arc;

use domain::error::Kind;
use domain::{AccountId, Error, ProjectId, Result};

use crate::Store;
use crate::audit::Act;
use crate::check;
use crate::db::{Row, Tx, Value, args};
use crate::input::Principal;
use crate::ledger::Actor;
use crate::rows::Role;
use crate::sql;

/// A principal's view of the store.
///
/// # Errors
/// All operations answer `NotFound` for what does not exist and for what is another's, which look alike (C6.1);
/// `Forbidden` for what the caller may see and not do (C6.2), `Invalid` by field for bad input, `Refused` where the present state forbids it, `Unavailable` where the database
/// does not answer.
#[derive(Clone)]
pub struct Scope {
    store: Store,
    who: Principal,
    /// The least that the caller must be in a project for anything of it to be found.
    needs: Role,
    act: Option<Arc<Act>>,
}

/// Where a new resource belongs.
struct Home {
    project: ProjectId,
    /// The project's owner: names are unique within it.
    account: AccountId,
}

impl Scope {
    pub(crate) fn new(store: Store, who: Principal) -> Scope {
        Scope {
            store,
            who,
            needs: Role::Owner,
            act: None,
        }
    }

    /// For an operation that needs no more than `role`. Without it owners can do everything, and others nothing.
    pub fn needing(mut self, role: Role) -> Scope {
        self.needs = role;
        self
    }

    /// Changes are recorded as `act` in the audit log, in their own transactions.
    pub fn recorded_as(mut self, act: Arc<Act>) -> Scope {
        self.act = Some(act);
        self
    }

    /// Who this view belongs to.
    pub fn principal(&self) -> &Principal {
        &self.who
    }

    async fn read(&self) -> Result<Tx> {
        self.store.db.read().await
    }

    async fn write(&self) -> Result<Tx> {
        if self.needs < Role::Developer {
            return Err(Error::forbidden("what a viewer may do changes nothing"));
        }
        let mut tx = self.store.db.write().await?;
        tx.recorded_as(self.act.clone());
        Ok(tx)
    }

    fn actor(&self) -> Actor {
        Actor::account(&self.who)
    }

    /// The arguments that every statement of a tenant begins with.
    fn bound(&self, more: impl IntoIterator<Item = Value>) -> Vec<Value> {
        let mut values = args![self.who.account, self.who.admin];
        values.extend(more);
        values
    }

    /// The one row that `statement` finds for `$3`, if the caller may know it.
    async fn visible<I>(&self, tx: &mut Tx, statement: &'static str, noun: &str, id: I) -> Result<Row>
    where
        I: Display,
    {
        let row = tx.first(statement, self.bound([id.to_string().into()])).await?;
        let row = row.ok_or_else(|| Error::not_found(format!("{noun} {id}")))?;
        self.allowed(&row, noun, &id)?;
        Ok(row)
    }

    /// What another account's row has in common with none at all is everything that the caller sees.
    fn allowed(&self, row: &Row, noun: &str, id: &dyn Display) -> Result<()> {
        let Some(role) = row.parse_or_null::<Role>("role")? else {
            return Err(Error::not_found(format!("{noun} {id} is another's")));
        };
        if let Some(act) = &self.act {
            act.saw(row.parse("seen_in")?);
        }
        if role < self.needs {
            let (is, needed) = (role.as_str(), self.needs.as_str());
            return Err(Error::forbidden(format!("{noun} {id}: needs {needed}, is {is}")));
        }
        Ok(())
    }

    /// The row that a field of a body names. Absent, another's and another owner's look alike to the caller.
    async fn chosen<I>(&self, tx: &mut Tx, statement: &'static str, field: &str, id: I, owner: AccountId) -> Result<Row>
    where
        I: Display,
    {
        let row = tx.first(statement, self.bound([id.to_string().into()])).await?;
        let row = self.choice(row, field, &id)?;
        if crate::read::owner(&row)? == owner {
            Ok(row)
        } else {
            Err(check::no_such(field, id))
        }
    }

    /// The row that was found for a field of a body.
    fn choice(&self, row: Option<Row>, field: &str, id: &dyn Display) -> Result<Row> {
        let row = row.ok_or_else(|| check::no_such(field, id))?;
        match self.allowed(&row, field, id) {
            Err(error) if error.kind == Kind::NotFound => Err(check::no_such(field, id)),
            Err(error) => Err(error),
            Ok(()) => Ok(row),
        }
    }

    /// The project that a new resource goes to: the one asked for, else the account's default one.
    async fn home(&self, tx: &mut Tx, project: Option<ProjectId>) -> Result<Home> {
        let project = match project {
            Some(project) => project,
            None => {
                let row = tx.one(sql::ACCOUNT_SECRETS, args![self.who.account]).await?;
                row.parse("default_project")?
            }
        };
        let row = tx.first(sql::PROJECT, self.bound([project.into()])).await?;
        let row = self.choice(row, "project", &project)?;
        Ok(Home {
            project,
            account: crate::read::owner(&row)?,
        })
    }

    /// Refuses a second thing of a name. Writers take turns, so the answer holds until the commit.
    async fn refuse_taken(&self, tx: &mut Tx, statement: &'static str, args: Vec<Value>, error: Error) -> Result<()> {
        match tx.first(statement, args).await? {
            Some(_) => Err(error),
            None => Ok(()),
        }
    }
}

/// Ends a reading transaction and passes its answer on.
async fn ended<T>(tx: Tx, answer: T) -> Result<T> {
    tx.end().await?;
    Ok(answer)
}

pub use deployments::Which;
pub use foresee::{Bound, Foreseen, Intent};
pub use sets::SetId;

pub(crate) use api_keys::create as new_api_key;
pub(crate) use projects::insert as new_project;
pub(crate) use sets::insert as new_set;
