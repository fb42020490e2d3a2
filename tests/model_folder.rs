//! Model folders: packed of parts of every format, opened, inspected, and refused where they are not what was packed.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where an error is a failure")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::{DType, Device};
use lm4lv::restore::folder::ModelFolder;
use lm4lv::restore::inspect::inspect;
use lm4lv::restore::manifest::{Manifest, Piece, Pieces};
use lm4lv::restore::pack::{Pack, PromptSource};
use lm4lv::restore::tokens;
use lm4lv::restore::weights::Weights;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs the binary and asserts its exit code.
#[track_caller]
fn lm4lv(dir: &Path, args: &[&str], code: i32) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_lm4lv")).args(args).current_dir(dir).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The tiny model with that language model.
fn tiny(dir: &Path, llm: &str, adapter: &str) -> Pack {
    let ids = dir.join("ids.json");
    fs::write(&ids, read(&fixture("models/facts.json"))["prompt"].to_string()).unwrap();
    let adapter = fixture(&format!("models/{adapter}"));
    Pack {
        name: "tiny".into(),
        mae: fixture("models/mae"),
        llm: fixture(&format!("models/{llm}")),
        prompt: PromptSource::Ids(ids),
        adapters: [("noise".to_owned(), (adapter, "noise of some kind".to_owned()))].into(),
        licences: Vec::new(),
        prompt_only_embeddings: false,
        random_seed: None,
    }
}

fn values(weights: &Weights) -> Vec<(String, Vec<f32>)> {
    let tensors = weights.infos().filter(|info| !info.dtype.starts_with('i')).map(|info| {
        let tensor = weights.tensor(info.name, info.shape, DType::F32, &Device::Cpu).unwrap();
        (info.name.to_owned(), tensor.flatten_all().unwrap().to_vec1().unwrap())
    });
    tensors.collect()
}

#[track_caller]
fn said<T: std::fmt::Debug>(result: lm4lv::Result<T>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, lm4lv::Error::Config(_)), "{error:?}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
}

