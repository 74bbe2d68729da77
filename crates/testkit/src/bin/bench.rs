//! `hob-bench`: measures and prints one table. `bin/bench` builds what it needs and calls it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use testkit::bench::{Bench, PIECES, run_piece, table};

/// Measures Hob against its rivals and against what the machine allows.
#[derive(Parser)]
#[command(name = "hob-bench", version)]
struct Arguments {
    /// The hob to measure
    #[arg(long)]
    hob: PathBuf,
    /// Rounds of each interleaved comparison
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of load in a round
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Rollouts under load with each app
    #[arg(long, default_value_t = 30)]
    rollouts: usize,
    /// Moments at which something is killed
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Few and short rounds: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Pieces to measure [default: all]
    #[arg(value_parser = PIECES.map(|(name, _, _)| name))]
    pieces: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let quick = arguments.quick;
    let bench = Bench {
        hob: arguments.hob,
        rounds: if quick { 2 } else { arguments.rounds },
        round: Duration::from_secs(if quick { 2 } else { arguments.seconds }),
        rollouts: if quick { 3 } else { arguments.rollouts },
        kills: if quick { 5 } else { arguments.kills },
    };
    let wanted = |name: &str| arguments.pieces.is_empty() || arguments.pieces.iter().any(|piece| piece == name);
    let rows: Vec<_> = PIECES
        .into_iter()
        .filter(|(name, _, _)| wanted(name))
        .flat_map(|piece| run_piece(&bench, piece))
        .collect();
    print!("{}", table(&rows));
    let missed = rows.iter().filter(|row| row.met == Some(false)).count();
    println!("{missed} of {} missed what was aimed at", rows.len());
    // A missed aim is a finding, not an error of the measurement.
    ExitCode::SUCCESS
}
