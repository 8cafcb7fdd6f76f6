//! What `quantize` does with a model: the type of each tensor, what the file will take, and how rows are rounded.

pub mod choice;
pub mod forecast;
pub mod known;
pub mod measured;
pub mod names;
pub mod report;
pub mod rounding;
pub mod search;
pub mod text;
pub mod work;
