//! `lm4lv schema`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use lm4lv::Result;
use lm4lv::config::pipeline_schema;
use lm4lv::sink::results_schema;
use lm4lv::source::reference_schema;

const MORE: &str = "\
For completion and help in an editor with a YAML language server, let the first line of a pipeline file be
  # yaml-language-server: $schema=../schemas/pipeline.schema.json

Examples:
  lm4lv schema pipeline > schemas/pipeline.schema.json
  lm4lv schema results
";

/// Arguments of `lm4lv schema`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct SchemaArgs {
    /// Which one
    #[arg(value_enum)]
    of: Of,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Of {
    /// JSON Schema of pipeline files
    Pipeline,
    /// JSON Schema of a Kafka message, as `source.kafka` reads it unless told otherwise
    Reference,
    /// Columns of a dataset (type, unit, when null, volatile) and failure codes
    Results,
}

/// Prints it.
pub(crate) fn run(args: &SchemaArgs) -> Result<ExitCode> {
    match args.of {
        Of::Pipeline => super::print_json(&pipeline_schema())?,
        Of::Reference => super::print_json(&reference_schema())?,
        Of::Results => super::print_json(&results_schema())?,
    }
    Ok(ExitCode::SUCCESS)
}
