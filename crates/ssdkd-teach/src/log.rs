//! What a training says of its epochs: the lines of its log, and those on the terminal.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use ssdkd_evaluate::Evaluation;
use ssdkd_stage::{StageError, write_file};

use crate::settings::TeachSettings;
use crate::trainer::{EpochReport, Trainer};

/// One line of the log.
#[derive(Serialize, Deserialize)]
pub(crate) struct LogLine {
    epoch: u32,
    steps: u64,
    lr: f64,
    loss: f64,
    train_accuracy: f64,
    /// Where pixels are labeled, of those.
    test_accuracy: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test_mean_iou: Option<f64>,
    test_loss: f64,
    /// Training, without the measuring.
    seconds: f64,
}

/// Returns the lines of the epochs that are complete; the log may be ahead of the checkpoint.
pub(crate) fn read_log(path: &Path, epochs: u32) -> Result<Vec<LogLine>, StageError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StageError::Read { path: path.into(), source }),
    };
    let lines = text.lines().map_while(|line| serde_json::from_str::<LogLine>(line).ok());
    Ok(lines.take_while(|line| line.epoch <= epochs).collect())
}

pub(crate) fn write_log(path: &Path, log: &[LogLine]) -> Result<(), StageError> {
    let lines = log.iter().map(|line| serde_json::to_string(line).expect("a line is plain data") + "\n");
    write_file(path, lines.collect::<String>().as_bytes())
}

pub(crate) fn log_line(epoch: &EpochReport, measured: &Evaluation) -> LogLine {
    LogLine {
        epoch: epoch.epoch,
        steps: epoch.steps,
        lr: epoch.lr,
        loss: epoch.loss,
        train_accuracy: epoch.accuracy,
        test_accuracy: measured.top1,
        test_mean_iou: measured.mean_iou,
        test_loss: measured.loss,
        seconds: epoch.seconds,
    }
}

/// Returns the progress within the epoch, next to the bar.
pub(crate) fn running(trainer: &Trainer<'_>, settings: &TeachSettings) -> String {
    let at = trainer.position();
    format!("epoch {}/{}, loss {:.3}", at.epoch + 1, settings.epochs, at.loss / at.step.max(1) as f64)
}

pub(crate) fn tell(epoch: &EpochReport, epochs: u32, measured: &Evaluation, measuring: f64) {
    let percent = |share: f64| share * 100.0;
    tracing::info!(
        "epoch {}/{epochs}: loss {:.3}, accuracy {:.2} % in training, {:.2} % on the test images{}; {:.1} s + {measuring:.1} s",
        epoch.epoch,
        epoch.loss,
        percent(epoch.accuracy),
        percent(measured.top1),
        measured.mean_iou.map(|iou| format!(", mean IoU {:.2} %", percent(iou))).unwrap_or_default(),
        epoch.seconds
    );
}
