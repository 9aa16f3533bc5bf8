//! Steps that a GPU replays as CUDA graphs: the same bytes as ordinary steps. One thread at a time may use a GPU on which work is
//! recorded, so the tests take turns.

#[path = "../../../ssdkd-ops/tests/common/place.rs"]
mod place;

mod distillation;
mod inversion;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Result, Tensor};
use ssdkd_nn::{Network, NetworkSpec, Preprocessing};
#[cfg(feature = "cuda")]
use ssdkd_ops as ops;

/// The bits of all numbers of tensors and figures, by name.
type Bits = BTreeMap<String, Vec<u32>>;

static TURN: Mutex<()> = Mutex::new(());

/// A turn with a GPU that gives the same bytes every time; `None` where there is none.
fn gpu() -> Option<MutexGuard<'static, ()>> {
    if !place::on_cuda() || place::takes_the_fastest_algorithms() {
        eprintln!("skipped: a GPU that gives the same bytes every time records steps");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

fn network(architecture: &str, seed: u64) -> Result<Network> {
    let spec = NetworkSpec {
        architecture: architecture.parse().map_err(candle_core::Error::msg)?,
        classes: 4,
        input: [3, 8, 8],
        mean: vec![0.4, 0.5, 0.6],
        std: vec![0.2, 0.25, 0.3],
        preprocessing: Preprocessing::default(),
    };
    Network::create(&spec, seed, &place::device())
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>> {
    let numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.into_iter().map(f32::to_bits).collect())
}

#[cfg(feature = "cuda")]
fn set_graphs(graphs: bool) {
    ops::set_cuda_settings(ops::CudaSettings { graphs, ..ops::cuda_settings() });
}

#[cfg(not(feature = "cuda"))]
fn set_graphs(_graphs: bool) {}

/// Does `work` without graphs, then with them.
fn with_and_without_graphs<T>(work: impl Fn() -> T) -> [T; 2] {
    [false, true].map(|graphs| {
        set_graphs(graphs);
        let done = work();
        set_graphs(false);
        done
    })
}

#[track_caller]
fn assert_same_bits(what: &str, ordinary: &Bits, replayed: &Bits) {
    assert_eq!(ordinary.len(), replayed.len());
    let differ = |(name, bits): &(&String, &Vec<u32>)| replayed[*name] != **bits;
    let different = ordinary.iter().filter(differ).map(|(name, _)| name).collect::<Vec<_>>();
    assert!(different.is_empty(), "{what}: {} of {} differ: {different:?}", different.len(), ordinary.len());
}
