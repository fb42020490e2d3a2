//! The parts of a model as they lie on disk: autoencoder, language model, adapters, each opened and checked as a whole.
//!
//! What the model's code will ask for is said here beforehand, name and shape by the part's configuration, so that all that is missing,
//! of another shape or unknown is found before anything is decoded. (A test holds these lists against the code.)

use std::path::Path;

use super::llama::LlamaConfig;
use super::mae::MaeConfig;
use super::weights::{Expected, Weights, json};
use crate::error::{Error, Result};

/// The configuration in a Hugging Face folder.
pub(super) const CONFIG: &str = "config.json";
/// The table of embeddings.
pub(super) const TABLE: &str = "model.embed_tokens.weight";

/// No model has more of either; sizes are multiplied before weights are held against them.
const MOST_LAYERS: usize = 1 << 10;
const WIDEST: usize = 1 << 20;

/// That all of a configuration's values are from 1 to `most`.
fn sane(values: &[(&str, usize)], most: usize) -> Result<(), String> {
    match values.iter().find(|(_, value)| !(1..=most).contains(value)) {
        Some((key, value)) => Err(format!("{key} {value} is not from 1 to {most}")),
        None => Ok(()),
    }
}

/// Opens a masked autoencoder's folder and checks it as a whole.
pub(super) fn mae(path: &Path) -> Result<(MaeConfig, Weights)> {
    let file = path.join(CONFIG);
    let config: MaeConfig = json(&file)?;
    let counts = [
        ("num_hidden_layers", config.num_hidden_layers),
        ("decoder_num_hidden_layers", config.decoder_num_hidden_layers),
    ];
    let widths = [
        ("image_size", config.image_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("decoder_hidden_size", config.decoder_hidden_size),
        ("decoder_intermediate_size", config.decoder_intermediate_size),
    ];
    let sane = sane(&counts, MOST_LAYERS).and_then(|()| sane(&widths, WIDEST));
    sane.and_then(|()| config.check()).map_err(|why| Error::Config(format!("{}: {why}", file.display())))?;
    let weights = Weights::open(path)?;
    weights.check(&mae_tensors(&config), mae_spare)?;
    Ok((config, weights))
}

/// Opens a language model's folder or GGUF file and checks it as a whole, with its table of embeddings if `table`.
pub(super) fn llm(path: &Path, table: bool) -> Result<(LlamaConfig, Weights)> {
    let weights = Weights::open(path)?;
    let (config, file): (LlamaConfig, _) = match weights.gguf() {
        Some(gguf) => {
            (gguf.llama().map_err(|why| Error::Config(format!("{}: {why}", path.display())))?, path.to_owned())
        }
        None => {
            let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
            (json(&folder.join(CONFIG))?, folder.join(CONFIG))
        }
    };
    let widths = [
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("num_attention_heads", config.num_attention_heads),
        ("num_key_value_heads", config.num_key_value_heads.unwrap_or(1)),
        ("head_dim", config.head_dim.unwrap_or(1)),
        ("vocab_size", config.vocab_size),
    ];
    let sane =
        sane(&[("num_hidden_layers", config.num_hidden_layers)], MOST_LAYERS).and_then(|()| sane(&widths, WIDEST));
    sane.and_then(|()| config.check()).map_err(|why| Error::Config(format!("{}: {why}", file.display())))?;
    weights.check(&llama_tensors(&config, table), llama_spare)?;
    Ok((config, weights))
}

/// Opens an adapter's file and checks it as a whole.
pub(super) fn adapter(path: &Path, mae: &MaeConfig, llm: &LlamaConfig, task_tokens: usize) -> Result<Weights> {
    let weights = Weights::open(path)?;
    let expected = adapter_tensors(mae.hidden_size, llm.hidden_size, task_tokens);
    weights.check(&expected, adapter_spare)?;
    Ok(weights)
}

/// Of a masked autoencoder.
fn mae_tensors(config: &MaeConfig) -> Vec<Expected> {
    let (width, decoder) = (config.hidden_size, config.decoder_hidden_size);
    let (tokens, patch) = (config.tokens(), config.patch_size);
    let mut all = Vec::new();
    let mut add = |name: &str, shape: &[usize]| all.push((name.to_owned(), shape.to_vec()));
    add("vit.embeddings.cls_token", &[1, 1, width]);
    add("vit.embeddings.position_embeddings", &[1, tokens, width]);
    add("vit.embeddings.patch_embeddings.projection.weight", &[width, 3, patch, patch]);
    add("vit.embeddings.patch_embeddings.projection.bias", &[width]);
    let pairs = [
        ("vit.layernorm", None, width),
        ("decoder.decoder_embed", Some(width), decoder),
        ("decoder.decoder_norm", None, decoder),
        ("decoder.decoder_pred", Some(decoder), config.patch_values()),
    ];
    for (name, inside, outside) in pairs {
        add(&format!("{name}.weight"), &inside.map_or(vec![outside], |inside| vec![outside, inside]));
        add(&format!("{name}.bias"), &[outside]);
    }
    add("decoder.decoder_pos_embed", &[1, tokens, decoder]);
    let stacks = [
        ("vit.encoder.layer", config.num_hidden_layers, width, config.intermediate_size),
        ("decoder.decoder_layers", config.decoder_num_hidden_layers, decoder, config.decoder_intermediate_size),
    ];
    for (stack, layers, width, inner) in stacks {
        for layer in 0..layers {
            for part in ["query", "key", "value"] {
                let name = format!("{stack}.{layer}.attention.attention.{part}");
                add(&format!("{name}.weight"), &[width, width]);
                if config.qkv_bias {
                    add(&format!("{name}.bias"), &[width]);
                }
            }
            let pairs = [
                ("attention.output.dense", Some(width), width),
                ("layernorm_before", None, width),
                ("layernorm_after", None, width),
                ("intermediate.dense", Some(width), inner),
                ("output.dense", Some(inner), width),
            ];
            for (name, inside, outside) in pairs {
                let name = format!("{stack}.{layer}.{name}");
                add(&format!("{name}.weight"), &inside.map_or(vec![outside], |inside| vec![outside, inside]));
                add(&format!("{name}.bias"), &[outside]);
            }
        }
    }
    all
}

/// What a masked autoencoder's file may have beside them: masking is off.
fn mae_spare(name: &str) -> bool {
    name == "decoder.mask_token"
}

/// Of a language model, from embeddings to the final norm; with the table of embeddings if `table`.
fn llama_tensors(config: &LlamaConfig, table: bool) -> Vec<Expected> {
    let (width, inner, heads) = (config.hidden_size, config.intermediate_size, config.heads());
    let (queries, keys) = (heads.query_row(), heads.keys * heads.width);
    let matrices = [
        ("self_attn.q_proj", vec![queries, width]),
        ("self_attn.k_proj", vec![keys, width]),
        ("self_attn.v_proj", vec![keys, width]),
        ("self_attn.o_proj", vec![width, queries]),
        ("mlp.gate_proj", vec![inner, width]),
        ("mlp.up_proj", vec![inner, width]),
        ("mlp.down_proj", vec![width, inner]),
        ("input_layernorm", vec![width]),
        ("post_attention_layernorm", vec![width]),
    ];
    let layer = |layer: usize| {
        matrices.iter().map(move |(name, shape)| (format!("model.layers.{layer}.{name}.weight"), shape.clone()))
    };
    let mut all: Vec<Expected> = (0..config.num_hidden_layers).flat_map(layer).collect();
    all.push(("model.norm.weight".into(), vec![width]));
    if table {
        all.push((TABLE.into(), vec![config.vocab_size, width]));
    }
    all
}

/// What a language model's file may have beside them: no words are generated, and frequencies are computed.
fn llama_spare(name: &str) -> bool {
    name == "lm_head.weight" || name == TABLE || name.ends_with("rotary_emb.inv_freq")
}

/// Of an adapter between features of width `features` and embeddings of width `hidden`.
fn adapter_tensors(features: usize, hidden: usize, task_tokens: usize) -> Vec<Expected> {
    vec![
        ("adapter.weight".into(), vec![hidden, features]),
        ("adapter.bias".into(), vec![hidden]),
        ("deadapter.weight".into(), vec![features, hidden]),
        ("deadapter.bias".into(), vec![features]),
        ("learnable_task_token".into(), vec![1, task_tokens, hidden]),
    ]
}

/// What an adapter's file may have beside them: the queries of `vit_llm`.
fn adapter_spare(name: &str) -> bool {
    name == "query"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use candle_core::{DType, Device, Shape, Tensor};
    use candle_nn::var_builder::SimpleBackend;
    use candle_nn::{Init, VarBuilder};

    use super::*;
    use crate::restore::llama::Llama;
    use crate::restore::lm4lv::Adapter;
    use crate::restore::mae::Mae;

    /// Has every tensor, and notes which were asked for.
    #[derive(Clone, Default)]
    struct Asked(Arc<Mutex<BTreeSet<Expected>>>);

    impl SimpleBackend for Asked {
        fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, to: &Device) -> candle_core::Result<Tensor> {
            self.0.lock().unwrap().insert((name.to_owned(), shape.dims().to_vec()));
            Tensor::zeros(shape, dtype, to)
        }

        fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
            candle_core::bail!("{name} without a shape")
        }

        fn contains_tensor(&self, _: &str) -> bool {
            false
        }
    }

    /// What `load` asks for.
    fn asked(load: impl FnOnce(&VarBuilder<'_>)) -> BTreeSet<Expected> {
        let asked = Asked::default();
        load(&VarBuilder::from_backend(Box::new(asked.clone()), DType::F32, Device::Cpu));
        asked.0.lock().unwrap().clone()
    }

    #[test]
    fn the_lists_are_what_the_models_ask_for() {
        let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
        let set = |list: Vec<Expected>| list.into_iter().collect::<BTreeSet<_>>();
        let mut config: MaeConfig = json(&fixture("mae/config.json")).unwrap();
        for bias in [true, false] {
            config.qkv_bias = bias;
            assert_eq!(asked(|vb| drop(Mae::new(&config, vb).unwrap())), set(mae_tensors(&config)));
        }
        for folder in ["llm_mha", "llm_gqa", "llm_bin"] {
            let config: LlamaConfig = json(&fixture(folder).join(CONFIG)).unwrap();
            assert_eq!(asked(|vb| drop(Llama::new(&config, vb).unwrap())), set(llama_tensors(&config, false)));
        }
        assert_eq!(asked(|vb| drop(Adapter::new(48, 64, 17, 3, vb).unwrap())), set(adapter_tensors(48, 64, 3)));
    }

    #[test]
    fn absurd_configurations_are_refused_before_anything_is_multiplied() {
        let folder = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let said = |part: &str, key: &str, value: &str| {
            let mut config: serde_json::Value = json(&fixtures.join(part).join(CONFIG)).unwrap();
            config[key] = serde_json::from_str(value).unwrap();
            std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
            let weights = fixtures.join(part).join("model.safetensors");
            std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
            match part {
                "mae" => mae(folder.path()).unwrap_err().to_string(),
                _ => llm(folder.path(), true).unwrap_err().to_string(),
            }
        };
        for (part, key, value) in [
            ("mae", "num_hidden_layers", "1000000000000"),
            ("mae", "hidden_size", "0"),
            ("mae", "image_size", "1000000"),
            ("mae", "patch_size", "0"),
            ("mae", "num_attention_heads", "0"),
            ("mae", "hidden_size", "18446744073709551615"),
            ("llm_mha", "num_hidden_layers", "18446744073709551615"),
            ("llm_mha", "num_attention_heads", "0"),
            ("llm_mha", "head_dim", "0"),
            ("llm_mha", "num_key_value_heads", "3"),
            ("llm_mha", "intermediate_size", "4294967296"),
            ("llm_mha", "vocab_size", "-1"),
            ("llm_mha", "rope_scaling", r#"{"type":"linear"}"#),
        ] {
            let error = said(part, key, value);
            let named = error.contains(key) || error.contains("invalid value");
            assert!(named && error.contains("config.json"), "{key} {value}: {error}");
        }
        let error = said("mae", "num_hidden_layers", "3");
        assert!(error.contains("vit.encoder.layer.2") && error.contains("is missing"), "{error}");
        let error = said("llm_mha", "vocab_size", "65");
        assert!(error.contains("model.embed_tokens.weight: has shape"), "{error}");
    }
}
