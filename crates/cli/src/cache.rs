//! Where this program keeps what it would otherwise find out again.

use std::path::PathBuf;

/// The folder that `SMIDGEN_CACHE` names, or `smidgen` in the user's own for caches, if there is one.
pub fn directory() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(variable("HOME")?.join(".cache"));
    let user = || variable("XDG_CACHE_HOME").or_else(home).or_else(|| variable("LOCALAPPDATA"));
    variable("SMIDGEN_CACHE").or_else(|| Some(user()?.join("smidgen")))
}
