//! The page and the npm package: put together around the modules, visited in a headless browser, packed and installed.

use super::story::{self, PROMPT};
use super::{command, folder as ports_folder};
use crate::install;
use crate::step::{Counts, ONE, Stop, output, program, run, works};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What the page is made of beside the modules and the model.
const FILES: &[&str] = &[
    "index.html",
    "style.css",
    "app.js",
    "view.js",
    "worker.js",
    "models.js",
    "offline.js",
    "smidgen.js",
    "smidgen.d.ts",
];
/// What the package has beside the modules, from `ports/web` and from the root of the repository.
const PAPERS: &[&str] = &["ports/web/package.json", "ports/web/README.md", "LICENSE-MIT", "LICENSE-APACHE"];
/// What the cache of the service worker is called in the source.
const UNSTAMPED: &str = "smidgen-0";
/// What the package is installed beside, to be tried: the compiler that looks at its types, and node's own types.
const BESIDE: &[&str] = &["typescript@5.9.3", "@types/node@22.20.7"];
/// The program that uses the package, and how it is compiled.
const USER: &[&str] = &["package.json", "story.ts", "tsconfig.json"];
/// The model that comes with the page.
pub(super) const MODEL: &str = "models/tales.gguf";

/// Where the page is put together.
pub(super) fn folder() -> Result<PathBuf, String> {
    made(&ports_folder()?.join("web"))
}

/// The folder, which is there from now on.
fn made(folder: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder.into())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    std::fs::copy(from, to).map(|_| ()).map_err(|error| format!("{}: {error}", from.display()))
}

/// Puts the page together around the modules that lie in its folder already.
pub(super) fn put_together() -> Result<(), String> {
    let (page, root) = (folder()?, crate::root());
    for name in FILES {
        copy(&root.join("ports/web/src").join(name), &page.join(name))?;
    }
    for path in PAPERS {
        let name = path.rsplit('/').next().unwrap_or(path);
        copy(&root.join(path), &page.join(name))?;
    }
    copy(&root.join(MODEL), &page.join("model.gguf"))?;
    stamp(&page)
}

/// Names the cache of the service worker by what the files hash to: a browser that has others takes these.
fn stamp(page: &Path) -> Result<(), String> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let large = ["smidgen.wasm", "smidgen-simd.wasm", "model.gguf"];
    for name in FILES.iter().chain(&large) {
        // A sample builds one module only.
        let bytes = std::fs::read(page.join(name)).unwrap_or_default();
        hash = bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    }
    let path = page.join("offline.js");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if text.matches(UNSTAMPED).count() != 1 {
        return Err(format!("offline.js does not name its cache {UNSTAMPED}"));
    }
    let stamped = text.replace(UNSTAMPED, &format!("smidgen-{hash:016x}"));
    std::fs::write(&path, stamped).map_err(|error| format!("{}: {error}", path.display()))
}

/// What the page must write: greedily what the library told, and drawn what the command draws.
fn expectations(expected: &str, context_tokens: usize, n_new: usize) -> Result<Value, Stop> {
    let (text, figures) = expected.split_once("\n[smidgen]").ok_or(Stop::Failed("there is no story".into()))?;
    let (context, tokens) = (context_tokens.to_string(), n_new.to_string());
    let words = ["run", MODEL, "-p", PROMPT, "-c", &context, "-n", &tokens, "--temp", "0.9", "--top-k", "50"];
    let more = ["--top-p", "0.9", "--min-p", "0.02", "--repeat-penalty", "1.2", "--repeat-last-n", "32", "-s", "7"];
    let drawn = output(program(&command(), &words).args(more))?;
    Ok(json!({
        "text": text.trim_end(),
        "logits": figures.rsplit_once("logits ").map(|(_, hash)| hash.trim()),
        "drawn": drawn.trim_end(),
        "context": context_tokens,
        "tokens": n_new,
        "sampling": {"temperature": 0.9, "topK": 50, "topP": 0.9, "minP": 0.02, "repeatPenalty": 1.2, "repeatLastN": 32, "seed": 7},
    }))
}

/// A visit: clicks, keys, files that are chosen and dropped, no network; pictures are left beside the page.
pub(super) fn in_chromium(expected: &str, context_tokens: usize, n_new: usize) -> Result<Counts, Stop> {
    let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| install::is_on_path(name));
    let Some(browser) = browser else { return Err(Stop::Skipped("there is no chromium".into())) };
    let expectations = expectations(expected, context_tokens, n_new)?;
    let mut node = program("node", &["ports/web/test/page.mjs", browser]);
    node.arg(folder()?).arg(crate::root().join(MODEL)).arg(expectations.to_string());
    run(node.arg(ports_folder()?.join("pictures")))
}

/// Packs the package, installs it in an empty folder, and has a strict TypeScript program tell the story with it.
pub(super) fn as_package(expected: &str, context_tokens: usize, n_new: usize) -> Result<Counts, Stop> {
    if !install::is_on_path("npm") || !install::is_on_path("node") {
        return Err(Stop::Skipped("there is no npm".into()));
    }
    let user = ports_folder()?.join("npm");
    if user.exists() {
        std::fs::remove_dir_all(&user).map_err(|error| format!("{}: {error}", user.display()))?;
    }
    made(&user)?;
    let packed = output(
        program("npm", &["pack", "--json", "--silent", "--pack-destination"]).arg(&user).current_dir(folder()?),
    )?;
    let packed: Value = serde_json::from_str(&packed).map_err(|error| format!("npm pack: {error}"))?;
    let name = packed[0]["filename"].as_str().ok_or(Stop::Failed("npm packed nothing".into()))?;
    let files = packed[0]["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut files: Vec<_> = files.iter().filter_map(|file| file["path"].as_str()).collect();
    files.sort_unstable();
    let wanted = [
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "package.json",
        "smidgen-simd.wasm",
        "smidgen.d.ts",
        "smidgen.js",
        "smidgen.wasm",
    ];
    if files != wanted {
        return Err(Stop::Failed(format!("npm packed {files:?}, not {wanted:?}")));
    }
    for file in USER {
        copy(&crate::root().join("ports/web/test/package").join(file), &user.join(file))?;
    }
    let npm = |words: &[&str]| {
        let mut npm = program("npm", &["install", "--silent", "--no-audit", "--no-fund"]);
        npm.args(words).current_dir(&user);
        npm
    };
    if !works(&mut npm(BESIDE)) {
        return Err(Stop::Skipped("npm does not reach its registry".into()));
    }
    run(&mut npm(&[&format!("./{name}")]))?;
    run(program("npx", &["--no-install", "tsc", "--project", "."]).current_dir(&user))?;
    let (context, n_new) = (context_tokens.to_string(), n_new.to_string());
    let mut node = program("node", &["story.js"]);
    let printed = output(node.arg(crate::root().join(MODEL)).args([&context, &n_new, PROMPT]).current_dir(&user))?;
    story::compare("the package", &printed, expected)?;
    Ok(ONE)
}
