//! The shim alone, for this crate's tests. In the product it is a role of `hob`.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine::embedded::shim_main(std::env::args_os().skip(1).collect())
}
