//! The readers on sound files of each format, which must agree, and on hostile ones, which must be refused with their fault named.

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name)
}

fn open(bytes: &[u8]) -> Result<Weights> {
    Weights::from_bytes("FILE", Bytes::copy_from_slice(bytes))
}

/// That opening gives an error that names the file and says all of `words`.
#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    said_of(open(bytes).map(|_| ()), words);
}

#[track_caller]
fn said_of<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    let text = error.to_string();
    for word in words.iter().chain(&["FILE"]) {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn values(weights: &Weights, name: &str) -> Vec<f32> {
    let info = weights.infos().find(|info| info.name == name).unwrap();
    let tensor = weights.tensor(name, info.shape, DType::F32, &Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

// ---- safetensors

fn safe(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(vec![0; data]);
    file
}

#[test]
fn hostile_safetensors_are_refused() {
    let tensor = |shape: &str, from: u64, to: u64| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    assert!(open(&safe(&tensor("[2,2]", 0, 16), 16)).is_ok());
    for (shape, from, to, data) in [
        ("[2,2]", 0, 16, 8),
        ("[2,2]", 0, 16, 24),
        ("[2,2]", 4, 20, 20),
        ("[2,2]", 0, 12, 12),
        ("[2,2]", 16, 0, 16),
        ("[4294967296,4294967296]", 0, 0, 0),
        ("[4611686018427387904,4]", 0, 16, 16),
        ("[2,-2]", 0, 16, 16),
        ("[2,2]", 0, u64::MAX, 16),
    ] {
        refused(&safe(&tensor(shape, from, to), data), &["not sound safetensors"]);
    }
    refused(&safe("{", 0), &["not sound safetensors"]);
    refused(&safe(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), &["not sound safetensors"]);
    let mut long = safe("{}", 0);
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&long, &["cut short", "18446744073709551615 bytes"]);
    refused(&[], &["empty"]);
    refused(b"{}", &["cut short"]);
    refused(b"version https://git-lfs.github.com/spec/v1\n", &["git lfs pull"]);
    refused(&[7; 64], &["neither safetensors nor GGUF nor"]);
    let strange = open(&safe(r#"{"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}"#, 4)).unwrap();
    said_of(strange.tensor("a", 4, DType::F32, &Device::Cpu), &["tensor a", "type i8"]);
}

#[test]
fn a_tensor_that_is_not_there_or_not_so_is_named() {
    let header = r#"{"x.a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "y.weight":{"dtype":"I64","shape":[2],"data_offsets":[16,32]}}"#;
    let weights = open(&safe(header, 32)).unwrap();
    let get = |name: &str, shape: &[usize]| weights.tensor(name, shape, DType::F32, &Device::Cpu);
    said_of(get("z.a.weight", &[2, 2]), &["tensor z.a.weight is missing", "x.a.weight"]);
    said_of(get("x.a.weight", &[4]), &["tensor x.a.weight", "[2, 2]", "[4]"]);
    let expected = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), vec![2, 2])).collect::<Vec<_>>();
    said_of(weights.check(&expected(&["b", "c", "x.a.weight"]), |_| true), &["tensor b is missing", "1 more", "c"]);
    said_of(weights.check(&expected(&["x.a.weight"]), |_| false), &["unknown tensors y.weight"]);
    said_of(weights.check(&[("x.a.weight".into(), vec![3, 2])], |_| true), &["x.a.weight", "[2, 2]", "[3, 2]"]);
    weights.check(&expected(&["x.a.weight"]), |name| name == "y.weight").unwrap();
    assert_eq!(weights.numbers("y.weight").unwrap(), [0, 0]);
    said_of(weights.numbers("x.a.weight"), &["x.a.weight", "whole numbers"]);
    let rows = |rows: &[u32]| weights.rows("x.a.weight", rows, 2, DType::F32, &Device::Cpu);
    assert_eq!(rows(&[1, 0, 1]).unwrap().dims(), [3, 2]);
    assert_eq!(rows(&[]).unwrap().dims(), [0, 2]);
    said_of(rows(&[2]), &["row 2"]);
    let vb = weights.var_builder(DType::F32, &Device::Cpu);
    let said = vb.pp("x").pp("b").get((2, 2), "weight").unwrap_err().to_string();
    assert!(said.contains("FILE: tensor x.b.weight is missing"), "{said}");
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for (dtype, size, bits) in [
        ("F32", 4, f32::NAN.to_le_bytes().to_vec()),
        ("F16", 2, 0x7c00u16.to_le_bytes().to_vec()),
        ("BF16", 2, 0xff80u16.to_le_bytes().to_vec()),
        ("F64", 8, f64::INFINITY.to_le_bytes().to_vec()),
    ] {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[9],"data_offsets":[0,{}]}}}}"#, 9 * size);
        let mut file = safe(&header, 8 * size);
        assert_eq!(values(&open(&[&file[..], &vec![0; size]].concat()).unwrap(), "a"), [0.0; 9]);
        file.extend(bits);
        said_of(open(&file).unwrap().tensor("a", 9, DType::F32, &Device::Cpu), &["tensor a", "not finite"]);
    }
}

