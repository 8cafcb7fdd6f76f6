//! Models that people have, opened and converted: every tensor compared with what it should have become.

mod tiny;

use smidgen_core::bytes::Endian;
use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_core::simd::Isa;
use smidgen_host::{ConvertOptions, OpenOptions, Silent, convert, open};
use tiny::{Directory, HEAD_DIM, Model, N_EMBD, N_LAYERS, N_VOCAB, Tensor};

fn parse(bytes: &[u8]) -> Gguf<'_> {
    Gguf::parse(bytes, bytes.len() as u64).unwrap()
}

/// The weights of tensor `name`, with its dimensions.
fn weights(gguf: &Gguf<'_>, name: &str) -> (Vec<u64>, Vec<f32>) {
    let tensor = gguf.tensor(&[name]).unwrap_or_else(|| panic!("{name} is missing"));
    let mut weights = vec![0.0; tensor.n_weights() as usize];
    let bytes = gguf.data(&tensor).unwrap();
    let row = tensor.dims[0] as usize;
    let row_bytes = bytes.len() / (weights.len() / row);
    for (bytes, out) in bytes.chunks_exact(row_bytes).zip(weights.chunks_exact_mut(row)) {
        tensor.kind.dequantize(bytes, out).unwrap();
    }
    (tensor.dims[..tensor.n_dims as usize].to_vec(), weights)
}

