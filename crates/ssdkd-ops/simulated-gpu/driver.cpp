// The driver of a simulated GPU: memory is the program's, and a launch is over when the call returns.
//
// SSDKD_SIMULATED_CALLS=1: says at the end how often it was called. SSDKD_SIMULATED_MIB: its memory, 8192 where nothing is said.

#include <dlfcn.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "capture.hpp"
#include "idle.hpp"

using Result = int;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
                 NOT_FOUND = 500, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901;
using Address = uint64_t;
using Stream = void*;

struct Grid { unsigned x, y, z; };
struct Module {
    void* library;
    const void* (*kernel)(const char*);
    bool (*launch)(const void*, Grid, Grid, unsigned, void**);
    size_t (*argument)(const void*, unsigned);
};
struct Function {
    const Module* module;
    const void* kernel;
    std::string name;
};

namespace {

std::mutex one_at_a_time;  // launches, and the list of what is allocated
thread_local void* current;
int context;  // its address stands for the one there is

// Around what is allocated, to see writes outside; and in it, to see reads of what was never written: NaN, as numbers.
constexpr size_t GUARD = 256;
constexpr unsigned char UNWRITTEN = 0xff, AROUND = 0xff;
std::map<Address, size_t> allocated;
size_t in_use;

size_t memory() {
    static const char* mib = std::getenv("SSDKD_SIMULATED_MIB");
    return (mib ? std::strtoull(mib, nullptr, 10) : 8192) << 20;
}

[[noreturn]] void broken(const char* what, Address at) {
    std::fprintf(stderr, "simulated GPU: %s (memory at %llx)\n", what, static_cast<unsigned long long>(at));
    std::abort();
}

void check(Address address, size_t bytes) {
    auto* memory = reinterpret_cast<unsigned char*>(address) - GUARD;
    for (size_t i = 0; i < GUARD; ++i)
        if (memory[i] != AROUND || memory[GUARD + bytes + i] != AROUND) broken("something wrote past its end", address);
}

struct Calls {
    std::atomic<long> allocations, freed, launched, graphs, sent, fetched, waited;
    ~Calls() {
        for (auto [address, bytes] : allocated) check(address, bytes);  // what is never given back
        if (std::getenv("SSDKD_SIMULATED_CALLS"))
            std::fprintf(
                stderr,
                "simulated GPU: %ld allocations, %ld frees, %ld launches, %ld of graphs, %ld copies to it, %ld from it, %ld waits\n",
                allocations.load(), freed.load(), launched.load(), graphs.load(), sent.load(), fetched.load(),
                waited.load());
    }
} calls;

Result allocate(Address* address, size_t bytes) {
    ++calls.allocations;
    std::lock_guard lock(one_at_a_time);
    if (in_use + bytes > memory()) return OUT_OF_MEMORY;
    auto* memory = static_cast<unsigned char*>(std::aligned_alloc(GUARD, (bytes + 3 * GUARD - 1) / GUARD * GUARD));
    if (!memory) return OUT_OF_MEMORY;
    std::memset(memory, AROUND, GUARD);
    std::memset(memory + GUARD, UNWRITTEN, bytes);
    std::memset(memory + GUARD + bytes, AROUND, GUARD);
    *address = reinterpret_cast<Address>(memory + GUARD);
    allocated[*address] = bytes;
    in_use += bytes;
    return SUCCESS;
}

Result release(Address address) {
    if (!address) return SUCCESS;
    ++calls.freed;
    size_t bytes;
    {
        std::lock_guard lock(one_at_a_time);
        auto found = allocated.find(address);
        if (found == allocated.end()) broken("freed what is not allocated", address);
        bytes = found->second;
        allocated.erase(found);
        in_use -= bytes;
    }
    check(address, bytes);
    auto* memory = reinterpret_cast<unsigned char*>(address) - GUARD;
    std::memset(memory, UNWRITTEN, bytes + 2 * GUARD);
    std::free(memory);
    return SUCCESS;
}

Result load(Module** module, const char* image) {
    constexpr char MAGIC[] = "simulated:";
    if (std::strncmp(image, MAGIC, sizeof MAGIC - 1)) return INVALID_IMAGE;
    void* library = dlopen(image + sizeof MAGIC - 1, RTLD_NOW | RTLD_LOCAL);
    if (!library) return INVALID_IMAGE;
    *module = new Module{library, nullptr, nullptr, nullptr};
    (*module)->kernel = reinterpret_cast<decltype(Module::kernel)>(dlsym(library, "simulated_kernel"));
    (*module)->launch = reinterpret_cast<decltype(Module::launch)>(dlsym(library, "simulated_launch"));
    (*module)->argument = reinterpret_cast<decltype(Module::argument)>(dlsym(library, "simulated_argument"));
    return (*module)->kernel && (*module)->launch && (*module)->argument ? SUCCESS : INVALID_IMAGE;
}

// --- Graphs ----------------------------------------------------------------------------------------------------------

using Work = std::function<bool()>;

/// What was ordered while its stream was captured.
struct Graph { std::vector<Work> work; };

/// One stream is captured at a time. What CUDA refuses then, or would do in a way that is not simulated, breaks the capture.
struct Capture {
    Stream stream;
    std::thread::id thread;
    Graph* graph;
    bool broken;
};
std::mutex capturing;
std::unique_ptr<Capture> capture;
constexpr int RELAXED = 2;
thread_local int capture_mode;  // of this thread's calls

/// Whether `work` was taken for the graph of `stream`.
bool keep(Stream stream, Work work) {
    std::lock_guard lock(capturing);
    if (!capture || capture->stream != stream) return false;
    capture->graph->work.push_back(std::move(work));
    return true;
}

/// For calls on a stream that cannot be captured.
Result refused_on(Stream stream) {
    std::lock_guard lock(capturing);
    if (!capture || capture->stream != stream) return SUCCESS;
    capture->broken = true;
    return CAPTURE_UNSUPPORTED;
}

/// For calls that wait for all streams: not in the thread that captures one, unless it says that it knows what it does.
Result refused() {
    std::lock_guard lock(capturing);
    if (!capture || capture->thread != std::this_thread::get_id() || capture_mode == RELAXED) return SUCCESS;
    capture->broken = true;
    return CAPTURE_UNSUPPORTED;
}

/// Copies of a kernel's arguments: the program's own are gone when the graph is launched.
struct Arguments {
    std::vector<std::vector<std::max_align_t>> copies;
    std::vector<void*> at;

