//! `smidgen export firmware`: a project in Rust that tells a story on a microcontroller. The weights lie in flash and are
//! read there, every buffer is a static, and the linker proves that both fit.

use super::boards::{BOARDS, Board, Boot, Family, TARGETS};
use super::{file_name, limits, literal, make_folder, types, write};
use crate::args::{EngineArgs, ModelArgs, size};
use crate::failure::{Failure, Status};
use crate::report::{self, Table, count};
use crate::source::Source;
use clap::Args;
use smidgen_core::gguf::Gguf;
use smidgen_core::kv::CacheType;
use smidgen_core::model::{Layer, Model};
use smidgen_core::quant::Type;
use smidgen_teller::Request;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Flash that the program takes beside the model, at most, when it computes with F32 and one more type: what was measured, and some more.
const CORTEX_M_BYTES: u64 = 131 << 10;
/// The code of RISC-V is longer.
const RISC_V_BYTES: u64 = 150 << 10;
/// Flash that each further type takes, at most; the grids of the i-quants are the largest part.
const TYPE_BYTES: u64 = 12 << 10;
/// The deepest stack that was measured, and some more.
const STACK_BYTES: u64 = 10 << 10;
/// A layer of the table of tensors where pointers have four bytes; the firmware's build checks it.
const LAYER_BYTES: u64 = 344;

#[derive(Args, Debug)]
#[allow(missing_docs)] // A doc comment here would become the help text of the whole command.
pub struct Flags {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    engine: EngineArgs,

    /// The folder that the project is written to
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,

    /// A board whose memory is known; without one, --target, --flash and --ram describe it
    #[arg(long, value_name = "NAME")]
    board: Option<String>,

    /// The processor: thumbv6m, thumbv7m, thumbv7em, thumbv8m, riscv32imc or riscv32imac
    #[arg(long, value_name = "NAME", required_unless_present = "board")]
    target: Option<String>,

    /// Bytes of flash, such as 1M
    #[arg(long, value_name = "SIZE", value_parser = size, required_unless_present = "board")]
    flash: Option<u64>,

    /// Where flash begins [default: 0x08000000, as on an STM32, or that of the board]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    flash_at: Option<u64>,

    /// Where RAM begins [default: 0x20000000, or that of the board]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ram_at: Option<u64>,

    /// Ticks of the processor's clock in a second [default: 16000000, or that of the board]
    #[arg(long, value_name = "HZ")]
    clock: Option<u64>,

    /// How the story begins
    #[arg(short = 'p', long, value_name = "TEXT", default_value = "Once upon a time")]
    prompt: String,

    /// Tokens that are added to it [default: as many as the context has room for]
    #[arg(short = 'n', long, value_name = "N")]
    n_predict: Option<usize>,

    /// A checkout of smidgen: the project uses its crates/core and ports/teller
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,
}

fn address(text: &str) -> Result<u64, String> {
    let wrong = || "an address is a hexadecimal number such as 0x08000000".to_owned();
    let digits = text.strip_prefix("0x").ok_or_else(wrong)?;
    u64::from_str_radix(digits, 16).ok().filter(|&address| address < 1 << 32).ok_or_else(wrong)
}

/// Writes the project, or says why it would not fit.
pub(crate) fn run(flags: &Flags, stdout: &mut dyn Write) -> Result<Status, Failure> {
    let board = board(flags)?;
    let source = Source::open(&flags.model)?;
    let gguf = source.gguf()?;
    let teller = absolute(&flags.source.join("ports/teller"))?;
    let n_layers = Model::n_layers(&gguf).map_err(|error| source.refused(error))?;
    let limits = limits(&flags.engine);
    let n_new = flags.n_predict.unwrap_or(limits.context_tokens);
    let request = Request { model: source.bytes(), prompt: &flags.prompt, limits, n_new };
    let memory = smidgen_teller::memory_bytes(&request, &mut vec![Layer::EMPTY; n_layers])
        .map_err(|error| source.refused(error))?;
    let project = Project { board, source: &source, gguf: &gguf, request, n_layers, memory, teller };
    let (needs, fits) = project.needs();
    report::write(stdout, needs.as_bytes())?;
    if !fits {
        return Ok(Status::DoesNotFit);
    }
    project.write(&flags.output)?;
    let text = format!("{}: a project for {}; 'cargo build --release' in it\n", flags.output.display(), board.about);
    report::write(stdout, text.as_bytes())?;
    Ok(Status::Done)
}

