//! What makes a model smaller and measures what that cost: calibration, choice of formats, rounding, damage.
//!
//! Block layouts are core's; this crate chooses what is written in them. Files and threads are the caller's.

pub mod calibration;
pub mod chunks;
pub mod damage;
pub mod encode;
pub mod feedback;
pub mod pack;
pub mod recipe;
pub mod score;
pub mod search;
