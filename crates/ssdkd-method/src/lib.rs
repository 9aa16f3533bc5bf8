//! The paper itself: one file for each part of it, and nothing else.
//!
//! SSD-KD (He Liu, Yikai Wang, Huaping Liu, Fuchun Sun, Anbang Yao, "Small Scale Data-Free Knowledge Distillation",
//! CVPR 2024, arXiv 2406.07876) distils a trained teacher `f_t` into a small student `f_s` without the teacher's
//! training data. A generator `g` makes images that the teacher recognises and the student does not yet, a small
//! replay buffer of fixed size keeps some of them, and a priority sampling function chooses what the student sees:
//!
//! ```text
//! min over f_s, max over g,  E over x = δ∘g(z)  [ discrepancy(f_t(x), f_s(x)) ]                                   [P]
//! ```
//!
//! | read | for |
//! |---|---|
//! | [`modulation`] | φ, which balances what the generator makes |
//! | [`inversion_loss`] | what makes an image good: batch-norm statistics, task, balance, adversary |
//! | [`inversion`] | one synthesis batch: settings, draws, and the strategies [`persistent_generator`], [`meta_generator`], [`pixel_optimisation`] and [`contrastive_inversion`] |
//! | [`buffer`] | the small replay buffer and its partial update |
//! | [`priority`] | δ, the sampling probabilities, the importance weights, the draws |
//! | [`distillation`], `hints.rs` | one step of the student; what it learns from the teacher's feature maps |
//! | [`answers`] | what the teacher says of a whole image, where it labels pixels |
//! | [`augment`], [`mixing`], [`diagnostics`] | the views both networks see; figures that say whether the images are any good |
//! | [`trouble`] | signs that a run has gone wrong |
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

pub mod answers;
pub mod augment;
pub mod buffer;
mod check;
pub mod contrastive_inversion;
pub mod diagnostics;
pub mod distillation;
mod generator;
#[cfg(test)]
mod golden;
mod hints;
pub mod inversion;
pub mod inversion_loss;
pub mod meta_generator;
pub mod mixing;
pub mod modulation;
pub mod passes;
pub mod persistent_generator;
pub mod pixel_optimisation;
pub mod priority;
pub mod trouble;

pub use answers::Answers;
pub use augment::AugmentSettings;
pub use buffer::{Arrivals, BalanceSettings, Eviction, Member, ReplayBuffer};
pub use diagnostics::{Diagnostics, diagnose};
pub use distillation::{DistillSettings, Distiller, OptimizerKind, StepReport};
pub use inversion::{ImageFormat, Inversion, InvertSettings, Position, Strategy, Synthesis, TargetRule};
pub use inversion_loss::{BatchNormMomentum, Discrepancy, InversionTerms, LossWeights, Objective};
pub use modulation::{Diversity, Factors, Modulation, ModulationSettings};
pub use passes::Labelled;
pub use priority::{Prioritised, Refresh, SampleSettings, Scale};
pub use trouble::Trouble;
