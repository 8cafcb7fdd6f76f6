//! What ggml's own Python reader makes of our files; needs a Python with `gguf`, named by `SMIDGEN_PYTHON`.

mod tiny;

use std::collections::BTreeMap;
use std::process::Command;

use smidgen_core::gguf::Gguf;
use smidgen_core::quant::Type;
use smidgen_host::{ConvertOptions, convert};
use tiny::{Directory, Model};

/// Prints each tensor's name, type, shape and weights as the bits of f32, then each key with its value.
const SCRIPT: &str = r"
import sys, gguf, numpy
reader = gguf.GGUFReader(sys.argv[1])
for tensor in reader.tensors:
    weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32).reshape(-1)
    bits = ' '.join(format(bits, 'x') for bits in weights.view(numpy.uint32))
    print('tensor', tensor.name, tensor.tensor_type.name, 'x'.join(str(int(n)) for n in tensor.shape), bits)
for key, field in reader.fields.items():
    if not key.startswith('GGUF.'):
        print('key', key)
";

fn python() -> Option<String> {
    let python = std::env::var("SMIDGEN_PYTHON").ok()?;
    let has_gguf = Command::new(&python).args(["-c", "import gguf, numpy"]).output().ok()?.status.success();
    has_gguf.then_some(python)
}

/// Name, then type, shape and bits of the weights, as we read them.
fn ours(gguf: &Gguf<'_>) -> BTreeMap<String, String> {
    let describe = |tensor: smidgen_core::gguf::Tensor<'_>| {
        let bytes = gguf.data(&tensor).unwrap();
        let mut weights = vec![0.0; tensor.n_weights() as usize];
        tensor.kind.dequantize(bytes, &mut weights).unwrap();
        let shape: Vec<String> = tensor.dims[..tensor.n_dims as usize].iter().map(u64::to_string).collect();
        let bits: Vec<String> = weights.iter().map(|weight| format!("{:x}", weight.to_bits())).collect();
        let name = String::from_utf8(tensor.name.to_vec()).unwrap();
        (name, format!("{} {} {}", tensor.kind.name(), shape.join("x"), bits.join(" ")))
    };
    gguf.tensors().map(describe).collect()
}

#[test]
fn ggml_reads_the_same_weights_from_our_files() {
    let Some(python) = python() else {
        eprintln!("skipped: ggml's reader, SMIDGEN_PYTHON names no Python with gguf");
        return;
    };
    let directory = Directory::new();
    directory.write("model.bin", tiny::llama2c_legacy([32, 64, 1, 2, 1, 10, 4]));
    let models: Vec<Directory> = Model::all().iter().map(Model::write).collect();
    let mut cases: Vec<(String, Option<Type>, bool)> =
        models.iter().map(|model| (model.path().to_str().unwrap().to_string(), None, false)).collect();
    for outtype in [Type::F32, Type::F16, Type::BF16, Type::Q8_0] {
        cases.push((directory.join("model.bin"), Some(outtype), false));
        cases.push((directory.join("model.bin"), Some(outtype), true));
    }
    for (name, outtype, big_endian) in cases {
        let out = directory.join("out.gguf");
        convert(&name, out.as_ref(), &ConvertOptions { outtype, big_endian, ..ConvertOptions::default() }).unwrap();
        let output = Command::new(&python).args(["-c", SCRIPT, &out]).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name} {outtype:?}: {}", String::from_utf8_lossy(&output.stderr));
        // ggml's reader does not swap the bytes of weights, so that of a big-endian file only its description counts.
        let comparable = |described: &str| match big_endian {
            true => described.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" "),
            false => described.to_string(),
        };
        let tensors = printed.lines().filter_map(|line| line.strip_prefix("tensor ")?.split_once(' '));
        let theirs: BTreeMap<String, String> =
            tensors.map(|(name, rest)| (name.to_string(), comparable(rest))).collect();
        let bytes = std::fs::read(&out).unwrap();
        let gguf = Gguf::parse(&bytes, bytes.len() as u64).unwrap();
        let ours: BTreeMap<String, String> =
            ours(&gguf).into_iter().map(|(name, rest)| (name, comparable(&rest))).collect();
        assert!(ours == theirs, "{name} {outtype:?}");
        let keys = printed.lines().filter(|line| line.starts_with("key ")).count();
        assert_eq!(keys, gguf.keys().count(), "{name}");
    }
}
