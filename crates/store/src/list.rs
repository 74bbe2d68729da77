//! Pages of lists. The one place that knows how a page number becomes rows: of a long list by its positions in time
//! ([`crate::position`]), of a short one by counting off.
//!
//! # Guarantees
//! No page costs more than counting off [`COUNTED_OFF_MAX`] rows, whatever the list's length and the page's number: a
//! longer list is ordered by time, where positions lead to every page, or not at all. Items of one parent have limits
//! of their own, below that.

use domain::error::Kind;
use domain::{Error, Result};

use crate::db::{Row, Sql, Tx, Value, args};
use crate::input::{Direction, ListQuery, PAGE_SIZE_MAX, Page, PageNumber, Principal};
use crate::position::{self, Window};
use crate::sql;

/// Log context of the error for a page number beyond the end; the platform face answers 404 with this text (I.7).
pub const INVALID_PAGE: &str = "Invalid page.";

/// Fields that one ordering may name; more are ignored.
const ORDER_FIELDS_MAX: usize = 3;

/// Longest list that is sorted and counted off. Longer ones, which are ordered by time alone, have positions.
pub const COUNTED_OFF_MAX: u64 = 10_000;

/// Whether a list was asked for a page that it does not have.
pub fn is_invalid_page(error: &Error) -> bool {
    error.kind == Kind::NotFound && error.context.ends_with(INVALID_PAGE)
}

/// A list of things that belong to projects.
///
/// Statements take `$1` the caller, `$2` whether it is an administrator, `$3` the project, `$4` a kind or parent.
pub(crate) struct List {
    pub(crate) of_member: &'static str,
    pub(crate) of_admin: &'static str,
    pub(crate) order: Order,
    /// The column of the rows' time, by which [`crate::db::Tx::place`] keeps the list's positions.
    pub(crate) placed_by: &'static str,
}

/// A list of things that belong to one parent, which the caller was allowed to see. Its statement takes `$1` the
/// parent.
pub(crate) struct Items {
    pub(crate) statement: &'static str,
    pub(crate) order: Order,
}

/// What a list can be ordered by: fragments of SQL, never text from outside.
pub(crate) struct Order {
    /// The platform's names and the expressions that they stand for.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) default: &'static [(&'static str, Direction)],
    /// Breaks ties.
    pub(crate) id: &'static str,
}

impl Order {
    /// `order by …` for an ordering that was asked for.
    pub(crate) fn clause(&self, asked: &[(String, Direction)]) -> String {
        let terms: Vec<String> = self
            .terms(asked)
            .iter()
            .map(|(column, direction)| format!("{column} {}", word(*direction)))
            .collect();
        format!(" order by {}", terms.join(", "))
    }

    /// What is ordered by, the most important first. Unknown fields are ignored (I.8).
    fn terms(&self, asked: &[(String, Direction)]) -> Vec<(&'static str, Direction)> {
        let known = |name: &str| {
            self.fields
                .iter()
                .find(|(field, _)| *field == name)
                .map(|(_, column)| *column)
        };
        let mut terms: Vec<(&'static str, Direction)> = Vec::new();
        for (name, direction) in asked {
            let Some(column) = known(name) else { continue };
            if terms.len() < ORDER_FIELDS_MAX && terms.iter().all(|(named, _)| *named != column) {
                terms.push((column, *direction));
            }
        }
        if terms.is_empty() {
            terms = self
                .default
                .iter()
                .filter_map(|(name, direction)| Some((known(name)?, *direction)))
                .collect();
        }
        let ties = terms.first().map_or(Direction::Ascending, |(_, direction)| *direction);
        terms.push((self.id, ties));
        terms
    }
}

/// The end of a list's statement.
const COUNTED_OFF: &str = " limit $5 offset $6";
/// Likewise, behind [`within`].
const IN_WINDOW: &str = " limit $7 offset $8";

fn within(column: &str) -> String {
    format!(" and {column} >= $5 and {column} < $6")
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ascending => "asc",
        Direction::Descending => "desc",
    }
}

/// Which counter tells how long a list is.
pub(crate) enum Count<'a> {
    /// Of a kind, in the projects that the caller sees.
    InProjects(&'a str),
    /// Of a kind, of one owner.
    Of(&'a str, &'a str),
    /// Known already.
    Exactly(u64),
}