    Arguments(const Function* function, void** arguments) {
        while (size_t bytes = function->module->argument(function->kernel, copies.size())) {
            auto& copy = copies.emplace_back((bytes + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
            std::memcpy(copy.data(), arguments[copies.size() - 1], bytes);
        }
        for (auto& copy : copies) at.push_back(copy.data());
    }
};

bool run(const Function* function, Grid grid, Grid block, unsigned shared, void** arguments) {
    std::lock_guard lock(one_at_a_time);
    if (function->module->launch(function->kernel, grid, block, shared, arguments)) return true;
    std::fprintf(stderr, "simulated GPU: threads of %s wait for others that never come\n", function->name.c_str());
    return false;
}

}  // namespace

extern "C" {

Result cuInit(unsigned) { return SUCCESS; }
Result cuDriverGetVersion(int* version) { *version = 13000; return SUCCESS; }
Result cuGetErrorName(Result error, const char** name) {
    static thread_local char text[32];
    std::snprintf(text, sizeof text, "error %d", error);
    *name = text;
    return SUCCESS;
}
Result cuGetErrorString(Result error, const char** text) { return cuGetErrorName(error, text); }

Result cuDeviceGetCount(int* count) { *count = 1; return SUCCESS; }
Result cuDeviceGet(int* device, int index) { *device = 0; return index == 0 ? SUCCESS : INVALID_DEVICE; }
Result cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, length, "simulated GPU");
    return SUCCESS;
}
Result cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = memory(); return SUCCESS; }
Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    std::lock_guard lock(one_at_a_time);
    *total = memory();
    *free = *total - in_use;
    return SUCCESS;
}
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;   // threads of a block
        case 10: *value = 32; break;    // threads of a warp
        case 16: *value = 3; break;     // multiprocessors: some kernels make as many blocks as there are
        case 75: *value = 9; break;     // compute capability
        case 76: *value = 0; break;
        case 115: *value = 1; break;    // memory pools
        default: *value = 0;
    }
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** out, int) { *out = &context; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxSetCurrent(void* to) { current = to; return SUCCESS; }
Result cuCtxGetCurrent(void** out) { *out = current; return SUCCESS; }
Result cuCtxSynchronize() { ++calls.waited; return refused(); }

Result cuStreamCreate(Stream* stream, unsigned) { *stream = new int; return SUCCESS; }
Result cuStreamDestroy_v2(Stream stream) { delete static_cast<int*>(stream); return SUCCESS; }
Result cuStreamSynchronize(Stream stream) { ++calls.waited; return refused_on(stream); }
Result cuStreamWaitEvent(Stream, void*, unsigned) { return SUCCESS; }
Result cuStreamIsCapturing(Stream stream, int* status) {
    std::lock_guard lock(capturing);
    *status = !capture || capture->stream != stream ? 0 : capture->broken ? 2 : 1;
    return SUCCESS;
}
Result cuThreadExchangeStreamCaptureMode(int* mode) { std::swap(*mode, capture_mode); return SUCCESS; }
Result cuStreamBeginCapture_v2(Stream stream, int) {
    std::lock_guard lock(capturing);
    if (capture) return CAPTURE_UNSUPPORTED;
    capture = std::make_unique<Capture>(Capture{stream, std::this_thread::get_id(), new Graph, false});
    return SUCCESS;
}
Result cuStreamEndCapture(Stream stream, Graph** graph) {
    std::lock_guard lock(capturing);
    *graph = nullptr;
    if (!capture || capture->stream != stream) return INVALID_VALUE;
    bool broken = capture->broken;
    if (broken) delete capture->graph;
    else *graph = capture->graph;
    capture.reset();
    return broken ? CAPTURE_INVALIDATED : SUCCESS;
}
Result cuGraphInstantiateWithFlags(Graph** executable, const Graph* graph, unsigned long long) {
    *executable = new Graph(*graph);
    return SUCCESS;
}
Result cuGraphUpload(Graph*, Stream) { return SUCCESS; }
Result cuGraphLaunch(Graph* graph, Stream stream) {
    if (Result result = refused_on(stream)) return result;
    ++calls.graphs;
    for (auto& work : graph->work)
        if (!work()) return LAUNCH_FAILED;
    return SUCCESS;
}
Result cuGraphDestroy(Graph* graph) { delete graph; return SUCCESS; }
Result cuGraphExecDestroy(Graph* graph) { delete graph; return SUCCESS; }

bool simulated_keep(std::function<bool()>* work) {
    Stream stream;
    {
        std::lock_guard lock(capturing);
        if (!capture) return false;
        stream = capture->stream; // the libraries' handles are all on the one stream
    }
    keep(stream, std::move(*work));
    delete work;
    return true;
}
bool simulated_breaks_capture() { return refused() != SUCCESS; }
Result cuEventCreate(void** event, unsigned) { *event = new int; return SUCCESS; }
Result cuEventDestroy_v2(void* event) { delete static_cast<int*>(event); return SUCCESS; }
Result cuEventRecord(void*, Stream) { return SUCCESS; }
Result cuEventSynchronize(void*) { return refused(); }
Result cuEventQuery(void*) { return refused(); }

Result cuDeviceGetDefaultMemPool(void** pool, int) { *pool = &context; return SUCCESS; }
Result cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
Result cuMemAlloc_v2(Address* address, size_t bytes) {
    if (Result result = refused()) return result;
    return allocate(address, bytes);
}
// On a captured stream CUDA would make it the graph's own memory.
Result cuMemAllocAsync(Address* address, size_t bytes, Stream stream) {
    if (Result result = refused_on(stream)) return result;
    return allocate(address, bytes);
}
Result cuMemFree_v2(Address address) {
    if (Result result = refused()) return result;
    return release(address);
}
Result cuMemFreeAsync(Address address, Stream stream) {
    if (Result result = refused_on(stream)) return result;
    return release(address);
}
Result cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
    if (Result result = refused()) return result;
    return (*memory = std::malloc(bytes)) ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemFreeHost(void* memory) { std::free(memory); return SUCCESS; }

static Result copy(void* to, const void* from, size_t bytes) { std::memmove(to, from, bytes); return SUCCESS; }
// A graph would read the program's memory at each launch, when it may be gone: only pinned memory would do, and none is used.
Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Stream stream) {
    if (Result result = refused_on(stream)) return result;
    ++calls.sent;
    return copy((void*)to, from, bytes);
}
Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Stream stream) {
    if (Result result = refused_on(stream)) return result;
    ++calls.fetched;
    return copy(to, (void*)from, bytes);
}
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Stream stream) {
    if (keep(stream, [=] { return copy((void*)to, (void*)from, bytes) == SUCCESS; })) return SUCCESS;
    return copy((void*)to, (void*)from, bytes);
}
static Result copy_and_wait(void* to, const void* from, size_t bytes) {
    if (Result result = refused()) return result;
    return copy(to, from, bytes);
}
Result cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) { return copy_and_wait((void*)to, from, bytes); }
Result cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { return copy_and_wait(to, (void*)from, bytes); }
Result cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) { return copy_and_wait((void*)to, (void*)from, bytes); }
Result cuMemsetD8Async(Address at, unsigned char byte, size_t bytes, Stream stream) {
    auto work = [=] { return std::memset((void*)at, byte, bytes), true; };
    if (!keep(stream, work)) work();
    return SUCCESS;
}

