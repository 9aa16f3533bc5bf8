//! Which samples leave the buffer, and with which priority others enter.

use proptest::prelude::*;

use super::*;
use crate::modulation::Factors;

fn member(sample_id: u64, class: u32, priority: f64) -> Member {
    let factors = Factors { diversity: 1.0, difficulty: 1.0 };
    let birth_round = (sample_id / 10) as u32;
    Member { sample_id, row: 0, class, confidence: 0.5, factors, birth_round, priority }
}

fn buffer(capacity: usize, eviction: Eviction, members: &[(u64, u32, f64)]) -> ReplayBuffer {
    let members = members.iter().map(|&(id, class, priority)| member(id, class, priority)).collect();
    ReplayBuffer::from_members(BalanceSettings { capacity, eviction, ..Default::default() }, 3, members).unwrap()
}

#[track_caller]
fn check_evicted(eviction: Eviction, new_classes: &[u32], expected: &[u64]) {
    let held = [(0, 0, 5.0), (1, 0, 2.0), (2, 0, 3.0), (3, 1, 1.0), (4, 1, 9.0), (5, 2, 0.5)];
    let mut buffer = buffer(6, eviction, &held);
    let new_samples = (100..).zip(new_classes).map(|(id, &class)| member(id, class, 0.0)).collect();
    let evicted = buffer.insert(new_samples).unwrap();
    assert_eq!(evicted.iter().map(|member| member.sample_id).collect::<Vec<_>>(), expected);
}

#[test]
fn each_policy_evicts_whom_it_says() {
    check_evicted(Eviction::Fifo, &[0, 0], &[0, 1]);
    check_evicted(Eviction::LowestPriority, &[0, 0], &[3, 5]);
    // Class 0 grows to five: its lowest priorities 2, 3 and 5 go, in this order.
    check_evicted(Eviction::ClassBalanced, &[0, 0], &[1, 2]);
    // Classes (3, 4, 1): the lowest of class 1; then the classes are level and the first of them gives.
    check_evicted(Eviction::ClassBalanced, &[1, 1], &[1, 3]);
    check_evicted(Eviction::ClassBalanced, &[], &[]);
    // The same classes give, but their oldest.
    check_evicted(Eviction::ClassBalancedFifo, &[0, 0], &[0, 1]);
    check_evicted(Eviction::ClassBalancedFifo, &[1, 1], &[0, 3]);
}

#[test]
fn a_prior_levels_the_classes_at_its_shares() {
    let prior = ClassPrior::new(&[6.0, 3.0, 1.0], 3).unwrap();
    let mut buffer = buffer(10, Eviction::ClassBalancedFifo, &[]).with_prior(prior);
    buffer.insert((0..60).map(|id| member(id, (id % 3) as u32, 0.0)).collect()).unwrap();
    assert_eq!(buffer.class_counts(), [6, 3, 1]);
}

#[test]
fn new_samples_enter_with_the_highest_priority() {
    let mut buffer = buffer(4, Eviction::Fifo, &[]);
    buffer.insert(vec![member(1, 0, 77.0)]).unwrap();
    assert_eq!(buffer.members()[0].priority, 1.0);
    buffer.members[0].priority = 3.5;
    buffer.insert(vec![member(2, 1, 0.0)]).unwrap();
    assert_eq!(buffer.members()[1].priority, 3.5);
    assert_eq!(buffer.class_counts(), [1, 1, 0]);
}

#[test]
fn new_samples_may_enter_with_the_mean_priority() {
    let mut buffer = buffer(4, Eviction::Fifo, &[]);
    buffer.settings.new_sample_priority = NewSamplePriority::Mean;
    buffer.insert(vec![member(1, 0, 77.0), member(2, 0, 0.0)]).unwrap();
    buffer.members[0].priority = 4.0;
    buffer.insert(vec![member(3, 1, 9.0)]).unwrap();
    assert_eq!(buffer.members().iter().map(|member| member.priority).collect::<Vec<_>>(), [4.0, 1.0, 2.5]);
}

