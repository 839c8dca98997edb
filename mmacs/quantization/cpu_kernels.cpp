// Fake-quant and LSQ's gradients in one pass over memory; see cpu_kernels.py. No header of torch: it compiles at once.
//
// Arguments: n rows of k values with a step each, levels from low to high. Arithmetic is that of torch in float32, bit
// for bit but for the order of sums, which depends on the processor and not on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr int64_t BLOCK = 1 << 10;  // values that are summed in float32; sums of blocks in float64
constexpr int64_t FOR_ONE_THREAD = 1 << 15;  // values that are not worth a second thread, as torch has it

struct bfloat16 {
  uint16_t bits;
};

inline float load(float value) { return value; }

inline float load(bfloat16 value) {
  const uint32_t wide = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &wide, sizeof result);
  return result;
}

inline void store(float value, float *to) { *to = value; }

inline void store(float value, bfloat16 *to) {  // to the nearest, half to even
  uint32_t wide;
  std::memcpy(&wide, &value, sizeof wide);
  to->bits = value != value ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16;
}

inline float level(float units, float low, float high) {  // NaN stays
  const float rounded = std::nearbyint(units);
  const float raised = rounded < low ? low : rounded;
  return raised > high ? high : raised;
}

// Sums what run(row, first value, number of values) returns for the blocks of each row.
template <typename Run>
std::vector<double> sum_rows(int64_t n, int64_t k, int threads, Run run) {
  const int64_t each = (k + BLOCK - 1) / BLOCK, blocks = n * each;
  std::vector<float> parts(blocks);
#pragma omp parallel for num_threads(threads) if (threads > 1 && n * k > FOR_ONE_THREAD)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = block / each, first = block % each * BLOCK, rest = k - first;
    parts[block] = run(row, row * k + first, rest < BLOCK ? rest : BLOCK);
  }
  std::vector<double> sums(n);
  for (int64_t block = 0; block < blocks; ++block) sums[block / each] += parts[block];
  return sums;
}

// y = step * level(x / step); returns the sum of x
template <typename T>
double quantize(const T *x, T *y, const float *steps, int64_t n, int64_t k, float low, float high, int threads) {
  const auto sums = sum_rows(n, k, threads, [=](int64_t row, int64_t first, int64_t size) {
    const float step = steps[row], inverse = 1 / step;
    const T *from = x + first;
    T *to = y + first;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) {
      const float value = load(from[i]);
      sum += value;
      store(level(value * inverse, low, high) * step, to + i);
    }
    return sum;
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// grad_x = grad inside of the range, else 0; grad_steps = sums of grad * (level(x / step) - (x / step inside, else 0))
template <typename T>
void lsq_gradients(const T *grad, const T *x, T *grad_x, const float *steps, int64_t n, int64_t k, float low,
                   float high, int threads, float *grad_steps) {
  const auto sums = sum_rows(n, k, threads, [=](int64_t row, int64_t first, int64_t size) {
    const float inverse = 1 / steps[row];
    const T *from = x + first, *given = grad + first;
    T *to = grad_x + first;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) {
      const float units = load(from[i]) * inverse, slope = load(given[i]);
      const bool outside = (units <= low) | (units >= high);
      store(outside ? 0 : slope, to + i);
      sum += slope * (level(units, low, high) - (outside ? 0 : units));
    }
    return sum;
  });
  std::copy(sums.begin(), sums.end(), grad_steps);
}

}  // namespace

#define EXPORT(T)                                                                                                     \
  extern "C" double quantize_##T(const T *x, T *y, const float *steps, int64_t n, int64_t k, float low, float high,   \
                                 int threads) {                                                                       \
    return quantize(x, y, steps, n, k, low, high, threads);                                                           \
  }                                                                                                                   \
  extern "C" void lsq_gradients_##T(const T *grad, const T *x, T *grad_x, const float *steps, int64_t n, int64_t k,   \
                                    float low, float high, int threads, float *grad_steps) {                          \
    lsq_gradients(grad, x, grad_x, steps, n, k, low, high, threads, grad_steps);                                      \
  }
using float32 = float;
EXPORT(float32)
EXPORT(bfloat16)
