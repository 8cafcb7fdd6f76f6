//! The arithmetic of the forward pass, each operation defined once for every machine.

pub mod attention;
pub mod math;
pub mod matmul;
pub mod norm;
pub mod rope;
