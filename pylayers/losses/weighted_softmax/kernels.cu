// Softmax loss: E = 1/Z · Σ w (log Σ exp(x_j) − x_y) over the positions whose label y counts. The gradient is
// g·w·(p − 1_y)/Z with p = softmax(x), and 0 where the label does not count. Scores x have the shape
// (outer, classes, inner); w = w_y · w_i.
//
// Three numbers are computed in one pass over the scores of a position: the peak, which is the largest; the others,
// Σ exp(x_j − peak) over all classes except y; and the own score x_y. Parts of a position are combined by shrinking
// their sums to the common peak: the online softmax of Milakov and Gimelshein (arXiv 1805.02867).
//
// forward reads each score once:
//   1. Each row reads its share of the scores, CHUNK at a time, and finds their peak, others and own score. The first
//      chunk is on its way before the label is looked at.
//   2. The rows' numbers are combined (reduce_rows).
//   3. The first row adds the position's loss, its weight and its count, notes a wrong label, and keeps the peak and
//      the total, others + exp(x_y − peak), for backward.
//   4. Where prob is wanted, each row reads its share again, unless it has it in registers, and writes prob.
//   5. The sums are combined over all blocks (reduce_grid). One thread finds Z, writes the loss, keeps Z for backward,
//      and reports the first wrong label.
// backward reads each score once:
//   1. Each row reads its share of the scores, and writes that of the gradient, g/Z · w · exp(x − peak) / total. It adds
//      up the others: the label may be another than in forward; neither the peak nor the total depends on it.
//   2. The rows' others are combined (reduce_rows), and the row with the label's class writes the label's own gradient,
//      −g/Z · w · others / total, which keeps its digits where p_y is nearly 1.
//   3. A wrong label that forward has not seen is reported.
//
// CLASSES is the number of classes where it is at most CHUNK and rows is 1, or else 0. A thread then has all scores of a
// position in registers, and backward finds the peak and the total again, which is less work than to read them: nothing
// is kept. Z_CONSTANT, Z_VALID and Z_WEIGHT_SUM are macros from pylayers/losses/labels.py.

const int SCORES = CLASSES ? CLASSES : CHUNK;  // that a thread reads before it waits for one

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
  unsigned int inner_multiplier;
  unsigned int inner_shift;
  long long classes;
  long long per_weight;     // positions that share one weight
  float ignore_label;       // NaN: none
  long long normalization;
  double normalizer;   // Z, with Z_CONSTANT
  long long row_bits;  // a block has 1 << row_bits rows
};

// Instead of a class: the label is to be ignored; it is wrong.
const int IGNORED = -1, WRONG = -2;

__device__ float minus_infinity() { return __int_as_float(0xff800000); }

__device__ Place place_of(const Params& p) { return Place(CLASSES ? 0 : p.row_bits, p.inner); }

// The class that a label names, or one of the above.
__device__ int class_of(const Params& p, float label) {
  bool right = label >= 0 && label < p.classes && label == floorf(label);
  return label == p.ignore_label ? IGNORED : right ? (int)label : WRONG;
}

