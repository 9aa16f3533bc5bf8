//! The commands, one file each.

pub mod compare;
pub mod doctor;
pub mod evaluate;
pub mod explain;
pub mod export;
pub mod gc;
pub mod import;
pub mod inspect;
pub mod man;
pub mod plan;
pub mod predict;
pub mod repair;
pub mod report;
pub mod run;
pub mod shrink;
pub mod status;
pub mod verify;
