//! The replay buffer: a small memory of fixed size that is updated partially.
//!
//! Earlier methods keep everything the generator ever made, or replace all of it at once. SSD-KD keeps a fixed number of
//! samples, 10 % of the original data set's size, and replaces a part of them at a time \[P\]; at 1 % it is still
//! stable \[S\]. Which samples have to go is not known from the abstract, so it is a setting \[O\]:
//!
//! - `class-balanced`: from the class that holds the most samples, the one with the lowest priority; again and again
//! - `class-balanced-fifo`: from the class that holds the most samples, the oldest; again and again
//! - `fifo`: the oldest
//! - `lowest-priority`: the one with the lowest priority, whatever its class
//!
//! With a [prior](crate::prior) the largest class is the one with the most samples for its share. Where two are alike the older one goes. A new sample enters with the highest priority in the buffer, so that it is
//! seen before it is evaluated \[C: prioritized experience replay\], or with the mean one \[O\], and with importance weight
//! 1 \[R\]. The highest one is what the buffer's worst outlier has: where a round brings many new samples, most draws
//! fall on them.
//!
//! The buffer knows no images: a member says in which row of which shard its image lies.

use std::cmp::Ordering;
use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modulation::Factors;
use crate::prior::ClassPrior;
use crate::range;

/// The replay buffer: how many images it holds, and which it evicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BalanceSettings {
    /// Images that the buffer holds \[S: 10 % of the original training set\].
    #[schemars(range(min = 1, max = 100_000_000))]
    pub capacity: usize,
    /// Which images leave when new ones come.
    pub eviction: Eviction,
    /// The priority that new images enter with.
    pub new_sample_priority: NewSamplePriority,
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self { capacity: 5120, eviction: Eviction::ClassBalanced, new_sample_priority: NewSamplePriority::Highest }
    }
}

impl BalanceSettings {
    /// Checks every value; the error names the recipe's key.
    pub fn validate(&self) -> Result<(), String> {
        range::check("balance", self)
    }

    /// Returns these settings; those that change nothing about the members have their defaults.
    #[must_use]
    pub fn relevant(&self) -> Self {
        let looks = self.eviction.looks_at_priorities();
        let new_sample_priority = if looks { self.new_sample_priority } else { Self::default().new_sample_priority };
        Self { new_sample_priority, ..self.clone() }
    }
}

/// Eviction policies; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// The lowest priority of the largest class: it balances the classes.
    ClassBalanced,
    /// The oldest of the largest class: it balances the classes, and forgets images of an earlier, worse generator.
    ClassBalancedFifo,
    /// The oldest: the buffer is the newest `capacity` samples.
    Fifo,
    /// The lowest priority.
    LowestPriority,
}

impl Eviction {
    /// Returns whether priorities decide which image is evicted, and so what the student knows.
    pub fn looks_at_priorities(self) -> bool {
        matches!(self, Self::ClassBalanced | Self::LowestPriority)
    }

    /// Returns whether the shares of the classes decide which image is evicted.
    pub fn looks_at_classes(self) -> bool {
        matches!(self, Self::ClassBalanced | Self::ClassBalancedFifo)
    }
}

/// The priority that new images enter with: one of the buffer before them, or 1 if it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewSamplePriority {
    /// The highest \[C: prioritized experience replay\].
    Highest,
    /// The mean \[O\].
    Mean,
}

impl NewSamplePriority {
    /// Returns the priority of a new sample, where `priorities` are those of the buffer before it.
    pub fn priority(self, priorities: impl ExactSizeIterator<Item = f64>) -> f64 {
        let members = priorities.len();
        match self {
            _ if members == 0 => 1.0,
            Self::Highest => priorities.fold(0.0, f64::max),
            Self::Mean => priorities.sum::<f64>() / members as f64,
        }
    }
}

