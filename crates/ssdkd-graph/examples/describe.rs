//! Prints what a `.pt2`, `.onnx` or `graph.json` file computes: nodes, shapes, parameters and multiply-adds.
//!
//! `cargo run --release -p ssdkd-graph --example describe -- model.pt2 [HEIGHT WIDTH]`

use std::path::Path;
use std::process::ExitCode;

use ssdkd_graph::{Graph, import};

fn read(path: &Path) -> Result<Graph, String> {
    if path.extension().is_some_and(|extension| extension == "json") {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        return Graph::from_json(&text).map_err(|error| error.to_string());
    }
    let imported = import(path).map_err(|error| error.to_string())?;
    if !imported.producer.is_empty() {
        println!("written by {}", imported.producer);
    }
    if let Some(cause) = imported.folded {
        println!("its batch normalizations are gone: {cause}");
    }
    Ok(imported.graph)
}

fn describe(arguments: &[String]) -> Result<(), String> {
    let [path, size @ ..] = arguments else { return Err("usage: describe FILE [HEIGHT WIDTH]".into()) };
    let mut graph = read(Path::new(path))?;
    if let [height, width] = size {
        let number = |text: &String| text.parse().map_err(|_| format!("{text} is no size"));
        graph = graph.resized(number(height)?, number(width)?).map_err(|error| error.to_string())?;
    }
    for cost in graph.costs() {
        let node = graph.node(cost.node);
        let inputs = node.inputs.iter().map(|input| graph.node(*input).name.as_str()).collect::<Vec<_>>().join(", ");
        println!(
            "{:<44} {:<16} {:>22} {:>10} {:>12}  {inputs}",
            node.name,
            node.op.kind(),
            graph.shape(cost.node).to_string(),
            cost.parameters,
            cost.multiply_adds
        );
    }
    println!(
        "{} nodes, {} parameters, {} multiply-adds",
        graph.nodes().len(),
        graph.parameters(),
        graph.total_multiply_adds()
    );
    Ok(())
}

fn main() -> ExitCode {
    match describe(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