/// The board that the flags describe.
fn board(flags: &Flags) -> Result<Board, Failure> {
    let unknown = |what: &str, name: &str, names: Vec<&str>| {
        Failure::Input(format!("--{what} {}: unknown; there are {}", name.escape_default(), names.join(", ")))
    };
    let mut board = match &flags.board {
        Some(name) => *BOARDS
            .iter()
            .find(|board| board.name == name)
            .ok_or_else(|| unknown("board", name, BOARDS.iter().map(|board| board.name).collect()))?,
        None => Board {
            name: "board",
            about: "a board of its own",
            target: "",
            flash: (0x0800_0000, 0),
            ram: (0x2000_0000, 0),
            clock_hz: 16_000_000,
            emulator: "",
            boot: Boot::Vectors,
        },
    };
    if let Some(name) = &flags.target {
        let row = TARGETS.iter().find(|(short, target, _)| short == name || target == name);
        board.target = row.ok_or_else(|| unknown("target", name, TARGETS.iter().map(|row| row.0).collect()))?.1;
    }
    board.flash = (flags.flash_at.unwrap_or(board.flash.0), flags.flash.unwrap_or(board.flash.1));
    board.ram = (flags.ram_at.unwrap_or(board.ram.0), flags.engine.ram.unwrap_or(board.ram.1));
    board.clock_hz = flags.clock.unwrap_or(board.clock_hz);
    if board.ram.1 == 0 {
        return Err(Failure::Input("--ram is needed where no --board says how much there is".into()));
    }
    if board.clock_hz < 1_000_000 {
        return Err(Failure::Input(format!("--clock {}: a million at least", board.clock_hz)));
    }
    Ok(board)
}

/// The folder of `smidgen-teller`, so that the project finds it wherever it is.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let missing = || {
        let path = path.display();
        Failure::Input(format!(
            "{path}: no such folder; --source names a checkout of smidgen, whose crates a project uses"
        ))
    };
    path.join("Cargo.toml").is_file().then_some(()).ok_or_else(missing)?;
    std::fs::canonicalize(path).map_err(|_| missing())
}

/// A project, before it is written.
struct Project<'a> {
    board: Board,
    source: &'a Source,
    gguf: &'a Gguf<'a>,
    request: Request<'a>,
    n_layers: usize,
    memory: usize,
    teller: PathBuf,
}

