// Softmax loss: E = 1/Z · Σ w (log Σ exp(x_j) − x_y) over the positions whose label y counts. The gradient is
// g·w·(p − 1_y)/Z with p = softmax(x), and 0 where the label does not count. Scores x have the shape
// (outer, classes, inner); w = w_y · w_i.
//
// Two numbers are computed in one pass over the scores of a position: the peak, which is the largest, and the others,
// Σ exp(x_j − peak) over all classes except y. Parts of a position are combined by shrinking their sums to the common
// peak: the online softmax of Milakov and Gimelshein (arXiv 1805.02867).
//
// forward:
//   1. Each lane reads the label of its position, and checks it.
//   2. Each row reads its share of the scores, CHUNK at a time, and finds their peak and others.
//   3. The rows' peaks and others are combined (reduce_rows).
//   4. The first row adds the position's loss, its weight and its count, notes a wrong label, and keeps the peak and
//      the total, others + exp(x_y − peak), for backward.
//   5. Where prob is wanted, each row writes its share.
//   6. The sums are combined over all blocks (reduce_grid). One thread finds Z, writes the loss, keeps Z for backward,
//      and reports the first wrong label.
// backward reads each score once:
//   1. Each lane reads the label of its position. A wrong one that forward has not seen is reported.
//   2. Each row writes its share of the gradient, g/Z · w · exp(x − peak) / total, and adds up the others. The label may
//      be another than in forward: neither the peak nor the total depends on it.
//   3. The rows' others are combined (reduce_rows), and the first row writes the label's own gradient,
//      −g/Z · w · others / total, which keeps its digits where p_y is nearly 1.
//
// In forward, with ONCE, CHUNK covers all scores that a thread has of a position, and prob is written from registers.
// Without ONCE they are read again for it. Z_CONSTANT, Z_VALID and Z_WEIGHT_SUM are macros from
// pylayers/losses/labels.py.

// The report of a label that is no class. It lies in memory that the GPU shares with the host, which reads it.
struct WrongLabel {
  long long number;  // 1 + its position; 0 where there is none
  float value;
};

struct Params {
  const float* scores;
  const float* label;
  const float* weight;         // w_i; 0: all 1
  const double* class_weights;  // w_y; 0: all 1
  const float* loss_weight;    // g
  float* loss;                 // 0: not wanted
  float* prob;                 // 0: not wanted
  float* scores_diff;
  float* kept;                 // the peak and the total of each position, from forward for backward
  Scratch* scratch;
  volatile WrongLabel* wrong;
  long long positions;  // outer · inner
  long long inner;
  long long classes;
  long long per_weight;     // positions that share one weight
  long long ignores;        // 1 where there is an ignore_label
  double ignore_label;
  long long normalization;
  double normalizer;  // Z, with Z_CONSTANT
  long long rows;     // of threads in a block
};

const int NO_CLASS = -1;  // the class of a label that is ignored, or wrong

__device__ float minus_infinity() { return __int_as_float(0xff800000); }

struct Label {
  int y;
  bool wrong;
};

__device__ Label label_at(const Params& p, Index position) {
  float value = p.label[position];
  if (p.ignores && value == p.ignore_label) return {NO_CLASS, false};
  bool wrong = !(value >= 0 && value < p.classes && value == floorf(value));
  return {wrong ? NO_CLASS : (int)value, wrong};
}

__device__ double weight_at(const Params& p, Index position, int y) {
  double weight = p.class_weights && y != NO_CLASS ? p.class_weights[y] : 1;
  return p.weight ? weight * p.weight[position / (Index)p.per_weight] : weight;
}

__device__ void report(const Params& p, long long position) {
  p.wrong->value = p.label[position];
  __threadfence_system();  // the host takes the value for written once it sees the number
  p.wrong->number = position + 1;
}

// exp(from − to), where `to` is a peak. Where all scores are −inf, so is the peak; it then counts as 0, and each term
// is exp(−inf) = 0.
__device__ float shrink(float from, float to) { return expf(from - (to == minus_infinity() ? 0 : to)); }

// The peak and the others of some classes of one position. The label's own term is left out of the others: beside it,
// often 1, the tiny other terms, which are the loss, would be rounded away.
struct Softmax {
  float peak, others;

  __device__ void add(const Softmax& other) {
    float common = fmaxf(peak, other.peak);
    others = others * shrink(peak, common) + other.others * shrink(other.peak, common);
    peak = common;
  }
};

// The scores of one position, as one thread sees them: classes row, row + rows, row + 2·rows, ...
struct Scores {
  const float* x;  // 0 past the last position
  Index inner;
  int classes, row, rows, y;
  float kept[CHUNK];  // exp(x − peak) of the classes from `first` on, peak being that of the same classes

  __device__ Scores(const Params& p, Index position, int y, const Place& at)
      : inner(p.inner), classes(p.classes), row(at.row), rows(at.rows), y(y) {
    x = position < p.positions ? p.scores + offset_of(position, classes, inner) : 0;
  }

