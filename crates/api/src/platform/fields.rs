//! Reads the fields of a body one by one and remembers everything that is wrong with them, so that one answer names
//! every bad field (S2.18).
//!
//! Messages are S2.18's where the documents have one, else Django REST framework's (G.35, G.36). Like there, numbers are
//! read from strings too and texts are trimmed; unlike there, a number is no text (faces 3.3).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use domain::error::Problems;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::error::Failure;
use super::extract;

/// Longest text of a number that is looked at.
const NUMBER_CHARS_MAX: usize = 40;

/// The fields of one body. Fields that nobody asks for are ignored (I.10).
pub struct Fields {
    map: Map<String, Value>,
    /// Of nested objects: `options.`.
    prefix: String,
    /// Required fields may be missing.
    partial: bool,
    problems: Problems,
}

impl Fields {
    /// Of a body that makes something.
    pub fn full(map: Map<String, Value>) -> Self {
        Fields {
            map,
            prefix: String::new(),
            partial: false,
            problems: Problems::default(),
        }
    }

    /// Of a body that changes something: nothing is required.
    pub fn partial(map: Map<String, Value>) -> Self {
        Fields {
            partial: true,
            ..Fields::full(map)
        }
    }

    /// A text of 1 to `max` characters that `rule` accepts.
    pub fn text(&mut self, name: &str, max: usize, rule: impl FnOnce(&str) -> Result<(), String>) -> Option<String> {
        let text = self.any_text(name, max)?.trim().to_owned();
        if text.is_empty() {
            return self.bad(name, "This field may not be blank.");
        }
        if let Err(problem) = rule(&text) {
            return self.bad(name, problem);
        }
        Some(text)
    }

    /// A text of at most `max` characters, possibly none, exactly as it was sent.
    pub fn any_text(&mut self, name: &str, max: usize) -> Option<String> {
        let Value::String(text) = self.take(name)? else {
            return self.bad(name, "Not a valid string.");
        };
        if text.contains('\0') {
            return self.bad(name, "Null characters are not allowed.");
        }
        if text.chars().count() > max {
            return self.bad(name, format!("Ensure this field has no more than {max} characters."));
        }
        Some(text)
    }

