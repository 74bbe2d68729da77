//! How much one control plane can look after: `hob-scale` beside this program measures, here is the table.

use std::process::Command;

use anyhow::{Context, ensure};

use super::{Bench, Measure, Row};

const STEPS_AIM: f64 = 2_000.0;
const PLANNER_AIM: f64 = 100_000.0;
const RECOVERY_AIM_S: f64 = 2.0;
const BYTES_AIM: f64 = 2_000.0;
/// Services of ten instances each.
const SERVICES: usize = 10_000;
const SERVICES_QUICK: usize = 200;

pub(super) fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let program = std::env::current_exe()?.with_file_name("hob-scale");
    // Few rounds are asked for where it is only to be seen that everything works.
    let services = if bench.rounds <= 2 { SERVICES_QUICK } else { SERVICES };
    let output = Command::new(&program)
        .args(["--services", &services.to_string()])
        .output()
        .with_context(|| format!("{} (bin/bench builds it)", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| -> anyhow::Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.with_context(|| format!("no {name} in `{said}`"))?;
        Ok(value.parse()?)
    };
    let instances = value("instances")?;
    let per_core = value("steps_per_cpu_second")?;
    let steps = Row {
        ours: Measure::new(per_core, "steps/s").text(),
        against: format!("{} steps/s by the clock", value("steps_per_second")?),
        aim: format!(">= {STEPS_AIM} steps/s"),
        met: Some(per_core >= STEPS_AIM),
        ..Row::new(format!(
            "instances started and stopped, all of {instances} changing image, one core"
        ))
    };
    let planned = value("planner_steps_per_second")?;
    let planner = Row {
        ours: Measure::new(planned, "steps/s").text(),
        aim: format!(">= {PLANNER_AIM} steps/s"),
        met: Some(planned >= PLANNER_AIM),
        ..Row::new("plans with their guard, over the services of that rollout, one core")
    };
    let recovery = Row::new(format!(
        "from a new control plane to its first table, {instances} instances"
    ));
    let each = Row::new("resident memory of the control plane for each instance");
    Ok(vec![
        steps,
        planner,
        recovery.at_most(Measure::new(value("recovery_seconds")?, "s"), RECOVERY_AIM_S),
        each.at_most(Measure::new(value("resident_bytes_per_instance")?, "B"), BYTES_AIM),
    ])
}