#[test]
fn parts_of_every_format_make_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deeper").join("model");
    for llm in ["llm_mha", "llm_gqa", "llm_bin", "llm_f16.gguf", "llm_q4_1.gguf"] {
        let mut pack = tiny(dir.path(), llm, "adapter.pt");
        if llm == "llm_bin" {
            pack.mae = fixture("models/mae_bin");
        }
        let folder = pack.make(&out).unwrap();
        folder.verify_hashes().unwrap();
        let found = inspect(&folder, true);
        assert!(found.problems.is_empty(), "{llm}: {:?}", found.problems);
        assert_eq!(found.positions, Some(29 + 16));
        // What was packed is what there was.
        let (config, weights) = folder.llm().unwrap();
        assert_eq!(values(&weights), values(&Weights::open(&pack.llm).unwrap()), "{llm}");
        let (mae, weights) = folder.mae().unwrap();
        assert_eq!(values(&weights), values(&Weights::open(&pack.mae).unwrap()), "{llm}");
        let adapter = folder.adapter("noise", &mae, &config).unwrap();
        assert_eq!(values(&adapter), values(&Weights::open(&fixture("models/adapter.safetensors")).unwrap()));
        said(folder.adapter("blur", &mae, &config), &["no task `blur`", "noise"]);
        let [before, between, after] = folder.prompt_embeddings(&config, DType::F32, &Device::Cpu).unwrap();
        assert_eq!((before.dims(), between.dims(), after.dims()), (&[1, 4, 64][..], &[1, 2, 64][..], &[1, 3, 64][..]));
        assert_eq!(folder.weights_sha256().len(), 64);
        said(pack.make(&out), &["is there already"]);
        fs::remove_dir_all(&out).unwrap();
    }
    // Nothing else is left.
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_language_model_without_its_table_is_the_same_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut pack = tiny(dir.path(), "llm_q4_1.gguf", "adapter.safetensors");
    let whole = pack.make(&dir.path().join("whole")).unwrap();
    pack.prompt_only_embeddings = true;
    let cut = pack.make(&dir.path().join("cut")).unwrap();
    let ((config, all), (cut_config, left)) = (whole.llm().unwrap(), cut.llm().unwrap());
    assert_eq!(config, cut_config);
    let names = |weights: &Weights| weights.infos().map(|info| info.name.to_owned()).collect::<Vec<_>>();
    let without: Vec<_> = names(&all).into_iter().filter(|name| name != "model.embed_tokens.weight").collect();
    assert_eq!(names(&left), without);
    // Every block of every tensor stands in the file as it stood.
    let bytes = |file: &Path| fs::read(file).unwrap();
    let file = bytes(&cut.path().join("llm/model.gguf"));
    let original = bytes(&pack.llm);
    assert!(file.len() < original.len());
    assert_eq!(file[file.len() - 4096..], original[original.len() - 4096..]);
    assert_eq!(
        values(&left),
        values(&all).into_iter().filter(|(name, _)| name != "model.embed_tokens.weight").collect::<Vec<_>>()
    );
    let [a, b] = [&whole, &cut].map(|folder| {
        let texts = folder.prompt_embeddings(&config, DType::F32, &Device::Cpu).unwrap();
        texts.map(|text| text.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    });
    assert_eq!(a, b);
    // An adapter that is safetensors already is copied.
    assert_eq!(bytes(&cut.path().join("adapters/noise.safetensors")), bytes(&fixture("models/adapter.safetensors")));
    said(
        Pack { llm: fixture("models/llm_gqa"), ..pack }.make(&dir.path().join("folder")),
        &["llm_gqa", "only a GGUF file"],
    );
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("models").join("model");
    let make = |adapter: &str| tiny(dir.path(), "llm_gqa", adapter).make(&out);
    said(make("hostile/transposed.safetensors"), &["transposed.safetensors", "adapter.weight", "[48, 64]", "[64, 48]"]);
    said(make("hostile/missing_tensor.safetensors"), &["deadapter.bias is missing"]);
    said(make("hostile/calls_os_system.pt"), &["calls_os_system.pt", "execute code"]);
    said(make("mae/model.safetensors"), &["no learnable_task_token"]);
    let mut pack = tiny(dir.path(), "llm_gqa", "adapter.safetensors");
    fs::write(dir.path().join("ids.json"), r#"{"before":[64],"between":[],"after":[]}"#).unwrap();
    said(pack.make(&out), &["token 64"]);
    pack = tiny(dir.path(), "llm_gqa", "adapter.safetensors");
    pack.adapters.insert("../x".into(), (fixture("models/adapter.safetensors"), String::new()));
    said(pack.make(&out), &["task `../x`"]);
    pack.mae = fixture("models/llm_gqa");
    said(pack.make(&out), &["config.json", "image_size"]);
    // Neither a model nor a half one.
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_is_not_what_was_packed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    tiny(dir.path(), "llm_gqa", "adapter.safetensors").make(&path).unwrap();
    let manifest = path.join("model.json");
    let sound = read(&manifest);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = sound.clone();
        change(&mut changed);
        fs::write(&manifest, changed.to_string()).unwrap();
        ModelFolder::open(&path)
    };
    with(&|_| {}).unwrap();
    said(with(&|m| m["version"] = json!(2)), &["model.json", "version 2"]);
    said(with(&|m| m["format"] = json!("other")), &["model.json", "other"]);
    said(with(&|m| m["surprise"] = json!(1)), &["model.json", "surprise"]);
    said(with(&|m| m["llm"]["trust_remote_code"] = json!(true)), &["model.json", "trust_remote_code"]);
    said(with(&|m| m["tasks"] = json!({})), &["tasks"]);
    said(with(&|m| m["task_tokens"] = json!(1_000_000)), &["task_tokens"]);
    for outside in ["../mae", "/etc", "mae/../../x", "", "a\\b"] {
        said(with(&|m| m["mae"] = json!(outside)), &["path", "inside the folder"]);
        said(with(&|m| m["tasks"]["noise"]["adapter"] = json!(outside)), &["path", "inside the folder"]);
        said(with(&|m| m["files"][outside] = json!({ "bytes": 1, "sha256": "" })), &["path", "inside the folder"]);
    }
    said(with(&|m| m["files"]["mae/config.json"]["sha256"] = json!("x")), &["mae/config.json", "64 hex digits"]);
    said(with(&|m| m["files"]["mae/config.json"]["bytes"] = json!(5)), &["config.json", "says 5"]);
    said(with(&|m| m["files"]["other"] = json!({ "bytes": 5, "sha256": "0".repeat(64) })), &["other", "No such file"]);
    for file in ["mae/config.json", "mae/model.safetensors"] {
        let without = with(&|m| drop(m["files"].as_object_mut().unwrap().remove(file))).unwrap();
        said(without.mae(), &[file, "not among the files"]);
    }
    for file in ["llm/model.safetensors.index.json", "llm/model-00002-of-00002.safetensors"] {
        let without = with(&|m| drop(m["files"].as_object_mut().unwrap().remove(file))).unwrap();
        said(without.llm(), &[file, "not among the files"]);
    }
    let foreign = with(&|m| m["prompt"]["after"] = json!([64])).unwrap();
    said(foreign.llm(), &["model.json", "token 64", "knows 64"]);

    // A file of the same length with another byte.
    let folder = with(&|_| {}).unwrap();
    folder.verify_hashes().unwrap();
    let adapter = path.join("adapters/noise.safetensors");
    let mut bytes = fs::read(&adapter).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&adapter, &bytes).unwrap();
    said(folder.verify_hashes(), &["adapters/noise.safetensors", "SHA-256"]);
    let output = lm4lv(dir.path(), &["model", "inspect", "model"], 2);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("problem: ") && text.contains("noise.safetensors: SHA-256"), "{text}");
    fs::write(&adapter, &bytes[1..]).unwrap();
    said(ModelFolder::open(&path), &["adapters/noise.safetensors", "cut short"]);
    fs::remove_file(&manifest).unwrap();
    said(ModelFolder::open(&path), &["no model.json", "lm4lv model pack"]);
}

