// E = 1/Z · Σ w (logsumexp(x) − x_y) over the positions whose label y counts, and g·w·(softmax(x) − 1_y)/Z, 0 where it
// does not. Scores have the shape (outer, classes, inner); w = w_y · w_i.
//
// CHUNK is the number of scores that a thread reads at once and keeps in registers. With ONCE it is all that it has
// of a position, and the second pass takes them from there; without, it reads them again.

enum Normalization { VALID, CONSTANT, WEIGHT_SUM };

// A label that is no class, for the host to look at: memory that it shares with the GPU.
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
  Scratch* scratch;
  volatile WrongLabel* wrong;
  long long positions;  // outer · inner
  long long inner;
  long long classes;
  long long per_weight;     // positions that share one weight
  long long ignores;        // 1 where there is an ignore_label
  double ignore_label;
  long long normalization;
  double normalizer;  // Z, where it is CONSTANT
  long long rows;     // of threads in a block
};

const int NO_CLASS = -1;  // of a label that is ignored, or wrong

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
  __threadfence_system();  // the number tells that the value is there
  p.wrong->number = position + 1;
}

// exp(from − to), for largest scores; exp(x − −inf) counts as exp(x): where all scores are −inf, their terms are 0.
__device__ float shrink(float from, float to) { return expf(from - (to == minus_infinity() ? 0 : to)); }

// Of some classes of one position: the largest score, and Σ exp(x − max) without the label's own term. The small terms
// of that sum, and with them a small loss, would be lost beside the label's, which is then 1.
struct Peak {
  float max, others;

  __device__ void add(const Peak& other) {
    float peak = fmaxf(max, other.max);
    others = others * shrink(max, peak) + other.others * shrink(other.max, peak);
    max = peak;
  }
};

// The scores of one position, as one thread sees them: classes row, row + rows, row + 2·rows, ...
struct Scores {
  const float* x;  // 0 past the last position
  Index inner;
  int classes, row, rows, y;
  float kept[CHUNK];  // exp(x − max) of the classes from `first` on, max being that of the same classes

  __device__ Scores(const Params& p, Index position, int y, const Place& at)
      : inner(p.inner), classes(p.classes), row(at.row), rows(at.rows), y(y) {
    x = position < p.positions ? p.scores + offset_of(position, classes, inner) : 0;
  }

  __device__ Peak read(int first) {
    Peak peak = {minus_infinity(), 0};
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
      int c = first + row + k * rows;
      kept[k] = x && c < classes ? x[c * inner] : minus_infinity();
      peak.max = fmaxf(peak.max, kept[k]);
    }
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
      kept[k] = shrink(kept[k], peak.max);
      if (first + row + k * rows != y) peak.others += kept[k];
    }
    return peak;
  }

  __device__ Peak read_all() {
    Peak peak = read(0);
#if !ONCE
    for (int first = CHUNK * rows; first < classes; first += CHUNK * rows) peak.add(read(first));
#endif
    return peak;
  }

  // Writes scale · exp(x − max) to each class, and `own` to the label's, if there is one. `mine` is what read_all gave.
  __device__ void write(float* out, const Peak& mine, float max, float scale, float own) {
    for (int first = 0; first < classes; first += CHUNK * rows) {
#if ONCE
      float factor = scale * shrink(mine.max, max);
#else
      float factor = scale * shrink(read(first).max, max);
#endif
#pragma unroll
      for (int k = 0; k < CHUNK; ++k) {
        int c = first + row + k * rows;
        if (c < classes) out[c * inner] = c == y ? own : factor * kept[k];
      }
    }
  }
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
    Peak mine = scores.read_all();
    Peak peak = over_rows(mine, at.row, at.rows, at.lane, at.lanes);
    float exp_y = shrink(x_y, peak.max);
    if (at.row == 0 && label.y != NO_CLASS) {
      double weight = weight_at(p, position, label.y);
      // exp_y − 1 is exact, and 0 where the label's score is the largest.
      sums.loss += weight * (log1pf(peak.others + (exp_y - 1)) - (x_y - peak.max));
      sums.weight += weight;
      sums.valid += 1;
    }
    if (label.wrong) sums.wrong = fmin(sums.wrong, (double)position);
    if (p.prob && inside) {
      float scale = 1 / (peak.others + exp_y);
      scores.write(p.prob + (scores.x - p.scores), mine, peak.max, scale, scale * exp_y);
    }
  }
  if (!over_grid(sums, zero, p.scratch)) return;
  double normalizer = p.normalizer;
  if (p.normalization == VALID) normalizer = fmax(sums.valid, 1.);
  if (p.normalization == WEIGHT_SUM) normalizer = sums.weight;
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
    // Only of labels that have changed since forward: that one has looked at all of them.
    if (label.wrong && at.row == 0 && atomicExch(&p.scratch->reported, 1u) == 0) report(p, position);
    Scores scores(p, position, label.y, at);
    float x_y = label.y == NO_CLASS ? minus_infinity() : scores.x[label.y * scores.inner];
    Peak mine = scores.read_all();
    Peak peak = over_rows(mine, at.row, at.rows, at.lane, at.lanes);
    if (!inside) continue;
    float* diff = p.scores_diff + (scores.x - p.scores);
    if (label.y == NO_CLASS) {
      for (int c = at.row; c < scores.classes; c += at.rows) diff[c * scores.inner] = 0;
      continue;
    }
    float factor = (float)(scale * weight_at(p, position, label.y)) / (peak.others + shrink(x_y, peak.max));
    scores.write(diff, mine, peak.max, factor, -peak.others * factor);  // p_y − 1 = −others/total
  }
}