__device__ double weight_at(const Params& p, Index position, int y) {
  double weight = p.class_weights ? p.class_weights[y] : 1;
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

// The peak, the others and the own score of some classes of one position. The label's own term is left out of the
// others: beside it, often 1, the tiny other terms, which are the loss, would be rounded away.
struct Softmax {
  float peak, others, own;  // own: 0 where the label's class is not among them

  __device__ void add(const Softmax& other) {
    float common = fmaxf(peak, other.peak);
    others = others * shrink(peak, common) + other.others * shrink(other.peak, common);
    own += other.own;
    peak = common;
  }

  // Adds the scores of a chunk, or begins with them; `y` is the place in it of the label's class, which need not be in it.
  template <bool BEGIN>
  __device__ void add(const float (&scores)[SCORES], int y) {
    float before = peak, sum = 0;
    if (BEGIN) peak = scores[0];
#pragma unroll
    for (int k = 0; k < SCORES; ++k) peak = fmaxf(peak, scores[k]);
#pragma unroll
    for (int k = 0; k < SCORES; ++k) {
      float term = shrink(scores[k], peak);
      if (k == y) own = scores[k];
      else sum += term;
    }
    others = BEGIN ? sum : others * shrink(before, peak) + sum;
  }

  // exp(x_y − peak).
  __device__ float exp_own() const { return shrink(own, peak); }
};

// The scores that one thread has of a position: those of the classes row, row + rows, row + 2·rows, ...
struct Share {
  Index first, step;  // where they begin in the blob, and how far they are apart
  int count, whole;   // whole: how many each row has at least

  __device__ Share(const Params& p, const Place& at, Index position) {
    Index inner = p.inner, classes = CLASSES ? CLASSES : p.classes;
    Index outer = divide(position, p.inner, p.inner_multiplier, p.inner_shift);
    first = (outer * classes + at.row) * inner + (position - outer * inner);
    step = inner << at.bits;
    count = CLASSES ? CLASSES : (int)((classes - at.row + at.rows - 1) >> at.bits);
    whole = CLASSES ? CLASSES : (int)(classes >> at.bits);
  }

  // Reads a chunk, from the thread's score number `begin` on.
  __device__ void read(float (&scores)[SCORES], const float* blob, int begin) const {
    ::read(scores, blob, first + begin * step, step, count - begin, whole - begin, minus_infinity());
  }

  // Whether there is another chunk.
  __device__ bool has(int begin) const { return !CLASSES && begin < count; }

  // Writes the softmax of the scores. `scores` has the last chunk that was read, which with CLASSES is all of them.
  __device__ void write_prob(const Params& p, float (&scores)[SCORES], float peak, float scale) const {
    int begin = 0;
    do {
      if (!CLASSES) read(scores, p.scores, begin);
#pragma unroll
      for (int k = 0; k < SCORES; ++k)
        if (begin + k < count) p.prob[first + (begin + k) * step] = scale * shrink(scores[k], peak);
    } while (has(begin += SCORES));
  }

  // Writes the gradient of a chunk's scores, 0 for the label's own, and returns Σ exp(x − peak) over the others.
  __device__ float write_gradient(
      float* diff, const float (&scores)[SCORES], int begin, int y, float peak, float factor, bool counts) const {
    float others = 0;
    Index start = first + begin * step;
#pragma unroll
    for (int k = 0; k < SCORES; ++k) {
      float term = shrink(scores[k], peak);
      if (begin + k == y) term = 0;
      others += term;
      if (begin + k < count) diff[start + k * step] = counts ? factor * term : 0;
    }
    return others;
  }
};

// The place of a class among a thread's scores; below 0 where it is another thread's, or there is no class.
__device__ int place_in_share(int y, const Place& at) { return (y & (at.rows - 1)) == at.row ? y >> at.bits : IGNORED; }

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
  Place at = place_of(p);
  Index positions = p.positions;
  const Sums zero = {0, 0, 0, -(double)minus_infinity()};
  Sums sums = zero;
  for (Index tile = at.first_tile(); tile < positions; tile += at.next_tile()) {
    bool inside = tile + at.lane < positions;
    Index position = inside ? tile + at.lane : positions - 1;  // lanes past the end repeat the last position
    Share share(p, at, position);
    float label = p.label[position], scores[SCORES];
    share.read(scores, p.scores, 0);
    int y = class_of(p, label), place = place_in_share(y, at);
    Softmax all = {0, 0, 0};
    all.add<true>(scores, place);
    for (int begin = SCORES; share.has(begin); begin += SCORES) {
      share.read(scores, p.scores, begin);
      all.add<false>(scores, place - begin);
    }
    all = reduce_rows(all, at.row, at.rows, at.lane, at.lanes);
    float exp_own = y >= 0 ? all.exp_own() : 0, total = all.others + exp_own;
    if (at.row == 0 && !CLASSES) {
      p.kept[2 * position] = all.peak;
      p.kept[2 * position + 1] = total;
    }
    if (at.row == 0 && inside && y >= 0) {
      double weight = weight_at(p, position, y);
      // exp_own − 1 is exact, and 0 where the label's score is the largest.
      sums.loss += weight * (log1pf(all.others + (exp_own - 1)) - (all.own - all.peak));
      sums.weight += weight;
      sums.valid += 1;
    }
    if (y == WRONG) sums.wrong = fmin(sums.wrong, (double)position);
    if (p.prob) share.write_prob(p, scores, all.peak, 1 / total);
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
  Place at = place_of(p);
  Index positions = p.positions;
  double scale = scale_of(p.loss_weight, p.scratch->normalizer);
  for (Index tile = at.first_tile(); tile < positions; tile += at.next_tile()) {
    Index position = min(tile + at.lane, positions - 1);  // as in forward
    Share share(p, at, position);
    float label = p.label[position], scores[SCORES];
    share.read(scores, p.scores, 0);
    float peak = CLASSES ? 0 : p.kept[2 * position], total = CLASSES ? 0 : p.kept[2 * position + 1];
    int y = class_of(p, label), place = place_in_share(y, at);
    // Forward has checked all labels, so this one has changed since.
    if (y == WRONG && at.row == 0 && atomicExch(&p.scratch->reported, 1u) == 0) report(p, position);
    if (CLASSES) {
      Softmax all = {0, 0, 0};
      all.add<true>(scores, place);
      peak = all.peak;
      total = all.others + all.exp_own();
    }
    float factor = y >= 0 ? (float)(scale * weight_at(p, position, y)) / total : 0;
    Total<float> others = {share.write_gradient(p.scores_diff, scores, 0, place, peak, factor, y >= 0)};
    for (int begin = SCORES; share.has(begin); begin += SCORES) {
      share.read(scores, p.scores, begin);
      others.value += share.write_gradient(p.scores_diff, scores, begin, place, peak, factor, y >= 0);
    }
    others = reduce_rows(others, at.row, at.rows, at.lane, at.lanes);
    if (place >= 0) p.scores_diff[share.first + place * share.step] = -others.value * factor;  // p_y − 1
  }
}
