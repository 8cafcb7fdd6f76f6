//! Files that are wrong: each is refused with one line that names the file and the field, quickly and without a trace.

mod tiny;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use smidgen_core::quant::Type;
use smidgen_host::{ConvertOptions, Error, OpenOptions, convert, open};
use tiny::{Directory, Model, Tensor};

/// Long for what is done, short for a user; a busy machine needs some of it.
const LIMIT: Duration = Duration::from_secs(2);

/// Opens and converts `name`, both of which must refuse it in the same words, and returns these.
fn refused(name: &str) -> Error {
    let start = Instant::now();
    let error = open(name, &OpenOptions::default()).unwrap_err();
    let out = Directory::new();
    let again = convert(name, out.join("out.gguf").as_ref(), &ConvertOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "nothing is left of a failed conversion");
    assert!(start.elapsed() < LIMIT, "{error}: {:?}", start.elapsed());
    assert!(!error.to_string().contains('\n'));
    error
}

fn check(what: &str, name: &str, parts: &[&str]) {
    let error = refused(name);
    let said = error.to_string();
    for part in parts {
        assert!(said.contains(part), "{what}: '{said}' does not say '{part}'");
    }
    assert_eq!(error.exit_code(), 2, "{what}: {said}");
}

/// What can be wrong with the values of a Hugging Face model.
#[derive(Clone, Copy, Debug)]
enum Broken {
    MissingKey,
    KeyOfWrongType,
    ZeroLayers,
    ManyLayers,
    HugeVocabulary,
    UnknownClass,
    NoClass,
    Activation,
    AttentionBias,
    Softcapping,
    PartialRotary,
    Experts,
    Quantized,
    RopeType,
    RopeFactor,
    KvHeads,
    LayerTypes,
    MissingTensor,
    ExtraTensor,
    WrongShape,
    IntegerTensor,
    DoubleTensor,
    NanWeight,
    InfiniteWeight,
    UnknownExpression,
    UnknownNormalizer,
    UnknownTokenizer,
    MergeOfNoToken,
    MergeOfThree,
    TwoTokensOfOneNumber,
    TokenBeyondEmbedding,
    EndBeyondEmbedding,
    TemplateOfOtherToken,
}

impl Broken {
    const ALL: [Broken; 33] = [
        Broken::MissingKey,
        Broken::KeyOfWrongType,
        Broken::ZeroLayers,
        Broken::ManyLayers,
        Broken::HugeVocabulary,
        Broken::UnknownClass,
        Broken::NoClass,
        Broken::Activation,
        Broken::AttentionBias,
        Broken::Softcapping,
        Broken::PartialRotary,
        Broken::Experts,
        Broken::Quantized,
        Broken::RopeType,
        Broken::RopeFactor,
        Broken::KvHeads,
        Broken::LayerTypes,
        Broken::MissingTensor,
        Broken::ExtraTensor,
        Broken::WrongShape,
        Broken::IntegerTensor,
        Broken::DoubleTensor,
        Broken::NanWeight,
        Broken::InfiniteWeight,
        Broken::UnknownExpression,
        Broken::UnknownNormalizer,
        Broken::UnknownTokenizer,
        Broken::MergeOfNoToken,
        Broken::MergeOfThree,
        Broken::TwoTokensOfOneNumber,
        Broken::TokenBeyondEmbedding,
        Broken::EndBeyondEmbedding,
        Broken::TemplateOfOtherToken,
    ];