#[test]
fn the_command_line_packs_and_inspects() {
    let dir = tempfile::tempdir().unwrap();
    tiny(dir.path(), "llm_f16.gguf", "adapter.pt");
    let part = |name: &str| fixture(&format!("models/{name}")).display().to_string();
    let (mae, llm) = (part("mae"), part("llm_f16.gguf"));
    let (a, b) = (format!("a={}", part("adapter.pt")), format!("b={}", part("adapter_f32_query.safetensors")));
    let first = ["model", "pack", "--name", "x", "--mae", &mae, "--llm", &llm, "--adapter", &a];
    let pack = |more: &[&str], code| lm4lv(dir.path(), &[&first[..], more].concat(), code);
    let more = ["--adapter", &b, "--about", "b=both", "--licence", "llm", "MIT", "here", "--random-seed", "7"];
    pack(&[&more[..], &["--prompt-ids", "ids.json", "--prompt-only-embeddings", "-o", "m"]].concat(), 0);
    let output = lm4lv(dir.path(), &["model", "inspect", "m", "--json"], 0);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["tasks"], json!({ "a": "", "b": "both" }));
    assert_eq!(found["problems"], json!([]));
    let kept: Manifest = serde_json::from_value(read(&dir.path().join("m/model.json"))).unwrap();
    assert_eq!((kept.llm.random_seed, kept.licences[0].source.as_str()), (Some(7), "here"));

    let says = |output: Output| String::from_utf8(output.stderr).unwrap();
    assert!(says(pack(&["--prompt-ids", "ids.json", "-o", "m"], 2)).contains("is there already"));
    assert!(says(pack(&["--prompt-ids", "ids.json", "--about", "c=d", "-o", "n"], 2)).contains("--about c"));
    assert!(says(pack(&["-o", "n"], 64)).contains("--tokenizer"));
    // A vocabulary that is not this model's.
    let tokenizer = part("tokenizer/tokenizer.json");
    let output = pack(&["--tokenizer", &tokenizer, "--bos", "1", "-o", "n"], 2);
    assert!(says(output).contains("token 296"));
    assert!(!dir.path().join("n").exists());
    assert!(says(lm4lv(dir.path(), &["model", "inspect", "."], 2)).contains("no model.json"));
}

