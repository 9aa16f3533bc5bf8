//! Networks of a folder, with what PyTorch computes: `make test-zoo` fills it.

use std::path::Path;

use candle_core::Result;
use ssdkd_graph::{Executor, Mode, ReadError, feature_maps, import};
use ssdkd_ops::Value;

use crate::common::{channels_last, mean_square, relative_error, values};

fn check(model: &Path, expected: &Path) -> std::result::Result<String, String> {
    let text = |error: candle_core::Error| error.to_string();
    let network = match import(model) {
        // To refuse a network is an answer; to compute another one is not.
        Err(refused @ ReadError::Unsupported { .. }) => return Ok(format!("refused: {refused}")),
        network => network.map_err(|error| error.to_string())?,
    };
    let expected = values(expected).map_err(text)?;
    let (nodes, maps) = (network.graph.nodes().len(), feature_maps(&network.graph));
    let (parameters, adds) = (network.graph.parameters(), network.graph.total_multiply_adds());
    let executor = Executor::new(network.graph, network.tensors, &[]).map_err(|error| error.to_string())?;
    let errors = || -> Result<(f64, f64, f64)> {
        let x = channels_last(&expected["x"])?;
        let run = executor.run(&Value::leaf(&x), Mode::Tapped)?;
        let output = relative_error(run.outputs[0].tensor(), &channels_last(&expected["y"])?)?;
        let mut moments = 0_f64;
        let wanted = expected.iter().filter(|(name, _)| name.starts_with("moment.")).collect::<Vec<_>>();
        if wanted.len() != run.taps.len() {
            candle_core::bail!("{} taps instead of {}", run.taps.len(), wanted.len());
        }
        for (tap, (_, wanted)) in run.taps.iter().zip(wanted) {
            let (mean, variance) = (wanted.get(0)?, wanted.get(1)?);
            moments = moments.max(relative_error(tap.mean.tensor(), &mean)?);
            // Where all images have nearly the same mean, a variance is the difference of numbers of the mean's size.
            let scale = variance.maximum(&mean.sqr()?)?.max_all()?.to_scalar::<f32>()?;
            let difference = (tap.variance.tensor() - &variance)?.abs()?.max_all()?.to_scalar::<f32>()?;
            moments = moments.max(f64::from(difference / scale));
        }
        let gradients = mean_square(&run.outputs[0])?.backward()?;
        let gradient = relative_error(gradients.get(&x).unwrap(), &channels_last(&expected["g"])?)?;
        Ok((output, gradient, moments))
    };
    let (output, gradient, moments) = errors().map_err(text)?;
    let line = format!(
        "{nodes} nodes, {parameters} parameters, {adds} multiply-adds, {} maps ({:?}); errors: output {output:.1e}, gradient {gradient:.1e}, moments {moments:.1e}",
        maps.nodes.len(),
        maps.rule
    );
    if output <= 1e-4 { Ok(line) } else { Err(line) }
}

#[test]
fn networks_of_the_zoo_compute_what_pytorch_computes() {
    let Some(folder) = std::env::var_os("SSDKD_GRAPH_ZOO") else {
        println!("note: SSDKD_GRAPH_ZOO names no folder, so no network of torchvision or timm was computed");
        return;
    };
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut models = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "pt2" || extension == "onnx"))
        .collect::<Vec<_>>();
    models.sort();
    let mut wrong = Vec::new();
    for model in models {
        match check(&model, &model.with_extension("safetensors")) {
            Ok(line) => println!("{}: {line}", model.display()),
            Err(reason) => {
                println!("{}: WRONG {reason}", model.display());
                wrong.push(format!("{}: {reason}", model.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