impl List {
    /// One page. `parent` is the statement's `$4`.
    pub(crate) async fn page<T>(
        &self,
        tx: &mut Tx,
        who: &Principal,
        query: &ListQuery,
        parent: &str,
        count: Count<'_>,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let project = query.project.map(|id| id.to_string()).unwrap_or_default();
        let kind = match count {
            Count::InProjects(kind) => Some(kind),
            Count::Of(..) | Count::Exactly(_) => None,
        };
        let count = match count {
            Count::Exactly(count) => count,
            Count::Of(owner, kind) => counter(tx, owner, kind).await?,
            Count::InProjects(kind) => {
                let statement = if who.admin {
                    sql::COUNT_OF_ADMIN
                } else {
                    sql::COUNT_OF_MEMBER
                };
                let row = tx.one(statement, args![who.account, who.admin, &project, kind]).await?;
                row.number("n")?
            }
        };
        let place = Place::of(query, count)?;
        self.refuse_long(query, count)?;
        let base = if who.admin { self.of_admin } else { self.of_member };
        let order = self.order.clause(&query.ordering);
        let window = match kind {
            Some(kind) => self.window(tx, who, query, (&project, kind), &place).await?,
            None => None,
        };
        let Some((column, window)) = window else {
            let text = format!("{base}{order}{COUNTED_OFF}");
            let values = args![who.account, who.admin, project, parent, place.limit, place.offset];
            return place.read(tx, text, values, read).await;
        };
        let text = format!("{base}{}{order}{IN_WINDOW}", within(column));
        let values = args![
            who.account,
            who.admin,
            project,
            parent,
            window.from_us,
            window.before_us,
            place.limit,
            window.skip
        ];
        place.read(tx, text, values, read).await
    }

    /// The direction of a list that is ordered by time.
    fn by_time(&self, query: &ListQuery) -> Option<Direction> {
        let terms = self.order.terms(&query.ordering);
        let (first, direction) = terms.first()?;
        (*first == self.placed_by).then_some(*direction)
    }

    fn refuse_long(&self, query: &ListQuery, count: u64) -> Result<()> {
        if count <= COUNTED_OFF_MAX || self.by_time(query).is_some() {
            return Ok(());
        }
        let time = self.order.fields.iter().find(|(_, column)| *column == self.placed_by);
        let time = time.map_or("", |(name, _)| *name);
        let text = format!(
            "A list of more than {COUNTED_OFF_MAX} rows can be ordered by {time} only; ask for one project's rows."
        );
        Err(Error::invalid("ordering", text))
    }

    /// The span of time that holds the page, and the column that it is about; `None` where rows are counted off.
    async fn window(
        &self,
        tx: &mut Tx,
        who: &Principal,
        query: &ListQuery,
        (project, kind): (&str, &str),
        place: &Place,
    ) -> Result<Option<(&'static str, Window)>> {
        let Some(direction) = self.by_time(query).filter(|_| place.count >= position::WALKED_FROM) else {
            return Ok(None);
        };
        let rows = position::Rows {
            who,
            project,
            kind,
            direction,
        };
        let left = i64::try_from(place.count).unwrap_or(i64::MAX) - place.offset;
        let window = position::window(tx, &rows, place.offset, place.limit.min(left)).await?;
        Ok(window.map(|window| (self.placed_by, window)))
    }
}

impl Items {
    pub(crate) async fn page<T>(
        &self,
        tx: &mut Tx,
        parent: &str,
        kind: &str,
        query: &ListQuery,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let place = Place::of(query, counter(tx, parent, kind).await?)?;
        let text = format!(
            "{}{} limit $2 offset $3",
            self.statement,
            self.order.clause(&query.ordering)
        );
        let values = args![parent, place.limit, place.offset];
        place.read(tx, text, values, read).await
    }
}

/// How many things of a kind an owner has.
pub(crate) async fn counter(tx: &mut Tx, owner: &str, kind: &str) -> Result<u64> {
    let row = tx.first(sql::COUNTER, args![owner, kind]).await?;
    row.map_or(Ok(0), |row| row.number("n"))
}

/// Where a page lies in its list.
struct Place {
    count: u64,
    number: u64,
    pages: u64,
    limit: i64,
    offset: i64,
}

