//! The models against PyTorch, on the tiny ones of `tests/fixtures/models` (see the README there).

#![expect(clippy::unwrap_used, reason = "helpers of tests, where an error is a failure")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lm4lv::image::{Image, Rounding, Size};
use lm4lv::restore::config::{Decoder, ModelConfig, Parallel};
use lm4lv::restore::device::Place;
use lm4lv::restore::folder::ModelFolder;
use lm4lv::restore::llama::{Llama, LlamaConfig};
use lm4lv::restore::lm4lv::{Adapter, Prompted};
use lm4lv::restore::mae::{Mae, MaeConfig};
use lm4lv::restore::manifest::Prompt;
use lm4lv::restore::weights::Weights;
use lm4lv::restore::{self, RestoreConfig};
use serde_json::Value;

/// The language models with their expectations: folder or file, the configuration's folder, expectations.
const LLMS: [(&str, &str, &str); 5] = [
    ("llm_mha", "llm_mha", "llm_mha"),
    ("llm_gqa", "llm_gqa", "llm_gqa"),
    ("llm_bin", "llm_bin", "llm_bin"),
    ("llm_f16.gguf", "llm_gqa", "llm_gqa"),
    ("llm_q4_1.gguf", "llm_gqa", "llm_q4_1"),
];

/// Largest difference, as a share of the expectation's root mean square, of what f32 sums in another order may differ by.
const CLOSE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// Tensors that PyTorch computed.
struct Expected(Weights);

impl Expected {
    fn open(name: &str) -> Self {
        Self(Weights::open(&fixture(&format!("expected/{name}.safetensors"))).unwrap())
    }

    fn get(&self, name: &str) -> Tensor {
        let shape = self.0.infos().find(|info| info.name == name).unwrap_or_else(|| panic!("{name}")).shape.to_vec();
        self.0.tensor(name, shape, DType::F32, &Device::Cpu).unwrap()
    }

    fn numbers(&self, name: &str) -> Vec<u32> {
        self.0.numbers(name).unwrap()
    }

    #[track_caller]
    fn assert_close(&self, name: &str, found: &Tensor, tolerance: f32) {
        assert_close(name, found, &self.get(name), tolerance);
    }
}

#[track_caller]
fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let [found, expected] = [found, expected].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let size = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
    let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= tolerance * size, "{name}: off by {off}, of {size}");
}

fn mae(folder: &str) -> Mae {
    let config: MaeConfig = json(&format!("{folder}/config.json"));
    Mae::new(&config, &Weights::open(&fixture(folder)).unwrap().var_builder(DType::F32, &Device::Cpu)).unwrap()
}

