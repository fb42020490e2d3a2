//! `lm4lv model`: makes model folders and explains them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use lm4lv::restore::folder::ModelFolder;
use lm4lv::restore::inspect::{Inspection, inspect};
use lm4lv::restore::manifest::{Licence, Piece, Pieces};
use lm4lv::restore::pack::{Pack, PromptSource};
use lm4lv::{Error, Result};

use super::{bytes, print, print_json, table, thousands};

const EXAMPLES: &str = "\
Examples:
  lm4lv model inspect models/lm4lv-mini
  lm4lv model pack --name my-model --mae vit-mae-r --llm Llama-2-7b-chat-hf \\
      --tokenizer Llama-2-7b-chat-hf/tokenizer.json --adapter denoise=pytorch_model.pt --out models/my-model
";

/// Arguments of `lm4lv model`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ModelArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a model folder of its parts
    Pack(Box<PackArgs>),
    /// Show what a model folder holds, and whether it is sound
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
struct PackArgs {
    /// The model's name, which rows record
    #[arg(long)]
    name: String,
    /// The masked autoencoder: a Hugging Face ViTMAEForPreTraining folder
    #[arg(long, value_name = "DIR")]
    mae: PathBuf,
    /// The language model: a Hugging Face LLaMA folder, or a GGUF file
    #[arg(long, value_name = "DIR|GGUF")]
    llm: PathBuf,
    /// The language model's tokenizer.json: makes the prompt's token ids
    #[arg(long, value_name = "FILE", required_unless_present = "prompt_ids")]
    tokenizer: Option<PathBuf>,
    /// Token that begins a text [default: what the language model's files say]
    #[arg(long, value_name = "ID", requires = "tokenizer")]
    bos: Option<u32>,
    /// Tokenise `### Human: <Img>` as one piece, not as two (the demo model's adapters were trained so)
    #[arg(long, requires = "tokenizer")]
    joined_before: bool,
    /// The prompt's token ids instead: a JSON file with lists `before`, `between` and `after`
    #[arg(long, value_name = "FILE", conflicts_with = "tokenizer")]
    prompt_ids: Option<PathBuf>,
    /// What was trained for a task: safetensors, or the authors' pytorch_model.pt; may be given again
    #[arg(long, value_name = "TASK=FILE", required = true, value_parser = pair)]
    adapter: Vec<(String, String)>,
    /// What a task's adapter restores, for people; may be given again
    #[arg(long, value_name = "TASK=TEXT", value_parser = pair)]
    about: Vec<(String, String)>,
    /// A part, its licence and where it comes from; may be given again
    #[arg(long, num_args = 3, value_names = ["PART", "LICENCE", "SOURCE"])]
    licence: Vec<String>,
    /// Leave out the GGUF file's table of embeddings and its tokenizer, but for the embeddings of the prompt's tokens
    #[arg(long)]
    prompt_only_embeddings: bool,
    /// Seed of the restorer random_llm
    #[arg(long, value_name = "SEED")]
    random_seed: Option<u64>,
    /// The model folder, which must not be there
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// The model folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print as JSON, with every tensor's shape
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no `=`")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs it. Exit code 2 if an inspected model is not sound.
pub(crate) fn run(args: ModelArgs) -> Result<ExitCode> {
    match args.command {
        Command::Pack(args) => pack(*args),
        Command::Inspect(args) => {
            let found = inspect(&ModelFolder::open(&args.folder)?, true);
            match args.json {
                true => print_json(&found)?,
                false => print(&text(&found))?,
            }
            Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
        }
    }
}

fn pack(args: PackArgs) -> Result<ExitCode> {
    let texts = |texts: &[&str]| texts.iter().map(|text| Piece::Text((*text).to_owned())).collect::<Vec<_>>();
    let before: &[&str] = if args.joined_before { &["### Human: <Img>"] } else { &["### Human: ", "<Img>"] };
    let pieces = Pieces {
        before: [Piece::Bos].into_iter().chain(texts(before)).collect(),
        between: texts(&["</Img> "]),
        after: texts(&["\n### Assistant: ", "<Img>"]),
    };
    let prompt = match (args.prompt_ids, args.tokenizer) {
        (Some(file), _) => PromptSource::Ids(file),
        (None, Some(tokenizer)) => PromptSource::Texts { tokenizer, pieces, bos: args.bos },
        (None, None) => return Err(Error::Config("--tokenizer or --prompt-ids is needed".into())),
    };
    let mut adapters = BTreeMap::new();
    for (task, file) in args.adapter {
        if adapters.insert(task.clone(), (file.into(), String::new())).is_some() {
            return Err(Error::Config(format!("--adapter {task} is given twice")));
        }
    }
    for (task, about) in args.about {
        let adapter =
            adapters.get_mut(&task).ok_or_else(|| Error::Config(format!("--about {task}: no such --adapter")))?;
        adapter.1 = about;
    }
    let licence = |licence: &[String; 3]| {
        let [what, licence, source] = licence.clone();
        Licence { what, licence, source }
    };
    let made = Pack {
        name: args.name,
        mae: args.mae,
        llm: args.llm,
        prompt,
        adapters,
        licences: args.licence.as_chunks().0.iter().map(licence).collect(),
        prompt_only_embeddings: args.prompt_only_embeddings,
        random_seed: args.random_seed,
    };
    let folder = made.make(&args.out)?;
    print(&text(&inspect(&folder, false)))?;
    Ok(ExitCode::SUCCESS)
}

/// A count of parameters as people say it.
fn millions(n: u64) -> String {
    format!("{:.1} M", n as f64 / 1e6)
}

fn text(found: &Inspection) -> String {
    let mut out = format!("{}: weights {}\n\n", found.name, found.weights_sha256);
    let header = ["part", "tensors", "parameters", "in files", "stored as"].map(str::to_owned).to_vec();
    let rows = found.parts.iter().map(|part| {
        let kinds = part.dtypes.iter().map(|(dtype, values)| format!("{dtype} {}", millions(*values)));
        vec![
            part.part.clone(),
            thousands(part.tensors as u64),
            millions(part.parameters),
            bytes(part.bytes),
            kinds.collect::<Vec<_>>().join(", "),
        ]
    });
    out.push_str(&table(&[header].into_iter().chain(rows).collect::<Vec<_>>(), &[4]));
    out.push('\n');
    if let Some(mae) = &found.mae {
        out.push_str(&format!(
            "autoencoder: {0}x{0} pixels, patches of {1}, {2} tokens; encoder {3} layers of {4}, decoder {5} of {6}\n",
            mae.image_size,
            mae.patch_size,
            mae.tokens(),
            mae.num_hidden_layers,
            mae.hidden_size,
            mae.decoder_num_hidden_layers,
            mae.decoder_hidden_size
        ));
    }
    if let Some(llm) = &found.llm {
        out.push_str(&format!(
            "language model: {} layers of {}, {} heads, {} for keys and values, rope theta {}\n",
            llm.num_hidden_layers,
            llm.hidden_size,
            llm.num_attention_heads,
            llm.num_key_value_heads.unwrap_or(llm.num_attention_heads),
            llm.theta()
        ));
    }
    let prompt = &found.prompt;
    out.push_str(&format!("prompt: {:?} image {:?} task {:?}\n", prompt.before, prompt.between, prompt.after));
    if let Some(positions) = found.positions {
        out.push_str(&format!("positions an image: {positions}\n"));
    }
    for memory in found.memory.iter().flatten() {
        let (weights, image) = (bytes(memory.weights), bytes(memory.per_image));
        out.push_str(&format!("memory in {}: {weights} weights, {image} for each image of a batch\n", memory.dtype));
    }
    out.push_str("tasks:\n");
    out.push_str(&table(
        &found.tasks.iter().map(|(name, about)| vec![name.clone(), about.clone()]).collect::<Vec<_>>(),
        &[1],
    ));
    if !found.licences.is_empty() {
        out.push_str("licences:\n");
        let rows = found.licences.iter().map(|l| vec![l.what.clone(), l.licence.clone(), l.source.clone()]);
        out.push_str(&table(&rows.collect::<Vec<_>>(), &[1, 2]));
    }
    match found.problems.is_empty() {
        true => out.push_str("sound: all tensors are there\n"),
        false => found.problems.iter().for_each(|problem| out.push_str(&format!("problem: {problem}\n"))),
    }
    out
}