    /// An integer within `range`.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(name)?;
        let Some(number) = as_integer(&value) else {
            return self.bad(name, "A valid integer is required.");
        };
        if range.contains(&number) {
            return Some(number);
        }
        let (low, high) = range.into_inner();
        self.bad(name, format!("Ensure this value is between {low} and {high}"))
    }

    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(value) => Some(value),
            Value::String(text) if text.eq_ignore_ascii_case("true") || text == "1" => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") || text == "0" => Some(false),
            Value::Number(number) if number.as_u64() == Some(1) => Some(true),
            Value::Number(number) if number.as_u64() == Some(0) => Some(false),
            _ => self.bad(name, "Must be a valid boolean."),
        }
    }

    pub fn uuid<T: From<Uuid>>(&mut self, name: &str) -> Option<T> {
        let value = self.take(name)?;
        match value.as_str().and_then(extract::uuid) {
            Some(uuid) => Some(uuid.into()),
            None => self.bad(name, "Must be a valid UUID."),
        }
    }

    /// `Some(None)` for `null`, which empties the field.
    pub fn nullable<T>(&mut self, name: &str, read: impl FnOnce(&mut Self, &str) -> Option<T>) -> Option<Option<T>> {
        match self.map.get(name)? {
            Value::Null => Some(None),
            _ => read(self, name).map(Some),
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.take(name)?;
        let chosen = choices.iter().find(|(word, _)| value.as_str() == Some(word));
        match chosen {
            Some((_, choice)) => Some(*choice),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                self.bad(name, format!("Not a valid choice; choose one of {}", words.join(", ")))
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, name: &str, count: RangeInclusive<usize>, bytes_max: usize) -> Option<Vec<String>> {
        let Value::Array(items) = self.take(name)? else {
            return self.bad(name, "Expected a list of strings.");
        };
        if !count.contains(&items.len()) {
            let (low, high) = count.into_inner();
            return self.bad(name, format!("Ensure this list has between {low} and {high} items."));
        }
        let texts: Option<Vec<String>> = items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        match texts {
            None => self.bad(name, "Expected a list of strings."),
            Some(texts) if texts.iter().any(|text| text.contains('\0')) => {
                self.bad(name, "Null characters are not allowed.")
            }
            Some(texts) if texts.iter().any(|text| text.len() > bytes_max) => {
                self.bad(name, format!("Ensure no item has more than {bytes_max} bytes."))
            }
            texts => texts,
        }
    }

    /// An object of texts whose keys `rule` accepts; problems are reported as `name.key`, and never repeat a value.
    pub fn pairs(
        &mut self,
        name: &str,
        count_max: usize,
        bytes_max: usize,
        rule: impl Fn(&str) -> Result<(), String>,
    ) -> Option<BTreeMap<String, String>> {
        let Value::Object(map) = self.take(name)? else {
            return self.bad(name, "Expected an object.");
        };
        if map.len() > count_max {
            return self.bad(name, format!("Ensure this object has at most {count_max} keys."));
        }
        let problem = |key: &str, value: &Value| match (rule(key), value) {
            // The key may be anything, and so it is not named.
            (Err(problem), _) => Some((name.to_owned(), problem)),
            (_, Value::String(text)) if text.contains('\0') => {
                Some((format!("{name}.{key}"), "Null characters are not allowed.".to_owned()))
            }
            (_, Value::String(text)) if text.len() > bytes_max => Some((
                format!("{name}.{key}"),
                format!("Ensure this field has no more than {bytes_max} bytes."),
            )),
            (_, Value::String(_)) => None,
            _ => Some((format!("{name}.{key}"), "Not a valid string.".to_owned())),
        };
        let problems: Vec<_> = map.iter().filter_map(|(key, value)| problem(key, value)).collect();
        for (field, text) in problems.iter().take(NESTED_BAD_MAX) {
            self.problem(field, text);
        }
        let texts = map.into_iter().map(|(key, value)| match value {
            Value::String(text) => Some((key, text)),
            _ => None,
        });
        texts.collect::<Option<_>>().filter(|_| problems.is_empty())
    }

    /// A nested object; its problems are reported as `name.field`, and fields outside `known` are problems too: nobody
    /// else's clients send them, so they are typing errors. `null` means an empty one.
    pub fn nested<T>(&mut self, name: &str, known: &[&str], read: impl FnOnce(&mut Fields) -> Option<T>) -> Option<T> {
        let map = match self.map.get(name)? {
            Value::Object(map) => map.clone(),
            Value::Null => Map::new(),
            _ => return self.bad(name, "Expected an object."),
        };
        let mut inner = Fields {
            map,
            prefix: format!("{}{name}.", self.prefix),
            partial: self.partial,
            problems: std::mem::take(&mut self.problems),
        };
        let unknown: Vec<String> = inner
            .map
            .keys()
            .filter(|key| !known.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in unknown.iter().take(NESTED_BAD_MAX) {
            inner.problem(key, format!("Unknown field; known ones are {}", known.join(", ")));
        }
        let value = read(&mut inner);
        self.problems = inner.problems;
        value
    }

    /// A list of nested objects, each as [`Fields::nested`]; their problems are reported as `name.0.field`.
    pub fn each<T>(
        &mut self,
        name: &str,
        count_max: usize,
        known: &[&str],
        mut read: impl FnMut(&mut Fields) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(name)? else {
            return self.bad(name, "Expected a list of objects.");
        };
        if items.len() > count_max {
            return self.bad(name, format!("Ensure this list has at most {count_max} items."));
        }
        let map = (0..).zip(items).map(|(n, item): (usize, Value)| (n.to_string(), item));
        let mut list = Fields {
            map: map.collect(),
            prefix: format!("{}{name}.", self.prefix),
            partial: self.partial,
            problems: std::mem::take(&mut self.problems),
        };
        let count = list.map.len();
        // All of them, so that everything that is wrong is named.
        let read: Vec<Option<T>> = (0..count)
            .map(|n| list.nested(&n.to_string(), known, &mut read))
            .collect();
        self.problems = list.problems;
        read.into_iter().collect()
    }

    /// Whether the field was sent, `null` included.
    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// Reports that a required field is missing; for fields whose reader has answered `None`.
    pub fn require(&mut self, name: &str) {
        if !self.partial && !self.has(name) {
            self.problem(name, "This field is required");
        }
    }

    /// Likewise for fields of a list's items, which are whole even where the body is a change.
    pub fn require_always(&mut self, name: &str) {
        if !self.has(name) {
            self.problem(name, "This field is required");
        }
    }

    pub fn is_object(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(Value::is_object)
    }

    pub fn problem(&mut self, name: &str, text: impl Into<String>) {
        self.problems.add(&format!("{}{name}", self.prefix), text);
    }

    /// Whether anything was wrong so far.
    pub fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// # Errors
    /// 400 with everything that was wrong.
    pub fn finish(self) -> Result<(), Failure> {
        Ok(self.problems.check()?)
    }

    /// The value, where one was sent that is not `null`.
    fn take(&mut self, name: &str) -> Option<Value> {
        match self.map.get(name)? {
            Value::Null => self.bad(name, "This field may not be null."),
            value => Some(value.clone()),
        }
    }

    fn bad<T>(&mut self, name: &str, text: impl Into<String>) -> Option<T> {
        self.problem(name, text);
        None
    }
}

/// Most bad fields of one nested object that are named.
const NESTED_BAD_MAX: usize = 10;

/// `3`, `3.0`, `"3"`; never a truth value.
fn as_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) if text.len() <= NUMBER_CHARS_MAX => text.trim().parse().ok(),
        _ => None,
    }
}

