// E = 1/(2Z) · Σ (s(pred) − s(target))², s the sum over the channels of a blob of shape (outer, channels, inner), and
// g·(s(pred) − s(target))/Z for each of pred's channels, its negative for each of target's.

struct Params {
  const float* pred;
  const float* target;
  const float* loss_weight;  // g
  float* loss;
  float* pred_diff;    // 0: not wanted
  float* target_diff;  // 0: not wanted
  Scratch* scratch;
  long long positions;  // outer · inner: the sums of one blob
  long long inner;
  long long pred_channels;
  long long target_channels;
  double normalizer;  // Z
  long long rows;     // of threads in a block
};

// This thread's part of one sum.
__device__ double part(const float* blob, Index position, Index channels, Index inner, const Place& at) {
  const float* first = blob + offset_of(position, channels, inner);
  double sum = 0;
#pragma unroll 8
  for (Index c = at.row; c < channels; c += at.rows) sum += first[c * inner];
  return sum;
}

// s(pred) − s(target).
__device__ double residual_of(const Params& p, Index position, const Place& at) {
  Sum sum = {0};
  if (position < p.positions)
    sum.value = part(p.pred, position, p.pred_channels, p.inner, at) -
                part(p.target, position, p.target_channels, p.inner, at);
  return over_rows(sum, at.row, at.rows, at.lane, at.lanes).value;
}

__device__ void spread(float* diff, float gradient, Index position, Index channels, Index inner, const Place& at) {
  if (!diff) return;
  float* first = diff + offset_of(position, channels, inner);
  for (Index c = at.row; c < channels; c += at.rows) first[c * inner] = gradient;
}

KERNEL forward(Params p) {
  Place at(p.rows, p.inner);
  Sum sum = {0};
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    double residual = residual_of(p, tile + at.lane, at);
    if (at.row == 0) sum.value += residual * residual;  // 0 past the last position
  }
  if (over_grid(sum, Sum{0}, p.scratch)) *p.loss = (float)(sum.value / 2 / p.normalizer);
}

KERNEL backward(Params p) {
  Place at(p.rows, p.inner);
  double scale = scale_of(p.loss_weight, p.normalizer);
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    Index position = tile + at.lane;
    float gradient = (float)(residual_of(p, position, at) * scale);
    if (position < p.positions) {
      spread(p.pred_diff, gradient, position, p.pred_channels, p.inner, at);
      spread(p.target_diff, -gradient, position, p.target_channels, p.inner, at);
    }
  }
}
