//! pyarrow, DuckDB and Polars open what this crate writes, and see the same numbers.

use std::path::Path;
use std::process::Command;

use ssdkd_shards::{BufferRow, ImageShard, Pixels, tables};

use crate::{float_shard, origin, shard};

/// What the script returns when a package is missing.
const SKIPPED: i32 = 77;

#[test]
fn arrow_tools_read_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    let (first, mut second) = (shard(600), shard(40));
    for sample in &mut second.samples {
        sample.sample_id += 1 << 32;
    }
    write("samples/part-00000.parquet", &first.encode().unwrap());
    write("samples/part-00001.parquet", &second.encode().unwrap());
    let masks = (0..600 * 20).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let mask_sum = masks.iter().map(|&class| u64::from(class)).sum::<u64>();
    let floats = ImageShard { teacher_masks: Some(masks), ..float_shard(600) };
    write("floats.parquet", &floats.encode().unwrap());
    let buffer = first.samples.iter().step_by(3).enumerate().map(|(row, sample)| BufferRow {
        sample_id: sample.sample_id,
        shard: "invert/0007/samples/part-00000.parquet".into(),
        row: 3 * row as u32,
        teacher_class: sample.teacher_class,
        teacher_confidence: sample.teacher_confidence,
        diversity: 0.5,
        difficulty: 0.25,
        phi: 0.125,
        birth_round: 7,
    });
    let buffer = buffer.collect::<Vec<_>>();
    write("buffer.parquet", &tables::encode(&buffer, &origin()).unwrap());

    let level_sum = |pixels: &Pixels| match pixels {
        Pixels::U8(levels) => levels.iter().map(|&level| u64::from(level)).sum::<u64>(),
        Pixels::F32(_) => 0,
    };
    let expected = serde_json::json!({
        "rows": 640,
        "level_sum": level_sum(&first.pixels) + level_sum(&second.pixels),
        "unit_sum": floats.pixels.to_unit().iter().map(|&value| f64::from(value)).sum::<f64>(),
        "mask_sum": mask_sum,
        "logit_sum": first.teacher_logits.iter().map(|&logit| f64::from(logit)).sum::<f64>(),
        "class_names": first.info.class_names,
        "members": buffer.len(),
    });
    write("expected.json", expected.to_string().as_bytes());

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/check_shards.py");
    let python = std::env::var("SSDKD_PYTHON").unwrap_or_else(|_| "python3".into());
    match Command::new(&python).arg(&script).arg(folder.path()).output() {
        Err(error) => eprintln!("skipped: cannot start {python}: {error}"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            if output.status.code() == Some(SKIPPED) {
                eprintln!("skipped: {text}");
            } else {
                assert!(output.status.success(), "{text}");
            }
        }
    }
}