/// Beyond 2^53 a float no longer names one integer.
fn whole(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
}

/// Names for people: anything visible. Control, zero-width and direction-changing characters could make two names look
/// alike or a terminal misbehave (C6.22).
pub fn visible(name: &str) -> Result<(), String> {
    let deceptive = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if name.chars().any(deceptive) {
        Err("Use visible characters only".to_owned())
    } else {
        Ok(())
    }
}

/// What an image reference looks like from afar; the image store knows the whole grammar.
pub fn image(reference: &str) -> Result<(), String> {
    if reference.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("Use an image reference such as nginx:1.25, without spaces".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(map) => Fields::full(map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn integers_are_read_as_django_reads_them() {
        let cases = [
            (json!(3), Some(3)),
            (json!("3"), Some(3)),
            (json!(3.0), Some(3)),
            (json!(3.5), None),
            (json!(true), None),
            (json!("x"), None),
            (json!(1e300), None),
            (json!([3]), None),
        ];
        for (sent, expected) in cases {
            assert_eq!(as_integer(&sent), expected, "{sent}");
        }
    }

    #[test]
    fn one_answer_names_every_bad_field() {
        let mut f = fields(json!({"port": 0, "name": null, "flag": "perhaps"}));
        assert_eq!(f.integer("port", 1..=65535), None);
        assert_eq!(f.text("name", 32, |_| Ok(())), None);
        assert_eq!(f.boolean("flag"), None);
        f.require("image");
        let Err(Failure::Domain(error)) = f.finish() else {
            panic!("accepted");
        };
        assert_eq!(
            error.context,
            "invalid: {\"flag\": [\"Must be a valid boolean.\"], \"image\": [\"This field is required\"], \
             \"name\": [\"This field may not be null.\"], \"port\": [\"Ensure this value is between 1 and 65535\"]}"
        );
    }

    #[test]
    fn nested_problems_carry_the_whole_name() {
        let mut f = fields(json!({"options": {"drain_ms": -1, "drian_ms": 5}}));
        f.nested("options", &["drain_ms"], |f| f.integer("drain_ms", 0..=10));
        let Err(Failure::Domain(error)) = f.finish() else {
            panic!("accepted");
        };
        assert!(error.context.contains("options.drain_ms"), "{}", error.context);
        assert!(error.context.contains("options.drian_ms"), "{}", error.context);
    }

    #[test]
    fn names_that_deceive_the_eye_are_refused() {
        for bad in ["a\u{202e}b", "a\u{200b}b", "a\nb", "\u{feff}a", "a\u{1b}[31m"] {
            assert!(visible(bad).is_err(), "{bad:?}");
        }
        assert_eq!(visible("Straße 7 – prod"), Ok(()));
    }
}
