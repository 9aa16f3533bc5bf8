//! Tables: what goes in comes out, whatever it is.

use std::path::Path;

use proptest::prelude::*;
use ssdkd_shards::{BufferRow, ClassRow, DrawRow, ObservedRow, PriorityRow, Row, StepRow, describe, tables};

use crate::origin;

fn check_round_trip<R: Row + PartialEq + std::fmt::Debug>(rows: &[R]) -> Result<(), TestCaseError> {
    let bytes = tables::encode(rows, &origin()).unwrap();
    prop_assert_eq!(&bytes, &tables::encode(rows, &origin()).unwrap());
    prop_assert_eq!(tables::decode::<R>(bytes, Path::new("table.parquet")).unwrap(), rows);
    Ok(())
}

/// Any float but NaN, which is not equal to itself; infinities and −0 included.
fn float() -> impl Strategy<Value = f32> {
    any::<f32>().prop_filter("NaN", |float| !float.is_nan())
}

fn double() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("NaN", |float| !float.is_nan())
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

prop_compose! {
    fn buffer_row()(
        (sample_id, shard, row) in (any::<u64>(), text(), any::<u32>()),
        (teacher_class, birth_round) in any::<(u32, u32)>(),
        (teacher_confidence, diversity, difficulty, phi) in (float(), float(), float(), float()),
    ) -> BufferRow {
        BufferRow {
            sample_id, shard, row, teacher_class, teacher_confidence, diversity, difficulty, phi, birth_round,
        }
    }
}

fn up_to_50<S: Strategy>(row: S) -> impl Strategy<Value = Vec<S::Value>> {
    prop::collection::vec(row, 0..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn buffers_survive(rows in up_to_50(buffer_row())) {
        check_round_trip(&rows)?;
    }

    #[test]
    fn classes_survive(rows in up_to_50((any::<u32>(), text(), any::<u64>(), prop::option::of(float())))) {
        let row = |(class, name, count, mean_confidence)| ClassRow { class, name, count, mean_confidence };
        check_round_trip(&rows.into_iter().map(row).collect::<Vec<_>>())?;
    }

    #[test]
    fn priorities_survive(rows in up_to_50((any::<u64>(), prop::option::of(float()), double(), double(), double()))) {
        let row = |(sample_id, kl, priority, probability, weight)| PriorityRow { sample_id, kl, priority, probability, weight };
        check_round_trip(&rows.into_iter().map(row).collect::<Vec<_>>())?;
    }

    #[test]
    fn draws_and_observations_survive(rows in up_to_50((any::<u32>(), any::<u32>(), any::<u64>(), float()))) {
        let row = |(step, slot, sample_id, weight)| DrawRow { step, slot, sample_id, weight };
        check_round_trip(&rows.iter().copied().map(row).collect::<Vec<_>>())?;
        let row = |(step, slot, sample_id, kl)| ObservedRow { step, slot, sample_id, kl };
        check_round_trip(&rows.into_iter().map(row).collect::<Vec<_>>())?;
    }

    #[test]
    fn steps_survive(rows in up_to_50((any::<u32>(), double(), float(), float(), float(), float()))) {
        let row = |(step, lr, loss, kl, agreement, gradient_norm)| {
            let feature_distillation = (step % 2 == 0).then_some(kl);
            StepRow { step, lr, loss, feature_distillation, kl, agreement, gradient_norm }
        };
        check_round_trip(&rows.into_iter().map(row).collect::<Vec<_>>())?;
    }
}

#[test]
fn a_loss_that_diverged_is_still_recorded() {
    let (kl, gradient_norm) = (f32::INFINITY, f32::NAN);
    let row =
        StepRow { step: 0, lr: 0.1, loss: f32::NAN, feature_distillation: None, kl, agreement: 0.0, gradient_norm };
    let bytes = tables::encode(&[row], &origin()).unwrap();
    let rows = tables::decode::<StepRow>(bytes, Path::new("steps.parquet")).unwrap();
    assert!(rows[0].loss.is_nan() && rows[0].kl == f32::INFINITY);
}

#[test]
fn many_rows_survive_the_decoders_batches() {
    let rows = (0..10_000_u32).map(|i| DrawRow {
        step: i / 128,
        slot: i % 128,
        sample_id: u64::from(i) * 7919 % 5120,
        weight: 0.5,
    });
    let rows = rows.collect::<Vec<_>>();
    let bytes = tables::encode(&rows, &origin()).unwrap();
    assert_eq!(tables::decode::<DrawRow>(bytes, Path::new("draws.parquet")).unwrap(), rows);
}

#[test]
fn a_table_says_what_it_is() {
    let bytes = tables::encode::<PriorityRow>(&[], &origin()).unwrap();
    let description = describe(bytes, Path::new("priorities.parquet")).unwrap();
    assert_eq!((description.table.as_str(), description.rows, description.origin), ("priorities", 0, origin()));
    let columns = description.columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>();
    assert_eq!(
        columns,
        ["sample_id UInt64", "kl Float32", "priority Float64", "probability Float64", "weight Float64"]
    );
    assert_eq!(description.metadata["ssdkd.schema_version"], "2");
}
