// The body of the row kernels, included once per instruction set with SCALEBITS_ISA naming its namespace. It includes
// no standard header: an inline function compiled here with wide instructions could be the one the linker keeps for
// all.
#include "core/inline.h"
#include "graph/row_kernels.h"

namespace scalebits::SCALEBITS_ISA {
namespace {

constexpr std::int64_t kLanes = 8;  // as in core/lanes.h, for the same reason
using Floats = float __attribute__((vector_size(kLanes * 4)));
using Ints = std::int32_t __attribute__((vector_size(kLanes * 4)));
using Words = std::uint32_t __attribute__((vector_size(kLanes * 4)));
using Halves = std::uint16_t __attribute__((vector_size(kLanes * 2)));

SCALEBITS_INLINE Floats all(float value) { return Floats{} + value; }

SCALEBITS_INLINE Floats widen(Halves halves) {
  return reinterpret_cast<Floats>(__builtin_convertvector(halves, Words) << 16);
}
SCALEBITS_INLINE Halves narrow(Floats values) {
  Words bits = reinterpret_cast<Words>(values);
  bits += 0x7fffu + ((bits >> 16) & 1u);  // round to nearest even
  return __builtin_convertvector(bits >> 16, Halves);
}

// How many lanes a step handles: all of them, known to the compiler, or a row's tail. They are types because a loop in
// which a tail were possible would keep no constant in a register.
struct Whole {};
struct Tail {
  std::int64_t lanes;
};

/// step(i, Whole) for each whole vector of a row, then step(i, Tail) for the rest.
template <typename Step>
SCALEBITS_INLINE void for_vectors(std::int64_t width, Step step) {
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) step(i, Whole{});
  if (i < width) step(i, Tail{width - i});
}

// In a tail, missing lanes are read as zero and not written.
SCALEBITS_INLINE Floats load(const float* from, Whole) {
  Floats values;
  __builtin_memcpy(&values, from, sizeof values);
  return values;
}
SCALEBITS_INLINE Floats load(const float* from, Tail tail) {
  Floats values = {};
  for (std::int64_t i = 0; i < tail.lanes; ++i) values[i] = from[i];
  return values;
}
SCALEBITS_INLINE Floats load(const Bf16* from, Whole) {
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return widen(halves);
}
SCALEBITS_INLINE Floats load(const Bf16* from, Tail tail) {
  Halves halves = {};
  for (std::int64_t i = 0; i < tail.lanes; ++i) halves[i] = from[i].bits;
  return widen(halves);
}
SCALEBITS_INLINE void store(float* to, Floats values, Whole) { __builtin_memcpy(to, &values, sizeof values); }
SCALEBITS_INLINE void store(float* to, Floats values, Tail tail) {
  for (std::int64_t i = 0; i < tail.lanes; ++i) to[i] = values[i];
}
SCALEBITS_INLINE void store(Bf16* to, Floats values, Whole) {
  const Halves halves = narrow(values);
  __builtin_memcpy(to, &halves, sizeof halves);
}
SCALEBITS_INLINE void store(Bf16* to, Floats values, Tail tail) {
  const Halves halves = narrow(values);
  for (std::int64_t i = 0; i < tail.lanes; ++i) to[i].bits = halves[i];
}
/// Sets the lanes that a tail does not have to zero.
SCALEBITS_INLINE Floats only(Floats values, Whole) { return values; }
SCALEBITS_INLINE Floats only(Floats values, Tail tail) {
  for (std::int64_t lane = tail.lanes; lane < kLanes; ++lane) values[lane] = 0;
  return values;
}

SCALEBITS_INLINE float sum_of(Floats values) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += values[i];
  return sum;
}

SCALEBITS_INLINE Floats select(Ints mask, Floats yes, Floats no) {
  return reinterpret_cast<Floats>((reinterpret_cast<Ints>(yes) & mask) | (reinterpret_cast<Ints>(no) & ~mask));
}