#[test]
fn a_batch_larger_than_the_buffer_keeps_the_newest() {
    let mut buffer = buffer(2, Eviction::Fifo, &[(1, 0, 1.0)]);
    let evicted = buffer.insert((2..7).map(|id| member(id, 0, 0.0)).collect()).unwrap();
    assert_eq!((evicted.len(), buffer.len(), buffer.is_full()), (4, 2, true));
    assert_eq!(buffer.members()[1].sample_id, 6);
}

#[test]
fn impossible_members_are_refused_and_change_nothing() {
    let mut buffer = buffer(4, Eviction::ClassBalanced, &[(1, 0, 1.0)]);
    let before = buffer.clone();
    assert_eq!(buffer.insert(vec![member(2, 0, 0.0), member(1, 0, 0.0)]), Err(BufferError::Duplicate { sample_id: 1 }));
    assert_eq!(
        buffer.insert(vec![member(2, 3, 0.0)]),
        Err(BufferError::UnknownClass { sample_id: 2, class: 3, classes: 3 })
    );
    assert_eq!(buffer, before);
    let rebuild =
        |members| ReplayBuffer::from_members(BalanceSettings { capacity: 1, ..Default::default() }, 3, members);
    assert!(matches!(rebuild(vec![member(1, 0, f64::NAN)]), Err(BufferError::Priority { sample_id: 1, .. })));
    assert!(matches!(
        rebuild(vec![member(1, 0, 1.0), member(2, 0, 1.0)]),
        Err(BufferError::TooMany { members: 2, capacity: 1 })
    ));
}

fn any_eviction() -> impl proptest::strategy::Strategy<Value = Eviction> {
    prop_oneof![
        Just(Eviction::ClassBalanced),
        Just(Eviction::ClassBalancedFifo),
        Just(Eviction::Fifo),
        Just(Eviction::LowestPriority)
    ]
}

proptest! {
    #[test]
    fn the_buffer_fills_and_then_trades_one_for_one(
        capacity in 1_usize..40,
        eviction in any_eviction(),
        batches in prop::collection::vec(prop::collection::vec((0_u32..3, 0.0_f64..4.0), 0..25), 1..8),
    ) {
        let mut buffer = ReplayBuffer::new(BalanceSettings { capacity, eviction, ..Default::default() }, 3);
        let mut next_id = 0;
        for batch in batches {
            let (room, size) = (capacity - buffer.len(), batch.len());
            let mut new_samples = Vec::new();
            for &(class, _) in &batch {
                new_samples.push(member(next_id, class, 0.0));
                next_id += 1;
            }
            let evicted = buffer.insert(new_samples).unwrap();
            prop_assert!(buffer.len() <= capacity);
            prop_assert_eq!(evicted.len(), size.saturating_sub(room));
            prop_assert_eq!(buffer.class_counts().iter().sum::<u64>(), buffer.len() as u64);
            prop_assert!(buffer.members().is_sorted_by_key(|member| member.sample_id));
            // Priorities as a sample stage would leave them.
            for (member, &(_, priority)) in buffer.members.iter_mut().zip(batch.iter().cycle()) {
                member.priority = priority;
            }
        }
    }

    #[test]
    fn class_balanced_takes_only_from_the_largest_classes_and_their_lowest_priorities(
        held in prop::collection::vec((0_u32..3, 0.0_f64..4.0), 30),
        new in prop::collection::vec(0_u32..3, 1..20),
    ) {
        let held = (0..).zip(held).map(|(id, (class, priority))| (id, class, priority)).collect::<Vec<_>>();
        let mut buffer = buffer(30, Eviction::ClassBalanced, &held);
        let new_samples = (100..).zip(&new).map(|(id, &class)| member(id, class, 0.0)).collect();
        let evicted = buffer.insert(new_samples).unwrap();
        let counts = buffer.class_counts();
        let largest = *counts.iter().max().unwrap();
        for gone in &evicted {
            prop_assert!(counts[gone.class as usize] + 1 >= largest, "{:?} after {:?}", counts, gone);
            let stayed = buffer.members().iter().filter(|member| member.class == gone.class);
            prop_assert!(stayed.into_iter().all(|member| lower_priority(gone, member).is_lt()));
        }
    }
}
