//! Parse, call, exit code.

fn main() -> std::process::ExitCode {
    ringlab::cli::main().into()
}