/// What GGUF calls a tensor of a class, and what becomes of it: written apart from the importer, after llama.cpp's converter.
fn expected(class: &str, name: &str, tensor: &Tensor) -> (String, Vec<u64>, Vec<f32>) {
    let bare = name.trim_start_matches("model.").trim_start_matches("transformer.");
    let (block, inner) = match bare.split_once('.') {
        Some(("layers" | "h", rest)) => {
            rest.split_once('.').map(|(layer, inner)| (format!("blk.{layer}."), inner)).unwrap()
        }
        _ => (String::new(), bare),
    };
    let (stem, kind) = inner.rsplit_once('.').unwrap();
    let is_gemma = class == "Gemma3ForCausalLM";
    let renamed = match stem {
        "embed_tokens" | "wte" => "token_embd",
        "wpe" => "position_embd",
        "norm" | "ln_f" => "output_norm",
        "lm_head" => "output",
        "input_layernorm" | "ln_1" => "attn_norm",
        "post_attention_layernorm" if is_gemma => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" | "ln_2" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_proj" | "attn.attention.q_proj" => "attn_q",
        "self_attn.k_proj" | "attn.attention.k_proj" => "attn_k",
        "self_attn.v_proj" | "attn.attention.v_proj" => "attn_v",
        "self_attn.o_proj" | "attn.attention.out_proj" | "attn.c_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "attn.c_attn" => "attn_qkv",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" | "mlp.c_fc" => "ffn_up",
        "mlp.down_proj" | "mlp.c_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    let mut values = tensor.floats();
    let mut dims: Vec<u64> = tensor.shape.iter().rev().copied().collect();
    let is_llama = matches!(class, "LlamaForCausalLM" | "MistralForCausalLM");
    if is_llama && matches!(renamed, "attn_q" | "attn_k") {
        values = interleaved(&values, HEAD_DIM as usize, N_EMBD as usize);
    }
    if class == "GPT2LMHeadModel" && tensor.shape.len() == 2 && stem.contains("c_") {
        values = transposed(&values, tensor.shape[0] as usize, tensor.shape[1] as usize);
        dims.reverse();
    }
    if is_gemma && stem.ends_with("norm") {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    (format!("{block}{renamed}.{kind}"), dims, values)
}

/// The rows of each head taken in turn from its first and its second half.
fn interleaved(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let mut result = Vec::new();
    for head in values.chunks_exact(head_dim * columns) {
        let (first, second) = head.split_at(head.len() / 2);
        for (one, other) in first.chunks_exact(columns).zip(second.chunks_exact(columns)) {
            result.extend(one);
            result.extend(other);
        }
    }
    result
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

#[test]
fn every_tensor_of_every_class_becomes_what_it_should() {
    for model in Model::all() {
        let directory = model.write();
        let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        let gguf = parse(file.bytes());
        assert_eq!(gguf.n_tensors(), model.tensors.len(), "{}", model.class());
        for (name, tensor) in &model.tensors {
            let (renamed, dims, values) = expected(model.class(), name, tensor);
            assert_eq!(weights(&gguf, &renamed), (dims, values), "{} {name}", model.class());
        }
        assert!(!file.is_mapped());
        assert_eq!(file.format(), "Hugging Face");
    }
}

#[test]
fn metadata_says_what_config_json_says() {
    let models = Model::all();
    let directories: Vec<Directory> = models.iter().map(Model::write).collect();
    let open = |index: usize| open(directories[index].path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    let archs = ["llama", "llama", "qwen2", "qwen3", "gemma3", "gpt2", "gptneo"];
    for (index, arch) in archs.into_iter().enumerate() {
        let file = open(index);
        let gguf = parse(file.bytes());
        let number =
            |key: &str| gguf.get_parts(&[arch, key]).unwrap_or_else(|| panic!("{arch}{key}")).as_u64().unwrap();
        assert_eq!(gguf.get("general.architecture").unwrap().as_str(), Some(arch.as_bytes()));
        assert_eq!(number(".block_count"), N_LAYERS);
        assert_eq!(number(".embedding_length"), N_EMBD);
        assert_eq!(number(".vocab_size"), N_VOCAB);
        assert_eq!(number(".attention.head_count"), tiny::N_HEADS);
        assert_eq!(number(".feed_forward_length"), tiny::N_FF);
        assert_eq!(number(".context_length"), tiny::N_POSITIONS);
    }
    let float = |gguf: &Gguf<'_>, key: &str| gguf.get(key).unwrap().as_f32().unwrap();
    let pattern = |gguf: &Gguf<'_>, key: &str| -> Vec<bool> {
        gguf.get(key).unwrap().as_array().unwrap().iter().map(|value| value.as_bool().unwrap()).collect()
    };
    let llama = open(0);
    let gguf = parse(llama.bytes());
    assert_eq!(float(&gguf, "llama.rope.freq_base"), 5000.0);
    assert_eq!(float(&gguf, "llama.attention.layer_norm_rms_epsilon"), 1e-5);
    assert_eq!(gguf.get("llama.attention.key_length").unwrap().as_u64(), Some(HEAD_DIM));
    assert!(gguf.get("llama.attention.sliding_window").is_none());
    let mistral = open(1);
    assert_eq!(pattern(&parse(mistral.bytes()), "llama.attention.sliding_window_pattern"), [true, true]);
    let gemma = open(4);
    let gguf = parse(gemma.bytes());
    assert_eq!(float(&gguf, "gemma3.rope.freq_base"), 5000.0);
    assert_eq!(float(&gguf, "gemma3.rope.freq_base_swa"), 10000.0);
    assert_eq!(float(&gguf, "gemma3.attention.scale"), 1.0 / 3.0);
    assert_eq!(pattern(&gguf, "gemma3.attention.sliding_window_pattern"), [true, false]);
    let neo = open(6);
    let gguf = parse(neo.bytes());
    assert_eq!(float(&gguf, "gptneo.attention.scale"), 1.0);
    assert_eq!(pattern(&gguf, "gptneo.attention.sliding_window_pattern"), [false, true]);
    assert_eq!(gguf.get("gptneo.attention.sliding_window").unwrap().as_u64(), Some(5));
}

#[test]
fn a_vocabulary_smaller_than_the_embedding_is_padded() {
    let directory = Model::gated("LlamaForCausalLM", 3).write();
    let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    let gguf = parse(file.bytes());
    let tokens = gguf.get("tokenizer.ggml.tokens").unwrap().as_array().unwrap();
    let tokens: Vec<&[u8]> = tokens.string_offsets().map(|(_, text)| text).collect();
    assert_eq!(tokens.len(), N_VOCAB as usize);
    assert_eq!(tokens[11..], [&b"<tool>"[..], b"[PAD12]", b"[PAD13]"]);
    let types = gguf.get("tokenizer.ggml.token_type").unwrap().as_array().unwrap();
    let types: Vec<u64> = types.iter().map(|value| value.as_u64().unwrap()).collect();
    assert_eq!(types, [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5, 5]);
    let merges = gguf.get("tokenizer.ggml.merges").unwrap().as_array().unwrap();
    let merges: Vec<&[u8]> = merges.string_offsets().map(|(_, text)| text).collect();
    assert_eq!(merges, ["a b".as_bytes(), "\u{120} a".as_bytes(), b"c d", b"ab cd"]);
    assert_eq!(gguf.get("tokenizer.ggml.pre").unwrap().as_str(), Some(&b"gpt-2"[..]));
    assert_eq!(gguf.get("tokenizer.ggml.eos_token_id").unwrap().as_u64(), Some(0));
    assert_eq!(gguf.get("tokenizer.ggml.add_bos_token").unwrap().as_bool(), Some(false));
}

#[test]
fn shards_make_the_same_model_as_one_file() {
    let model = Model::gated("Qwen2ForCausalLM", 1);
    let whole = model.write();
    let split = model.write();
    std::fs::remove_file(split.join("model.safetensors")).unwrap();
    let (one, other): (Vec<_>, Vec<_>) = model.tensors.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a.safetensors", one), ("b.safetensors", other)] {
        for (_, (tensor, _)) in &part {
            map.insert(tensor.to_string(), name.into());
        }
        split.write(name, tiny::safetensors(part.into_iter().map(|(_, tensor)| tensor)));
    }
    split.write("model.safetensors.index.json", serde_json::json!({"weight_map": map}).to_string());
    let data = |directory: &Directory| {
        let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
        let gguf = parse(file.bytes());
        file.bytes()[gguf.data_offset() as usize..].to_vec()
    };
    assert_eq!(data(&whole), data(&split));
}

#[test]
fn untied_heads_and_names_without_prefix_are_found() {
    let mut model = Model::gated("LlamaForCausalLM", 3);
    model.config["tie_word_embeddings"] = false.into();
    model.tensors =
        model.tensors.iter().map(|(name, tensor)| (name.replacen("model.", "", 1), tensor.clone())).collect();
    let head: Vec<f32> = (0..N_VOCAB * N_EMBD).map(|index| index as f32).collect();
    model.tensors.insert("lm_head.weight".into(), Tensor::f32(&[N_VOCAB, N_EMBD], &head));
    // A buffer that old checkpoints have is not a weight.
    model.tensors.insert("layers.0.self_attn.rotary_emb.inv_freq".into(), Tensor::f32(&[3], &[1.0; 3]));
    let directory = model.write();
    let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    assert_eq!(weights(&parse(file.bytes()), "output.weight"), (vec![N_EMBD, N_VOCAB], head));
}

#[test]
fn half_precision_stays_and_norms_become_f32() {
    let mut model = Model::gated("Gemma3ForCausalLM", 1);
    for tensor in model.tensors.values_mut() {
        let halves = tensor.floats().into_iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes());
        *tensor = Tensor { dtype: "BF16", bytes: halves.collect(), ..tensor.clone() };
    }
    let directory = model.write();
    let file = open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap();
    let gguf = parse(file.bytes());
    for tensor in gguf.tensors() {
        assert_eq!(tensor.kind, if tensor.n_dims == 1 { Type::F32 } else { Type::BF16 });
    }
    assert_eq!(gguf.get("general.file_type").unwrap().as_u64(), Some(32));
    let stored = &model.tensors["model.norm.weight"].bytes;
    let stored: Vec<f32> = stored
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&half| f32::from_bits(u32::from(u16::from_le_bytes(half)) << 16) + 1.0)
        .collect();
    assert_eq!(weights(&gguf, "output_norm.weight").1, stored);
}

