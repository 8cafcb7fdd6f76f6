//! JSON objects of a Hugging Face directory, read key by key with errors that name the key.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::image::read_small;

/// No configuration is larger; chat templates lie in some.
const LIMIT_BYTES: u64 = 16 << 20;

/// A JSON object of a file, or one inside of it.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    path: PathBuf,
    /// The keys that lead here from the file's own object, each with a dot behind.
    prefix: String,
    map: Map<String, Value>,
}

impl Object {
    /// Reads the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = read_small(path, LIMIT_BYTES)?;
        let value =
            serde_json::from_slice(&bytes).map_err(|error| Error::bad(path, format!("is not JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Object { path: path.to_path_buf(), prefix: String::new(), map }),
            _ => Err(Error::bad(path, "is not a JSON object")),
        }
    }

    /// Reads the file at `path` if there is one.
    pub(crate) fn read_if_there(path: &Path) -> Result<Option<Self>, Error> {
        if path.exists() { Object::read(path).map(Some) } else { Ok(None) }
    }

    /// An error about the value of `key`.
    pub(crate) fn error(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::bad(&self.path, format!("{}{key}: {message}", self.prefix))
    }

    /// The value of `key`, unless it is missing or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let shown = || self.error(key, format!("is {} where {wanted} should be", shorten(value)));
        read(value).map(Some).ok_or_else(shown)
    }

    /// A number from 0 to 2^32 - 1.
    pub(crate) fn u32_if_there(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|value| u32::try_from(value).ok()))
    }

    /// A number from 1 to 2^32 - 1 that must be there.
    pub(crate) fn count(&self, key: &str) -> Result<u32, Error> {
        let value = self.u32_if_there(key)?.ok_or_else(|| self.error(key, "is missing"))?;
        if value == 0 { Err(self.error(key, "is 0")) } else { Ok(value) }
    }

    /// A number from 1 to 2^32 - 1, or `default`.
    pub(crate) fn count_or(&self, key: &str, default: u32) -> Result<u32, Error> {
        if self.get(key).is_some() { self.count(key) } else { Ok(default) }
    }

    /// A finite number.
    pub(crate) fn f32_if_there(&self, key: &str) -> Result<Option<f32>, Error> {
        let finite = |value: &Value| value.as_f64().map(|value| value as f32).filter(|value| value.is_finite());
        self.typed(key, "a number", finite)
    }

    /// A finite number, or `default`.
    pub(crate) fn f32_or(&self, key: &str, default: f32) -> Result<f32, Error> {
        Ok(self.f32_if_there(key)?.unwrap_or(default))
    }

    /// A boolean.
    pub(crate) fn bool_if_there(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A boolean, or `default`.
    pub(crate) fn bool_or(&self, key: &str, default: bool) -> Result<bool, Error> {
        Ok(self.bool_if_there(key)?.unwrap_or(default))
    }

    /// A string.
    pub(crate) fn str_if_there(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A list.
    pub(crate) fn list_if_there(&self, key: &str) -> Result<Option<&[Value]>, Error> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    /// An object inside of this one.
    pub(crate) fn object_if_there(&self, key: &str) -> Result<Option<Object>, Error> {
        let map = self.typed(key, "an object", Value::as_object)?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(map.map(|map| Object { path: self.path.clone(), prefix, map: map.clone() }))
    }
}

/// A value for a message: the start of its JSON.
pub(crate) fn shorten(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
