//! Which facts of the specification are proved by a test: a list of those that are not, which may only shrink.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Families of numbered facts and how many each has.
const FAMILIES: [(&str, u32); 4] = [("S0", 52), ("S2", 44), ("G", 36), ("I", 15)];
const LIST: &str = "tests/facts_not_yet_proved.txt";

/// A fact counts as proved when the doc comment of a test names it: `/// S0.33, S0.34` or `/// S0.8 to S0.21`.
#[test]
fn the_list_of_facts_not_yet_proved_is_exact() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proved = named_in(&root.join("tests"));
    let missing: Vec<String> = all().into_iter().filter(|fact| !proved.contains(fact)).collect();
    let listed = fs::read_to_string(root.join(LIST)).unwrap_or_default();
    let listed: Vec<&str> = listed
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    assert_eq!(
        listed, missing,
        "{LIST} is on the left. A fact that a test proves now must leave the list; a fact must never come back to it: \
         restore its test instead."
    );
}

#[test]
fn ranges_and_single_facts_are_both_understood() {
    let mut found = BTreeSet::new();
    collect("/// S0.8 to S0.10, G.3: text; S2.1.", &mut found);
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, ["G.3", "S0.10", "S0.8", "S0.9", "S2.1"]);
}

fn all() -> Vec<String> {
    let family = |(name, count): (&'static str, u32)| (1..=count).map(move |n| format!("{name}.{n}"));
    FAMILIES.into_iter().flat_map(family).collect()
}

fn named_in(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).expect("the tests are here") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_none_or(|ending| ending != "rs") || path.ends_with("facts.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("tests are text");
        for line in text.lines().filter(|line| line.trim_start().starts_with("///")) {
            collect(line, &mut found);
        }
    }
    found
}

fn collect(line: &str, found: &mut BTreeSet<String>) {
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let Some((family, first)) = fact(word) else { continue };
        let mut last = first;
        if words.peek() == Some(&"to") {
            words.next();
            if let Some((other, end)) = words.peek().copied().and_then(fact)
                && other == family
            {
                last = end;
                words.next();
            }
        }
        found.extend((first..=last).map(|n| format!("{family}.{n}")));
    }
}

/// `S0.33,` → (`S0`, 33).
fn fact(word: &str) -> Option<(&'static str, u32)> {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let (family, number) = word.split_once('.')?;
    let (family, _) = FAMILIES.into_iter().find(|(name, _)| *name == family)?;
    Some((family, number.parse().ok()?))
}
