//! Each format from files made here, and what is said about each way a file can be wrong.

mod cifar;
mod cifar_python;
mod damage;
mod encoded;
mod folders;
mod idx;
mod masks;
mod notices;
mod pages;
mod parquet;
mod recognition;
mod resizing;
mod support;
mod tensors;
mod unlabeled;