#[test]
fn rope_scaling_is_written_in_the_words_of_gguf() {
    use serde_json::json;
    let open_with = |key: &str, value: serde_json::Value| {
        let mut model = Model::gated("LlamaForCausalLM", 3);
        model.config[key] = value;
        let directory = model.write();
        open(directory.path().to_str().unwrap(), &OpenOptions::default()).unwrap()
    };
    let linear = open_with("rope_scaling", json!({"type": "linear", "factor": 4.0}));
    let gguf = parse(linear.bytes());
    assert_eq!(gguf.get("llama.rope.scaling.type").unwrap().as_str(), Some(&b"linear"[..]));
    assert_eq!(gguf.get("llama.rope.scaling.factor").unwrap().as_f32(), Some(4.0));
    let yarn = json!({"rope_type": "yarn", "rope_theta": 70.0, "factor": 2.0, "original_max_position_embeddings": 8,
        "attention_factor": 1.5, "beta_fast": 16});
    let yarn = open_with("rope_parameters", yarn);
    let gguf = parse(yarn.bytes());
    let float = |key: &str| gguf.get_parts(&["llama.rope.", key]).unwrap().as_f32().unwrap();
    assert_eq!(gguf.get("llama.rope.scaling.type").unwrap().as_str(), Some(&b"yarn"[..]));
    assert_eq!(
        (float("freq_base"), float("scaling.factor"), float("scaling.original_context_length")),
        (70.0, 2.0, 8.0)
    );
    assert_eq!((float("scaling.yarn_beta_fast"), float("scaling.yarn_beta_slow")), (16.0, 1.0));
    // GGUF's factor is multiplied with YaRN's own, 0.1 ln(factor) + 1.
    assert!((float("scaling.attn_factor") * (0.1 * 2f32.ln() + 1.0) - 1.5).abs() < 1e-6);
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1000});
    let llama3 = open_with("rope_scaling", llama3);
    let gguf = parse(llama3.bytes());
    assert!(gguf.get("llama.rope.scaling.type").is_none());
    let (dims, divisors) = weights(&gguf, "rope_freqs.weight");
    assert_eq!(dims, [HEAD_DIM / 2]);
    // The wave lengths are 2 pi 5000^(i/3): 6.28, 107 and 1837 positions; the limits 1000/4 and 1000/1.
    assert_eq!((divisors[0], divisors[1], divisors[2]), (1.0, 1.0, 8.0));
}

