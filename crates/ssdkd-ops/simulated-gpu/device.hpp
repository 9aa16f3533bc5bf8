// What a kernel sees of a GPU, for compilers of C++: included before the sources of kernels, which then run on the CPU.
//
// The threads of a block are fibres of one thread of the system: each runs until it ends or waits for others. Blocks run
// one after the other. What differs from a GPU is time, and that nothing happens at once: races are not found. What is
// found: sums and places computed wrongly, arguments of other types than a kernel has, memory that is read before it is
// written (it is NaN) or written past its end, and threads that wait for others that never come.
#pragma once

#include <cassert>
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <algorithm>
#include <bit>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __constant__ static
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one after the other
#ifndef __CUDACC_VER_MAJOR__
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#endif

struct dim3 { unsigned x = 1, y = 1, z = 1; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

static dim3 gridDim, blockDim, blockIdx, threadIdx;

// --- Threads ---------------------------------------------------------------------------------------------------------

namespace simulated {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 64 << 10;

/// What a thread waits for.
enum class State { Ready, AtBlock, AtWarp, Ended };

struct Fibre {
    std::vector<char> stack = std::vector<char>(STACK);
    ucontext_t start;
    jmp_buf resume;
    bool begun = false;
};

struct Thread {
    State state = State::Ready;
    dim3 index;
    Fibre* fibre = nullptr;  // null until the thread begins
    unsigned exchanges = 0;  // of numbers with its warp, so far
};

struct Block {
    std::vector<Thread> threads;
    std::vector<Fibre*> idle, all;
    jmp_buf scheduler;
    unsigned next = 0, current = 0;  // the first thread that has not begun; the one that runs
    void (*kernel)(void**) = nullptr;
    void** arguments = nullptr;
    std::vector<uint64_t> exchanged;  // two places for each thread
    bool failed = false;
};
static Block block;
static std::vector<char> dynamic_shared;

/// Leaves the thread until `state` is over.
inline void wait(State state) {
    unsigned self = block.current;
    block.threads[self].state = state;
    if (!_setjmp(block.threads[self].fibre->resume)) _longjmp(block.scheduler, 1);
    block.current = self;
    threadIdx = block.threads[self].index;
}

/// What a fibre does: threads, one after the other, as long as none of them waits.
static void fibre_main() {
    for (;;) {
        unsigned self = block.current;
        threadIdx = block.threads[self].index;
        block.kernel(block.arguments);
        // `self` may lie in a register of before: the block knows who runs.
        self = block.current;
        Fibre* fibre = block.threads[self].fibre;
        block.threads[self].state = State::Ended;
        if (block.next < block.threads.size()) {
            block.current = block.next++;
            block.threads[block.current].fibre = fibre;
        } else {
            block.idle.push_back(fibre);
            if (!_setjmp(fibre->resume)) _longjmp(block.scheduler, 1);
        }
    }
}

/// Lets a thread run until it waits or ends, and those that its fibre begins after it.
inline void resume(unsigned thread) {
    if (_setjmp(block.scheduler)) return;
    block.current = thread;
    Fibre*& fibre = block.threads[thread].fibre;
    if (!fibre) {
        if (block.idle.empty()) {
            block.all.push_back(new Fibre);
            block.idle.push_back(block.all.back());
        }
        fibre = block.idle.back();
        block.idle.pop_back();
    }
    if (fibre->begun) _longjmp(fibre->resume, 1);
    fibre->begun = true;
    getcontext(&fibre->start);
    fibre->start.uc_stack.ss_sp = fibre->stack.data();
    fibre->start.uc_stack.ss_size = STACK;
    fibre->start.uc_link = nullptr;
    makecontext(&fibre->start, fibre_main, 0);
    setcontext(&fibre->start);
}

/// Makes ready the threads of first..end that wait for one another, if all of these that are left do.
inline bool release(size_t first, size_t end, State state) {
    bool any = false;
    for (size_t i = first; i < end; ++i) {
        State at = block.threads[i].state;
        if (at == State::Ended) continue;
        if (at != state) return false;
        any = true;
    }
    for (size_t i = first; any && i < end; ++i)
        if (block.threads[i].state == state) block.threads[i].state = State::Ready;
    return any;
}

inline bool run_block() {
    size_t count = block.threads.size();
    while (block.next < count) resume(block.next++);
    for (;;) {
        bool released = release(0, count, State::AtBlock);
        for (size_t warp = 0; warp < count; warp += WARP)
            released |= release(warp, std::min(warp + WARP, count), State::AtWarp);
        bool any = false;
        for (size_t i = 0; i < count; ++i) {
            if (block.threads[i].state == State::Ready) resume(i);
            any |= block.threads[i].state != State::Ended;
        }
        if (!any) return true;
        if (!released) return false;
    }
}

/// The number that `lane` of the warp brings, while this thread brings `mine`.
template <class T> T exchange(T mine, unsigned lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    unsigned self = block.current, warp = self / WARP * WARP;
    // Two places in turn: who is fast may bring the next number while others still take this one.
    unsigned place = block.threads[self].exchanges++ % 2;
    std::memcpy(&block.exchanged[2 * self + place], &mine, sizeof mine);
    wait(State::AtWarp);
    self = block.current;
    if (warp + lane < block.threads.size()) std::memcpy(&mine, &block.exchanged[2 * (warp + lane) + place], sizeof mine);
    return mine;
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<std::remove_cv_t<A>*>(arguments[I])...);
}

template <class... A> void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}