impl Project<'_> {
    /// What it takes of flash and RAM as a table, and whether that fits.
    fn needs(&self) -> (String, bool) {
        let more_types = types(self.gguf).iter().filter(|kind| **kind != Type::F32).count().saturating_sub(1);
        let code = match self.family() {
            Family::CortexM => CORTEX_M_BYTES,
            Family::RiscV => RISC_V_BYTES,
        };
        let code = code + TYPE_BYTES * more_types as u64;
        let layers = self.n_layers as u64 * LAYER_BYTES;
        let (model, memory) = (self.source.bytes().len() as u64, self.memory as u64);
        let mut table = Table::default();
        let mut total = |place: &str, room: u64, parts: &[(&str, u64)]| {
            for (name, bytes) in parts {
                table.row([place.to_owned(), (*name).to_owned(), count(*bytes)]);
            }
            let sum: u64 = parts.iter().map(|part| part.1).sum();
            table.row([place.to_owned(), "in all".into(), count(sum)]);
            table.row([place.to_owned(), "there is".into(), count(room)]);
            sum <= room
        };
        // The table of layers begins with values, which the start of the program copies from flash.
        let flash = total("flash", self.board.flash.1, &[("model", model), ("program, at most", code + layers)]);
        let ram = total(
            "RAM",
            self.board.ram.1,
            &[("buffers, cache, tokenizer", memory), ("table of layers", layers), ("stack, at most", STACK_BYTES)],
        );
        let mut text = table.render(&[2]);
        for (place, fits) in [("flash", flash), ("RAM", ram)] {
            if !fits {
                text += &format!("It does not fit the {place} of {}.\n", self.board.about);
            }
        }
        (text, flash && ram)
    }

    fn family(&self) -> Family {
        TARGETS.iter().find(|row| row.1 == self.board.target).map_or(Family::CortexM, |row| row.2)
    }

    fn write(&self, folder: &Path) -> Result<(), Failure> {
        make_folder(&folder.join("src"))?;
        make_folder(&folder.join(".cargo"))?;
        let family = self.family();
        let template = match family {
            Family::CortexM => CORTEX_M,
            Family::RiscV => RISC_V,
        };
        for (name, text) in template {
            let teller = literal(&self.teller.to_string_lossy());
            let mut text = text.replace("\"../teller\"", &teller);
            if let Some(feature) = self.board.boot.feature() {
                text = text.replace("default = []", &format!("default = [\"{feature}\"]"));
            }
            write(&folder.join(name), text.as_bytes())?;
        }
        write(&folder.join("memory.x"), self.memory_map(family).as_bytes())?;
        write(&folder.join("src/settings.rs"), self.settings().as_bytes())?;
        write(&folder.join(".cargo/config.toml"), self.configuration().as_bytes())?;
        write(&folder.join("README.md"), self.readme().as_bytes())?;
        write(&folder.join("model.gguf"), self.source.bytes())
    }

    fn memory_map(&self, family: Family) -> String {
        let Board { about, flash, ram, .. } = &self.board;
        let mut text = format!(
            "/* {about} */\nMEMORY\n{{\n  FLASH : ORIGIN = {:#010x}, LENGTH = {}\n  RAM : ORIGIN = {:#010x}, LENGTH = {}\n}}\n",
            flash.0, flash.1, ram.0, ram.1
        );
        if family == Family::RiscV {
            for (region, place) in [
                ("TEXT", "FLASH"),
                ("RODATA", "FLASH"),
                ("DATA", "RAM"),
                ("BSS", "RAM"),
                ("HEAP", "RAM"),
                ("STACK", "RAM"),
            ] {
                text += &format!("REGION_ALIAS(\"REGION_{region}\", {place});\n");
            }
            text += "/* Nothing unwinds: what says how to takes no flash. */\nSECTIONS\n{\n  /DISCARD/ : { *(.eh_frame .eh_frame.*) }\n}\n";
        }
        text + self.board.boot.sections()
    }

    fn settings(&self) -> String {
        let limits = &self.request.limits;
        let cache = |kind: CacheType| match kind {
            CacheType::F32 => "F32",
            CacheType::F16 => "F16",
            CacheType::Q8_0 => "Q8_0",
            CacheType::Q4_0 => "Q4_0",
        };
        format!(
            "//! What this firmware tells, and how much memory that takes: `smidgen export firmware` has written this file.\n\n\
             use smidgen_teller::{{CacheType, Limits}};\n\n\
             /// The model ({}), read where the linker puts it: in flash.\n\
             pub static MODEL: &[u8] = include_bytes!(\"../model.gguf\");\n\
             /// How the story begins.\n\
             pub const PROMPT: &str = {};\n\
             /// The most tokens that are added to it.\n\
             pub const N_NEW: usize = {};\n\
             /// The sizes of the buffers.\n\
             pub const LIMITS: Limits = Limits {{\n    context_tokens: {},\n    batch_tokens: 1,\n    n_threads: 1,\n    \
             cache_k: CacheType::{},\n    cache_v: CacheType::{},\n    keeps_all: false,\n}};\n\
             /// Layers of the model.\n\
             pub const N_LAYERS: usize = {};\n\
             /// Bytes of each in the table of layers, at most.\n\
             pub const LAYER_BYTES: usize = {LAYER_BYTES};\n\
             /// What `smidgen_teller::memory_bytes` says of this model and these limits.\n\
             pub const MEMORY_BYTES: usize = {};\n\
             /// Ticks of the clock in a second.\n\
             pub const CLOCK_HZ: u64 = {};\n",
            file_name(self.source),
            literal(self.request.prompt),
            self.request.n_new,
            limits.context_tokens,
            cache(limits.cache_k),
            cache(limits.cache_v),
            self.n_layers,
            self.memory,
            self.board.clock_hz,
        )
    }

    fn configuration(&self) -> String {
        let names: Vec<&str> = types(self.gguf).iter().map(|kind| kind.name()).collect();
        let limits = &self.request.limits;
        let mut caches = vec![limits.cache_k.name(), limits.cache_v.name()];
        caches.dedup();
        // The teller is two folders below the root.
        let root = self.teller.ancestors().nth(2).unwrap_or(&self.teller);
        let remap = literal(&format!("--remap-path-prefix={}=smidgen", root.to_string_lossy()));
        format!(
            "[build]\ntarget = \"{}\"\n# The files that a panic names take the same flash wherever they lie.\n\
             rustflags = [{remap}]\n\n# The types of weights that this model has: the program computes with no others.\n\
             [env]\nSMIDGEN_TYPES = \"{}\"\n# Likewise the types of its caches.\nSMIDGEN_CACHES = \"{}\"\n",
            self.board.target,
            names.join(" "),
            caches.join(" "),
        )
    }

    fn readme(&self) -> String {
        let Board { name, about, target, emulator, .. } = &self.board;
        let program = format!("target/{target}/release/smidgen-firmware");
        let run = match emulator.split(' ').next() {
            Some("qemu-system-arm") => {
                format!("{emulator} -nographic -semihosting-config enable=on,target=native -kernel {program}")
            }
            Some("qemu-system-riscv32") => format!("{emulator} -bios none -nographic -m 8M -kernel {program}"),
            _ => "# Not run on hardware by us; docs/ports.md of smidgen says how to put it on a board.".into(),
        };
        let by_drive = match self.board.boot {
            Boot::Vectors => String::new(),
            _ => format!(
                "\nWithout a probe: in a checkout of smidgen, with the whole path of the program,\n\n    cargo xtask uf2 {name} \
                 {program} story.uf2\n\nand copy story.uf2 to the drive that the board shows when it is plugged in with its button held.\n"
            ),
        };
        format!(
            "# {} on {about}\n\nWritten by `smidgen export firmware`.\n\n    rustup target add {target}\n    \
             cargo build --release\n    {run}\n{by_drive}",
            file_name(self.source)
        )
    }
}

/// The files of `ports/cortex-m` that are the same for every board.
const CORTEX_M: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../../ports/cortex-m/Cargo.toml")),
    ("Cargo.lock", include_str!("../../../../ports/cortex-m/Cargo.lock")),
    ("build.rs", include_str!("../../../../ports/cortex-m/build.rs")),
    ("src/main.rs", include_str!("../../../../ports/cortex-m/src/main.rs")),
    ("src/boot.rs", include_str!("../../../../ports/cortex-m/src/boot.rs")),
];

/// The files of `ports/riscv` that are the same for every board.
const RISC_V: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../../../../ports/riscv/Cargo.toml")),
    ("Cargo.lock", include_str!("../../../../ports/riscv/Cargo.lock")),
    ("build.rs", include_str!("../../../../ports/riscv/build.rs")),
    ("src/main.rs", include_str!("../../../../ports/riscv/src/main.rs")),
];
