//! What a GGUF file's keys and names are called in Hugging Face's files.

use super::{Blocks, Pair};
use crate::restore::llama::LlamaConfig;

/// `llama.*` as the keys of Hugging Face's `config.json`.
pub(super) fn llama(bytes: &[u8], pairs: &[Pair], tensors: &[Blocks]) -> Result<LlamaConfig, String> {
    let find = |key: &str| pairs.iter().find(|pair| pair.key == key);
    let architecture = find("general.architecture").ok_or("key general.architecture is missing")?.text(bytes)?;
    if architecture != "llama" {
        return Err(format!("general.architecture `{architecture}` is not llama"));
    }
    let may = |key: &str| find(&format!("llama.{key}")).map(|pair| pair.whole(bytes)).transpose();
    let must = |key: &str| may(key)?.ok_or_else(|| format!("key llama.{key} is missing")).map(|n| n as usize);
    let real = |key: &str| find(&format!("llama.{key}")).map(|pair| pair.real(bytes)).transpose();
    let scaling = find("llama.rope.scaling.type").map(|pair| pair.text(bytes)).transpose()?;
    let scaled =
        scaling.is_some_and(|scaling| scaling != "none") || tensors.iter().any(|t| t.name == "rope_freqs.weight");
    let table = tensors.iter().find(|tensor| tensor.name == "token_embd.weight").and_then(|table| table.dims.get(1));
    let config = LlamaConfig {
        hidden_size: must("embedding_length")?,
        intermediate_size: must("feed_forward_length")?,
        num_hidden_layers: must("block_count")?,
        num_attention_heads: must("attention.head_count")?,
        num_key_value_heads: may("attention.head_count_kv")?.map(|n| n as usize),
        head_dim: may("attention.key_length")?.map(|n| n as usize),
        rms_norm_eps: real("attention.layer_norm_rms_epsilon")?
            .ok_or("key llama.attention.layer_norm_rms_epsilon is missing")?,
        rope_theta: real("rope.freq_base")?,
        rope_parameters: None,
        rope_scaling: scaled.then(|| serde_json::json!({ "type": scaling.unwrap_or("factors") })),
        vocab_size: may("vocab_size")?.or(table.copied()).unwrap_or(0) as usize,
        hidden_act: "silu".into(),
    };
    let turned = may("rope.dimension_count")?.map(|n| n as usize);
    let width = config.head_dim.unwrap_or(config.hidden_size / config.num_attention_heads.max(1));
    if turned.is_some_and(|turned| turned != width) {
        return Err(format!("llama.rope.dimension_count is {turned:?}, but a head has {width} values"));
    }
    Ok(config)
}

/// The name in Hugging Face's files, and the matrix's in a block of this one.
pub(super) fn hugging_face(name: &str) -> (String, Option<&str>) {
    let fixed = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return (fixed.to_owned(), None);
    }
    let block = || {
        let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
        let (matrix, kind) = rest.split_once('.')?;
        let known = match matrix {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => return None,
        };
        Some((format!("model.layers.{layer}.{known}.{kind}"), Some(matrix)))
    };
    block().unwrap_or_else(|| (name.to_owned(), None))
}