/// e^x within 2 units in the last place for -87 <= x <= 88, clamped outside; NaN stays NaN.
SCALEBITS_INLINE Floats exp(Floats x) {
  x = select(x < -87.0f, all(-87.0f), x);
  x = select(x > 88.0f, all(88.0f), x);
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Floats shifted = x * 1.44269504f + kRound;
  const Floats power = shifted - kRound;
  Floats r = x - power * 0.693359375f;
  r = r + power * 2.12194440e-4f;
  Floats poly = all(1.9875691500e-4f);
  poly = poly * r + 1.3981999507e-3f;
  poly = poly * r + 8.3334519073e-3f;
  poly = poly * r + 4.1665795894e-2f;
  poly = poly * r + 1.6666665459e-1f;
  poly = poly * r + 5.0000001201e-1f;
  const Floats mantissa = poly * r * r + r + 1.0f;
  const Ints exponent = (reinterpret_cast<Ints>(shifted) - 0x4b400000 + 127) << 23;
  return mantissa * reinterpret_cast<Floats>(exponent);
}

SCALEBITS_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

/// Long sums: lanes of f32, emptied into f64 before they grow inexact.
class LongSum {
 public:
  SCALEBITS_INLINE void add(Floats values) {
    lanes_ += values;
    if (++pending_ == 64) flush();
  }
  SCALEBITS_INLINE double total() {
    flush();
    return total_;
  }

 private:
  SCALEBITS_INLINE void flush() {
    for (int i = 0; i < kLanes; ++i) total_ += lanes_[i];
    lanes_ = Floats{};
    pending_ = 0;
  }
  Floats lanes_ = {};
  double total_ = 0;
  int pending_ = 0;
};

template <typename X>
SCALEBITS_INLINE float inverse_rms(const X* x, float eps, std::int64_t width) {
  Floats squares = {};
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    const Floats v = load(x + i, lanes);
    squares += v * v;
  });
  return 1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(width) + eps);
}

template <typename X, typename T>
SCALEBITS_INLINE void norm(const X* x, const float* weight, float eps, std::int64_t width, T* out) {
  const float scale = inverse_rms(x, eps, width);
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    store(out + i, load(x + i, lanes) * scale * load(weight + i, lanes), lanes);
  });
}

template <typename T>
void sum(const float* x, const T* delta, std::int64_t count, float* out) {
  for_vectors(count,
              [&](std::int64_t i, auto lanes) { store(out + i, load(x + i, lanes) + load(delta + i, lanes), lanes); });
}

template <typename T>
void add_norm(const float* x, const T* delta, const float* weight, float eps, std::int64_t width, float* total,
              T* out) {
  if (delta) {
    sum(x, delta, width, total);
    x = total;
  }
  norm(x, weight, eps, width, out);
}

/// d(norm) = scale * (w dout - x scale^2 mean(w dout x)); the two factors of the formula.
struct NormBackward {
  float scale, along;
};
template <typename X, typename T>
SCALEBITS_INLINE NormBackward norm_backward_factors(const T* dout, const X* x, const float* weight, float eps,
                                                    std::int64_t width) {
  const float scale = inverse_rms(x, eps, width);
  Floats dot = {};
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    dot += load(dout + i, lanes) * load(weight + i, lanes) * load(x + i, lanes);
  });
  return {scale, scale * scale * scale * sum_of(dot) / static_cast<float>(width)};
}

/// dx = updated(i) for each vector i, dx_rounded (unless null) the same.
template <typename Updated, typename T>
SCALEBITS_INLINE void store_updated(const Updated& updated, std::int64_t width, float* dx, T* dx_rounded) {
  if (!dx_rounded)
    return for_vectors(width, [&](std::int64_t i, auto lanes) { store(dx + i, updated(i, lanes), lanes); });
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    const Floats value = updated(i, lanes);
    store(dx + i, value, lanes);
    store(dx_rounded + i, value, lanes);
  });
}

