//! The C that sources are put together from: sections of the files beside this one, each under a line with its name.

use std::collections::HashMap;

const FILES: &[&str] = &[
    include_str!("base.c"),
    include_str!("formats.c"),
    include_str!("products.c"),
    include_str!("cache.c"),
    include_str!("engine.c"),
    include_str!("text.c"),
];

const MARK: &str = "/* @section ";

/// The sections by their names.
#[derive(Debug)]
pub(super) struct Sections(HashMap<&'static str, &'static str>);

impl Sections {
    /// Every section.
    pub(super) fn new() -> Self {
        let parts = FILES.iter().flat_map(|file| file.split(MARK).skip(1));
        Self(parts.filter_map(|part| part.split_once(" */\n")).collect())
    }

    /// The section called `name`, which one of the files has.
    pub(super) fn get(&self, name: &str) -> &'static str {
        self.0.get(name).copied().unwrap_or_else(|| unreachable!("no section of C is called {name}"))
    }
}