impl Place {
    fn of(query: &ListQuery, count: u64) -> Result<Place> {
        let size = u64::from(query.page_size.clamp(1, PAGE_SIZE_MAX));
        let pages = count.div_ceil(size).max(1);
        let number = match query.page {
            PageNumber::Last => pages,
            PageNumber::Number(number) => number,
        };
        if number == 0 || number > pages {
            return Err(Error::not_found(INVALID_PAGE));
        }
        let offset = i64::try_from((number - 1) * size).map_err(|_| Error::not_found(INVALID_PAGE))?;
        Ok(Place {
            count,
            number,
            pages,
            limit: size as i64,
            offset,
        })
    }

    async fn read<T>(
        self,
        tx: &mut Tx,
        text: String,
        values: Vec<Value>,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        // Made of the registry's text and of fragments of `Order` alone.
        let rows = tx.all(Sql::composed(text), values).await?;
        let rows = rows.iter().map(read).collect::<Result<Vec<T>>>()?;
        Ok(Page {
            count: self.count,
            number: self.number,
            pages: self.pages,
            rows,
        })
    }
}

macro_rules! list {
    ($(#[$doc:meta])* $name:ident, $member:ident, $admin:ident, $id:literal, $fields:expr, $default:expr, $placed_by:expr) => {
        $(#[$doc])*
        pub(crate) static $name: List = List {
            of_member: sql::$member,
            of_admin: sql::$admin,
            order: Order { fields: $fields, default: $default, id: $id },
            placed_by: $placed_by,
        };
    };
}

const fn sets(sql: sql::Sets) -> List {
    List {
        of_member: sql.of_member,
        of_admin: sql.of_admin,
        order: Order {
            fields: &[("name", "x.name"), ("created_at", "x.created_at_us")],
            default: NEWEST,
            id: "x.id",
        },
        placed_by: "x.created_at_us",
    }
}

const NEWEST: &[(&str, Direction)] = &[("created_at", Direction::Descending)];

list!(
    SERVICES,
    SERVICES_OF_MEMBER,
    SERVICES_OF_ADMIN,
    "s.id",
    &[
        ("name", "s.name"),
        ("created_at", "s.created_at_us"),
        ("updated_at", "s.updated_at_us"),
        // The same projection as `Service::status`.
        (
            "status",
            "case when s.active is not null and s.serving is not null then 'updating' \
             when s.active is not null then 'pending' when s.last_stage is null then 'not ready' \
             when s.last_stage = 'succeeded' then 'ready' else 'error' end",
        ),
    ],
    NEWEST,
    "s.created_at_us"
);
list!(
    DEPLOYMENTS,
    DEPLOYMENTS_OF_MEMBER,
    DEPLOYMENTS_OF_ADMIN,
    "d.id",
    &[("deployed_at", "d.created_at_us"), ("version_number", "d.version")],
    &[
        ("deployed_at", Direction::Descending),
        ("version_number", Direction::Descending)
    ],
    "d.created_at_us"
);
list!(
    ROUTES,
    ROUTES_OF_MEMBER,
    ROUTES_OF_ADMIN,
    "r.id",
    &[("path", "r.path"), ("created_at", "r.created_at_us")],
    NEWEST,
    "r.created_at_us"
);
list!(
    DOMAINS,
    DOMAINS_OF_MEMBER,
    DOMAINS_OF_ADMIN,
    "o.id",
    &[("hostname", "o.hostname"), ("created_at", "o.created_at_us")],
    NEWEST,
    "o.created_at_us"
);
pub(crate) static CONFIGS: List = sets(sql::CONFIG_SETS);
pub(crate) static SECRETS: List = sets(sql::SECRET_SETS);
list!(
    PROJECTS,
    PROJECTS_OF_MEMBER,
    PROJECTS_OF_ADMIN,
    "p.id",
    &[("name", "p.name"), ("created_at", "p.created_at_us")],
    NEWEST,
    "p.created_at_us"
);

const ITEM_FIELDS: &[(&str, &str)] = &[("key", "i.key"), ("created_at", "i.created_at_us")];

pub(crate) static CONFIG_ITEMS: Items = Items {
    statement: sql::CONFIG_ITEMS,
    order: Order {
        fields: ITEM_FIELDS,
        default: NEWEST,
        id: "i.id",
    },
};
pub(crate) static SECRET_ITEMS: Items = Items {
    statement: sql::SECRET_ITEMS,
    order: Order {
        fields: ITEM_FIELDS,
        default: NEWEST,
        id: "i.id",
    },
};
pub(crate) static MEMBERS: Items = Items {
    statement: sql::MEMBERS,
    order: Order {
        fields: &[("name", "a.name"), ("created_at", "m.created_at_us")],
        default: &[("name", Direction::Ascending)],
        id: "m.account",
    },
};
pub(crate) static API_KEYS: Items = Items {
    statement: sql::API_KEYS,
    order: Order {
        fields: &[("name", "k.name"), ("created_at", "k.created_at_us")],
        default: NEWEST,
        id: "k.id",
    },
};

/// Lists by what they can be ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// And workers.
    Services,
    Deployments,
    Routes,
    Domains,
    /// Configs and secrets.
    Sets,
    Items,
    Projects,
    Members,
    ApiKeys,
}

/// The fields that a list can be ordered by, as the platform calls them.
pub fn orderings(of: Ordered) -> Vec<&'static str> {
    let order = match of {
        Ordered::Services => &SERVICES.order,
        Ordered::Deployments => &DEPLOYMENTS.order,
        Ordered::Routes => &ROUTES.order,
        Ordered::Domains => &DOMAINS.order,
        Ordered::Sets => &CONFIGS.order,
        Ordered::Items => &CONFIG_ITEMS.order,
        Ordered::Projects => &PROJECTS.order,
        Ordered::Members => &MEMBERS.order,
        Ordered::ApiKeys => &API_KEYS.order,
    };
    order.fields.iter().map(|(name, _)| *name).collect()
}

