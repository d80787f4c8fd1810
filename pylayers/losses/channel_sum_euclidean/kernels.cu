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
//
// PRED_CHANNELS and TARGET_CHANNELS are the numbers of channels where both are at most CHUNK and rows is 1, or else 0.
// As constants they save a thread the rest of a chunk and the ends of loops.

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
  unsigned int inner_multiplier;
  unsigned int inner_shift;
  long long pred_channels;
  long long target_channels;
  double normalizer;  // Z
  long long row_bits;  // a block has 1 << row_bits rows
  long long segments;  // of a sum's channels; 1 without FEW
};

__device__ Place place_of(const Params& p) { return Place(PRED_CHANNELS ? 0 : p.row_bits, p.inner); }

// The channels that a thread has of a sum in one blob: how many, and where the first one is.
struct Channels {
  int count, whole;  // whole: how many each row has at least
  Index first;
};

// The part of a sum that one lane has: a segment of consecutive channels, shared by its rows.
struct Segment {
  const Params& p;
  Place at;
  Index position, number, outer;
  Channels pred, target;
  bool inside;

  // Lanes past the last segment repeat it.
  __device__ Segment(const Params& p, const Place& at, Index tile) : p(p), at(at), number(0) {
    Index segments = p.segments, last = p.positions * segments - 1;
    inside = tile + at.lane <= last;
    position = inside ? tile + at.lane : last;
#if FEW
    number = position % segments;
    position /= segments;
#endif
    outer = divide(position, p.inner, p.inner_multiplier, p.inner_shift);
    pred = share(PRED_CHANNELS ? PRED_CHANNELS : (Index)p.pred_channels);
    target = share(TARGET_CHANNELS ? TARGET_CHANNELS : (Index)p.target_channels);
  }

  __device__ Index step() const { return (Index)p.inner << at.bits; }

  __device__ Channels share(Index channels) const {
    Index begin = 0, size = channels;
#if FEW
    Index length = (channels + (Index)p.segments - 1) / (Index)p.segments;
    begin = number * length;
    size = max((Index)0, min(length, channels - begin));
#endif
    Index first = (outer * channels + begin + at.row) * (Index)p.inner + (position - outer * (Index)p.inner);
    if (PRED_CHANNELS) return {(int)channels, (int)channels, first};
    return {(int)((size - at.row + at.rows - 1) >> at.bits), (int)(size >> at.bits), first};
  }

  // This lane's part of s(pred) − s(target).
  __device__ double residual() const {
    Sum sum = {0};
    for (int begin = 0; begin < max(pred.count, target.count); begin += CHUNK) {
      float a[CHUNK], b[CHUNK];
      read(a, p.pred, pred.first + begin * step(), step(), pred.count - begin, pred.whole - begin, 0);
      read(b, p.target, target.first + begin * step(), step(), target.count - begin, target.whole - begin, 0);
#pragma unroll
      for (int k = 0; k < CHUNK; ++k) sum.value += (double)a[k] - b[k];
    }
    return reduce_rows(sum, at.row, at.rows, at.lane, at.lanes).value;
  }

  __device__ void write(float* diff, const Channels& of, float gradient) const {
    if (!diff) return;
#pragma unroll 4
    for (int k = 0; k < of.count; ++k) diff[of.first + k * step()] = gradient;
  }
};

#if FEW

KERNEL forward(Params p) {
  Place at = place_of(p);
  for (Index tile = at.first_tile(); tile < p.positions * p.segments; tile += at.next_tile()) {
    Segment segment(p, at, tile);
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
  Place at = place_of(p);
  Sum sum = {0};
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    Segment segment(p, at, tile);
    double residual = segment.residual();
    if (at.row > 0 || !segment.inside) continue;
    p.kept[segment.position] = (float)residual;
    sum.value += residual * residual;
  }
  if (reduce_grid(sum, Sum{0}, p.scratch) && p.loss) *p.loss = (float)(sum.value / 2 / p.normalizer);
}

#endif

KERNEL backward(Params p) {
  Place at = place_of(p);
  double scale = scale_of(p.loss_weight, p.normalizer);
  for (Index tile = at.first_tile(); tile < p.positions * p.segments; tile += at.next_tile()) {
    Segment segment(p, at, tile);
    float gradient = (float)(p.kept[segment.position] * scale);
    segment.write(p.pred_diff, segment.pred, gradient);
    segment.write(p.target_diff, segment.target, -gradient);
  }
}