#[test]
fn llama2c_weights_keep_their_order() {
    // Both layouts of the output: tied, and with weights of its own behind the tables of frequencies.
    for vocab in [10, -10] {
        let directory = Directory::new();
        let bytes = tiny::llama2c_legacy([8, 12, 2, 2, 1, vocab, 6]);
        directory.write("model.bin", &bytes);
        let file = open(&directory.join("model.bin"), &OpenOptions::default()).unwrap();
        let gguf = parse(file.bytes());
        // Weights count up in the file, so that each tensor's first weight says where it began.
        let counted = |first: usize, n: usize| (first..first + n).map(|index| index as f32 / 64.0).collect::<Vec<_>>();
        assert_eq!(weights(&gguf, "token_embd.weight"), (vec![8, 10], counted(0, 80)));
        assert_eq!(weights(&gguf, "blk.1.attn_norm.weight"), (vec![8], counted(88, 8)));
        let k = 80 + 16 + 2 * 64;
        assert_eq!(weights(&gguf, "blk.1.attn_k.weight"), (vec![8, 4], counted(k + 32, 32)));
        let ffn = k + 2 * 32 * 2 + 2 * 64 + 16;
        assert_eq!(weights(&gguf, "blk.0.ffn_gate.weight"), (vec![8, 12], counted(ffn, 96)));
        assert_eq!(weights(&gguf, "blk.0.ffn_down.weight"), (vec![12, 8], counted(ffn + 192, 96)));
        assert_eq!(weights(&gguf, "output_norm.weight"), (vec![8], counted(ffn + 576, 8)));
        let output = ffn + 576 + 8 + 6 * 4;
        if vocab < 0 {
            assert_eq!(weights(&gguf, "output.weight"), (vec![8, 10], counted(output, 80)));
        } else {
            assert!(gguf.tensor(&["output.weight"]).is_none());
        }
        assert!(gguf.get("tokenizer.ggml.tokens").is_none(), "no tokenizer lies beside");
    }
}