/// One sample in the buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Unique in a run, and growing: of two samples of one round, the smaller is the older.
    pub sample_id: u64,
    /// The image's row in the shard of its round; the buffer only hands it back.
    pub row: u32,
    /// The teacher's class of the clean image.
    pub class: u32,
    /// The teacher's probability for it, in `[0, 1]`.
    pub confidence: f32,
    /// φ's factors at birth.
    pub factors: Factors,
    /// The round that made it.
    pub birth_round: u32,
    /// δ, 0 or above; a new sample's is set when it enters.
    pub priority: f64,
}

/// Why samples cannot be members.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// More members than the buffer holds.
    #[error(
        "{members} members do not fit into a buffer of {capacity}\nhint: balance.capacity was lowered in mid-run; set it back, or start a new run"
    )]
    TooMany {
        /// As given.
        members: usize,
        /// The buffer's.
        capacity: usize,
    },
    /// Two samples with one id.
    #[error("sample {sample_id} is in the buffer twice")]
    Duplicate {
        /// The id.
        sample_id: u64,
    },
    /// A class that the teacher does not have.
    #[error("sample {sample_id} is of class {class}, but the teacher has {classes} classes")]
    UnknownClass {
        /// The sample.
        sample_id: u64,
        /// Its class.
        class: u32,
        /// The teacher's.
        classes: usize,
    },
    /// A priority that cannot be compared.
    #[error("the priority of sample {sample_id} is {priority}; priorities are 0 or above")]
    Priority {
        /// The sample.
        sample_id: u64,
        /// Its priority.
        priority: f64,
    },
}

/// The replay buffer: at most `capacity` members, in the order in which they came.
///
/// ```
/// use ssdkd_method::{BalanceSettings, Eviction, Factors, Member, ReplayBuffer};
///
/// let settings = BalanceSettings { capacity: 3, eviction: Eviction::ClassBalancedFifo, ..Default::default() };
/// let mut buffer = ReplayBuffer::new(settings, 2);
/// let image = |sample_id, class| Member {
///     sample_id,
///     row: 0,
///     class,
///     confidence: 0.9,
///     factors: Factors { diversity: 1.0, difficulty: 0.1 },
///     birth_round: 0,
///     priority: 1.0,
/// };
/// let evicted = buffer.insert(vec![image(0, 0), image(1, 0), image(2, 0), image(3, 1)])?;
/// assert_eq!(evicted[0].sample_id, 0, "the oldest image of the largest class leaves");
/// assert_eq!(buffer.class_counts(), [2, 1]);
/// # Ok::<(), ssdkd_method::buffer::BufferError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayBuffer {
    settings: BalanceSettings,
    classes: usize,
    prior: ClassPrior,
    members: Vec<Member>,
}

impl ReplayBuffer {
    /// Creates an empty buffer for a teacher with `classes` classes.
    pub fn new(settings: BalanceSettings, classes: usize) -> Self {
        Self { settings, classes, prior: ClassPrior::default(), members: Vec::new() }
    }

    /// Returns the buffer of an earlier round, with whatever priorities its members have by now.
    pub fn from_members(settings: BalanceSettings, classes: usize, members: Vec<Member>) -> Result<Self, BufferError> {
        if members.len() > settings.capacity {
            return Err(BufferError::TooMany { members: members.len(), capacity: settings.capacity });
        }
        let mut buffer = Self::new(settings, classes);
        buffer.admit(members)?;
        Ok(buffer)
    }

    /// Returns the same buffer where the classes are not equally common: see [`prior`](crate::prior).
    #[must_use]
    pub fn with_prior(self, prior: ClassPrior) -> Self {
        Self { prior, ..self }
    }

