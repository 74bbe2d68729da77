//! Every statement, prepared on both engines.

use crate::db::{Prepared, Sql, placeholders};
use crate::tests::{Engine, World};
use crate::{list, sql};

fn everything() -> Vec<String> {
    let mut texts: Vec<String> = sql::all().into_iter().map(|(_, text)| text.to_owned()).collect();
    texts.extend(list::all());
    texts
}

async fn prepared(engine: Engine) -> Option<Vec<Prepared>> {
    let world = World::new(engine).await?;
    let mut tx = world.store.db.write().await.unwrap();
    let mut all = Vec::new();
    for text in everything() {
        let statement = tx
            .prepare(Sql::composed(text.clone()))
            .await
            .unwrap_or_else(|error| panic!("{engine:?}: {error:?}: {text}"));
        assert_eq!(
            statement.parameters,
            placeholders(&text),
            "{engine:?} counts other parameters in {text}"
        );
        all.push(statement);
    }
    Some(all)
}

#[tokio::test]
async fn every_statement_can_be_prepared_on_sqlite() {
    let statements = prepared(Engine::Sqlite).await.unwrap();
    assert!(statements.len() > 150, "{}", statements.len());
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn every_statement_has_the_same_parameters_and_columns_on_both_engines() {
    let Some(postgres) = prepared(Engine::Postgres).await else {
        return;
    };
    let sqlite = prepared(Engine::Sqlite).await.unwrap();
    for ((text, sqlite), postgres) in everything().iter().zip(sqlite).zip(postgres) {
        assert_eq!(sqlite, postgres, "{text}");
    }
}

#[test]
fn no_two_statements_have_one_name() {
    let mut names: Vec<&str> = sql::all().into_iter().map(|(name, _)| name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn every_statement_of_a_tenant_is_bound_to_its_principal() {
    // Statements that answer a single row say whether the caller may know it; lists are restricted to the caller's
    // projects, or marked as the administrator's.
    for (name, text) in sql::all() {
        let single = text.contains(" as role");
        let listed = name.ends_with("_OF_MEMBER") || name.ends_with("_OF_ADMIN");
        if single {
            assert!(text.contains("m.account = $1"), "{name}");
        }
        if listed {
            let bound = if name.ends_with("_OF_MEMBER") {
                "m.account = $1 and not $2"
            } else {
                "and $2"
            };
            assert!(text.contains(bound), "{name}");
        }
    }
}

#[test]
fn no_sql_stands_outside_its_place() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let inside = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["sql", "tests"].contains(&inside.as_str()) {
                    pending.push(path);
                }
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in ["\"select ", "\"insert into", "\"update ", "\"delete from"] {
                assert!(!product.contains(word), "{inside} contains {word}");
            }
        }
    }
}