Result cuModuleLoadData(Module** module, const void* image) {
    if (Result result = refused()) return result;
    return load(module, static_cast<const char*>(image));
}
Result cuModuleUnload(Module*) { return SUCCESS; }
Result cuModuleGetFunction(Function** function, Module* module, const char* name) {
    const void* kernel = module->kernel(name);
    if (!kernel) return NOT_FOUND;
    *function = new Function{module, kernel, name};
    return SUCCESS;
}
Result cuFuncSetAttribute(Function*, int, int) { return SUCCESS; }
Result cuFuncGetAttribute(int* value, int, Function*) { *value = 0; return SUCCESS; }
Result cuLaunchKernel(
    Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
    Stream stream, void** arguments, void**
) {
    size_t threads = size_t(bx) * by * bz;
    if (!gx || !gy || !gz || !threads || threads > 1024) return INVALID_VALUE;
    ++calls.launched;
    if (idle()) return SUCCESS;
    Grid grid{gx, gy, gz}, block{bx, by, bz};
    int captured;
    cuStreamIsCapturing(stream, &captured);
    if (captured) {
        auto copies = std::make_shared<Arguments>(function, arguments);
        keep(stream, [=] { return run(function, grid, block, shared, copies->at.data()); });
        return SUCCESS;
    }
    return run(function, grid, block, shared, arguments) ? SUCCESS : LAUNCH_FAILED;
}

}  // extern "C"
