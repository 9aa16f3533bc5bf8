//! The pictures of a report: images of the last buffer, and how they spread over classes and confidence.
//!
//! A report never fails for a picture. One that cannot be drawn is a warning.

use std::path::PathBuf;

use anyhow::Result;
use ssdkd_context::Reader;
use ssdkd_nn::Task;
use ssdkd_shards::{BufferRow, ImageRef};
use ssdkd_stage::{quote_path, signals, write_file};

use crate::report::histogram::{BINS, Histogram};
use crate::report::{grid, plot};

/// The picture of the buffer in one row, within the report's folder.
pub const STRIP: &str = "strip.png";
/// Images of each class in that row.
const IN_STRIP: usize = 2;
/// Rows and columns of the picture of the buffer: classes, and images of each.
const ROWS: usize = 20;
const COLUMNS: usize = 16;

/// Draws all pictures of the last buffer. Returns the files of those that could be drawn.
///
/// # Errors
/// If the user has asked to stop.
pub fn draw(reader: &mut Reader) -> Result<Vec<PathBuf>> {
    let Some(round) = reader.last_round("balance")? else {
        let root = quote_path(reader.folder().root());
        tracing::warn!(
            "the report has no pictures: the run has no buffer yet\nhint: `ssdkd run {root}` resumes the run"
        );
        return Ok(Vec::new());
    };
    let pictures: [(&str, Picture); 4] =
        [("buffer.png", sheet), (STRIP, strip), ("classes.svg", classes), ("confidence.svg", confidences)];
    let mut files = Vec::new();
    for (name, picture) in pictures {
        signals::check()?;
        let file = reader.folder().report().join(name);
        match picture(reader, round).and_then(|bytes| Ok(write_file(&file, &bytes)?)) {
            Ok(()) => files.push(file),
            Err(error) => tracing::warn!("the report has no {name}: {error:#}"),
        }
    }
    Ok(files)
}

/// Draws one picture of the buffer after `balance` of a round.
type Picture = fn(&mut Reader, u32) -> Result<Vec<u8>>;

/// Returns the newest members of each class, a row for each. Where the teacher labels pixels, its labels lie under each row.
fn sheet(reader: &mut Reader, round: u32) -> Result<Vec<u8>> {
    let mut rows = Vec::new();
    for row in images(reader, round, COLUMNS)? {
        rows.extend([Some(row.images), row.masks].into_iter().flatten());
    }
    grid::contact_sheet(&views(&rows), reader.teacher_card().input)
}

/// Returns the first few members of each class in one row.
fn strip(reader: &mut Reader, round: u32) -> Result<Vec<u8>> {
    let (mut all, mut masks) = (Vec::new(), None::<Vec<_>>);
    for row in images(reader, round, IN_STRIP)? {
        all.extend(row.images);
        if let Some(row) = row.masks {
            masks.get_or_insert_default().extend(row);
        }
    }
    let rows = [Some(all), masks].into_iter().flatten().collect::<Vec<_>>();
    grid::contact_sheet(&views(&rows), reader.teacher_card().input)
}

fn views(rows: &[Vec<Vec<u8>>]) -> Vec<Vec<&[u8]>> {
    rows.iter().map(|images| images.iter().map(Vec::as_slice).collect()).collect()
}

/// Images of one class; what the teacher takes their pixels for, where it labels pixels.
struct Row {
    images: Vec<Vec<u8>>,
    masks: Option<Vec<Vec<u8>>>,
}

/// Returns the newest members of each class that is shown, at most `columns` of each.
fn images(reader: &mut Reader, round: u32, columns: usize) -> Result<Vec<Row>> {
    let (card, members) = (reader.teacher_card(), reader.outputs().buffer(round)?);
    let mut rows = Vec::new();
    for class in shown(&members, card.classes) {
        let of_class = members.iter().rev().filter(|row| row.teacher_class as usize == class).take(columns);
        let places = of_class.map(BufferRow::image).collect::<Vec<_>>();
        let masks = (card.architecture.task() == Task::Pixels).then(|| masks(reader, round, &places)).transpose()?;
        rows.push(Row { images: reader.pictures(round, &places)?, masks });
    }
    Ok(rows)
}

/// Returns the classes that get a row: all of them, or of more than [`ROWS`] the first that have an image.
fn shown(members: &[BufferRow], classes: usize) -> Vec<usize> {
    let has_image = |class: &usize| members.iter().any(|row| row.teacher_class as usize == *class);
    if classes <= ROWS { (0..classes).collect() } else { (0..classes).filter(has_image).take(ROWS).collect() }
}

/// Returns what the teacher takes the pixels of these images for, as pictures like them: a color for each class, or a level of gray.
fn masks(reader: &mut Reader, round: u32, places: &[ImageRef]) -> Result<Vec<Vec<u8>>> {
    let masks = reader.masks(round, places)?;
    let card = reader.teacher_card();
    let level = |class: u8, channel: usize| match card.input[0] {
        1 | 2 => (usize::from(class) * 255 / card.classes) as u8,
        _ => grid::class_colour(class).get(channel).copied().unwrap_or(0),
    };
    let picture = |mask: &Vec<u8>| {
        (0..card.input[0]).flat_map(|channel| mask.iter().map(move |&class| level(class, channel))).collect::<Vec<_>>()
    };
    Ok(masks.iter().map(picture).collect())
}

/// Returns a chart of the images of each class.
fn classes(reader: &mut Reader, round: u32) -> Result<Vec<u8>> {
    let (card, counts) = (reader.teacher_card(), Histogram::of_buffer(reader, round)?.classes);
    bars(round, "teacher's class", &card.class_labels(), &counts)
}

/// Returns a chart of the images of each bin of the teacher's confidence.
fn confidences(reader: &mut Reader, round: u32) -> Result<Vec<u8>> {
    let counts = Histogram::of_buffer(reader, round)?.confidences;
    let bins = (1..=BINS).map(|bin| format!("{:.2}", bin as f64 / BINS as f64)).collect::<Vec<_>>();
    bars(round, "teacher's confidence, up to", &bins, &counts)
}

fn bars(round: u32, x: &str, labels: &[String], counts: &[u64]) -> Result<Vec<u8>> {
    let counts = counts.iter().map(|&count| count as f64).collect::<Vec<_>>();
    Ok(plot::bars(&format!("buffer of round {round}"), (x, "images"), labels, &counts)?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(classes: impl IntoIterator<Item = u32>) -> Vec<BufferRow> {
        let member = |teacher_class| BufferRow {
            sample_id: 0,
            shard: String::new(),
            row: 0,
            teacher_class,
            teacher_confidence: 1.0,
            diversity: 1.0,
            difficulty: 1.0,
            phi: 1.0,
            birth_round: 0,
        };
        classes.into_iter().map(member).collect()
    }

    #[test]
    fn few_classes_all_have_a_row() {
        assert_eq!(shown(&members([2]), 4), [0, 1, 2, 3]);
        assert_eq!(shown(&[], 2), [0, 1]);
    }

    #[test]
    fn of_many_classes_those_with_images_have_a_row() {
        assert_eq!(shown(&members([299, 150, 299]), 300), [150, 299]);
        assert_eq!(shown(&members(0..300), 300), (0..20).collect::<Vec<_>>());
        assert_eq!(shown(&[], 300), Vec::<usize>::new());
    }
}