fn llm(path: &str, config: &str) -> Prompted {
    let config: LlamaConfig = json(&format!("{config}/config.json"));
    let weights = Weights::open(&fixture(path)).unwrap();
    let facts: Value = json("facts.json");
    let prompt: Prompt = serde_json::from_value(facts["prompt"].clone()).unwrap();
    let text = |ids: &[u32]| {
        let table = "model.embed_tokens.weight";
        weights.rows(table, ids, config.hidden_size, DType::F32, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
    };
    Prompted {
        llm: Llama::new(&config, &weights.var_builder(DType::F32, &Device::Cpu)).unwrap(),
        before: text(&prompt.before),
        between: text(&prompt.between),
        after: text(&prompt.after),
    }
}

fn adapter(file: &str) -> Adapter {
    let weights = Weights::open(&fixture(file)).unwrap();
    Adapter::new(48, 64, 17, 3, &weights.var_builder(DType::F32, &Device::Cpu)).unwrap()
}

fn parallel(tolerance: f32, max_passes: u32) -> Parallel {
    Parallel { tolerance, max_passes }
}

/// `[B, 3, S, S]` → `[B, patches, 3 · p · p]`.
fn patches(pixels: &Tensor) -> Tensor {
    let (batch, _, side, _) = pixels.dims4().unwrap();
    // (Tiny models and the demo model alike have patches of 8 pixels.)
    let grid = side / 8;
    let cut = pixels.reshape(&[batch, 3, grid, 8, grid, 8]).unwrap().permute([0, 2, 4, 1, 3, 5].as_slice()).unwrap();
    cut.contiguous().unwrap().reshape((batch, grid * grid, 192)).unwrap()
}

#[test]
fn the_autoencoder_computes_what_pytorch_computes() {
    let expected = Expected::open("mae");
    for (folder, tolerance) in [("mae", CLOSE), ("mae_bin", 2e-3)] {
        // (f16 values differ from the f32 ones by up to 5e-4 each.)
        let mae = mae(folder);
        let features = mae.encode(&patches(&expected.get("pixel_values"))).unwrap();
        expected.assert_close("features", &features, tolerance);
        let (batch, grid) = (3, 4);
        let decoded = mae.decode(&expected.get("features")).unwrap();
        let decoded = decoded.reshape(&[batch, grid, grid, 8, 8, 3]).unwrap().permute([0, 5, 1, 3, 2, 4].as_slice());
        let decoded = decoded.unwrap().contiguous().unwrap().reshape((batch, 3, 32, 32)).unwrap();
        let constant = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
        let decoded = decoded.broadcast_mul(&constant([0.229, 0.224, 0.225])).unwrap();
        let decoded = decoded.broadcast_add(&constant([0.485, 0.456, 0.406])).unwrap().clamp(0.0, 1.0).unwrap();
        expected.assert_close("decoded", &decoded, tolerance);
    }
}

#[test]
fn adapters_of_every_format_are_the_same() {
    let expected = Expected::open("mae");
    for file in ["adapter.safetensors", "adapter.pt", "adapter_one_storage.pt"] {
        let tokens = adapter(file).linear(&expected.get("features")).unwrap();
        expected.assert_close("linear_tokens", &tokens, CLOSE);
    }
}

#[test]
fn language_models_of_every_format_generate_what_pytorch_generates() {
    let features = Expected::open("mae").get("features");
    let adapter = adapter("adapter.safetensors");
    let facts: Value = json("facts.json");
    for (path, config, name) in LLMS {
        let (llm, expected) = (llm(path, config), Expected::open(name));
        for pass in 1..=3 {
            let (tokens, passes) = llm.parallel(&adapter, &features, parallel(0.0, pass)).unwrap();
            expected.assert_close(&format!("pass_{pass}"), &tokens, CLOSE);
            assert_eq!(passes, [pass; 3], "{path}");
        }
        let made = llm.autoregressive(&adapter, &features).unwrap();
        expected.assert_close("autoregressive", &made, CLOSE);

        let tolerance = facts["tolerance"][name].as_f64().unwrap() as f32;
        let (tokens, passes) = llm.parallel(&adapter, &features, parallel(tolerance, 12)).unwrap();
        assert_eq!(passes, expected.numbers("parallel_passes"), "{path}");
        expected.assert_close("parallel", &tokens, CLOSE);

        expected.assert_close("vit_llm", &llm.at_queries(&adapter, &features).unwrap(), CLOSE);
    }
}

#[test]
fn hidden_states_are_those_of_pytorch() {
    let features = Expected::open("mae").get("features").narrow(1, 0, 16).unwrap().contiguous().unwrap();
    let weights = Weights::open(&fixture("adapter.safetensors")).unwrap();
    let tensor = |name, shape: &[usize]| weights.tensor(name, shape, DType::F32, &Device::Cpu).unwrap();
    let guess = features.reshape((48, 48)).unwrap().matmul(&tensor("adapter.weight", &[64, 48]).t().unwrap()).unwrap();
    let guess = guess.broadcast_add(&tensor("adapter.bias", &[64])).unwrap().reshape((3, 16, 64)).unwrap();
    for (path, config, name) in LLMS {
        let (llm, expected) = (llm(path, config).llm, Expected::open(name));
        let sequence = Tensor::cat(&[expected.get("prompt"), guess.clone()], 1).unwrap();
        let cache = llm.cache(3, sequence.dim(1).unwrap()).unwrap();
        expected.assert_close("hidden", &llm.forward(&sequence, &cache, 0).unwrap(), CLOSE);
    }
}

#[test]
fn queries_of_an_adapter_are_used() {
    let features = Expected::open("mae").get("features");
    let (llm, adapter) = (llm("llm_gqa", "llm_gqa"), adapter("adapter_f32_query.safetensors"));
    let tokens = llm.at_queries(&adapter, &features).unwrap();
    Expected::open("llm_gqa").assert_close("vit_llm_with_query", &tokens, CLOSE);
}

#[test]
fn as_many_passes_as_tokens_are_the_autoregressive_decoder() {
    let features = Expected::open("mae").get("features");
    let adapter = adapter("adapter.safetensors");
    for (path, config, _) in LLMS {
        let llm = llm(path, config);
        let steps = llm.autoregressive(&adapter, &features).unwrap();
        let (passes, _) = llm.parallel(&adapter, &features, parallel(0.0, 17)).unwrap();
        assert_close(path, &passes, &steps, 1e-4);
    }
}

#[test]
fn a_batch_is_its_images_one_by_one() {
    let features = Expected::open("mae").get("features");
    let adapter = adapter("adapter.safetensors");
    let one = |image| features.narrow(0, image, 1).unwrap().contiguous().unwrap();
    for (path, config, name) in LLMS {
        let llm = llm(path, config);
        let tolerance = json::<Value>("facts.json")["tolerance"][name].as_f64().unwrap() as f32;
        let together = llm.autoregressive(&adapter, &features).unwrap();
        let (fixed, _) = llm.parallel(&adapter, &features, parallel(0.0, 3)).unwrap();
        let (judged, passes) = llm.parallel(&adapter, &features, parallel(tolerance, 12)).unwrap();
        for (image, passes) in passes.iter().enumerate() {
            let features = one(image);
            let of = |all: &Tensor| all.narrow(0, image, 1).unwrap().contiguous().unwrap();
            assert_close(path, &llm.autoregressive(&adapter, &features).unwrap(), &of(&together), 1e-5);
            let (alone, _) = llm.parallel(&adapter, &features, parallel(0.0, 3)).unwrap();
            assert_close(path, &alone, &of(&fixed), 1e-5);
            let (alone, took) = llm.parallel(&adapter, &features, parallel(tolerance, 12)).unwrap();
            assert_eq!(took, [*passes]);
            assert_close(path, &alone, &of(&judged), 1e-5);
        }
    }
}

/// candle's own LLaMA, in the one thing that it answers: the head's output at the last position.
#[test]
fn hidden_states_are_those_of_candles_llama() {
    use candle_transformers::models::llama;
    let config: LlamaConfig = json("llm_gqa/config.json");
    let weights = Weights::open(&fixture("llm_mha")).unwrap();
    let config_mha: llama::LlamaConfig = serde_json::from_value(json::<Value>("llm_mha/config.json")).unwrap();
    assert!(config.num_key_value_heads.is_some());
    let vb = weights.var_builder(DType::F32, &Device::Cpu);
    let stock = config_mha.into_config(false);
    let model = llama::Llama::load(vb, &stock).unwrap();
    let mut cache = llama::Cache::new(true, DType::F32, &stock, &Device::Cpu).unwrap();
    let ids = [1u32, 17, 5, 60, 33, 9, 13, 2, 40];
    let logits = model.forward(&Tensor::new(&[ids], &Device::Cpu).unwrap(), 0, &mut cache).unwrap();

    let ours = llm("llm_mha", "llm_mha").llm;
    let embeddings = weights.rows("model.embed_tokens.weight", &ids, 64, DType::F32, &Device::Cpu).unwrap();
    let kept = ours.cache(1, ids.len()).unwrap();
    // In two parts, so that the cache is used too.
    let part = |from, count| embeddings.narrow(0, from, count).unwrap().unsqueeze(0).unwrap().contiguous().unwrap();
    ours.forward(&part(0, 4), &kept, 0).unwrap();
    let hidden = ours.forward(&part(4, 5), &kept, 4).unwrap().narrow(1, 4, 1).unwrap().squeeze(1).unwrap();
    let head = weights.tensor("lm_head.weight", (logits.dim(1).unwrap(), 64), DType::F32, &Device::Cpu).unwrap();
    assert_close("logits", &hidden.contiguous().unwrap().matmul(&head.t().unwrap()).unwrap(), &logits, CLOSE);
}

/// Values of `found` that are more than one level from those of `expected`, as a share.
fn apart(found: &Image, expected: &[f32]) -> f64 {
    assert_eq!(found.as_bytes().len(), expected.len());
    let far = found.as_bytes().iter().zip(expected).filter(|(a, b)| (f32::from(**a) - **b).abs() > 1.0);
    far.count() as f64 / expected.len() as f64
}

fn levels(expected: &Expected, name: &str) -> Vec<f32> {
    expected.get(name).flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_demo_model_restores_a_photograph_as_pytorch_does() {
    let (expected, path) = (Expected::open("demo"), Path::new(env!("CARGO_MANIFEST_DIR")).join("models/lm4lv-mini"));
    let bytes = levels(&expected, "image").into_iter().map(|level| level as u8).collect();
    let image = Image::from_rgb(Size::new(112, 112), bytes).unwrap();

    let place = Place::find("cpu".parse().unwrap(), "f32".parse().unwrap()).unwrap();
    let (config, weights) = ModelFolder::open(&path).unwrap().mae().unwrap();
    let mae = Mae::new(&config, &weights.var_builder(place.dtype, &place.device)).unwrap();
    let constant = |values: [f32; 3]| Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
    let pixels = (expected.get("image").permute((0, 3, 1, 2)).unwrap() / 255.0).unwrap();
    let pixels = pixels.broadcast_sub(&constant([0.485, 0.456, 0.406])).unwrap();
    let pixels = pixels.broadcast_div(&constant([0.229, 0.224, 0.225])).unwrap();
    expected.assert_close("features", &mae.encode(&patches(&pixels)).unwrap(), CLOSE);

    for decoder in [Decoder::default(), Decoder::Autoregressive] {
        let mut model = ModelConfig::new(&path);
        (model.decoder, model.baseline) = (Some(decoder), true);
        let restorer = restore::open(&RestoreConfig::Lm4lv(model)).unwrap();
        let task = restorer.task("gaussian_noise_18").unwrap();
        let restored = restorer.restore(task, &[&image]).unwrap().remove(0);
        let (name, passes) = match decoder {
            Decoder::Parallel(_) => ("parallel_pixels", expected.numbers("parallel_passes")[0]),
            Decoder::Autoregressive => ("autoregressive_pixels", 197),
        };
        let output = restored.output.to_image(Rounding::Trunc);
        assert!(apart(&output, &levels(&expected, name)) <= 1e-3, "{name}");
        assert_eq!(restored.passes, Some(passes));
        let baseline = restored.baseline.unwrap().to_image(Rounding::Trunc);
        assert!(apart(&baseline, &levels(&expected, "mae_r_pixels")) <= 1e-3);
    }
}

#[test]
fn a_missing_gpu_is_said() {
    use lm4lv::restore::config::{DeviceName, DtypeName};
    if let Err(error) = Place::find(DeviceName::Cuda(77), DtypeName::Auto) {
        assert!(error.to_string().contains("cuda:77"), "{error}");
    } else {
        panic!("there are no 78 GPUs");
    }
    let error = Place::find(DeviceName::Cpu, DtypeName::Bf16).unwrap_err().to_string();
    assert!(error.contains("use f32"), "{error}");
    assert_eq!(Place::find(DeviceName::Cpu, DtypeName::Auto).unwrap().dtype_name(), "f32");
}
