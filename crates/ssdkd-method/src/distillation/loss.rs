//! The loss on the logits, and the student's disagreement with the teacher.

use candle_core::{Result, Tensor};
use ssdkd_ops as ops;
use ssdkd_ops::Value;

/// L_S of teacher and student logits (B, K); see the [module](super).
pub fn distillation_loss(
    teacher_logits: &Value,
    student_logits: &Value,
    temperature: f64,
    weights: Option<&Tensor>,
) -> Result<Value> {
    let divergence = ops::kl_divergence(&teacher_logits.detach(), student_logits, temperature, weights)?;
    ops::scale(&divergence, temperature * temperature)
}

/// KL(f_t ‖ f_s) in nats at T = 1 of every image, the mean over its `rows` of logits (B·rows, K): what δ is made of.
pub fn disagreement(teacher_logits: &Tensor, student_logits: &Tensor, rows: usize) -> Result<Vec<f32>> {
    divergences(teacher_logits, student_logits, rows)?.to_vec1()
}

/// As [`disagreement`], as a tensor (B,) on the device of the logits.
pub(super) fn divergences(teacher_logits: &Tensor, student_logits: &Tensor, rows: usize) -> Result<Tensor> {
    ops::group_means(&ops::kl_per_sample(teacher_logits, student_logits, 1.0)?, rows)
}
