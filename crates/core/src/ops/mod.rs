//! The arithmetic of the forward pass, each operation defined once for every machine.

pub mod attention;
pub mod floats;
pub mod hadamard;
pub mod linear;
pub mod math;
pub mod matmul;
pub mod norm;
pub(crate) mod products;
pub mod reading;
pub mod rope;
mod softmax;
