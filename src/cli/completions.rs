//! `lm4lv completions`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use lm4lv::Result;

const MORE: &str = "\
Examples:
  lm4lv completions bash > ~/.local/share/bash-completion/completions/lm4lv
  lm4lv completions fish > ~/.config/fish/completions/lm4lv.fish
";

/// Arguments of `lm4lv completions`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "lm4lv", &mut script);
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
