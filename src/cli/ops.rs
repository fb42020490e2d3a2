//! `lm4lv ops`: what a recipe can name.

use std::process::ExitCode;

use clap::Args;
use lm4lv::degrade::catalogue;
use lm4lv::degrade::catalogue::{Catalogue, OperationEntry, ParamEntry, PresetEntry};
use lm4lv::{Error, Result};

use super::{print, print_json, table};

const MORE: &str = "\
Examples:
  lm4lv ops                    everything
  lm4lv ops gaussian_noise     one of them
  lm4lv ops lm4lv              all presets of that family
  lm4lv ops --json             for programs
";

const GRAMMAR: &str = "\
A number in a recipe is fixed (25), uniform with both ends ([5, 50]), one of several ({ choice: [15, 25, 50] }),
{ log_uniform: [1, 50] }, { normal: { mean: 20, std: 5 } }, or a kept input column ({ column: sigma }).
Control steps: preset, probability, one_of, shuffle, repeat, by_variant.
";

/// Arguments of `lm4lv ops`.
#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(crate) struct OpsArgs {
    /// Only operations and presets whose name is, or begins with, this
    name: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub(crate) fn run(args: &OpsArgs) -> Result<ExitCode> {
    let mut catalogue = catalogue().map_err(Error::Bug)?;
    if let Some(name) = &args.name {
        let exact =
            catalogue.operations.iter().any(|op| op.name == name) || catalogue.presets.iter().any(|p| p.name == name);
        let wanted = |given: &str| if exact { given == name } else { given.starts_with(name.as_str()) };
        catalogue.operations.retain(|operation| wanted(operation.name));
        catalogue.presets.retain(|preset| wanted(preset.name));
        if catalogue.operations.is_empty() && catalogue.presets.is_empty() {
            return Err(Error::Config(format!("there is no operation or preset `{name}`: `lm4lv ops` lists them")));
        }
    }
    match args.json {
        true => print_json(&catalogue)?,
        false => print(&text(&catalogue, args.name.is_none()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(catalogue: &Catalogue, all: bool) -> String {
    let mut out = String::new();
    for operation in &catalogue.operations {
        out.push_str(&format!("{} (version {}): {}\n", operation.name, operation.version, operation.doc));
        out.push_str(&parameters(operation));
        out.push('\n');
    }
    if !catalogue.presets.is_empty() {
        let row = |preset: &PresetEntry| {
            let mark = if preset.calibrated { "calibrated" } else { "" };
            vec![preset.name.to_owned(), mark.to_owned(), preset.recipe.to_string()]
        };
        out.push_str("Presets (calibrated: found by matching published scores, not published themselves)\n");
        out.push_str(&table(&catalogue.presets.iter().map(row).collect::<Vec<_>>(), &[1, 2]));
        out.push('\n');
    }
    if all {
        out.push_str(GRAMMAR);
    }
    out
}

fn parameters(operation: &OperationEntry) -> String {
    let row = |param: &ParamEntry| {
        let default = match &param.default {
            _ if param.required => "required".to_owned(),
            Some(value) => value.to_string(),
            None => "absent".to_owned(),
        };
        let only = param.only_with.as_ref().map_or(String::new(), |only| format!(" (only with {only})"));
        vec![param.name.to_owned(), default, param.allowed.clone(), format!("{}{only}", param.doc)]
    };
    table(&operation.params.iter().map(row).collect::<Vec<_>>(), &[1, 2, 3])
}