template <typename T>
void norm_backward(const T* dout, const float* x, const float* weight, float eps, std::int64_t width, float* dx,
                   T* dx_rounded) {
  const NormBackward factors = norm_backward_factors(dout, x, weight, eps, width);
  const auto updated = [&](std::int64_t i, auto lanes) {
    return load(dx + i, lanes) + load(dout + i, lanes) * load(weight + i, lanes) * factors.scale -
           load(x + i, lanes) * factors.along;
  };
  store_updated(updated, width, dx, dx_rounded);
}

struct Moments {
  float mean, scale;  // scale: 1 / deviation
};
SCALEBITS_INLINE Moments moments_of(const float* x, float eps, std::int64_t width) {
  Floats values = {}, squares = {};
  for_vectors(width, [&](std::int64_t i, auto lanes) { values += load(x + i, lanes); });
  const float mean = sum_of(values) / static_cast<float>(width);
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    const Floats v = only(load(x + i, lanes) - mean, lanes);
    squares += v * v;
  });
  return {mean, 1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(width) + eps)};
}

template <typename T>
void add_layer_norm(const float* x, const T* delta, const float* weight, const float* bias, float eps,
                    std::int64_t width, float* total, T* out) {
  if (delta) {
    sum(x, delta, width, total);
    x = total;
  }
  const Moments moments = moments_of(x, eps, width);
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    const Floats normed = (load(x + i, lanes) - moments.mean) * moments.scale;
    store(out + i, normed * load(weight + i, lanes) + load(bias + i, lanes), lanes);
  });
}

/// With g = w dout and n = (x - mean) scale: d(norm) = scale * (g - mean(g) - n mean(g n)).
template <typename T>
void layer_norm_backward(const T* dout, const float* x, const float* weight, float eps, std::int64_t width, float* dx,
                         T* dx_rounded) {
  const Moments moments = moments_of(x, eps, width);
  Floats slopes = {}, dot = {};
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    const Floats slope = load(dout + i, lanes) * load(weight + i, lanes);
    slopes += slope;
    dot += slope * (load(x + i, lanes) - moments.mean);
  });
  const float scale = moments.scale, mean_slope = sum_of(slopes) / static_cast<float>(width);
  const float along = scale * scale * scale * sum_of(dot) / static_cast<float>(width);
  const auto updated = [&](std::int64_t i, auto lanes) {
    const Floats slope = load(dout + i, lanes) * load(weight + i, lanes);
    return load(dx + i, lanes) + (slope - mean_slope) * scale - (load(x + i, lanes) - moments.mean) * along;
  };
  store_updated(updated, width, dx, dx_rounded);
}

template <typename T>
void head_norm(const T* x, const float* weight, float eps, std::int64_t width, T* out) {
  norm(x, weight, eps, width, out);
}

template <typename T>
void head_norm_backward(const T* dout, const T* x, const float* weight, float eps, std::int64_t width, T* dx) {
  const NormBackward factors = norm_backward_factors(dout, x, weight, eps, width);
  for_vectors(width, [&](std::int64_t i, auto lanes) {
    store(dx + i, load(dout + i, lanes) * load(weight + i, lanes) * factors.scale - load(x + i, lanes) * factors.along,
          lanes);
  });
}

template <typename T>
void rotate(T* row, std::int64_t heads, std::int64_t head_dim, const float* cosines, const float* sines, float sign) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t head = 0; head < heads; ++head, row += head_dim) {
    for_vectors(half, [&](std::int64_t i, auto lanes) {
      const Floats cosine = load(cosines + i, lanes), sine = load(sines + i, lanes) * sign;
      const Floats low = load(row + i, lanes), high = load(row + half + i, lanes);
      store(row + i, low * cosine - high * sine, lanes);
      store(row + half + i, high * cosine + low * sine, lanes);
    });
  }
}

template <typename T>
void add_bias(T* row, const float* bias, std::int64_t width) {
  for_vectors(width,
              [&](std::int64_t i, auto lanes) { store(row + i, load(row + i, lanes) + load(bias + i, lanes), lanes); });
}

