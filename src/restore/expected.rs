//! The tensors of each part of a model: name and shape, by the part's configuration. What the model's code asks for, said beforehand, so
//! that a part is held against it as a whole (and a test holds it against the code).

use super::llama::LlamaConfig;
use super::mae::MaeConfig;
use super::weights::Expected;

/// Of a masked autoencoder.
pub(super) fn mae(config: &MaeConfig) -> Vec<Expected> {
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
pub(super) fn mae_spare(name: &str) -> bool {
    name == "decoder.mask_token"
}

/// Of a language model, from embeddings to the final norm; with the table of embeddings if `table`.
pub(super) fn llama(config: &LlamaConfig, table: bool) -> Vec<Expected> {
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

/// The table of embeddings.
pub(super) const TABLE: &str = "model.embed_tokens.weight";

/// What a language model's file may have beside them: no words are generated, and frequencies are computed.
pub(super) fn llama_spare(name: &str) -> bool {
    name == "lm_head.weight" || name == TABLE || name.ends_with("rotary_emb.inv_freq")
}

/// Of an adapter between features of width `features` and embeddings of width `hidden`.
pub(super) fn adapter(features: usize, hidden: usize, task_tokens: usize) -> Vec<Expected> {
    vec![
        ("adapter.weight".into(), vec![hidden, features]),
        ("adapter.bias".into(), vec![hidden]),
        ("deadapter.weight".into(), vec![features, hidden]),
        ("deadapter.bias".into(), vec![features]),
        ("learnable_task_token".into(), vec![1, task_tokens, hidden]),
    ]
}

/// What an adapter's file may have beside them: the queries of `vit_llm`.
pub(super) fn adapter_spare(name: &str) -> bool {
    name == "query"
}
