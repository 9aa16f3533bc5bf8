//! `graph.json`.

use ssdkd_graph::Graph;

use crate::common::{NETWORKS, read};

#[test]
fn what_is_written_is_read_back() {
    for name in NETWORKS {
        let graph = read(&format!("{name}.pt2")).graph;
        let text = graph.to_json().unwrap();
        let again = Graph::from_json(&text).unwrap();
        assert_eq!(again, graph, "{name}");
        assert_eq!(again.to_json().unwrap(), text, "the same graph makes the same bytes");
    }
}

#[track_caller]
fn refused(from: &str, to: &str, part: &str) {
    let text = read("resnet.pt2").graph.to_json().unwrap();
    assert!(text.contains(from), "{from}");
    let error = Graph::from_json(&text.replacen(from, to, 1)).unwrap_err().to_string();
    assert!(error.contains(part), "{part:?} is not in {error:?}");
}

#[test]
fn other_versions_and_unknown_fields_are_refused() {
    refused("\"version\": 1", "\"version\": 2", "version 2; this program reads version 1");
    refused("\"format\": \"ssdkd-graph\"", "\"format\": \"other\"", "no format");
    refused("\"groups\":1", "\"groups\":1,\"color\":3", "unknown field");
    refused("\"outputs\":", "\"more\": 1, \"outputs\":", "unknown field");
    refused("\"op\":\"flatten\"", "\"op\":\"fold\"", "unknown variant");
}

#[test]
fn graphs_that_do_not_hold_together_are_refused() {
    refused("\"fc\"\n  ]", "\"nowhere\"\n  ]", "nowhere is no node");
    refused("\"inputs\":[\"x\"", "\"inputs\":[\"fc\"", "fc, which is no node before it");
    refused("\"fc.bias\": {", "\"left.over\": {", "fc.bias");
    refused("\"stride\":[2,", "\"stride\":[0,", "is 0");
}

#[test]
fn deep_and_cut_texts_are_errors() {
    let text = read("same.pt2").graph.to_json().unwrap();
    for length in (0..text.len()).step_by(97) {
        assert!(Graph::from_json(&text[..length]).is_err(), "{length}");
    }
    assert!(Graph::from_json(&"[".repeat(100_000)).is_err());
    assert!(Graph::from_json("{\"format\": \"ssdkd-graph\", \"version\": 1}").is_err());
}
