//! The `StopSignal` of an image.

use std::str::FromStr;

use nix::sys::signal::Signal;

/// The number of `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`; SIGTERM for an empty text. `None`: there is no such signal.
pub fn stop_signal(text: &str) -> Option<i32> {
    let text = text.trim().to_ascii_uppercase();
    if text.is_empty() {
        return Some(libc::SIGTERM);
    }
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(libc::SIGRTMIN()),
        (Some(offset), _) => offset
            .strip_prefix('+')?
            .parse::<i32>()
            .ok()
            .map(|offset| libc::SIGRTMIN() + offset),
        (_, Some("")) => Some(libc::SIGRTMAX()),
        (_, Some(offset)) => offset
            .strip_prefix('-')?
            .parse::<i32>()
            .ok()
            .map(|offset| libc::SIGRTMAX() - offset),
        (None, None) => return Signal::from_str(&format!("SIG{name}")).ok().map(|signal| signal as i32),
    };
    real_time.filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_a_signal_is_understood() {
        for (text, number) in [
            ("", 15),
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
        ] {
            assert_eq!(stop_signal(text), Some(number), "{text}");
        }
        for bad in ["0", "-1", "65", "SIGNOPE", "RTMIN+99", "RTMIN-1", "TERM KILL"] {
            assert_eq!(stop_signal(bad), None, "{bad}");
        }
    }
}
