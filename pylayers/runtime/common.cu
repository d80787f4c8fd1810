// What the kernels of all losses share. pylayers/runtime/kernels.py puts it before each loss's own file, and gives the
// sizes THREADS (of a block), MAX_BLOCKS, TOTALS_OF_BLOCK and CHUNK as macros.
//
// A block is a grid of rows × lanes threads, both powers of two. Each lane has a position of the loss, and the rows
// share its classes or channels. The sums of the threads are combined in a fixed order: over the rows, over the block,
// and over the blocks. So a result has the same bits in each run. Only __syncthreads is used for that, and no
// warp intrinsics, so that tests/harness/host_cuda.h can run these kernels without a GPU.

#if WIDE  // a blob has 2³¹ bytes or more
typedef long long Index;
#else
typedef int Index;
#endif

// With the second number, blocks on a multiprocessor, a thread gets at most 64 registers.
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, 4)

// A layer's own working memory on the GPU, some 66 kB; all 0 at first.
struct Scratch {
  unsigned int arrived;  // blocks of the running launch that are done
  unsigned int reported;  // 1 once a wrong label of this iteration has been reported
  double normalizer;     // Z, where the labels decide it
  double partials[TOTALS_OF_BLOCK * MAX_BLOCKS];  // as a rule, the totals of each block
};

template <typename T>
struct Total {
  T value;
  __device__ void add(const Total& other) { value += other.value; }
};
typedef Total<double> Sum;

// Combines one value of each thread over the rows; each thread gets the total of its lane.
template <typename T>
__device__ T reduce_rows(const T& mine, int row, int rows, int lane, int lanes) {
  if (rows == 1) return mine;
  __shared__ T shared[THREADS];
  T* column = shared + lane;
  column[row * lanes] = mine;
  for (int half = rows / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) column[row * lanes].add(column[(row + half) * lanes]);
  }
  __syncthreads();
  T total = column[0];
  __syncthreads();  // before the next call writes, all threads must have read
  return total;
}

// True in the threads of the last block that comes here. That block sees all that the others wrote before they came.
__device__ bool last_to_arrive(Scratch* scratch) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  // The counter is 0 again after the last block, ready for the next launch.
  if (threadIdx.x == 0) last = atomicInc(&scratch->arrived, gridDim.x - 1) == gridDim.x - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// What another block has left in scratch. Volatile, so that the value comes from global memory and not from this
// multiprocessor's L1, which may be stale.
template <typename T>
__device__ T load_from_other_block(const T* from) {
  T value;
  for (int part = 0; part < (int)(sizeof(T) / sizeof(double)); ++part)
    ((double*)&value)[part] = ((const volatile double*)from)[part];
  return value;
}

// Combines one value of each thread over all blocks. True in one thread of the whole grid, which then has the total in
// `mine`. It is the first thread of the last block to arrive, since by then all others have left their totals.
//   1. Each block combines the values of its threads, and leaves the total in scratch.
//   2. The last block to arrive combines the totals of all blocks.
template <typename T>
__device__ bool reduce_grid(T& mine, const T& zero, Scratch* scratch) {
  T* partials = (T*)scratch->partials;
  mine = reduce_rows(mine, threadIdx.x, blockDim.x, 0, 1);
  if (threadIdx.x == 0) partials[blockIdx.x] = mine;
  if (!last_to_arrive(scratch)) return false;
  mine = zero;
#pragma unroll 4  // the totals of several blocks are on their way at once
  for (int block = threadIdx.x; block < (int)gridDim.x; block += blockDim.x) mine.add(load_from_other_block(partials + block));
  mine = reduce_rows(mine, threadIdx.x, blockDim.x, 0, 1);
  return threadIdx.x == 0;
}

// g/Z in every thread of a block. One thread divides, as many GPUs are slow at double.
__device__ double scale_of(const float* loss_weight, double normalizer) {
  __shared__ double scale;
  if (threadIdx.x == 0) scale = normalizer == 0 ? 0 : *loss_weight / normalizer;
  __syncthreads();
  return scale;
}

// A thread's place in its block of 1 << bits rows, and the positions that it goes through.
struct Place {
  int bits, row, rows, lane, lanes;

  // Neighbouring threads read neighbouring elements. With inner = 1 these belong to one position, so the row changes
  // from thread to thread.
  __device__ Place(int bits, long long inner) : bits(bits), rows(1 << bits), lanes(blockDim.x >> bits) {
    int thread = threadIdx.x;
    row = inner == 1 ? thread & (rows - 1) : thread / lanes;
    lane = inner == 1 ? thread >> bits : thread & (lanes - 1);
  }
  // A tile has as many positions as there are lanes.
  __device__ Index first_tile() const { return (Index)blockIdx.x * lanes; }
  __device__ Index next_tile() const { return (Index)gridDim.x * lanes; }
};

// number / divisor for numbers below 2³¹, since a GPU divides slowly: (number · multiplier) >> shift. Python gives the
// two, see geometry.division_by. Granlund and Montgomery, "Division by invariant integers using multiplication", 1994.
__device__ Index divide(Index number, long long divisor, unsigned int multiplier, unsigned int shift) {
#if WIDE
  return number / divisor;
#else
  return (Index)((unsigned long long)number * multiplier >> shift);
#endif
}

// Reads up to N elements, `step` apart, that a thread has from blob[first] on; `rest` stands for those past `count`.
// None waits for another. Each row has `whole` or one more, so all threads of a warp take one way, mostly the short one.
template <int N>
__device__ void read(float (&values)[N], const float* blob, Index first, Index step, int count, int whole, float rest) {
  if (whole >= N) {
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] = blob[first + k * step];
    return;
  }
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = k < count ? blob[first + k * step] : rest;
}
