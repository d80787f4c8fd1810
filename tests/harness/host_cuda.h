// Just enough of CUDA C for g++ to compile the kernels and run them on the host, one block after the other.
//
// A block's threads are fibers: each runs until its next __syncthreads, then the next one does. All of them must come
// to the same __syncthreads, or end. The order of threads and blocks is for the caller to choose: a kernel whose
// results depend on it lacks a __syncthreads, or adds up in the order of arrival.
#include <cmath>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__ inline
#ifdef __SANITIZE_ADDRESS__  // it would not look at variables in a section of their own
#define __shared__ static
static void spoil_shared() {}
#else
#define __shared__ static __attribute__((section("shared")))
extern char __start_shared[], __stop_shared[];
// As on a GPU, a block finds anything in its shared memory: here NaN, and true.
static void spoil_shared() { memset(__start_shared, 0xff, __stop_shared - __start_shared); }
#endif
#define __launch_bounds__(threads, blocks)

static inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

#ifdef GPU_ARITHMETIC  // how many units in the last place exp and log1p are off, up or down from number to number
#include <xmmintrin.h>
static inline float off(float value) {
  int bits;
  memcpy(&bits, &value, sizeof bits);
  if (!(value > 0 && value < INFINITY)) return value;
  return __int_as_float(bits + ((bits * 2654435761u) >> 31 ? GPU_ARITHMETIC : -GPU_ARITHMETIC));
}
static inline float exp_off(float x) { return x == 0 ? 1 : off(std::exp(x)); }  // exp(0) is exact
#define expf(x) exp_off(x)
#define log1pf(x) off(std::log1p((float)(x)))
#endif

struct Uint3 {
  unsigned int x, y, z;
};
static Uint3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(16) float4 {
  float x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <typename T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}
static inline void __threadfence() {}
static inline void __threadfence_system() {}
static inline unsigned int atomicInc(unsigned int* address, unsigned int last) {
  unsigned int old = *address;
  *address = old >= last ? 0 : old + 1;
  return old;
}
static inline unsigned int atomicExch(unsigned int* address, unsigned int value) {
  unsigned int old = *address;
  *address = value;
  return old;
}

#ifdef COUNT_BYTES  // the caller sets the ranges; with -fsanitize=thread g++ calls these at each read and write
extern "C" {
struct Range {
  size_t begin, end, read, written;
} ranges[16];
#define UNCOUNTED __attribute__((no_sanitize("thread")))
UNCOUNTED static void count_bytes(size_t address, size_t size, size_t Range::*counter) {
  for (Range& range : ranges)
    if (range.begin <= address && address < range.end) range.*counter += size;
}
#define COUNT(size)                                                                                                  \
  UNCOUNTED void __tsan_read##size(void* address) { count_bytes((size_t)address, size, &Range::read); }               \
  UNCOUNTED void __tsan_write##size(void* address) { count_bytes((size_t)address, size, &Range::written); }
COUNT(1) COUNT(2) COUNT(4) COUNT(8) COUNT(16)
UNCOUNTED void __tsan_read_range(void* address, size_t size) { count_bytes((size_t)address, size, &Range::read); }
UNCOUNTED void __tsan_write_range(void* address, size_t size) { count_bytes((size_t)address, size, &Range::written); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#endif

// Denormal numbers count as 0 while this lives.
struct FlushDenormals {
#ifdef GPU_ARITHMETIC
  unsigned int before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#else
  FlushDenormals() {}
#endif
};

struct Fiber {
  ucontext_t context;
  int barrier;  // the line of the __syncthreads that it waits at; 0 before the first one, -1 at its end
};
static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static ucontext_t scheduler;
static int current;
static void (*body)();

static void run_body() {
  body();
  fibers[current].barrier = -1;
  swapcontext(&fibers[current].context, &scheduler);
}

static void sync_threads(int line) {
  int self = current;
  fibers[self].barrier = line;
  swapcontext(&fibers[self].context, &scheduler);
}
#define __syncthreads() sync_threads(__LINE__)

// order: bit 0 runs the threads from the last to the first, bit 1 the blocks. False where the threads of a block came
// to different barriers, which CUDA does not allow.
static bool launch(void (*kernel)(), int blocks, int threads, int order) {
  const size_t stack = 1 << 16;
  body = kernel;
  gridDim = {(unsigned)blocks, 1, 1};
  blockDim = {(unsigned)threads, 1, 1};
  if ((int)fibers.size() < threads) {
    fibers.resize(threads);
    stacks.resize(threads * stack);
  }
  for (int block = 0; block < blocks; ++block) {
    spoil_shared();
    blockIdx = {(unsigned)(order & 2 ? blocks - 1 - block : block), 0, 0};
    for (int thread = 0; thread < threads; ++thread) {
      Fiber& fiber = fibers[thread];
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks.data() + thread * stack;
      fiber.context.uc_stack.ss_size = stack;
      fiber.context.uc_link = &scheduler;
      fiber.barrier = 0;
      makecontext(&fiber.context, run_body, 0);
    }
    for (bool done = false; !done;) {
      for (int turn = 0; turn < threads; ++turn) {
        current = order & 1 ? threads - 1 - turn : turn;
        threadIdx = {(unsigned)current, 0, 0};
        swapcontext(&scheduler, &fibers[current].context);
      }
      for (int thread = 1; thread < threads; ++thread)
        if (fibers[thread].barrier != fibers[0].barrier) return false;
      done = fibers[0].barrier == -1;
    }
  }
  return true;
}

// What the tests call: each kernel, its Params, and the size of these.
#define EXPORT(kernel)                                                                       \
  static Params arguments_of_##kernel;                                                       \
  extern "C" bool launch_##kernel(const Params* params, int blocks, int threads, int order) { \
    arguments_of_##kernel = *params;                                                         \
    FlushDenormals flushed;                                                                  \
    return launch([] { kernel(arguments_of_##kernel); }, blocks, threads, order);                   \
  }
#define EXPORT_ALL               \
  EXPORT(forward)                \
  EXPORT(backward)               \
  extern "C" size_t params_size() { return sizeof(Params); }