/// The bytes of a version 2 checkpoint of one layer, 64 wide, with `group` weights to a scale, and its weights.
fn llama2c_int8(group: usize) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = b"24ka".to_vec();
    for field in [2, 64, 64, 1, 2, 2, 6, 16] {
        bytes.extend(i32::to_le_bytes(field));
    }
    bytes.push(1);
    bytes.extend((group as i32).to_le_bytes());
    bytes.resize(256, 0);
    bytes.extend([1.0f32; 3 * 64].iter().flat_map(|norm| norm.to_le_bytes()));
    let mut weights = Vec::new();
    for n in [6 * 64, 64 * 64, 64 * 64, 64 * 64, 64 * 64, 64 * 64, 64 * 64, 64 * 64] {
        let values: Vec<i8> = (0..n).map(|index| (index % 251) as i8).collect();
        // Scales with few digits, so that f16 holds them.
        let scales: Vec<f32> = (0..n / group).map(|index| 1.0 + (index % 64) as f32 / 64.0).collect();
        bytes.extend(values.iter().map(|&value| value as u8));
        bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
        weights.extend(values.iter().enumerate().map(|(index, &value)| f32::from(value) * scales[index / group]));
    }
    (bytes, weights)
}

#[test]
fn int8_groups_become_q8_0_blocks_or_exact_floats() {
    let cases = [
        (64, None, Type::Q8_0),
        (32, Some(Type::Q8_0), Type::Q8_0),
        (64, Some(Type::F32), Type::F32),
        // A scale for less than a block has no place in Q8_0.
        (16, None, Type::F32),
    ];
    for (group, outtype, kind) in cases {
        let directory = Directory::new();
        let (bytes, all) = llama2c_int8(group);
        directory.write("model.bin", &bytes);
        let file = open(&directory.join("model.bin"), &OpenOptions { outtype, ..OpenOptions::default() }).unwrap();
        let gguf = parse(file.bytes());
        let down = gguf.tensor(&["blk.0.ffn_down.weight"]).unwrap();
        assert_eq!(down.kind, kind, "group {group}");
        assert_eq!(weights(&gguf, "token_embd.weight").1, all[..6 * 64]);
        assert_eq!(weights(&gguf, "blk.0.ffn_up.weight").1, all[all.len() - 64 * 64..]);
        assert_eq!(weights(&gguf, "blk.0.attn_norm.weight").1, [1.0; 64]);
    }
}

#[test]
fn big_endian_and_back_is_byte_for_byte_the_same() {
    let directory = Model::gated("LlamaForCausalLM", 3).write();
    let first = directory.join("first.gguf");
    for outtype in [None, Some(Type::F16), Some(Type::BF16)] {
        let options = ConvertOptions { outtype, ..ConvertOptions::default() };
        convert(directory.path().to_str().unwrap(), first.as_ref(), &options).unwrap();
        let big = directory.join("big.gguf");
        let back = directory.join("back.gguf");
        convert(&first, big.as_ref(), &ConvertOptions { big_endian: true, ..ConvertOptions::default() }).unwrap();
        convert(&big, back.as_ref(), &ConvertOptions::default()).unwrap();
        let bytes = |path: &str| std::fs::read(path).unwrap();
        assert_eq!(parse(&bytes(&big)).endian(), Endian::Big);
        assert_ne!(bytes(&first), bytes(&big));
        assert!(bytes(&first) == bytes(&back), "{outtype:?}");
        let opened = open(&big, &OpenOptions::default()).unwrap();
        assert!(opened.bytes() == bytes(&first), "a big-endian file opens as its little-endian twin");
        assert!(!opened.is_mapped());
    }
}

