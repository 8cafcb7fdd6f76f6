//! To a size: which type each part of a model gets, judged by what that type does to the model's output.
//!
//! The damage of a type in one part is the KL divergence of the model's predictions from the original's when only that part is
//! rounded. Damages are taken to add up, which is nearly so while each is small; the sum is then smallest for the choice that
//! [`knapsack`] makes, and whoever searches measures what it truly came to.

pub mod gauge;
pub mod knapsack;
pub mod parts;
