//! The teacher that a training leaves: its weights, its card and where it comes from.

use ssdkd_data::Dataset;
use ssdkd_evaluate::Evaluation;
use ssdkd_nn::{CARD_VERSION, Normalization, Preprocessing, TeacherCard};
use ssdkd_stage::exit::Code;
use ssdkd_stage::{StageError, write_file};

use crate::files::Files;
use crate::trainer::Trainer;

/// Weights first, then the card: a card says that the teacher is complete.
pub(crate) fn write_teacher(
    files: &Files,
    trainer: &Trainer<'_>,
    train: &Dataset,
    measured: &Evaluation,
    origin: &str,
) -> Result<(), StageError> {
    let network = trainer.result();
    let bytes = network
        .store()
        .state_dict()
        .to_safetensors()
        .map_err(|error| StageError::other(Code::Failed, format!("cannot write the weights: {error}")))?;
    let spec = network.spec();
    let card = TeacherCard {
        card_version: CARD_VERSION,
        architecture: spec.architecture.clone(),
        names: None,
        classes: spec.classes,
        input: spec.input,
        mean: spec.mean.clone(),
        std: spec.std.clone(),
        preprocessing: Preprocessing::default(),
        normalization: Normalization::Given,
        class_names: train.class_names().unwrap_or_default().to_vec(),
        weights: files.weights.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        digest: blake3::hash(&bytes).to_hex().to_string(),
        parameters: network.store().num_parameters(),
        source: format!("{origin}; {}", score(measured)),
        license: None,
    };
    write_file(&files.weights, &bytes)?;
    write_file(&files.card, card.to_json().as_bytes())?;
    tracing::info!("{}: {}", files.card.display(), score(measured));
    Ok(())
}

/// Returns what the teacher came to, in words.
fn score(measured: &Evaluation) -> String {
    let (percent, images) = (100.0 * measured.score(), measured.images);
    match measured.mean_iou {
        Some(_) => {
            let (occurring, classes) = (measured.occurring_classes(), measured.confusion.len());
            let of = if occurring < classes { format!(" of {occurring} of {classes} classes") } else { String::new() };
            format!("mean IoU {percent:.2} %{of} on {images} test images")
        }
        None => format!("{percent:.2} % of {images} test images"),
    }
}