// ---- GGUF

/// A key with its type and value.
type Key<'a> = (&'a str, u32, Vec<u8>);

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A GGUF file with these keys and tensors (name, dimensions, type, offset) and so many bytes behind.
fn gguf(keys: &[Key<'_>], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((keys.len() as u64).to_le_bytes());
    for (key, kind, value) in keys {
        file.extend(text(key));
        file.extend(kind.to_le_bytes());
        file.extend(value);
    }
    for (name, dims, kind, offset) in tensors {
        file.extend(text(name));
        file.extend((dims.len() as u32).to_le_bytes());
        file.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        file.extend(kind.to_le_bytes());
        file.extend(offset.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32) + data, 0);
    file
}

#[test]
fn hostile_gguf_tables_are_refused() {
    let one = |dims: &[u64], kind: u32, offset: u64, data: usize| gguf(&[], &[("a", dims, kind, offset)], data);
    assert_eq!(values(&open(&one(&[4, 2], 0, 0, 32)).unwrap(), "a"), [0.0; 8]);
    refused(&one(&[4, 2], 0, 0, 31), &["tensor a", "ends behind"]);
    refused(&one(&[4, 2], 0, 64, 32), &["tensor a", "begins", "behind"]);
    refused(&one(&[4, 2], 0, 4, 64), &["tensor a", "multiple of 32"]);
    refused(&one(&[4, 2], 0, u64::MAX - 31, 32), &["tensor a", "begins"]);
    refused(&one(&[4, 0], 0, 0, 32), &["tensor a", "dimensions [4, 0]"]);
    refused(&one(&[1 << 40, 1 << 40], 0, 0, 32), &["tensor a", "dimensions"]);
    refused(&one(&[1 << 62], 0, 0, 32), &["tensor a", "ends behind"]);
    refused(&one(&[33], 3, 0, 64), &["tensor a", "blocks of 32"]);
    refused(&one(&[1; 5], 0, 0, 32), &["tensor a", "5 dimensions"]);
    refused(&one(&[], 0, 0, 32), &["tensor a", "0 dimensions"]);
    let overlap = gguf(&[], &[("a", &[16], 0, 0), ("b", &[16], 0, 32)], 96);
    refused(&overlap, &["tensor b", "overlaps with a"]);
    refused(&gguf(&[], &[("a", &[8], 0, 0), ("a", &[8], 0, 32)], 64), &["tensor a", "two"]);
    let renamed = gguf(&[], &[("model.norm.weight", &[8], 0, 0), ("output_norm.weight", &[8], 0, 32)], 64);
    refused(&renamed, &["output_norm.weight", "two"]);
    let strange = open(&one(&[256], 16, 0, 32)).unwrap();
    said_of(strange.tensor("a", 256, DType::F32, &Device::Cpu), &["tensor a", "ggml type 16"]);
}

#[test]
fn hostile_gguf_keys_are_refused() {
    let keys = |keys: &[Key<'_>]| gguf(keys, &[("a", &[8], 0, 0)], 32);
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    assert!(open(&keys(&[("k", 9, [array(9, 1), array(8, 2), text("x"), text("")].concat())])).is_ok());
    refused(&keys(&[("k", 9, array(4, u64::MAX))]), &["key k", "cut short"]);
    refused(&keys(&[("k", 9, array(8, 1 << 40))]), &["key k"]);
    refused(
        &keys(&[("k", 9, [array(9, 1), array(9, 1), array(9, 1), array(9, 1), array(0, 0)].concat())]),
        &["arrays in"],
    );
    refused(&keys(&[("k", 13, vec![])]), &["key k", "type 13"]);
    refused(&keys(&[("k", 8, u64::MAX.to_le_bytes().to_vec())]), &["key k", "cut short"]);
    for alignment in [0u32, 3, 1 << 30] {
        refused(&keys(&[("general.alignment", 4, alignment.to_le_bytes().to_vec())]), &["general.alignment"]);
    }
    refused(&keys(&[("split.count", 2, vec![4, 0])]), &["one of 4 files"]);
    let heads = ("llama.attention.head_count", 4, 3u32.to_le_bytes().to_vec());
    refused(&gguf(&[heads], &[("blk.0.attn_q.weight", &[8, 8], 0, 0)], 256), &["attn_q", "3 heads"]);
    let mut big_endian = keys(&[]);
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    refused(&big_endian, &["big-endian"]);
    let counts = |at: usize| {
        let mut file = keys(&[]);
        file[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        file
    };
    refused(&counts(8), &["claims"]);
    refused(&counts(16), &["claims"]);
    let whole = keys(&[("k", 8, text("some text"))]);
    for length in 0..whole.len() {
        assert!(open(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_llamas_configuration_is_read_from_its_keys() {
    let number = |n: u32| n.to_le_bytes().to_vec();
    let base: Vec<Key<'_>> = vec![
        ("general.architecture", 8, text("llama")),
        ("llama.embedding_length", 4, number(64)),
        ("llama.feed_forward_length", 4, number(96)),
        ("llama.block_count", 4, number(2)),
        ("llama.attention.head_count", 4, number(4)),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5f32.to_le_bytes().to_vec()),
    ];
    let with = |more: &[Key<'_>]| {
        let keys: Vec<_> =
            base.iter().filter(|(key, ..)| more.iter().all(|(k, ..)| k != key)).chain(more).cloned().collect();
        let file = gguf(&keys, &[("token_embd.weight", &[64, 10], 0, 0)], 2560);
        open(&file).unwrap().gguf().unwrap().llama()
    };
    let config = with(&[]).unwrap();
    assert_eq!((config.hidden_size, config.vocab_size, config.theta(), config.rms_norm_eps), (64, 10, 10_000.0, 1e-5));
    let layers = [&5u32.to_le_bytes()[..], &2u64.to_le_bytes(), &number(2), &number(2)].concat();
    assert_eq!(with(&[("llama.attention.head_count_kv", 9, layers.clone())]).unwrap().num_key_value_heads, Some(2));
    let differ = [&layers[..16], &number(1)].concat();
    let said = |keys: &[Key<'_>]| with(keys).unwrap_err();
    assert!(said(&[("llama.attention.head_count_kv", 9, differ)]).contains("layers that differ"));
    assert!(said(&[("general.architecture", 8, text("qwen2"))]).contains("`qwen2` is not llama"));
    assert!(said(&[("general.architecture", 4, number(1))]).contains("not a text"));
    assert!(said(&[("llama.block_count", 8, text("2"))]).contains("llama.block_count"));
    assert!(said(&[("llama.block_count", 5, (-2i32).to_le_bytes().to_vec())]).contains("llama.block_count"));
    assert!(said(&[("llama.rope.freq_base", 6, f32::NAN.to_le_bytes().to_vec())]).contains("llama.rope.freq_base"));
    assert!(said(&[("llama.rope.dimension_count", 4, number(8))]).contains("16 values"));
    let scaled = with(&[("llama.rope.scaling.type", 8, text("linear"))]).unwrap();
    assert!(scaled.check().unwrap_err().contains("rope_scaling"));
}

// ---- PyTorch

/// What `torch.save` writes around a pickle, with one storage of `storage` bytes.
fn torch_file(pickle: &[u8], storage: usize) -> Vec<u8> {
    zip_file(&[("a/data.pkl", pickle), ("a/data/0", &vec![0; storage])])
}

fn zip_file(files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in files {
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A dictionary with a tensor `a` of these numbers (each below 256) in a storage of so many f32 values.
fn tensor_pickle(count: u8, offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let numbers = |numbers: &[u8]| {
        let numbers = numbers.iter().flat_map(|n| [b'K', *n]);
        [b'('].into_iter().chain(numbers).chain([b't']).collect::<Vec<_>>()
    };
    let mut file = b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n".to_vec();
    file.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK");
    file.push(count);
    file.extend(b"tQK");
    file.push(offset);
    file.extend(numbers(shape));
    file.extend(numbers(strides));
    // The hooks are an empty tuple here, where PyTorch has an empty OrderedDict.
    file.extend(b"\x89)tRs.");
    file
}

#[test]
fn views_of_a_storage_are_held_against_it() {
    let file = |count, offset, shape: &[u8], strides: &[u8], storage| {
        let mut file = torch_file(&tensor_pickle(count, offset, shape, strides), storage);
        // Values 0, 1, 2, …
        if let Some(at) = file.windows(8).position(|bytes| bytes == b"a/data/0").filter(|_| storage > 0) {
            for index in 0..storage / 4 {
                file[at + 8 + index * 4..][..4].copy_from_slice(&(index as f32).to_le_bytes());
            }
        }
        file
    };
    let read = |offset, shape: &[u8], strides: &[u8]| values(&open(&file(6, offset, shape, strides, 24)).unwrap(), "a");
    assert_eq!(read(0, &[2, 3], &[3, 1]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(read(1, &[2, 2], &[3, 1]), [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(read(5, &[], &[]), [5.0]);
    assert_eq!(read(2, &[1, 4], &[200, 1]), [2.0, 3.0, 4.0, 5.0]);
    assert!(read(0, &[0, 3], &[3, 1]).is_empty());
    let transposed = open(&file(6, 0, &[3, 2], &[1, 3], 24)).unwrap();
    let row = transposed.rows("a", &[2], 2, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(row.to_vec2::<f32>().unwrap(), [[2.0, 5.0]]);

    let no_fit = |offset, shape: &[u8], strides: &[u8]| {
        refused(&file(6, offset, shape, strides, 24), &["tensor a", "does not fit its storage"]);
    };
    no_fit(1, &[2, 3], &[3, 1]);
    no_fit(0, &[2, 3], &[4, 1]);
    no_fit(7, &[1], &[1]);
    refused(&file(6, 0, &[100], &[0], 24), &["tensor a", "repeats values"]);
    refused(&file(6, 0, &[2, 3], &[3], 24), &["strides"]);
    refused(&file(6, 0, &[1; 9], &[1; 9], 24), &["8 dimensions"]);
    refused(&file(7, 0, &[2, 3], &[3, 1], 24), &["7 values, 6 are there"]);
    let lost = zip_file(&[("a/data.pkl", &tensor_pickle(6, 0, &[6], &[1]))]);
    refused(&lost, &["tensor a", "storage data/0 is missing"]);
}

#[test]
fn pickles_that_could_execute_code_are_refused() {
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00x\x85R."[..], "os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n.", "numpy.core.multiarray._reconstruct"),
        (b"\x80\x02(X\x01\x00\x00\x00xios\nsystem\n.", "execute code"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "execute code"),
        (b"\x80\x02\x82\x01.", "execute code"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "other arguments"),
        (b"\x80\x02K\x01.", "a number, not a dictionary of tensors"),
        (b"\x80\x02K\x01}b.", "no dictionary"),
        (b"\x80\x02K\x01)R.", "a call of a number"),
        (b"\x80\x02K\x01Q.", "not to a storage"),
    ] {
        refused(&torch_file(pickle, 0), &[name]);
    }
}

#[test]
fn broken_pickles_are_refused() {
    for (pickle, words) in [
        (&b""[..], "cut short"),
        (b"\x80\x02}", "cut short"),
        (b"\x80\x02.", "nothing on the stack"),
        (b"\x80\x02(.", "nothing on the stack"),
        (b"\x80\x02}(.", "nothing on the stack"),
        (b"\x80\x02}t.", "no mark"),
        (b"\x80\x02}h\x07.", "remembered as 7"),
        (b"\x80\x02}X\xff\xff\xff\xffa.", "cut short"),
        (b"\x80\x02}\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "cut short"),
        (b"\x80\x02}X\x01\x00\x00\x00\xff.", "UTF-8"),
        (b"\x80\x02}\x8a\x09123456789.", "9 bytes"),
        (b"\x80\x02}(K\x01u.", "without a value"),
        (b"\x80\x02](K\x01K\x01u.", "no dictionary"),
        (b"\x80\x02}K\x01K\x01s.", "not a text"),
        (b"\x80\x02}\xfe.", "0xfe"),
        (b"\x80\x02].", "a list, not a dictionary"),
        (b"\x80\x02}.", "no tensors"),
        (b"\x80\x02}X\x05\x00\x00\x00modelK\x01s.", "no tensors in its dictionary, but model"),
    ] {
        refused(&torch_file(pickle, 0), &[words]);
    }
    let endless = [&b"\x80\x02"[..], &vec![b'N'; 2_000_000]].concat();
    refused(&torch_file(&endless, 0), &["more than 1000000 steps"]);
    // A dictionary in itself, and marks upon marks.
    refused(&torch_file(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", 0), &["no tensors"]);
    refused(&torch_file(&[&b"\x80\x02"[..], &vec![b'('; 100_000], b"."].concat(), 0), &["nothing on the stack"]);
    let sound = tensor_pickle(6, 0, &[6], &[1]);
    for length in 0..sound.len() {
        assert!(open(&torch_file(&sound[..length], 24)).is_err(), "{length}");
    }
}

#[test]
fn archives_that_are_not_torchs_are_refused() {
    let sound = torch_file(&tensor_pickle(6, 0, &[6], &[1]), 24);
    for length in (1..sound.len()).step_by(7) {
        assert!(open(&sound[..length]).is_err(), "{length}");
    }
    refused(&zip_file(&[("a/other", b"")]), &["without data.pkl"]);
    let pickle = tensor_pickle(6, 0, &[6], &[1]);
    let big = zip_file(&[("a/data.pkl", &pickle[..]), ("a/byteorder", b"big"), ("a/data/0", &[0; 24])]);
    refused(&big, &["big-endian"]);
    refused(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", &["before 1.6", "weights_only"]);
    // Method 8, deflate, in both headers.
    let mut compressed = sound;
    for (mark, at) in [(b"PK\x03\x04", 8), (b"PK\x01\x02", 10)] {
        let found = compressed.windows(4).position(|bytes| bytes == mark).unwrap();
        compressed[found + at] = 8;
    }
    refused(&compressed, &["compressed"]);
}

// ---- files

#[test]
fn fixtures_of_hostile_files_are_refused_with_their_fault() {
    let adapter = |name: &str| {
        let weights = Weights::open(&fixture("hostile").join(name))?;
        let shapes = [
            ("adapter.weight", vec![64, 48]),
            ("adapter.bias", vec![64]),
            ("deadapter.weight", vec![48, 64]),
            ("deadapter.bias", vec![48]),
            ("learnable_task_token", vec![1, 3, 64]),
        ];
        let expected: Vec<_> = shapes.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
        weights.check(&expected, |_| false)?;
        expected
            .iter()
            .try_for_each(|(name, shape)| weights.tensor(name, &shape[..], DType::F32, &Device::Cpu).map(|_| ()))
    };
    let mut names = Vec::new();
    for (name, words) in [
        ("calls_os_system.bin", "before 1.6"),
        ("calls_os_system.pt", "system, and calling that would execute code: refused"),
        ("header_not_json.safetensors", "neither safetensors nor"),
        ("header_too_long.safetensors", "cut short"),
        ("kv_count_lies.gguf", "claims"),
        ("missing_tensor.safetensors", "tensor deadapter.bias is missing"),
        ("nan.safetensors", "tensor adapter.bias: it holds values that are not finite"),
        ("string_length_lies.gguf", "cut short"),
        ("tensor_count_lies.gguf", "claims"),
        ("transposed.safetensors", "tensor adapter.weight: has shape [48, 64]"),
        ("truncated.gguf", "ends behind"),
        ("truncated.pt", "not a sound zip file"),
        ("truncated.safetensors", "not sound safetensors"),
        ("unknown_tensor.safetensors", "tensor deadapter.bias is missing"),
        ("version_99.gguf", "version 99"),
    ] {
        let text = adapter(name).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains(name), "{name}: {text}");
        names.push(name.to_owned());
    }
    let there = std::fs::read_dir(fixture("hostile")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<_> = there.collect();
    there.sort();
    assert_eq!(there, names);
}

#[test]
fn formats_agree_to_the_bit() {
    let all = |name: &str| {
        let weights = Weights::open(&fixture(name)).unwrap();
        let names: Vec<_> = weights.infos().map(|info| info.name.to_owned()).collect();
        names.into_iter().map(|name| (name.clone(), values(&weights, &name))).collect::<BTreeMap<_, _>>()
    };
    let adapter = all("adapter.safetensors");
    assert_eq!(adapter.len(), 5);
    assert!(adapter == all("adapter.pt") && adapter == all("adapter_one_storage.pt"));
    // Matrices are f16 in both, norms in f32 in the second.
    let gguf = all("llm_f16.gguf");
    for (name, values) in all("llm_gqa") {
        if name != "lm_head.weight" {
            assert_eq!(gguf.get(&name), Some(&values), "{name}");
        }
    }
}

#[test]
fn folders_that_lead_nowhere_are_refused() {
    let folder = tempfile::Builder::new().prefix("FILE").tempdir().unwrap();
    let open = || Weights::open(folder.path());
    said_of(open(), &["none of model.safetensors"]);
    let index = folder.path().join("model.safetensors.index.json");
    let with = |text: &str| std::fs::write(&index, text).unwrap();
    for path in ["../x.safetensors", "/etc/passwd", "a/b", "", ".."] {
        with(&format!(r#"{{"weight_map":{{"a":"{path}"}}}}"#));
        said_of(open(), &["not beside the index"]);
    }
    with(r#"{"weight_map":{"a":"x.safetensors"}}"#);
    said_of(open(), &["x.safetensors", "No such file"]);
    with("{");
    said_of(open(), &["index.json", "line 1"]);
    with(&format!("{{\"weight_map\":{}", "[".repeat(1000)));
    said_of(open(), &["index.json"]);
    std::fs::File::create(&index).unwrap().set_len((16 << 20) + 1).unwrap();
    said_of(open(), &["too many"]);
    let (a, b) = (safe(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4), folder.path());
    std::fs::write(b.join("x.safetensors"), &a).unwrap();
    std::fs::write(b.join("y.safetensors"), &a).unwrap();
    with(r#"{"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#);
    said_of(open(), &["y.safetensors", "tensor a is there twice"]);
    #[cfg(unix)]
    {
        let link = folder.path().join("model.safetensors");
        std::os::unix::fs::symlink(&link, &link).unwrap();
        said_of(open(), &["model.safetensors", "symbolic links"]);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        said_of(open(), &["model.safetensors", "not a file"]);
    }
}