    /// Breaks `model`; returns what the error must say.
    fn apply(self, model: &mut Model) -> &'static [&'static str] {
        const UP: &str = "model.layers.1.mlp.up_proj.weight";
        match self {
            Broken::MissingTensor => drop(model.tensors.remove(UP)),
            Broken::ExtraTensor => {
                let extra = Tensor::f32(&[1], &[0.0]);
                model.tensors.insert("model.layers.0.self_attn.odd".into(), extra);
            }
            Broken::WrongShape => model.tensors.get_mut(UP).unwrap().shape.reverse(),
            Broken::IntegerTensor => *model.tensors.get_mut(UP).unwrap() = zeros("I8", 240),
            Broken::DoubleTensor => *model.tensors.get_mut(UP).unwrap() = zeros("F64", 240 * 8),
            Broken::NanWeight => {
                model.tensors.get_mut(UP).unwrap().bytes[400..404].copy_from_slice(&f32::NAN.to_le_bytes())
            }
            Broken::InfiniteWeight => {
                model.tensors.get_mut(UP).unwrap().bytes[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
            }
            _ => self.apply_to_json(model),
        }
        self.says()
    }

    fn apply_to_json(self, model: &mut Model) {
        let tokenizer = &mut model.tokenizer;
        let (key, value) = match self {
            Broken::MissingKey => ("intermediate_size", Value::Null),
            Broken::KeyOfWrongType => ("hidden_size", json!("twelve")),
            Broken::ZeroLayers => ("num_hidden_layers", json!(0)),
            Broken::ManyLayers => ("num_hidden_layers", json!(4_000_000_000u32)),
            Broken::HugeVocabulary => ("vocab_size", json!(4_000_000_000u32)),
            Broken::UnknownClass => ("architectures", json!(["MambaForCausalLM"])),
            Broken::NoClass => ("architectures", Value::Null),
            Broken::Activation => ("hidden_act", json!("relu")),
            Broken::AttentionBias => ("attention_bias", json!(true)),
            Broken::Softcapping => ("attn_logit_softcapping", json!(50.0)),
            Broken::PartialRotary => ("partial_rotary_factor", json!(0.5)),
            Broken::Experts => ("num_local_experts", json!(8)),
            Broken::Quantized => ("quantization_config", json!({"quant_method": "gptq"})),
            Broken::RopeType => ("rope_scaling", json!({"type": "dynamic", "factor": 2})),
            Broken::RopeFactor => ("rope_scaling", json!({"type": "linear"})),
            Broken::KvHeads => ("num_key_value_heads", json!(2)),
            Broken::LayerTypes => ("layer_types", json!(["full_attention"])),
            Broken::EndBeyondEmbedding => ("eos_token_id", json!([0, 14])),
            _ => ("", Value::Null),
        };
        match self {
            Broken::UnknownExpression => {
                tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": r"\w+|\W"}, "behavior": "Isolated", "invert": false},
                    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]});
            }
            Broken::UnknownNormalizer => tokenizer["normalizer"] = json!({"type": "Lowercase"}),
            Broken::UnknownTokenizer => tokenizer["model"]["type"] = json!("WordPiece"),
            Broken::MergeOfNoToken => tokenizer["model"]["merges"][1] = json!(["a", "c"]),
            Broken::MergeOfThree => tokenizer["model"]["merges"][1] = json!("a b c"),
            Broken::TwoTokensOfOneNumber => tokenizer["model"]["vocab"]["a"] = json!(2),
            Broken::TokenBeyondEmbedding => tokenizer["model"]["vocab"]["a"] = json!(14),
            Broken::TemplateOfOtherToken => {
                tokenizer["post_processor"] = json!({"type": "TemplateProcessing", "single": [
                    {"SpecialToken": {"id": "<odd>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
            }
            _ => model.config[key] = value,
        }
    }

    fn says(self) -> &'static [&'static str] {
        match self {
            Broken::MissingKey => &["config.json", "intermediate_size", "missing"],
            Broken::KeyOfWrongType => &["config.json", "hidden_size", "twelve"],
            Broken::ZeroLayers | Broken::ManyLayers => &["config.json", "num_hidden_layers"],
            Broken::HugeVocabulary => &["model.safetensors", "embed_tokens", "4000000000"],
            Broken::UnknownClass => &["MambaForCausalLM", "LlamaForCausalLM", "GPTNeoForCausalLM"],
            Broken::NoClass => &["config.json", "architectures"],
            Broken::Activation => &["hidden_act", "relu", "silu"],
            Broken::AttentionBias => &["attention_bias"],
            Broken::Softcapping => &["attn_logit_softcapping"],
            Broken::PartialRotary => &["partial_rotary_factor", "0.5"],
            Broken::Experts => &["num_local_experts"],
            Broken::Quantized => &["quantization_config", "gptq"],
            Broken::RopeType => &["rope_scaling.type", "dynamic", "yarn"],
            Broken::RopeFactor => &["rope_scaling.factor", "missing"],
            Broken::KvHeads => &["num_key_value_heads"],
            Broken::LayerTypes => &["layer_types", "2 layers"],
            Broken::MissingTensor => &["1 missing tensor", "layers.1.mlp.up_proj.weight"],
            Broken::ExtraTensor => &["1 unknown tensor", "layers.0.self_attn.odd"],
            Broken::WrongShape => &["model.safetensors", "up_proj", "[12, 20]", "[20, 12]"],
            Broken::IntegerTensor => &["up_proj", "I8"],
            Broken::DoubleTensor => &["up_proj", "F64"],
            Broken::NanWeight => &["blk.1.ffn_up.weight", "weight 100", "NaN"],
            Broken::InfiniteWeight => &["blk.1.ffn_up.weight", "weight 0", "infinite"],
            Broken::UnknownExpression => &["tokenizer.json", r"\w+|\W"],
            Broken::UnknownNormalizer => &["normalizer", "Lowercase"],
            Broken::UnknownTokenizer => &["model.type", "WordPiece"],
            Broken::MergeOfNoToken => &["merges[1]", "'ac'"],
            Broken::MergeOfThree => &["tokenizer.json", "a b c"],
            Broken::TwoTokensOfOneNumber => &["'a'", "'b'", "number 2"],
            Broken::TokenBeyondEmbedding => &["tokenizer.json", "'a'", "14"],
            Broken::EndBeyondEmbedding => &["config.json", "eos_token_id", "14"],
            Broken::TemplateOfOtherToken => &["post_processor", "<odd>"],
        }
    }
}

fn zeros(dtype: &'static str, n_bytes: usize) -> Tensor {
    Tensor { dtype, shape: vec![20, 12], bytes: vec![0; n_bytes] }
}

#[test]
fn a_model_with_one_wrong_value_is_refused_by_its_name() {
    for broken in Broken::ALL {
        // Qwen 2 reads layer_types; everything else is the same in every class with gates.
        let class = if matches!(broken, Broken::LayerTypes) { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" };
        let mut model = Model::gated(class, 1);
        model.config["use_sliding_window"] = json!(true);
        if matches!(broken, Broken::LayerTypes) {
            model.config["sliding_window"] = json!(4);
        }
        let says = broken.apply(&mut model);
        let directory = model.write();
        check(&format!("{broken:?}"), directory.path().to_str().unwrap(), says);
    }
}

/// What can be wrong with the files of a Hugging Face directory.
#[test]
fn a_directory_with_a_wrong_file_is_refused_by_its_name() {
    let replace = |name: &str, bytes: &[u8]| {
        let directory = Model::gated("LlamaForCausalLM", 1).write();
        directory.write(name, bytes);
        directory
    };
    let remove = |name: &str| {
        let directory = replace(name, b"");
        std::fs::remove_file(directory.join(name)).unwrap();
        directory
    };
    let make_directory = |name: &str| {
        let directory = remove(name);
        std::fs::create_dir(directory.join(name)).unwrap();
        directory
    };
    let index = |map: Value| replace("model.safetensors.index.json", json!({"weight_map": map}).to_string().as_bytes());
    let cases: [(&str, Directory, &[&str]); 16] = [
        ("no config", remove("config.json"), &["config.json"]),
        ("no weights", remove("model.safetensors"), &["model.safetensors"]),
        ("no tokenizer", remove("tokenizer.json"), &["tokenizer.json", "tokenizer.model"]),
        ("config is a directory", make_directory("config.json"), &["config.json", "directory"]),
        ("weights are a directory", make_directory("model.safetensors"), &["model.safetensors", "directory"]),
        ("tokenizer is a directory", make_directory("tokenizer.json"), &["tokenizer.json", "directory"]),
        ("config is empty", replace("config.json", b""), &["config.json", "empty"]),
        ("config is a list", replace("config.json", b"[]"), &["config.json", "object"]),
        ("config is cut", replace("config.json", b"{\"a\": "), &["config.json", "JSON"]),
        ("config is deep", replace("config.json", "[".repeat(100_000).as_bytes()), &["config.json", "JSON"]),
        ("weights are empty", replace("model.safetensors", b""), &["model.safetensors", "empty"]),
        ("weights are short", replace("model.safetensors", b"1234567"), &["model.safetensors", "ends inside"]),
        ("tokenizer is cut", replace("tokenizer.json", b"{\"model\": {"), &["tokenizer.json"]),
        ("a shard is missing", index(json!({"a": "absent.safetensors"})), &["index.json", "absent.safetensors"]),
        ("a shard is elsewhere", index(json!({"a": "../x.safetensors"})), &["index.json", "../x.safetensors"]),
        ("no shards", index(json!({})), &["index.json", "0 files"]),
    ];
    for (what, directory, says) in cases {
        check(what, directory.path().to_str().unwrap(), says);
    }
}

#[test]
fn a_safetensors_file_cut_anywhere_is_refused() {
    let directory = Model::gated("LlamaForCausalLM", 1).write();
    let path = directory.join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let cuts = [1, 7, 8, 9, header_end - 1, header_end, header_end + 1, whole.len() - 1];
    for cut in cuts.into_iter().chain((0..whole.len()).step_by(997).skip(1)) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        check(&format!("cut at {cut}"), directory.path().to_str().unwrap(), &["model.safetensors"]);
    }
    for len in [u64::MAX, whole.len() as u64 - 7, 1 << 40] {
        let mut lying = whole.clone();
        lying[..8].copy_from_slice(&len.to_le_bytes());
        std::fs::write(&path, lying).unwrap();
        check("a header length that lies", directory.path().to_str().unwrap(), &["at byte 0", "header"]);
    }
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    use smidgen_host::hf::safetensors::parse_header;
    let cases: [(&str, &str, &str); 13] = [
        ("not JSON", "{", "not a safetensors header"),
        ("not an object", "[]", "not a safetensors header"),
        ("no offsets", r#"{"a": {"dtype": "F32", "shape": [2]}}"#, "data_offsets"),
        ("negative shape", r#"{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}"#, "-2"),
        ("unknown type", r#"{"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}"#, "F31"),
        ("wrong size", r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 7]}}"#, "8 bytes"),
        ("backwards", r#"{"a": {"dtype": "F32", "shape": [0], "data_offsets": [8, 0]}}"#, "[8, 0]"),
        (
            "a product that overflows",
            r#"{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}}"#,
            "overflows",
        ),
        (
            "overlap",
            r#"{"a": {"dtype": "U8", "shape": [5], "data_offsets": [0, 5]}, "b": {"dtype": "U8", "shape": [5], "data_offsets": [3, 8]}}"#,
            "'b': its data at offset 3 overlaps",
        ),
        (
            "gap",
            r#"{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}, "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}"#,
            "'b': its data at offset 4 leaves a gap",
        ),
        (
            "twice",
            r#"{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, "a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}"#,
            "'a' is described twice",
        ),
        ("short", r#"{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}"#, "ends at offset 4"),
        ("long", r#"{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}"#, "truncated"),
    ];
    for (what, header, says) in cases {
        let said = parse_header(header.as_bytes(), 8).unwrap_err().to_string();
        assert!(said.contains(says), "{what}: {said}");
    }
    let fine = r#"{"__metadata__": {"x": "y"}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
    assert_eq!(parse_header(fine.as_bytes(), 8).unwrap().len(), 1);
}

#[test]
fn a_llama2c_file_that_lies_is_refused() {
    let directory = Directory::new();
    let path = directory.join("model.bin");
    let whole = tiny::llama2c_legacy([8, 12, 1, 2, 1, 10, 4]);
    for cut in (1..whole.len()).step_by(13).chain([27, 28, 29, whole.len() - 1]) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        check(&format!("cut at {cut}"), &path, &["model.bin"]);
    }
    let fields = ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"];
    for (index, field) in fields.into_iter().enumerate() {
        for (value, part) in [(0, field), (i32::MIN, "model.bin"), (i32::MAX, "model.bin"), (7, "model.bin")] {
            let mut lying = whole.clone();
            lying[index * 4..][..4].copy_from_slice(&value.to_le_bytes());
            std::fs::write(&path, lying).unwrap();
            check(&format!("{field} = {value}"), &path, &[part]);
        }
    }
    let mut longer = whole.clone();
    longer.push(0);
    std::fs::write(&path, &longer).unwrap();
    check("a byte too many", &path, &["the header leads to"]);
    let mut version = b"24ka".to_vec();
    version.extend([9, 0, 0, 0]);
    version.resize(300, 0);
    std::fs::write(&path, &version).unwrap();
    check("version 9", &path, &["at byte 4", "version 9"]);
    let mut nan = whole;
    nan[28..32].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &nan).unwrap();
    check("NaN", &path, &["token_embd.weight", "weight 0", "NaN"]);
}

#[test]
fn a_llama2c_tokenizer_must_be_that_of_the_model() {
    let directory = Directory::new();
    directory.write("model.bin", tiny::llama2c_legacy([8, 12, 1, 2, 1, 10, 4]));
    directory.write("tokenizer.bin", b"\x05\0\0\0");
    check("no pieces", &directory.join("model.bin"), &["tokenizer.bin", "at least"]);
    let mut pieces = 5i32.to_le_bytes().to_vec();
    for piece in ["<unk>", "<s>", "</s>"] {
        pieces.extend(0f32.to_le_bytes());
        pieces.extend((piece.len() as i32).to_le_bytes());
        pieces.extend(piece.as_bytes());
    }
    directory.write("tokenizer.bin", &pieces);
    check("three pieces for ten rows", &directory.join("model.bin"), &["tokenizer.bin", "3 pieces", "10"]);
    let absent = Some(directory.path().join("absent.bin"));
    let options = OpenOptions { tokenizer: absent, ..OpenOptions::default() };
    let said = open(&directory.join("model.bin"), &options).unwrap_err().to_string();
    assert!(said.contains("absent.bin: no such file"), "{said}");
    let gated = Model::gated("LlamaForCausalLM", 1).write();
    let said = open(gated.path().to_str().unwrap(), &options).unwrap_err().to_string();
    assert!(said.contains("only for llama2.c"), "{said}");
}

#[test]
fn names_that_lead_nowhere_are_refused() {
    let directory = Directory::new();
    check("absent", &directory.join("absent.gguf"), &["absent.gguf", "no such file"]);
    check("an empty directory", directory.path().to_str().unwrap(), &["config.json"]);
    directory.write("empty.gguf", b"");
    check("empty", &directory.join("empty.gguf"), &["empty.gguf", "empty"]);
    directory.write("other.txt", b"hello");
    check("another kind", &directory.join("other.txt"), &["neither a GGUF file"]);
    directory.write("short.gguf", b"GGUF\x03");
    check("a cut GGUF", &directory.join("short.gguf"), &["short.gguf", "version"]);
    directory.write("fake.gguf", b"hello, world");
    check("no GGUF", &directory.join("fake.gguf"), &["not a GGUF file"]);
    let model = Model::gated("LlamaForCausalLM", 1).write();
    check("one file of a directory", &model.join("config.json"), &["give the directory"]);
    check("one file of a directory", &model.join("model.safetensors"), &["give the directory"]);
}

#[cfg(unix)]
#[test]
fn links_in_circles_and_special_files_are_refused() {
    use std::os::unix::fs::symlink;
    let directory = Directory::new();
    symlink("b.gguf", directory.join("a.gguf")).unwrap();
    symlink("a.gguf", directory.join("b.gguf")).unwrap();
    check("links in circles", &directory.join("a.gguf"), &["a.gguf", "links"]);
    check("an endless file", "/dev/zero", &["not an ordinary file"]);
    let pipe = directory.join("pipe.gguf");
    if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
        check("a pipe", &pipe, &["not an ordinary file"]);
    }
    let model = Model::gated("LlamaForCausalLM", 1).write();
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    symlink("model.safetensors", model.join("model.safetensors")).unwrap();
    check("weights that link to themselves", model.path().to_str().unwrap(), &["model.safetensors"]);
}

#[test]
fn rows_that_a_type_cannot_take_are_listed_and_not_silently_changed() {
    let directory = Model::gated("LlamaForCausalLM", 1).write();
    let name = directory.path().to_str().unwrap();
    let out = directory.join("out.gguf");
    let options = ConvertOptions { outtype: Some(Type::Q8_0), ..ConvertOptions::default() };
    let error = convert(name, out.as_ref(), &options).unwrap_err();
    let said = error.to_string();
    for part in
        ["Q8_0", "token_embd.weight (rows of 12)", "blk.0.ffn_down.weight (rows of 20)", "--fallback f16", "more"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(error.exit_code(), 2);
    assert!(!Path::new(&out).exists());
    let options = ConvertOptions { fallback: Some(Type::F16), ..options };
    let summary = convert(name, out.as_ref(), &options).unwrap();
    assert!(summary.types.iter().all(|(kind, _)| matches!(kind, Type::F16 | Type::F32)));
    let options = ConvertOptions { outtype: Some(Type::Q4_K), ..ConvertOptions::default() };
    assert!(convert(name, out.as_ref(), &options).unwrap_err().to_string().contains("Q4_K"));
}

#[test]
fn weights_too_large_for_a_type_are_named() {
    let mut model = Model::gated("LlamaForCausalLM", 1);
    model.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().bytes[8..12]
        .copy_from_slice(&70000f32.to_le_bytes());
    let directory = model.write();
    let options = OpenOptions { outtype: Some(Type::F16), ..OpenOptions::default() };
    let said = open(directory.path().to_str().unwrap(), &options).unwrap_err().to_string();
    assert!(said.contains("blk.0.ffn_up.weight") && said.contains("weight 2") && said.contains("70000"), "{said}");
}

#[test]
fn an_input_is_never_written_over() {
    let model = Model::gated("LlamaForCausalLM", 1).write();
    let name = model.path().to_str().unwrap();
    let weights = model.join("model.safetensors");
    let before = std::fs::read(&weights).unwrap();
    let said = convert(name, weights.as_ref(), &ConvertOptions::default()).unwrap_err().to_string();
    assert!(said.contains("is an input"), "{said}");
    let gguf = model.join("a.gguf");
    convert(name, gguf.as_ref(), &ConvertOptions::default()).unwrap();
    let link = model.join("link.gguf");
    std::fs::hard_link(&gguf, &link).unwrap();
    let said = convert(&gguf, link.as_ref(), &ConvertOptions::default()).unwrap_err().to_string();
    assert!(said.contains("is an input"), "{said}");
    let said = convert(name, model.path(), &ConvertOptions::default()).unwrap_err().to_string();
    assert!(said.contains("is an input") || said.contains("is a directory"), "{said}");
    assert_eq!(std::fs::read(&weights).unwrap(), before);
}

#[test]
fn a_failed_conversion_leaves_the_old_file() {
    let mut model = Model::gated("LlamaForCausalLM", 1);
    let last = model.tensors.get_mut("model.norm.weight").unwrap();
    last.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let directory = model.write();
    let out = Directory::new();
    out.write("out.gguf", b"what was there");
    let path = out.join("out.gguf");
    assert!(convert(directory.path().to_str().unwrap(), path.as_ref(), &ConvertOptions::default()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
    let said =
        convert(directory.path().to_str().unwrap(), out.join("no/such/out.gguf").as_ref(), &ConvertOptions::default());
    assert_eq!(said.unwrap_err().exit_code(), 1);
}

/// Needs the right to mount; elsewhere the same is shown by `emit`'s own test with a writer that is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_error_and_no_file() {
    let disk = Directory::new();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new("mount")
            .args(arguments)
            .arg(disk.path())
            .stderr(std::process::Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"]) {
        eprintln!("skipped: a full disk, no right to mount one");
        return;
    }
    let model = Directory::new();
    model.write("model.bin", tiny::llama2c_legacy([64, 128, 2, 2, 2, 100, 16]));
    let error =
        convert(&model.join("model.bin"), disk.join("out.gguf").as_ref(), &ConvertOptions::default()).unwrap_err();
    let left = std::fs::read_dir(disk.path()).unwrap().count();
    let unmounted = std::process::Command::new("umount").arg(disk.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(error.to_string().contains("out.gguf: cannot be written"), "{error}");
    assert_eq!((error.exit_code(), left), (1, 0));
}
