//! The caching allocator as a program's allocator, under several threads.

use std::thread;

use ssdkd_ops::{CachingAllocator, allocated_bytes, peak_bytes, reset_peak};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator::new(8 << 20);

/// One test: the counters belong to the whole process.
#[test]
fn serves_and_counts_a_whole_program() {
    let before = allocated_bytes();
    reset_peak();
    let numbers = vec![1.0f32; 1 << 20];
    assert!(allocated_bytes() >= before + (4 << 20));
    drop(numbers);
    assert!(peak_bytes() >= before + (4 << 20));
    assert!(allocated_bytes() < before + (1 << 20));
    assert!(ALLOCATOR.kept_bytes() >= 4 << 20);

    thread::scope(|scope| {
        for salt in 1..5usize {
            scope.spawn(move || {
                let mut held = Vec::<Vec<usize>>::new();
                for step in 0..2000 {
                    let len = (step * salt * 7919) % 60_000 + 1;
                    held.push(vec![salt * 1_000_000 + step; len]);
                    if held.len() > 10 {
                        let vector = held.swap_remove(step % 10);
                        assert!(vector.iter().all(|number| *number == vector[0] && number / 1_000_000 == salt));
                    }
                }
            });
        }
    });
    assert!(ALLOCATOR.kept_bytes() <= 8 << 20);
    assert!(allocated_bytes() < before + (1 << 20), "what the threads held is counted as freed");
}
