//! Holds the ids that were sent against those that apps say were delivered.

use std::collections::HashMap;

use uuid::Uuid;

use super::report::{Outcome, PostRecord};

/// What apps say: how often each id came in.
#[derive(Debug, Clone, Default)]
pub struct Delivered {
    times: HashMap<Uuid, u32>,
}

impl Delivered {
    /// Reads a line of output; only `… delivered ID` counts.
    pub fn read_line(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once("delivered ") else {
            return;
        };
        let word: String = rest
            .chars()
            .take_while(|c| c.is_ascii_hexdigit() || *c == '-')
            .collect();
        if let Ok(id) = word.parse() {
            *self.times.entry(id).or_default() += 1;
        }
    }

    pub fn count(&self) -> usize {
        self.times.len()
    }
}

/// The comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    pub sent: usize,
    /// Came in more than once.
    pub twice: Vec<Uuid>,
    /// The sender was told that it arrived, and no app says so.
    pub lost: Vec<Uuid>,
    /// Came in, and the sender was told that it had failed: allowed, but worth a look.
    pub unacknowledged: Vec<Uuid>,
}

impl Audit {
    pub fn new(sent: &[PostRecord], delivered: &Delivered) -> Self {
        let mut audit = Audit {
            sent: sent.len(),
            ..Audit::default()
        };
        for post in sent {
            match (delivered.times.get(&post.id).copied().unwrap_or(0), post.outcome) {
                (0, Outcome::Ok) => audit.lost.push(post.id),
                (0, _) | (1, Outcome::Ok) => {}
                (1, _) => audit.unacknowledged.push(post.id),
                _ => audit.twice.push(post.id),
            }
        }
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_lost_and_unacknowledged_are_told_apart() {
        let [once, twice, lost, silent, failed] = std::array::from_fn(|n| Uuid::from_u128(n as u128 + 1));
        let mut delivered = Delivered::default();
        for id in [once, twice, silent, twice] {
            delivered.read_line(&format!("{{\"text\":\"delivered {id}\"}}"));
        }
        delivered.read_line("delivered nothing");
        let post = |id, outcome| PostRecord { id, outcome };
        let sent = [
            post(once, Outcome::Ok),
            post(twice, Outcome::Ok),
            post(lost, Outcome::Ok),
            post(silent, Outcome::Timeout),
            post(failed, Outcome::Refused),
        ];
        let audit = Audit::new(&sent, &delivered);
        let expected = Audit {
            sent: 5,
            twice: vec![twice],
            lost: vec![lost],
            unacknowledged: vec![silent],
        };
        assert_eq!(audit, expected);
    }
}
