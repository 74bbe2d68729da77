//! How long to wait before another instance is started in place of one that died.

use std::time::Duration;

use super::inputs::Crash;
use crate::Template;

/// A life of this length clears the record: what dies after it is restarted at once.
const HEALTHY_LIFE: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Time that must still pass before the next start of `template`. Zero most of the time.
///
/// The first death of every wanted instance is free, since one bad moment may take all of them; from then on the wait
/// doubles from [`FIRST`] to [`LONGEST`].
pub(super) fn wait(crashes: &[Crash], template: &Template, instances: u32) -> Duration {
    let mut quick_deaths = crashes
        .iter()
        .filter(|c| c.template == *template)
        .take_while(|c| c.lived < HEALTHY_LIFE);
    let Some(newest) = quick_deaths.next() else {
        return Duration::ZERO;
    };
    let rounds = (1 + quick_deaths.count() as u32) / instances.max(1);
    let Some(doublings) = rounds.checked_sub(2) else {
        return Duration::ZERO;
    };
    let delay = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
    delay.saturating_sub(newest.age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashes(count: usize, newest_age: Duration) -> Vec<Crash> {
        let template = Template("t".into());
        (0..count)
            .map(|n| Crash {
                template: template.clone(),
                age: newest_age + Duration::from_secs(n as u64),
                lived: Duration::from_millis(100),
            })
            .collect()
    }

    fn wait_after(count: usize, instances: u32) -> Duration {
        wait(&crashes(count, Duration::ZERO), &Template("t".into()), instances)
    }

    #[test]
    fn the_wait_doubles_from_one_second_to_a_minute() {
        let waits: Vec<u64> = (0..12).map(|n| wait_after(n, 1).as_secs()).collect();
        assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn many_instances_that_die_together_count_as_one_round() {
        assert_eq!(wait_after(4, 4), Duration::ZERO);
        assert_eq!(wait_after(8, 4), Duration::from_secs(1));
    }

    #[test]
    fn a_long_life_clears_the_record() {
        let mut record = crashes(5, Duration::ZERO);
        record[0].lived = Duration::from_secs(3600);
        assert_eq!(wait(&record, &Template("t".into()), 1), Duration::ZERO);
    }

    #[test]
    fn time_passed_is_taken_off() {
        let record = crashes(4, Duration::from_secs(3));
        assert_eq!(wait(&record, &Template("t".into()), 1), Duration::from_secs(1));
        assert_eq!(wait(&record, &Template("other".into()), 1), Duration::ZERO);
    }
}
