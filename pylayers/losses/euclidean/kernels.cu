// Euclidean loss: E = 1/Z · Σ w (pred − target)² / 2. The gradient is g·w·(pred − target)/Z for pred, and its negative
// for target.
//
// forward:
//   1. Each thread adds w (pred − target)² of its elements, four at a time.
//   2. The sums of all threads are combined (reduce_grid), and one thread writes the loss.
// backward:
//   1. Each thread reads its elements again, and writes the gradient of each bottom that wants one.

struct Params {
  const float* pred;
  const float* target;
  const float* weight;       // 0: all 1
  const float* loss_weight;  // g
  float* loss;
  float* pred_diff;    // 0: not wanted
  float* target_diff;  // 0: not wanted
  Scratch* scratch;
  long long count;       // of pred
  long long per_weight;  // elements that share one weight
  double normalizer;     // Z
};

__device__ float weight_of(const Params& p, Index element) {
  if (!p.weight) return 1;
  return p.weight[p.per_weight == 1 ? element : element / (Index)p.per_weight];
}

// The weights of four elements, from `element` on.
__device__ float4 weights_of(const Params& p, Index element) {
  if (p.weight && p.per_weight == 1) return *(const float4*)(p.weight + element);
  if (!p.weight || p.per_weight % 4 == 0) {
    float weight = weight_of(p, element);
    return make_float4(weight, weight, weight, weight);
  }
  return make_float4(
      weight_of(p, element), weight_of(p, element + 1), weight_of(p, element + 2), weight_of(p, element + 3));
}

__device__ float4 residual_of(const Params& p, Index element) {
  float4 a = *(const float4*)(p.pred + element), b = *(const float4*)(p.target + element);
  return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}

// The number of elements to read and write four at a time: 0 where a blob's address is no multiple of 16 bytes.
__device__ Index vectorised_count(const Params& p) {
  size_t addresses =
      (size_t)p.pred | (size_t)p.target | (size_t)p.weight | (size_t)p.pred_diff | (size_t)p.target_diff;
  return addresses % sizeof(float4) ? 0 : (Index)(p.count / 4 * 4);
}

KERNEL forward(Params p) {
  Index thread = (Index)blockIdx.x * blockDim.x + threadIdx.x, threads = (Index)gridDim.x * blockDim.x;
  Index vectorised = vectorised_count(p);
  Sum sum = {0};
  for (Index i = 4 * thread; i < vectorised; i += 4 * threads) {
    float4 d = residual_of(p, i), w = weights_of(p, i);
    // Four terms are added in float, and their sum in double, since many GPUs are slow at double.
    sum.value += (w.x * d.x * d.x + w.y * d.y * d.y) + (w.z * d.z * d.z + w.w * d.w * d.w);
  }
  for (Index i = vectorised + thread; i < p.count; i += threads) {
    float d = p.pred[i] - p.target[i];
    sum.value += weight_of(p, i) * d * d;
  }
  if (reduce_grid(sum, Sum{0}, p.scratch)) *p.loss = (float)(sum.value / 2 / p.normalizer);
}

KERNEL backward(Params p) {
  Index thread = (Index)blockIdx.x * blockDim.x + threadIdx.x, threads = (Index)gridDim.x * blockDim.x;
  Index vectorised = vectorised_count(p);
  float scale = (float)scale_of(p.loss_weight, p.normalizer);
  for (Index i = 4 * thread; i < vectorised; i += 4 * threads) {
    float4 d = residual_of(p, i), w = weights_of(p, i);
    float4 g = make_float4(d.x * w.x * scale, d.y * w.y * scale, d.z * w.z * scale, d.w * w.w * scale);
    if (p.pred_diff) *(float4*)(p.pred_diff + i) = g;
    if (p.target_diff) *(float4*)(p.target_diff + i) = make_float4(-g.x, -g.y, -g.z, -g.w);
  }
  for (Index i = vectorised + thread; i < p.count; i += threads) {
    float g = (p.pred[i] - p.target[i]) * weight_of(p, i) * scale;
    if (p.pred_diff) p.pred_diff[i] = g;
    if (p.target_diff) p.target_diff[i] = -g;
  }
}