template <typename T>
void swiglu(const T* gate, const T* up, std::int64_t count, T* product) {
  for_vectors(count, [&](std::int64_t i, auto lanes) {
    const Floats g = load(gate + i, lanes);
    store(product + i, g * sigmoid(g) * load(up + i, lanes), lanes);
  });
}

template <typename T>
void swiglu_backward(T* gate, T* up, T* product, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto lanes) {
    const Floats g = load(gate + i, lanes), u = load(up + i, lanes), d = load(product + i, lanes);
    const Floats s = sigmoid(g);
    const Floats silu = g * s;
    store(gate + i, d * u * (s + silu * (1.0f - s)), lanes);
    store(up + i, d * silu, lanes);
    store(product + i, silu * u, lanes);
  });
}

/// NaN stays NaN.
SCALEBITS_INLINE Floats positive_part(Floats x) { return select(x < 0.0f, Floats{}, x); }

template <typename T>
void relu(const T* x, std::int64_t count, T* out) {
  for_vectors(count, [&](std::int64_t i, auto lanes) { store(out + i, positive_part(load(x + i, lanes)), lanes); });
}

template <typename T>
void relu_backward(T* x, T* out, std::int64_t count) {
  for_vectors(count, [&](std::int64_t i, auto lanes) {
    const Floats v = load(x + i, lanes), d = load(out + i, lanes);
    store(x + i, select(v > 0.0f, d, Floats{}), lanes);
    store(out + i, positive_part(v), lanes);
  });
}