/// How many bytes argument `i` has; 0: there is none.
template <class... A> size_t argument(void (*)(A...), unsigned i) {
    const size_t bytes[] = {sizeof(A)..., 0};
    return i < sizeof...(A) ? bytes[i] : 0;
}

struct Kernel {
    const char* name;
    void (*run)(void**);
    size_t (*argument)(unsigned);
};
extern const Kernel KERNELS[];  // at the end of each file, by kernels.sh
extern const unsigned KERNEL_COUNT;

}  // namespace simulated

extern "C" const void* simulated_kernel(const char* name) {
    for (unsigned i = 0; i < simulated::KERNEL_COUNT; ++i)
        if (!std::strcmp(simulated::KERNELS[i].name, name)) return &simulated::KERNELS[i];
    return nullptr;
}

extern "C" size_t simulated_argument(const void* kernel, unsigned i) {
    return static_cast<const simulated::Kernel*>(kernel)->argument(i);
}

/// Runs all blocks of a grid. False: threads wait for one another in vain.
extern "C" bool simulated_launch(const void* kernel, dim3 grid, dim3 threads, unsigned shared, void** arguments) {
    using namespace simulated;
    gridDim = grid;
    blockDim = threads;
    dynamic_shared.assign(shared + 16, 0);
    block.kernel = static_cast<const Kernel*>(kernel)->run;
    block.arguments = arguments;
    size_t count = size_t(threads.x) * threads.y * threads.z;
    block.exchanged.assign(2 * count, 0);
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                block.threads.assign(count, {});
                for (size_t i = 0; i < count; ++i)
                    block.threads[i].index = {
                        unsigned(i % threads.x), unsigned(i / threads.x % threads.y), unsigned(i / threads.x / threads.y)};
                block.next = 0;
                if (!run_block()) return false;
            }
    return true;
}

// --- What threads have together ----------------------------------------------------------------------------------------

inline void __syncthreads() { simulated::wait(simulated::State::AtBlock); }
inline void __syncwarp(unsigned = ~0u) { simulated::wait(simulated::State::AtWarp); }
inline void __threadfence() {}

template <class T> T __shfl_xor_sync(unsigned, T x, int mask, int = 32) {
    return simulated::exchange(x, simulated::block.current % simulated::WARP ^ mask);
}
template <class T> T __shfl_down_sync(unsigned, T x, unsigned delta, int = 32) {
    unsigned lane = simulated::block.current % simulated::WARP;
    return simulated::exchange(x, lane + delta < simulated::WARP ? lane + delta : lane);
}
template <class T> T __shfl_sync(unsigned, T x, int lane, int = 32) { return simulated::exchange(x, lane); }

template <class T, class U> T atomicAdd(T* at, U x) { T old = *at; *at = old + x; return old; }
template <class T, class U> T atomicMax(T* at, U x) { T old = *at; *at = std::max<T>(old, x); return old; }
template <class T, class U> T atomicMin(T* at, U x) { T old = *at; *at = std::min<T>(old, x); return old; }
template <class T, class U, class V> T atomicCAS(T* at, U expected, V x) {
    T old = *at;
    if (old == T(expected)) *at = x;
    return old;
}

template <class T> T __ldg(const T* at) { return *at; }
template <class T> T __ldcg(const T* at) { return *at; }

// --- Numbers -----------------------------------------------------------------------------------------------------------

inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
using std::isinf, std::isnan, std::signbit;
template <class T, class U> auto min(T a, U b) { using C = std::common_type_t<T, U>; return C(a) < C(b) ? C(a) : C(b); }
template <class T, class U> auto max(T a, U b) { using C = std::common_type_t<T, U>; return C(a) < C(b) ? C(b) : C(a); }
