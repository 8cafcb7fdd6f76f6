//! What a release has beside its source, in `target/release-artifacts` with the checksum of each file. What `cargo xtask ports` has built is
//! taken as it is; the disc is made here, for that costs little. What is not there is skipped with a line.

use crate::ports::powermac;
use crate::step::{Counts, ONE, Report, Stop, listing, output, program};
use std::path::{Path, PathBuf};

/// Folders, and what is taken of each: an ending, or a whole name and how the release calls it.
#[rustfmt::skip]
const FILES: &[(&str, &[(&str, &str)])] = &[
    ("ports/powermac", &[("README.md", "powermac-README.md")]),
    ("ports/libsmidgen/include", &[("smidgen.h", "")]),
    ("target/ports/libsmidgen/release", &[("libsmidgen.a", ""), ("libsmidgen.so", "")]),
    ("target/x86_64-unknown-linux-musl/release", &[("smidgen", "smidgen-x86_64-unknown-linux-musl")]),
    ("target/ports", &[("disc.iso", ""), ("rp2040.uf2", ""), ("rp2350.uf2", "")]),
];

/// Collects everything anew.
pub(crate) fn all(report: &mut Report) {
    let (root, folder) = (crate::root(), crate::root().join("target/release-artifacts"));
    // Nothing of an earlier release may be among the files.
    let _ = std::fs::remove_dir_all(&folder);
    report.step("release: the disc is made", |_| powermac::image());
    for (from, names) in FILES {
        for (name, to) in names.iter() {
            let to = if to.is_empty() { name } else { to };
            report.step(&format!("release: {to}"), |_| take(&root.join(from).join(name), &folder.join(to)));
        }
    }
    let is_command = |path: &PathBuf| name(path).starts_with("smidgen-");
    for file in listing(&root.join("target/ports/cli")).unwrap_or_default().into_iter().filter(is_command) {
        report.step(&format!("release: {}", name(&file)), |_| take(&file, &folder.join(name(&file))));
    }
    report.step("release: the wheel", |_| {
        let wheels = listing(&root.join("target/ports/wheels")).unwrap_or_default();
        let wheel = wheels.iter().find(|path| path.extension().is_some_and(|end| end == "whl"));
        let wheel = wheel.ok_or(Stop::Skipped("'cargo xtask ports --only python' has made none".into()))?;
        take(wheel, &folder.join(name(wheel)))
    });
    report.step("release: the npm package", |_| {
        let web = root.join("target/ports/web");
        if !web.join("smidgen.wasm").is_file() || !crate::install::is_on_path("npm") {
            return Err(Stop::Skipped(
                "'cargo xtask ports --only web' has not built it whole, or there is no npm".into(),
            ));
        }
        output(program("npm", &["pack", "--silent", "--pack-destination"]).arg(&folder).arg(&web))?;
        Ok(ONE)
    });
    report.step("release: SHA256SUMS", |_| {
        let files = listing(&folder)?;
        let sums = output(program("sha256sum", &[]).args(files.iter().map(|path| name(path))).current_dir(&folder))?;
        std::fs::write(folder.join("SHA256SUMS"), sums).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Counts { passed: files.len(), failed: 0 })
    });
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn take(from: &PathBuf, to: &Path) -> Result<Counts, Stop> {
    if !from.is_file() {
        return Err(Stop::Skipped(format!("there is no {}; 'cargo xtask ports' makes it", from.display())));
    }
    std::fs::create_dir_all(to.parent().unwrap_or(to)).map_err(|error| format!("{}: {error}", to.display()))?;
    std::fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(ONE)
}