#[test]
fn q8_0_survives_both_byte_orders() {
    let directory = Directory::new();
    directory.write("model.bin", llama2c_int8(32).0);
    let [first, big, back] = ["first.gguf", "big.gguf", "back.gguf"].map(|name| directory.join(name));
    convert(&directory.join("model.bin"), first.as_ref(), &ConvertOptions::default()).unwrap();
    convert(&first, big.as_ref(), &ConvertOptions { big_endian: true, ..ConvertOptions::default() }).unwrap();
    convert(&big, back.as_ref(), &ConvertOptions::default()).unwrap();
    assert!(std::fs::read(first).unwrap() == std::fs::read(back).unwrap());
}

#[test]
fn opening_and_converting_agree_for_every_type() {
    let directory = Directory::new();
    directory.write("model.bin", llama2c_int8(32).0);
    for kind in [Type::F32, Type::F16, Type::BF16, Type::Q8_0] {
        let out = directory.join("out.gguf");
        let options = ConvertOptions { outtype: Some(kind), ..ConvertOptions::default() };
        let summary = convert(&directory.join("model.bin"), out.as_ref(), &options).unwrap();
        let n_of_kind = summary.types.iter().find(|(used, _)| *used == kind).map(|&(_, n)| n);
        assert_eq!(n_of_kind, Some(if kind == Type::F32 { summary.n_tensors } else { summary.n_tensors - 3 }));
        let opened =
            open(&directory.join("model.bin"), &OpenOptions { outtype: Some(kind), ..OpenOptions::default() }).unwrap();
        let written = std::fs::read(&out).unwrap();
        assert!(opened.bytes() == written, "{}", kind.name());
        assert_eq!(summary.file_bytes, written.len() as u64);
        for tensor in parse(&written).tensors() {
            assert_eq!(tensor.kind, if tensor.n_dims == 1 { Type::F32 } else { kind });
        }
    }
}

#[test]
fn a_mapped_file_and_a_read_one_have_the_same_bytes() {
    let directory = Directory::new();
    directory.write("model.bin", tiny::llama2c_legacy([8, 12, 1, 2, 2, 10, 4]));
    let path = directory.join("model.gguf");
    convert(&directory.join("model.bin"), path.as_ref(), &ConvertOptions::default()).unwrap();
    let mapped = open(&path, &OpenOptions::default()).unwrap();
    let read = open(&path, &OpenOptions { mmap: false, ..OpenOptions::default() }).unwrap();
    assert!(mapped.is_mapped() && !read.is_mapped());
    assert!(mapped.bytes() == read.bytes());
    let len = mapped.bytes().len() as u64;
    for (at_once, is_mapped) in [(0, true), (len - 1, true), (len, false), (u64::MAX, false)] {
        let file = open(&path, &OpenOptions { at_once, ..OpenOptions::default() }).unwrap();
        assert_eq!(file.is_mapped(), is_mapped, "{len} bytes, of which {at_once} at once");
        assert!(file.bytes() == mapped.bytes());
    }
    let broken = directory.join("broken.gguf");
    std::fs::write(&broken, &mapped.bytes()[..40]).unwrap();
    let refused = |at_once| open(&broken, &OpenOptions { at_once, ..OpenOptions::default() }).unwrap_err().to_string();
    assert_eq!(refused(0), refused(u64::MAX));
    assert_eq!(read.bytes().as_ptr() as usize % 4096, 0, "pages of our own begin on a page");
}