fn pieces(before: &[&str], between: &[&str], after: &[&str]) -> Pieces {
    let texts = |texts: &[&str]| texts.iter().map(|text| Piece::Text((*text).to_owned())).collect::<Vec<_>>();
    Pieces {
        before: [Piece::Bos].into_iter().chain(texts(before)).collect(),
        between: texts(between),
        after: texts(after),
    }
}

/// LM4LV's, and with both texts before the image as one.
fn lm4lv_pieces(joined: bool) -> Pieces {
    let before: &[&str] = if joined { &["### Human: <Img>"] } else { &["### Human: ", "<Img>"] };
    pieces(before, &["</Img> "], &["\n### Assistant: ", "<Img>"])
}

#[test]
fn ids_are_those_of_the_tokenizers_package() {
    let texts = |tokenizer: &str, texts: &Value| {
        let texts = texts.as_array().unwrap();
        assert!(texts.len() >= 5);
        for text in texts {
            let made =
                tokens::prompt(&fixture(tokenizer), &pieces(&[text["text"].as_str().unwrap()], &[], &[]), Some(1));
            assert_eq!(json!(made.unwrap().before[1..]), text["ids"], "{text}");
        }
    };
    let ids = read(&fixture("models/tokenizer/ids.json"));
    texts("models/tokenizer/tokenizer.json", &ids["texts"]);
    texts("tokenizer/smollm2.json", &read(&fixture("tokenizer/smollm2_ids.json")));
}

/// SmolLM2's, and a vocabulary of LLaMA's kind, where the texts right behind image and task have no space in front.
#[test]
fn the_prompt_is_tokenised_as_the_authors_do() {
    let smollm2 = tokens::prompt(&fixture("tokenizer/smollm2.json"), &lm4lv_pieces(true), Some(1)).unwrap();
    assert_eq!(smollm2.before, [1, 3757, 4996, 42, 2067, 2777, 87, 46]);
    assert_eq!(smollm2.between, [9617, 2777, 87, 46, 216]);
    assert_eq!(smollm2.after, [198, 3757, 20108, 42, 216, 44, 2777, 87, 46]);
    let demo = ModelFolder::open(&root().join("models/lm4lv-mini")).unwrap();
    assert_eq!(demo.manifest().prompt, smollm2);

    let file = fixture("models/tokenizer/tokenizer.json");
    let expected = &read(&fixture("models/tokenizer/ids.json"))["prompt"];
    let ids = |file: &Path| {
        let made = tokens::prompt(file, &lm4lv_pieces(false), Some(1)).unwrap();
        json!({ "before": made.before, "between": made.between, "after": made.after })
    };
    assert_eq!(ids(&file), *expected);
    // The same vocabulary as files of `legacy=True` have it.
    let mut legacy = read(&file);
    legacy["pre_tokenizer"] = Value::Null;
    legacy["normalizer"] = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, legacy.to_string()).unwrap();
    assert_eq!(ids(&path), *expected);

    fs::write(&path, "{}").unwrap();
    said(tokens::prompt(&path, &lm4lv_pieces(false), Some(1)), &["tokenizer.json", "not a tokenizer"]);
    said(tokens::prompt(&file, &lm4lv_pieces(false), None), &["tokenizer.json", "begins a text"]);
}

#[test]
fn the_demo_model_is_sound() {
    let demo = ModelFolder::open(&root().join("models/lm4lv-mini")).unwrap();
    demo.check().unwrap();
    assert_eq!(demo.manifest().tasks.keys().collect::<Vec<_>>(), ["gaussian_noise_18", "mask_4px_10pct"]);
    let bytes: u64 = demo.manifest().files.values().map(|file| file.bytes).sum();
    assert!(bytes <= 100_000_000, "{bytes}");
}