SCALEBITS_INLINE float maximum(const float* values, std::int64_t count) {
  Floats even = all(values[0]), odd = even;
  std::int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Floats a = load(values + i, Whole{}), b = load(values + i + kLanes, Whole{});
    even = select(a > even, a, even);
    odd = select(b > odd, b, odd);
  }
  even = select(odd > even, odd, even);
  float best = values[0];
  for (int lane = 0; lane < kLanes; ++lane) best = even[lane] > best ? even[lane] : best;
  for (; i < count; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

SCALEBITS_INLINE std::int64_t first_of(const float* values, std::int64_t count, float wanted) {
  std::int64_t i = 0;
  while (i < count && values[i] != wanted) ++i;
  return i;
}

SCALEBITS_INLINE float log_sum_exp(const float* logits, std::int64_t vocab, float top) {
  LongSum sum_of_exp;
  for_vectors(vocab,
              [&](std::int64_t i, auto lanes) { sum_of_exp.add(only(exp(load(logits + i, lanes) - top), lanes)); });
  return static_cast<float>(top + __builtin_log(sum_of_exp.total()));
}

template <typename T>
double nll(const float* logits, std::int64_t vocab, std::int64_t target, float scale, T* gradient) {
  const float log_sum = log_sum_exp(logits, vocab, maximum(logits, vocab));
  const float at_target = logits[target];
  if (gradient) {
    for_vectors(vocab, [&](std::int64_t i, auto lanes) {
      store(gradient + i, exp(load(logits + i, lanes) - log_sum) * scale, lanes);
    });
    store(gradient + target, (exp(all(at_target - log_sum)) - 1.0f) * scale, Tail{1});
  }
  return static_cast<double>(log_sum) - at_target;
}

template <typename T>
double kl(const float* logits, const float* reference, std::int64_t vocab, float scale, T* gradient, bool* same_top) {
  const float top = maximum(logits, vocab), reference_top = maximum(reference, vocab);
  *same_top = first_of(logits, vocab, top) == first_of(reference, vocab, reference_top);
  const float log_sum = log_sum_exp(logits, vocab, top);
  const float reference_log_sum = log_sum_exp(reference, vocab, reference_top);
  LongSum divergence;
  const auto add_up = [&](Floats log_p, Floats p, Floats log_q, auto lanes) {
    divergence.add(only(p * (log_p - log_q), lanes));
  };
  if (!gradient) {
    for_vectors(vocab, [&](std::int64_t i, auto lanes) {
      const Floats log_p = load(reference + i, lanes) - reference_log_sum;
      add_up(log_p, exp(log_p), load(logits + i, lanes) - log_sum, lanes);
    });
    return divergence.total();
  }
  for_vectors(vocab, [&](std::int64_t i, auto lanes) {
    const Floats log_p = load(reference + i, lanes) - reference_log_sum, log_q = load(logits + i, lanes) - log_sum;
    const Floats p = exp(log_p);
    add_up(log_p, p, log_q, lanes);
    store(gradient + i, (exp(log_q) - p) * scale, lanes);
  });
  return divergence.total();
}

template <typename T>
SCALEBITS_INLINE void fill_zero(T* row, std::int64_t begin, std::int64_t end) {
  for_vectors(end - begin, [&](std::int64_t i, auto lanes) { store(row + begin + i, Floats{}, lanes); });
}

template <typename T>
float softmax(float* scores, std::int64_t begin, std::int64_t end, std::int64_t width, T* weights) {
  const float top = maximum(scores + begin, end - begin);
  Floats sums = {};
  for_vectors(end - begin, [&](std::int64_t i, auto lanes) {
    const Floats e = exp(load(scores + begin + i, lanes) - top);
    sums += only(e, lanes);
    store(scores + begin + i, e, lanes);
  });
  const float total = sum_of(sums);
  const float inverse = 1.0f / total;
  for_vectors(end - begin, [&](std::int64_t i, auto lanes) {
    store(weights + begin + i, load(scores + begin + i, lanes) * inverse, lanes);
  });
  fill_zero(weights, 0, begin);
  fill_zero(weights, end, width);
  return top + static_cast<float>(__builtin_log(total));
}

template <typename T>
void softmax_backward(const float* scores, const float* d_weights, std::int64_t begin, std::int64_t end,
                      std::int64_t width, float log_sum, float shift, T* weights, T* d_scores) {
  for_vectors(end - begin, [&](std::int64_t i, auto lanes) {
    const Floats weight = exp(load(scores + begin + i, lanes) - log_sum);
    const Floats d_score = weight * (load(d_weights + begin + i, lanes) - shift);
    store(weights + begin + i, weight, lanes);
    store(d_scores + begin + i, d_score, lanes);
  });
  fill_zero(weights, 0, begin);
  fill_zero(weights, end, width);
  fill_zero(d_scores, 0, begin);
  fill_zero(d_scores, end, width);
}

template <typename T>
float dot(const T* a, const T* b, std::int64_t count) {
  Floats products = {};
  for_vectors(count, [&](std::int64_t i, auto lanes) { products += load(a + i, lanes) * load(b + i, lanes); });
  return sum_of(products);
}

template <typename T>
void from_f32(const float* in, std::int64_t count, T* out) {
  for_vectors(count, [&](std::int64_t i, auto lanes) { store(out + i, load(in + i, lanes), lanes); });
}

template <typename T>
void to_f32(const T* in, std::int64_t count, float* out) {
  for_vectors(count, [&](std::int64_t i, auto lanes) { store(out + i, load(in + i, lanes), lanes); });
}

}  // namespace

template <typename T>
RowKernels<T> table() {
  return {add_norm<T>,
          norm_backward<T>,
          add_layer_norm<T>,
          layer_norm_backward<T>,
          head_norm<T>,
          head_norm_backward<T>,
          rotate<T>,
          add_bias<T>,
          swiglu<T>,
          swiglu_backward<T>,
          relu<T>,
          relu_backward<T>,
          nll<T>,
          kl<T>,
          softmax<T>,
          softmax_backward<T>,
          dot<T>,
          from_f32<T>,
          to_f32<T>,
          sum<T>};
}
template RowKernels<float> table<float>();
template RowKernels<Bf16> table<Bf16>();

}  // namespace scalebits::SCALEBITS_ISA
