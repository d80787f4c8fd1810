// Channel-summed Euclidean loss: E = 1/(2Z) · Σ (s(pred) − s(target))², where s sums a blob of shape
// (outer, channels, inner) over its channels. The gradient is g·(s(pred) − s(target))/Z for each channel of pred, and
// its negative for each channel of target.
//
// forward:
//   1. The rows of a lane add the channels of pred and subtract those of target, for one sum (reduce_rows).
//   2. The residual s(pred) − s(target) of each sum is kept for backward.
//   3. The squares are combined over all blocks (reduce_grid), and one thread writes the loss.
// backward reads neither blob: the rows of a lane write the residual, times g/Z, to each channel.
//
// FEW is for the case that the sums are too few to keep a GPU busy, and have many channels each. Several lanes then
// share a sum: each lane has a segment of its channels, and the last block adds up the segments.

struct Params {
  const float* pred;
  const float* target;
  const float* loss_weight;  // g
  float* loss;
  float* pred_diff;    // 0: not wanted
  float* target_diff;  // 0: not wanted
  float* kept;         // the residual of each sum, from forward for backward
  Scratch* scratch;
  long long positions;  // outer · inner: the sums of one blob
  long long inner;
  long long pred_channels;
  long long target_channels;
  double normalizer;  // Z
  long long rows;     // of threads in a block
  long long segments;  // of a sum's channels; 1 without FEW
};

// The part of a sum that one lane has: a segment of consecutive channels, and its share of s(pred) − s(target).
struct Segment {
  const Params& p;
  const Place& at;
  Index position, number;
  bool inside;

  __device__ Segment(const Params& p, const Place& at, Index item) : p(p), at(at) {
    position = item / (Index)p.segments;
    number = item - position * (Index)p.segments;
    inside = position < p.positions;
  }

  __device__ Index length(Index channels) const { return (channels + (Index)p.segments - 1) / (Index)p.segments; }
  __device__ Index begin(Index channels) const { return number * length(channels) + at.row; }
  __device__ Index end(Index channels) const { return min((number + 1) * length(channels), channels); }

  // This thread's part of the sum.
  __device__ double part(const float* blob, Index channels) const {
    const float* first = blob + offset_of(position, channels, p.inner);
    Index end = this->end(channels);
    double sum = 0;
#pragma unroll 8
    for (Index c = begin(channels); c < end; c += at.rows) sum += first[c * p.inner];
    return sum;
  }

  __device__ double residual() const {
    Sum sum = {0};
    if (inside) sum.value = part(p.pred, p.pred_channels) - part(p.target, p.target_channels);
    return reduce_rows(sum, at.row, at.rows, at.lane, at.lanes).value;
  }

  __device__ void write(float* diff, Index channels, float gradient) const {
    if (!diff || !inside) return;
    float* first = diff + offset_of(position, channels, p.inner);
    Index end = this->end(channels);
    for (Index c = begin(channels); c < end; c += at.rows) first[c * p.inner] = gradient;
  }
};

#if FEW

KERNEL forward(Params p) {
  Place at(p.rows, p.inner);
  for (Index tile = at.first_tile(); tile < p.positions * p.segments; tile += at.next_tile()) {
    Segment segment(p, at, tile + at.lane);
    double residual = segment.residual();
    if (at.row == 0 && segment.inside) p.scratch->partials[tile + at.lane] = residual;
  }
  if (!last_to_arrive(p.scratch)) return;
  Sum sum = {0};
  for (int position = threadIdx.x; position < p.positions; position += blockDim.x) {
    double residual = 0;
#pragma unroll 8
    for (int number = 0; number < p.segments; ++number)
      residual += load_from_other_block(p.scratch->partials + position * p.segments + number);
    p.kept[position] = (float)residual;
    sum.value += residual * residual;
  }
  sum = reduce_rows(sum, threadIdx.x, blockDim.x, 0, 1);
  if (threadIdx.x == 0 && p.loss) *p.loss = (float)(sum.value / 2 / p.normalizer);
}

#else

KERNEL forward(Params p) {
  Place at(p.rows, p.inner);
  Sum sum = {0};
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    Segment segment(p, at, tile + at.lane);
    double residual = segment.residual();
    if (at.row > 0 || !segment.inside) continue;
    p.kept[segment.position] = (float)residual;
    sum.value += residual * residual;
  }
  if (reduce_grid(sum, Sum{0}, p.scratch) && p.loss) *p.loss = (float)(sum.value / 2 / p.normalizer);
}

#endif

KERNEL backward(Params p) {
  Place at(p.rows, p.inner);
  double scale = scale_of(p.loss_weight, p.normalizer);
  for (Index tile = at.first_tile(); tile < p.positions * p.segments; tile += at.next_tile()) {
    Segment segment(p, at, tile + at.lane);
    float gradient = segment.inside ? (float)(p.kept[segment.position] * scale) : 0;
    segment.write(p.pred_diff, p.pred_channels, gradient);
    segment.write(p.target_diff, p.target_channels, -gradient);
  }
}
