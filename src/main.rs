//! The command line's frame: arguments, runtime, exit codes, and what is said when something goes wrong.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Wrong usage, as in `sysexits.h`; clap's own 2 means a wrong pipeline file here.
const USAGE: u8 = 64;
/// A bug.
const BUG: u8 = 1;

#[global_allocator]
static ALLOCATOR: lm4lv::allocator::BySize = lm4lv::allocator::BySize;

fn main() -> ExitCode {
    lm4lv::allocator::keep_pages();
    std::panic::set_hook(Box::new(|panic| {
        // What a decoder makes of a hostile file is told in its row.
        if !lm4lv::load::is_decoding() {
            cli::logging::say(&format!("bug: {panic}\nplease report it\n"));
        }
    }));
    let arguments = match cli::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Fails only if nobody reads.
            error.print().ok();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    // A panic would end the process with 101; the hook has told it already.
    std::panic::catch_unwind(|| run(arguments)).unwrap_or(ExitCode::from(BUG))
}

fn run(arguments: cli::Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::logging::say(&format!("error: cannot start threads: {error}\n"));
            return ExitCode::from(75);
        }
    };
    let code = runtime.block_on(arguments.run()).unwrap_or_else(|error| {
        cli::logging::last_words(&error);
        ExitCode::from(error.exit_code())
    });
    // A fetch that is still waiting must not hold the process.
    runtime.shutdown_background();
    code
}
