//! The prompt's token ids from its texts and a `tokenizer.json`, for packing a model: running one needs no tokenizer.
//!
//! LLaMA's tokenizer puts a space in front of a text, and in its `legacy=False` behaviour none in front of a text that follows an added
//! token. The image's and the task's tokens are such tokens, so the pieces right behind them get none; every other piece is a text by
//! itself.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::manifest::{Piece, Pieces, Prompt};
use crate::error::{Error, Result};

/// Stands for the image or the task in front of a text.
const PLACE: &str = "<|lm4lv place|>";

/// Tokenises each piece by itself, without special tokens; `bos` is what [`Piece::Bos`] stands for. `Error::Config` names the file.
pub fn prompt(file: &Path, pieces: &Pieces, bos: Option<u32>) -> Result<Prompt> {
    let fault = |why: String| Error::Config(format!("{}: {why}", file.display()));
    let mut tokenizer: Value = super::weights::json(file)?;
    without_legacy(&mut tokenizer);
    let mut tokenizer: Tokenizer =
        serde_json::from_value(tokenizer).map_err(|error| fault(format!("not a tokenizer: {error}")))?;
    tokenizer.add_special_tokens([AddedToken::from(PLACE, true)]).map_err(|error| fault(error.to_string()))?;
    let encode = |text: String| {
        let encoding = tokenizer.encode(text, false).map_err(|error| fault(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    };
    let ids = |pieces: &[Piece], follows: bool| {
        let mut ids = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Bos => {
                    ids.push(bos.ok_or_else(|| fault("the id of the token that begins a text is not known".into()))?)
                }
                Piece::Text(text) if index == 0 && follows => {
                    ids.extend(encode(format!("{PLACE}{text}"))?.iter().skip(1))
                }
                Piece::Text(text) => ids.extend(encode(text.clone())?),
            }
        }
        Ok(ids)
    };
    Ok(Prompt {
        before: ids(&pieces.before, false)?,
        between: ids(&pieces.between, true)?,
        after: ids(&pieces.after, true)?,
        pieces: Some(pieces.clone()),
    })
}

/// Files written with `legacy=True` put a space in front of every text by a normaliser. As Hugging Face's conversion of LLaMA's
/// tokenizer does it with `legacy=False`: in front of the first only.
fn without_legacy(tokenizer: &mut Value) {
    let normalizer = &tokenizer["normalizer"];
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().cloned().unwrap_or_default(),
        _ => vec![normalizer.clone()],
    };
    let prepends = |step: &Value| step["type"] == "Prepend" && step["prepend"] == "▁";
    let replaces =
        |step: &Value| step["type"] == "Replace" && step["content"] == "▁" && step["pattern"]["String"] == " ";
    if steps.len() == 2 && prepends(&steps[0]) && replaces(&steps[1]) && tokenizer["pre_tokenizer"].is_null() {
        tokenizer["normalizer"] = Value::Null;
        tokenizer["pre_tokenizer"] =
            json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false });
    }
}