    /// Inserts `new_samples`, then evicts what is above the capacity; returns the evicted, the oldest new sample first.
    ///
    /// Every new sample gets the priority that the settings say. An error leaves the buffer as it was.
    pub fn insert(&mut self, mut new_samples: Vec<Member>) -> Result<Vec<Member>, BufferError> {
        let priority = self.settings.new_sample_priority.priority(self.members.iter().map(|member| member.priority));
        for new_sample in &mut new_samples {
            new_sample.priority = priority;
        }
        self.admit(new_samples)?;
        let surplus = self.members.len().saturating_sub(self.settings.capacity);
        let leaving = match self.settings.eviction {
            Eviction::ClassBalanced => self.of_largest_classes(surplus, lower_priority),
            Eviction::ClassBalancedFifo => self.of_largest_classes(surplus, older),
            Eviction::Fifo => self.first_by(surplus, older),
            Eviction::LowestPriority => self.first_by(surplus, lower_priority),
        };
        let (evicted, kept) = std::mem::take(&mut self.members)
            .into_iter()
            .enumerate()
            .partition::<Vec<_>, _>(|(index, _)| leaving.contains(index));
        let without_index = |members: Vec<(usize, Member)>| members.into_iter().map(|(_, member)| member).collect();
        self.members = without_index(kept);
        Ok(without_index(evicted))
    }

    /// Returns the members, in the order in which they came.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns how many members each teacher class has: what φ's diversity reads.
    pub fn class_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes];
        for member in &self.members {
            counts[member.class as usize] += 1;
        }
        counts
    }

    /// Returns how many samples it holds.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns whether another sample would push one out.
    pub fn is_full(&self) -> bool {
        self.members.len() >= self.settings.capacity
    }

    fn admit(&mut self, new_samples: Vec<Member>) -> Result<(), BufferError> {
        let mut known = self.members.iter().map(|member| member.sample_id).collect::<HashSet<_>>();
        for &Member { sample_id, class, priority, .. } in &new_samples {
            if class as usize >= self.classes {
                return Err(BufferError::UnknownClass { sample_id, class, classes: self.classes });
            }
            if !priority.is_finite() || priority < 0.0 {
                return Err(BufferError::Priority { sample_id, priority });
            }
            if !known.insert(sample_id) {
                return Err(BufferError::Duplicate { sample_id });
            }
        }
        self.members.extend(new_samples);
        Ok(())
    }

    /// Returns the indices of the `surplus` members that come first in `order`.
    fn first_by(&self, surplus: usize, order: fn(&Member, &Member) -> Ordering) -> HashSet<usize> {
        let mut indices = (0..self.members.len()).collect::<Vec<_>>();
        indices.sort_by(|&a, &b| order(&self.members[a], &self.members[b]));
        indices.into_iter().take(surplus).collect()
    }

    /// Takes from the largest class (the first of equals) the member that comes first in `order`, `surplus` times.
    fn of_largest_classes(&self, surplus: usize, order: fn(&Member, &Member) -> Ordering) -> HashSet<usize> {
        // Of each class the members, the next to go at the end.
        let mut queues = vec![Vec::new(); self.classes];
        for (index, member) in self.members.iter().enumerate() {
            queues[member.class as usize].push(index);
        }
        for queue in &mut queues {
            queue.sort_by(|&a, &b| order(&self.members[b], &self.members[a]));
        }
        let mut leaving = HashSet::new();
        for _ in 0..surplus {
            let size = |class: usize, queue: &Vec<usize>| queue.len() as f64 / self.prior.relative(class);
            // `rev`: `max_by` gives the last of equals.
            let largest = queues.iter_mut().enumerate().rev();
            let largest = largest.max_by(|(a, of_a), (b, of_b)| size(*a, of_a).total_cmp(&size(*b, of_b)));
            leaving.extend(largest.and_then(|(_, queue)| queue.pop()));
        }
        leaving
    }
}

fn older(a: &Member, b: &Member) -> Ordering {
    (a.birth_round, a.sample_id).cmp(&(b.birth_round, b.sample_id))
}

fn lower_priority(a: &Member, b: &Member) -> Ordering {
    a.priority.total_cmp(&b.priority).then_with(|| older(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(
            buffer.insert(vec![member(2, 0, 0.0), member(1, 0, 0.0)]),
            Err(BufferError::Duplicate { sample_id: 1 })
        );
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
}
