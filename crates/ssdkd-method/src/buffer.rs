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

mod member;
mod settings;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::HashSet;

pub use member::{BufferError, Member};
pub use settings::{BalanceSettings, Eviction, NewSamplePriority};

use crate::prior::ClassPrior;
use member::{lower_priority, older};

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
