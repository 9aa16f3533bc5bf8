//! Tests of graphs: reading, saving, computing and taking apart.

mod analysis;
mod common;
mod golden;
mod hostile;
mod hostile_onnx;
mod json;
mod shapes;
mod shrink;
mod simplify;
mod sizes;
mod written;
mod zoo;
