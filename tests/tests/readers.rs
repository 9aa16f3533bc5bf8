//! Every kept file, and thousands of mutations of each, through the readers that the fuzz targets call: an answer or one clear
//! error, and no more memory than the file is worth.
//!
//! `SSDKD_MUTATIONS=100000 cargo test --release -p ssdkd-tests --test readers` for more than the default.

use std::fs;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ssdkd_tests::readers::{self, Reader};

#[global_allocator]
static ALLOCATOR: ssdkd_ops::CachingAllocator = ssdkd_ops::CachingAllocator::new(1 << 20);

/// Most memory for a file: this, and so many times its size. A network with thousands of classes may be worth the former.
const MEMORY: usize = 128 << 20;
const MEMORY_FACTOR: usize = 64;

/// The files to begin with, in the order of their names.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = entries
        .map(|entry| entry.expect("a readable entry").path())
        .map(|path| (path.display().to_string(), fs::read(&path).expect("a readable file")))
        .collect::<Vec<_>>();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

/// One to four changes: bits flipped, bytes replaced, removed, repeated or put in, the rest cut off.
fn mutate(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            bytes.push(rng.random());
        }
        let at = rng.random_range(0..bytes.len());
        let end = (at + rng.random_range(1..=64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = rng.random(),
            3 => bytes[at] = *[0, 1, 0x7f, 0x80, 0xff, b'"', b'-', b'9'].get(rng.random_range(0..8)).unwrap_or(&0),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let new = (0..rng.random_range(1..9)).map(|_| rng.random::<u8>()).collect::<Vec<_>>();
                bytes.splice(at..at, new);
            }
            _ => bytes.truncate(at),
        }
    }
}

fn check(bytes: &[u8], what: &str, (name, read): Reader) {
    ssdkd_ops::reset_peak();
    let before = ssdkd_ops::allocated_bytes();
    let outcome = std::panic::catch_unwind(|| read(bytes));
    let peak = ssdkd_ops::peak_bytes().saturating_sub(before);
    let limit = MEMORY + MEMORY_FACTOR * bytes.len();
    if outcome.is_err() || peak > limit {
        let kept = std::env::temp_dir().join(format!("ssdkd-{name}-{}", &blake3::hash(bytes).to_hex()[..16]));
        fs::write(&kept, bytes).expect("a temporary file");
        panic!("{what}: {peak} bytes were allocated, {limit} allowed; the file is {}", kept.display());
    }
}

/// One test, so that nobody else allocates beside it.
#[test]
fn whatever_is_in_a_file_it_is_an_answer_or_one_clear_error() {
    let mutations = std::env::var("SSDKD_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_usize);
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for reader in readers::ALL {
        let files = files(&corpus.join(reader.0));
        for (path, bytes) in &files {
            check(bytes, path, reader);
            let mut rng = ChaCha8Rng::seed_from_u64(bytes.len() as u64);
            for round in 0..mutations {
                let mut bytes = bytes.clone();
                mutate(&mut bytes, &mut rng);
                check(&bytes, &format!("mutation {round} of {path}"), reader);
            }
        }
        println!("{}: {} files, {mutations} mutations of each", reader.0, files.len());
    }
}
