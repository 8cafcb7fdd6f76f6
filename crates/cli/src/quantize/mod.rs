//! What `quantize` does with a model: the type of each tensor, what the file will take, and how rows are rounded.

pub mod choice;
pub mod forecast;
pub mod names;
pub mod rounding;