  __device__ Softmax read(int first) {
    Softmax found = {minus_infinity(), 0};
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
      int c = first + row + k * rows;
      kept[k] = x && c < classes ? x[c * inner] : minus_infinity();
      found.peak = fmaxf(found.peak, kept[k]);
    }
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
      kept[k] = shrink(kept[k], found.peak);
      if (first + row + k * rows != y) found.others += kept[k];
    }
    return found;
  }

  __device__ Softmax read_all() {
    Softmax found = read(0);
#if !ONCE
    for (int first = CHUNK * rows; first < classes; first += CHUNK * rows) found.add(read(first));
#endif
    return found;
  }

  // Writes scale · exp(x − peak) to each class, and `own` to the label's, if there is one. `mine` is what read_all gave.
  __device__ void write(float* out, const Softmax& mine, float peak, float scale, float own) {
    for (int first = 0; first < classes; first += CHUNK * rows) {
#if ONCE
      float factor = scale * shrink(mine.peak, peak);
#else
      float factor = scale * shrink(read(first).peak, peak);
#endif
#pragma unroll
      for (int k = 0; k < CHUNK; ++k) {
        int c = first + row + k * rows;
        if (c < classes) out[c * inner] = c == y ? own : factor * kept[k];
      }
    }
  }
};

// The others of a position, for backward, which knows the peak.
struct Others {
  float value;
  __device__ void add(const Others& other) { value += other.value; }
};

struct Sums {
  double loss, weight, valid;
  double wrong;  // the first position with a wrong label; infinity where there is none

  __device__ void add(const Sums& other) {
    loss += other.loss;
    weight += other.weight;
    valid += other.valid;
    wrong = fmin(wrong, other.wrong);
  }
};

KERNEL forward(Params p) {
  Place at(p.rows, p.inner);
  const Sums zero = {0, 0, 0, -(double)minus_infinity()};
  Sums sums = zero;
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    Index position = tile + at.lane;
    bool inside = position < p.positions;
    Label label = inside ? label_at(p, position) : Label{NO_CLASS, false};
    Scores scores(p, position, label.y, at);
    float x_y = label.y == NO_CLASS ? minus_infinity() : scores.x[label.y * scores.inner];
    Softmax mine = scores.read_all();
    Softmax all = reduce_rows(mine, at.row, at.rows, at.lane, at.lanes);
    float exp_y = shrink(x_y, all.peak);
    if (at.row == 0 && inside) {
      p.kept[2 * position] = all.peak;
      p.kept[2 * position + 1] = all.others + exp_y;
    }
    if (at.row == 0 && label.y != NO_CLASS) {
      double weight = weight_at(p, position, label.y);
      // exp_y − 1 is exact, and 0 where the label's score is the largest.
      sums.loss += weight * (log1pf(all.others + (exp_y - 1)) - (x_y - all.peak));
      sums.weight += weight;
      sums.valid += 1;
    }
    if (label.wrong) sums.wrong = fmin(sums.wrong, (double)position);
    if (p.prob && inside) {
      float scale = 1 / (all.others + exp_y);
      scores.write(p.prob + (scores.x - p.scores), mine, all.peak, scale, scale * exp_y);
    }
  }
  if (!reduce_grid(sums, zero, p.scratch)) return;
  double normalizer = p.normalizer;
  if (p.normalization == Z_VALID) normalizer = fmax(sums.valid, 1.);
  if (p.normalization == Z_WEIGHT_SUM) normalizer = sums.weight;
  p.scratch->normalizer = normalizer;
  if (p.loss) *p.loss = normalizer == 0 ? 0 : (float)(sums.loss / normalizer);
  p.scratch->reported = sums.wrong < zero.wrong;
  if (p.scratch->reported) report(p, (long long)sums.wrong);
}

KERNEL backward(Params p) {
  Place at(p.rows, p.inner);
  double scale = scale_of(p.loss_weight, p.scratch->normalizer);
  for (Index tile = at.first_tile(); tile < p.positions; tile += at.next_tile()) {
    Index position = tile + at.lane;
    bool inside = position < p.positions;
    Label label = inside ? label_at(p, position) : Label{NO_CLASS, false};
    // Forward has checked all labels, so this one has changed since.
    if (label.wrong && at.row == 0 && atomicExch(&p.scratch->reported, 1u) == 0) report(p, position);
    bool counts = label.y != NO_CLASS;
    float peak = 0, factor = 0;
    const float* x = p.scores;
    float* diff = p.scores_diff;
    if (inside) {
      Index offset = offset_of(position, p.classes, p.inner);
      x += offset;
      diff += offset;
      peak = p.kept[2 * position];
      if (counts) factor = (float)(scale * weight_at(p, position, label.y)) / p.kept[2 * position + 1];
    }
    Others others = {0};
    int classes = inside ? (int)p.classes : 0;
#pragma unroll 4
    for (int c = at.row; c < classes; c += at.rows) {
      Index place = (Index)c * (Index)p.inner;
      float e = c == label.y ? 0 : shrink(x[place], peak);
      others.value += e;
      diff[place] = counts ? factor * e : 0;
    }
    others = reduce_rows(others, at.row, at.rows, at.lane, at.lanes);
    if (at.row == label.y % at.rows && counts) diff[(Index)label.y * (Index)p.inner] = -others.value * factor;  // p_y − 1
  }
}
