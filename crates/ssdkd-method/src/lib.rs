//! The method of the paper: one file for each part, and nothing else.
//!
//! SSD-KD (He Liu, Yikai Wang, Huaping Liu, Fuchun Sun, Anbang Yao, "Small Scale Data-Free Knowledge Distillation",
//! CVPR 2024, arXiv 2406.07876) distills a trained teacher `f_t` into a small student `f_s` without the teacher's
//! training data. A generator `g` makes images that the teacher recognizes and the student does not yet, a small
//! replay buffer of fixed size keeps some of them, and a priority sampling function chooses what the student sees:
//!
//! ```text
//! min over f_s, max over g,  E over x = δ∘g(z)  [ discrepancy(f_t(x), f_s(x)) ]                                   [P]
//! ```
//!
//! | read | for |
//! |---|---|
//! | [`modulation`] | φ, which balances what the generator makes |
//! | [`inversion`] | one synthesis batch: the loss, its settings, and a file for each of the four strategies |
//! | [`buffer`] | the small replay buffer and its partial update |
//! | [`priority`] | δ, the sampling probabilities, the importance weights, the draws |
//! | [`distillation`], `feature_distillation.rs` | one step of the student; what it learns from the teacher's feature maps |
//! | [`predictions`] | the teacher's prediction for a whole image, for segmentation networks too |
//! | [`prior`] | how common the teacher's classes are |
//! | [`diagnostics`] | figures that say whether the images are any good |
//! | [`health`] | checks that find out that a run has gone wrong |
//! | [`range`] | the ranges of settings, and their JSON schema |
//!
//! # Evidence
//!
//! The authors published no code, and this crate was written without the paper's text at hand. So every formula carries
//! a mark that says where it comes from, and no formula here is a quotation unless its mark says so:
//!
//! - **\[P\]** stated by the paper's abstract or the authors' own figure
//! - **\[S\]** stated by third-party notes written from the full paper
//! - **\[R\]** the recalled form of an equation: consistent with all of \[P\] and \[S\], not checked against the paper's text
//! - **\[C\]** taken from the public code or paper of the system named
//! - **\[O\]** our own engineering choice
//!
//! # What this crate does not know
//!
//! Files, progress bars, command lines, clocks. Randomness comes from [`ssdkd_nn::random::stream`] alone, as a function
//! of seed, purpose, round and step, so that every call can be repeated and every stage resumed to the same bits.

pub mod buffer;
pub mod diagnostics;
pub mod distillation;
mod feature_distillation;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod golden;
pub mod health;
pub mod inversion;
pub mod modulation;
pub mod passes;
pub mod predictions;
pub mod prior;
pub mod priority;
pub mod range;
mod replay;

pub use buffer::{BalanceSettings, Eviction, Member, NewSamplePriority, ReplayBuffer};
pub use diagnostics::{Diagnostics, diagnose};
pub use distillation::{DistillSettings, Distiller, OptimizerKind, StepReport};
pub use feature_distillation::feature_pairs;
pub use health::FailedCheck;
pub use inversion::{
    BatchNormForm, BatchNormMomentum, Discrepancy, ImageFormat, Inversion, InvertSettings, LossSettings, Objective,
    Position, Strategy, StrategyName, Synthesis, TargetRule, Term,
};
pub use modulation::{Diversity, Factors, Modulation, ModulationSettings};
pub use passes::Labelled;
pub use predictions::Predictions;
pub use prior::ClassPrior;
pub use priority::{Prioritised, Refresh, SampleSettings, Scale};
