//! The boot arguments: `model=cd:,\tales.gguf context=64 new=40 cache=f16 prompt=Once upon a time`.
//!
//! `model=@100000,187480` names a model that lies in memory, in hexadecimal. `prompt` comes last and takes the rest of the
//! line; without it the prompt is read from the serial port.

use smidgen_teller::CacheType;

/// Where the model is.
pub enum ModelAt<'a> {
    /// In memory already.
    Memory {
        /// Its first byte.
        address: usize,
        /// How many there are.
        n_bytes: usize,
    },
    /// On a disc: a path of Open Firmware.
    Disc(&'a str),
}

/// What is wanted.
pub struct Arguments<'a> {
    pub model: ModelAt<'a>,
    pub context_tokens: usize,
    pub n_new: usize,
    pub cache: CacheType,
    pub prompt: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    /// Reads the boot arguments.
    ///
    /// # Errors
    /// The argument that is unknown, missing or no number.
    pub fn read(text: &'a str) -> Result<Arguments<'a>, &'static str> {
        let mut arguments = Arguments {
            model: ModelAt::Memory { address: 0, n_bytes: 0 },
            context_tokens: 256,
            n_new: 200,
            cache: CacheType::F32,
            prompt: None,
        };
        let mut rest = text.trim_matches('\0').trim_start();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').ok_or("the boot arguments are KEY=VALUE, with spaces between")?;
            if key == "prompt" {
                arguments.prompt = Some(after);
                break;
            }
            let (value, next) = after.split_once(' ').unwrap_or((after, ""));
            match key {
                "model" => arguments.model = model_at(value)?,
                "context" => arguments.context_tokens = value.parse().map_err(|_| "context= is no number")?,
                "new" => arguments.n_new = value.parse().map_err(|_| "new= is no number")?,
                "cache" => arguments.cache = CacheType::from_name(value).ok_or("cache= is f32, f16, q8_0 or q4_0")?,
                _ => return Err("the boot arguments are model, context, new, cache and prompt"),
            }
            rest = next.trim_start();
        }
        Ok(arguments)
    }
}

fn model_at(value: &str) -> Result<ModelAt<'_>, &'static str> {
    let Some(numbers) = value.strip_prefix('@') else { return Ok(ModelAt::Disc(value)) };
    let wrong = "model=@ADDRESS,LENGTH takes two hexadecimal numbers";
    let (address, n_bytes) = numbers.split_once(',').ok_or(wrong)?;
    let number = |text| usize::from_str_radix(text, 16).map_err(|_| wrong);
    Ok(ModelAt::Memory { address: number(address)?, n_bytes: number(n_bytes)? })
}