#[test]
fn rows_are_laid_together_in_memory_alone() {
    let directory = Directory::new();
    directory.write("model.bin", tiny::llama2c_legacy([16, 48, 1, 2, 2, 40, 4]));
    let path = directory.join("model.gguf");
    convert(&directory.join("model.bin"), path.as_ref(), &ConvertOptions::default()).unwrap();
    let stored = std::fs::read(&path).unwrap();
    for mmap in [true, false] {
        let file = open(&path, &OpenOptions { mmap, ..OpenOptions::default() }).unwrap();
        assert!(!file.is_together());
        let laid = file.laid_together(Isa::detect(), &Silent).unwrap();
        assert!(laid.is_together() && !laid.is_mapped());
        assert!(laid.bytes().len() == stored.len() && laid.bytes() != stored);
        assert!(std::fs::read(&path).unwrap() == stored, "the file is as it was");
    }
    // What is no model that can be run stays as it is.
    let mut header = smidgen_host::gguf_write::Header::new(Endian::Little);
    header.str("general.architecture", b"unknown");
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    directory.write("other.gguf", &bytes);
    let other = open(&directory.join("other.gguf"), &OpenOptions::default()).unwrap();
    let other = other.laid_together(Isa::detect(), &Silent).unwrap();
    assert!(!other.is_together() && other.bytes() == bytes);
}

#[test]
fn a_file_of_another_alignment_keeps_it() {
    let mut header = smidgen_host::gguf_write::Header::new(Endian::Little);
    header.str("general.architecture", b"llama");
    header.alignment(64);
    header.tensor(b"a", &[3], Type::F32).unwrap();
    header.tensor(b"b", &[2, 2], Type::F32).unwrap();
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    for data in [&[1.0f32, 2.0, 3.0][..], &[4.0, 5.0, 6.0, 7.0]] {
        bytes.extend(data.iter().flat_map(|value| value.to_le_bytes()));
        header.pad(&mut bytes, data.len() as u64 * 4).unwrap();
    }
    assert_eq!(bytes.len() as u64, header.file_bytes());
    let directory = Directory::new();
    directory.write("in.gguf", &bytes);
    let [big, back] = ["big.gguf", "back.gguf"].map(|name| directory.join(name));
    convert(
        &directory.join("in.gguf"),
        big.as_ref(),
        &ConvertOptions { big_endian: true, ..ConvertOptions::default() },
    )
    .unwrap();
    convert(&big, back.as_ref(), &ConvertOptions::default()).unwrap();
    assert!(std::fs::read(back).unwrap() == bytes);
}

#[test]
fn the_260k_model_is_the_same_from_all_its_files() {
    let names = ["llama2c/stories260K.bin", "llama2c/stories260K_v1.bin", "gguf/stories260K-v1-f32.gguf"];
    let Some(paths) = names.iter().map(|name| tiny::shared(name)).collect::<Option<Vec<_>>>() else { return };
    let files: Vec<_> =
        paths.iter().map(|path| open(path.to_str().unwrap(), &OpenOptions::default()).unwrap()).collect();
    let [legacy, version1, gguf_v1] = files.as_slice() else { unreachable!("three names") };
    assert!(gguf_v1.is_mapped());
    let (legacy, version1, gguf_v1) = (parse(legacy.bytes()), parse(version1.bytes()), parse(gguf_v1.bytes()));
    assert_eq!(gguf_v1.version(), 1);
    for tensor in legacy.tensors() {
        let name = std::str::from_utf8(tensor.name).unwrap();
        assert_eq!(weights(&legacy, name), weights(&version1, name), "{name}");
        let (dims, found) = weights(&gguf_v1, name);
        assert_eq!(weights(&legacy, name).1, found, "{name} {dims:?}");
    }
    for (key, value) in gguf_v1.keys() {
        let key = std::str::from_utf8(key).unwrap();
        let Some(ours) = legacy.get(key).filter(|_| key.starts_with("llama.")) else { continue };
        assert_eq!(ours.as_f32(), value.as_f32(), "{key}");
    }
    let tokens = |gguf: &Gguf<'_>| -> Vec<Vec<u8>> {
        let tokens = gguf.get("tokenizer.ggml.tokens").unwrap().as_array().unwrap();
        tokens.string_offsets().map(|(_, text)| text.to_vec()).collect()
    };
    assert_eq!(tokens(&legacy), tokens(&gguf_v1));
}