/// Each list's statements with each ordering that it knows, for the test that prepares everything.
#[cfg(test)]
pub(crate) fn all() -> Vec<String> {
    let mut texts = Vec::new();
    let mut add = |base: &str, order: &Order, end: &str| {
        for (field, _) in order.fields {
            for direction in [Direction::Ascending, Direction::Descending] {
                texts.push(format!(
                    "{base}{}{end}",
                    order.clause(&[((*field).to_owned(), direction)])
                ));
            }
        }
        texts.push(format!("{base}{}{end}", order.clause(&[])));
    };
    for list in [
        &SERVICES,
        &DEPLOYMENTS,
        &ROUTES,
        &DOMAINS,
        &CONFIGS,
        &SECRETS,
        &PROJECTS,
    ] {
        for base in [list.of_member, list.of_admin] {
            add(base, &list.order, COUNTED_OFF);
            add(&format!("{base}{}", within(list.placed_by)), &list.order, IN_WINDOW);
        }
    }
    for items in [&CONFIG_ITEMS, &SECRET_ITEMS, &MEMBERS, &API_KEYS] {
        add(items.statement, &items.order, " limit $2 offset $3");
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordering_is_made_of_known_fields_only() {
        let asked = |names: &[&str]| {
            let asked: Vec<_> = names
                .iter()
                .map(|name| ((*name).to_owned(), Direction::Ascending))
                .collect();
            DOMAINS.order.clause(&asked)
        };
        assert_eq!(asked(&["hostname"]), " order by o.hostname asc, o.id asc");
        assert_eq!(
            asked(&["hostname", "hostname", "created_at"]),
            " order by o.hostname asc, o.created_at_us asc, o.id asc"
        );
        let default = " order by o.created_at_us desc, o.id desc";
        for hostile in [
            "",
            "id",
            "o.hostname",
            "hostname; drop table domain",
            "account__password",
            "'",
        ] {
            assert_eq!(asked(&[hostile]), default, "{hostile}");
        }
    }

    #[test]
    fn a_page_exists_from_one_to_the_last() {
        let query = |page| ListQuery {
            page,
            page_size: 20,
            ..ListQuery::default()
        };
        let number = |page, count| Place::of(&query(page), count).map(|place| place.number).ok();
        assert_eq!(number(PageNumber::Number(1), 0), Some(1));
        assert_eq!(number(PageNumber::Last, 0), Some(1));
        assert_eq!(number(PageNumber::Number(3), 42), Some(3));
        assert_eq!(number(PageNumber::Last, 42), Some(3));
        for beyond in [0, 4, u64::MAX] {
            let error = Place::of(&query(PageNumber::Number(beyond)), 42).err();
            assert!(error.as_ref().is_some_and(is_invalid_page), "{beyond}");
        }
    }
}
