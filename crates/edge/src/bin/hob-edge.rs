//! The edge by itself: what `hob edge` is, for tests and measurements of this crate alone.

fn main() -> std::process::ExitCode {
    edge::edge_main(std::env::args_os().skip(1))
}
