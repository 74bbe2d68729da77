//! What can be typed, and what is read about it.

use clap::{CommandFactory, Parser};
use cli::{Environment, Outcome};

use super::{Hob, run, says};

#[test]
fn values_out_of_range_and_nonsense_are_usage_errors() {
    for line in [
        "hob deploy web --port 0",
        "hob deploy web --port 65536",
        "hob deploy web --instances 0",
        "hob deploy web --instances 13",
        "hob deploy web --image UPPER:1",
        "hob deploy web --env novalue",
        "hob deploy web --route http://a/b",
        "hob deploy web --timeout soon",
        "hob deploy web --worker --port 80",
        "hob deploy",
        "hob scale web 13",
        "hob secret set web",
        "hob image pack dir --name UPPER:1",
    ] {
        let error = Hob::try_parse_from(line.split(' '))
            .err()
            .unwrap_or_else(|| panic!("{line} was taken"));
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

/// Every example of every help page can be typed.
#[test]
fn all_examples_parse() {
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        found.extend(help.lines().filter(|line| line.starts_with("  ")).map(str::to_owned));
        command.get_subcommands().for_each(|sub| examples(sub, found));
    }
    let root = Hob::command();
    root.clone().debug_assert();
    let mut found = Vec::new();
    examples(&root, &mut found);
    let typed = |line: &str| {
        let line = &line[line.find("hob ")?..];
        // A command within is typed on its own elsewhere.
        let line = line
            .split_once("$(")
            .map_or(line.to_owned(), |(start, _)| format!("{start}x"));
        let marks = ["  ", " |", " <", " >", " &&"];
        let end = marks.iter().filter_map(|mark| line.find(mark)).min();
        Some(line[..end.unwrap_or(line.len())].to_owned())
    };
    let lines: Vec<String> = found.iter().filter_map(|line| typed(line)).collect();
    assert!(lines.len() > 40, "{lines:#?}");
    for line in lines {
        if let Err(error) = Hob::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
}

#[tokio::test]
async fn completions_are_made_for_the_whole_program() {
    let ran = run(&Environment::default(), "hob completions bash").await;
    assert_eq!(ran.outcome, Outcome::Done);
    says(&ran.out, &["_hob()", "deploy", "rollback"]);
}

#[tokio::test]
async fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");
    let ran = run(&Environment::default(), &format!("hob man {}", pages.display())).await;
    assert_eq!(ran.outcome, Outcome::Done, "{}", ran.err);
    for page in [
        "hob.1",
        "hob-deploy.1",
        "hob-route-add.1",
        "hob-secret-set.1",
        "hob-diff.1",
    ] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
    let deploy = std::fs::read_to_string(pages.join("hob-deploy.1")).expect("a page");
    says(&deploy, &["hob\\-deploy", "10% for 5m"]);
}
