// Work in the order of the stream: done at once, or kept for the launches of a graph while the stream is captured.
#pragma once

#include <functional>

/// Of the driver: takes the work if the stream is captured. Whoever gave it deletes it otherwise.
extern "C" bool simulated_keep(std::function<bool()>* work);
/// Of the driver: whether the stream is captured. The capture then ends without a graph, as after a call that CUDA refuses.
extern "C" bool simulated_breaks_capture();

/// Orders work that cannot fail.
template <class Work> void in_order(Work work) {
    auto* kept = new std::function<bool()>([=]() mutable { return work(), true; });
    if (simulated_keep(kept)) return;
    delete kept;
    work();
}
