//! Image shards: what goes in comes out, in any order; and the layout that other tools rely on.

use std::path::Path;

use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use ssdkd_shards::{ImageReader, ImageShard, Pixels, Rows, ShardError, describe, tables_markdown};

use crate::{float_shard, shard};

fn open(shard: &ImageShard) -> ImageReader {
    ImageReader::open(shard.encode().unwrap(), Path::new("part-00000.parquet")).unwrap()
}

#[track_caller]
fn check_round_trip(rows: usize, shard: &ImageShard) {
    let reader = open(shard);
    assert_eq!((reader.len(), reader.info()), (rows, &shard.info));
    assert_eq!(reader.read(Rows::All).unwrap(), *shard);
    assert_eq!(shard.encode().unwrap(), shard.encode().unwrap(), "the same shard, the same bytes");
}

#[test]
fn shards_survive_a_round_trip() {
    // More than two row groups, and the last one is not full.
    for rows in [0, 1, 1100] {
        check_round_trip(rows, &shard(rows));
        check_round_trip(rows, &float_shard(rows));
    }
}

#[test]
fn masks_are_a_column_where_there_are_any() {
    let plain = shard(700);
    let [_, height, width] = plain.info.shape;
    let masks = (0..700 * height * width).map(|at| (at % 251) as u8).collect::<Vec<_>>();
    let masked = ImageShard { teacher_masks: Some(masks.clone()), ..plain.clone() };
    let reader = open(&masked);
    assert_eq!(reader.read(Rows::All).unwrap(), masked);
    let some = reader.teacher_masks(Rows::Only(&[600, 2])).unwrap().unwrap();
    let of = |row: usize| &masks[row * height * width..][..height * width];
    assert_eq!(some, [of(600), of(2)].concat());
    assert_eq!(open(&plain).teacher_masks(Rows::All).unwrap(), None);
    let short = ImageShard { teacher_masks: Some(vec![0; 3]), ..plain };
    assert!(short.encode().unwrap_err().to_string().contains("mask values"));
}

#[test]
fn every_column_of_a_shard_is_in_the_reference_in_this_order() {
    let masked = ImageShard { teacher_masks: Some(vec![0; 2 * 4 * 5]), ..shard(2) };
    let columns = describe(masked.encode().unwrap(), Path::new("part-00000.parquet")).unwrap().columns;
    let text = tables_markdown();
    let places = columns.iter().map(|(name, _)| text.find(&format!("| `{name}` |"))).collect::<Vec<_>>();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{columns:?}");
}

#[test]
fn rows_come_in_the_order_asked_for() {
    let whole = shard(1100);
    let reader = open(&whole);
    let rows = [1099, 0, 511, 512, 0, 700];
    let part = reader.read(Rows::Only(&rows)).unwrap();
    let (Pixels::U8(all), Pixels::U8(some)) = (&whole.pixels, &part.pixels) else { panic!("u8 stays u8") };
    for (index, &row) in rows.iter().enumerate() {
        let row = row as usize;
        assert_eq!(part.samples[index], whole.samples[row]);
        assert_eq!(some[index * 60..][..60], all[row * 60..][..60]);
        assert_eq!(part.teacher_logits[index * 7..][..7], whole.teacher_logits[row * 7..][..7]);
    }
    assert_eq!(part.samples.len(), rows.len());
    assert_eq!(reader.pixels(Rows::Only(&[])).unwrap().len(), 0);
    let error = reader.samples(Rows::Only(&[3, 1100])).unwrap_err();
    assert!(matches!(error, ShardError::RowOutOfRange { row: 1100, rows: 1100, .. }), "{error}");
}

#[test]
fn levels_are_rounded_to_the_nearest_and_back() {
    let pixels = Pixels::rounded(&[0.0, 0.001, 0.003, 0.5, 1.0]);
    assert_eq!(pixels, Pixels::U8(vec![0, 0, 1, 128, 255]));
    let every_level = Pixels::U8((0..=255).collect());
    assert_eq!(Pixels::rounded(&every_level.to_unit()), every_level);
}

#[test]
fn a_shard_that_does_not_fit_together_is_refused() {
    let mut wrong = shard(3);
    wrong.teacher_logits.pop();
    let error = wrong.encode().unwrap_err();
    assert!(matches!(error, ShardError::Uneven { rows: 3, found: 20, expected: 21, .. }), "{error}");
    let mut wrong = shard(3);
    wrong.info.normalisation.std.pop();
    assert_eq!(
        wrong.encode().unwrap_err().to_string(),
        "a shard of 3 images cannot have 2 channel deviations; 3 are needed"
    );
}

/// Encodings and compression of one column of the first row group.
fn column(shard: &ImageShard, path: &str) -> (Vec<Encoding>, Compression, bool) {
    let reader = SerializedFileReader::new(bytes::Bytes::from(shard.encode().unwrap())).unwrap();
    let group = reader.metadata().row_group(0);
    let column = group.columns().iter().find(|column| column.column_path().string() == path).unwrap();
    (column.encodings().collect(), column.compression(), column.dictionary_page_offset().is_some())
}

#[test]
fn pixels_and_logits_are_stored_as_the_readme_of_a_shard_would_say() {
    let (levels, floats) = (shard(600), float_shard(600));
    for (shard, path) in [
        (&floats, "image.list.element"),
        (&floats, "teacher_logits.list.element"),
        (&levels, "teacher_logits.list.element"),
    ] {
        let (encodings, compression, dictionary) = column(shard, path);
        assert!(encodings.contains(&Encoding::BYTE_STREAM_SPLIT), "{path}: {encodings:?}");
        assert!(matches!(compression, Compression::ZSTD(_)) && !dictionary, "{path}");
    }
    let (encodings, _, dictionary) = column(&levels, "image.list.element");
    assert!(encodings.contains(&Encoding::RLE_DICTIONARY) && dictionary, "{encodings:?}");
}

#[test]
fn row_groups_and_metadata_are_as_promised() {
    let shard = shard(1100);
    let reader = SerializedFileReader::new(bytes::Bytes::from(shard.encode().unwrap())).unwrap();
    let metadata = reader.metadata();
    let groups = metadata.row_groups().iter().map(RowGroupMetaData::num_rows).collect::<Vec<_>>();
    assert_eq!(groups, [512, 512, 76]);
    let pairs = metadata.file_metadata().key_value_metadata().unwrap();
    let get = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref()).unwrap();
    assert_eq!(get("ssdkd.schema_version"), "2");
    assert_eq!(get("ssdkd.table"), "images");
    assert_eq!(get("ssdkd.stage"), "invert");
    assert_eq!(get("ssdkd.fingerprint"), "f".repeat(64));
    assert_eq!(get("ssdkd.normalisation"), r#"{"mean":[0.5,0.4,0.3],"std":[0.2,0.2,0.1]}"#);
    assert_eq!(serde_json::from_str::<Vec<String>>(get("ssdkd.class_names")).unwrap(), shard.info.class_names);
    let reader = parquet::arrow::arrow_reader::ArrowReaderMetadata::load(
        &bytes::Bytes::from(shard.encode().unwrap()),
        parquet::arrow::arrow_reader::ArrowReaderOptions::new(),
    );
    let reader = reader.unwrap();
    let image = reader.schema().field_with_name("image").unwrap();
    assert_eq!(image.metadata().get("ARROW:extension:name").unwrap(), "arrow.fixed_shape_tensor");
    assert_eq!(
        image.metadata().get("ARROW:extension:metadata").unwrap(),
        r#"{"dim_names":["C","H","W"],"shape":[3,4,5]}"#
    );
    assert!(!image.is_nullable());
}
