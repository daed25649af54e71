// Body of softmax.cpp, compiled once per instruction set.
namespace stor::STOR_ISA {

// One exponential serves a row and a column if their references lie this close: what it then loses
// to underflow is below exp(-80 + kMaxSpread) of the sum.
constexpr double kMaxSpread = 60;

// exp(x) for x up to 88; 0 below -87, where the result would be subnormal; NaN for NaN.
//
// x = n ln 2 + r with integer n, |r| <= ln 2 / 2; a polynomial of degree 6 for exp(r), within 1
// ulp; 2^n by its exponent bits. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low
// bits.
inline __attribute__((always_inline)) Vector<float> exponential(Vector<float> x) {
  const Vector<float> magic = broadcast(12582912.0f);
  const auto underflow = x < -87.0f;
  x = underflow ? broadcast(-87.0f) : x;
  x = x > 88.0f ? broadcast(88.0f) : x;
  const Vector<float> shifted = multiply_add(x, broadcast(1.44269504f), magic);
  const Vector<float> n = shifted - magic;
  Vector<float> r = multiply_add(n, broadcast(-0.693359375f), x);
  r = multiply_add(n, broadcast(2.12194440e-4f), r);
  Vector<float> p = broadcast(1.0f / 720);
  p = multiply_add(p, r, broadcast(1.0f / 120));
  p = multiply_add(p, r, broadcast(1.0f / 24));
  p = multiply_add(p, r, broadcast(1.0f / 6));
  p = multiply_add(p, r, broadcast(0.5f));
  p = multiply_add(p, r, broadcast(1.0f));
  p = multiply_add(p, r, broadcast(1.0f));
  Vector<int32_t> bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + 0x3f800000;
  Vector<float> power;
  std::memcpy(&power, &bits, sizeof(power));
  return underflow ? Vector<float>{} : p * power;
}

// For gradient checks, where speed does not matter.
inline Vector<double> exponential(Vector<double> x) {
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) x[lane] = std::exp(x[lane]);
  return x;
}

template <typename Scalar>
inline __attribute__((always_inline)) Vector<Scalar> larger(Vector<Scalar> a, Vector<Scalar> b) {
  return a > b ? a : b;
}

template <typename Scalar>
inline Scalar largest(Vector<Scalar> vector) {
  Scalar result = vector[0];
  for (int64_t lane = 1; lane < kLanes<Scalar>; ++lane) result = std::max(result, vector[lane]);
  return result;
}

template <typename Scalar>
inline Scalar total(Vector<Scalar> vector) {
  Scalar result = vector[0];
  for (int64_t lane = 1; lane < kLanes<Scalar>; ++lane) result += vector[lane];
  return result;
}

inline int64_t padded(int64_t columns) { return (columns + kPadding - 1) / kPadding * kPadding; }

template <typename Scalar>
constexpr Scalar kInfinity = std::numeric_limits<Scalar>::infinity();

// A reference that can be subtracted from -infinity.
template <typename Scalar>
inline Scalar finite_reference(Scalar max) {
  return max == -kInfinity<Scalar> ? Scalar(0) : max;
}

template <typename Scalar>
void sum_rows(const Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
              ExpSums<Scalar>& of_rows) {
  constexpr int64_t kStep = kLanes<Scalar>;
  const int64_t end = padded(columns);
  const Vector<Scalar> factor = broadcast(scale);
  for (int64_t i = 0; i < rows; ++i) {
    const Scalar* const row = tile + i * kTileStride;
    Vector<Scalar> max = broadcast(-kInfinity<Scalar>);
    for (int64_t j = 0; j < end; j += kStep) max = larger<Scalar>(load(row + j), max);
    of_rows.max[i] = largest<Scalar>(max) * scale;
    const Vector<Scalar> reference = broadcast(finite_reference(of_rows.max[i]));
    Vector<Scalar> sum{};
    for (int64_t j = 0; j < end; j += kStep) {
      sum += exponential(load(row + j) * factor - reference);
    }
    of_rows.sum[i] = total<Scalar>(sum);
  }
}

template <typename Scalar>
void sum_columns(const Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                 ExpSums<Scalar>& of_columns) {
  constexpr int64_t kStep = kLanes<Scalar>;
  const Vector<Scalar> factor = broadcast(scale);
  for (int64_t j = 0; j < padded(columns); j += kStep) {
    Vector<Scalar> reference;
    for (int64_t lane = 0; lane < kStep; ++lane) {
      reference[lane] = finite_reference(of_columns.max[j + lane]);
    }
    Vector<Scalar> sum{};
    for (int64_t i = 0; i < rows; ++i) {
      sum += exponential(load(tile + i * kTileStride + j) * factor - reference);
    }
    store(of_columns.sum + j, sum);
  }
}

template <typename Scalar>
void sum_rows_and_columns(const Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                          ExpSums<Scalar>& of_rows, ExpSums<Scalar>& of_columns) {
  constexpr int64_t kStep = kLanes<Scalar>;
  const int64_t end = padded(columns);
  const Vector<Scalar> factor = broadcast(scale);
  std::fill(of_columns.max, of_columns.max + end, -kInfinity<Scalar>);
  for (int64_t i = 0; i < rows; ++i) {
    Vector<Scalar> max = broadcast(-kInfinity<Scalar>);
    for (int64_t j = 0; j < end; j += kStep) {
      const Vector<Scalar> logits = load(tile + i * kTileStride + j);
      max = larger<Scalar>(logits, max);
      store(of_columns.max + j, larger<Scalar>(logits, load(of_columns.max + j)));
    }
    of_rows.max[i] = largest<Scalar>(max) * scale;
  }
  for (int64_t j = 0; j < end; ++j) of_columns.max[j] *= scale;
  const auto [low_row, high_row] = std::minmax_element(of_rows.max, of_rows.max + rows);
  const Scalar low =
      std::min(*low_row, *std::min_element(of_columns.max, of_columns.max + columns));
  const Scalar high = *high_row;
  if (!(high - low <= Scalar(kMaxSpread))) {  // also where the difference is NaN
    sum_rows(tile, rows, columns, scale, of_rows);
    sum_columns(tile, rows, columns, scale, of_columns);
    return;
  }
  const Vector<Scalar> reference = broadcast(high);
  std::fill(of_rows.max, of_rows.max + rows, high);
  std::fill(of_columns.max, of_columns.max + end, high);
  std::fill(of_columns.sum, of_columns.sum + end, Scalar(0));
  for (int64_t i = 0; i < rows; ++i) {
    Vector<Scalar> sum{};
    for (int64_t j = 0; j < end; j += kStep) {
      const Vector<Scalar> value =
          exponential(load(tile + i * kTileStride + j) * factor - reference);
      sum += value;
      store(of_columns.sum + j, load(of_columns.sum + j) + value);
    }
    of_rows.sum[i] = total<Scalar>(sum);
  }
}

template <typename Scalar>
void differentiate_rows(Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                        const SoftmaxGradient<Scalar>& of_rows) {
  const int64_t end = padded(columns);
  for (int64_t i = 0; i < rows; ++i) {
    Scalar* const row = tile + i * kTileStride;
    const Scalar factor = of_rows.factor[i];
    if (factor == 0) {
      std::fill(row, row + end, Scalar(0));
      continue;
    }
    const Vector<Scalar> reference = broadcast(of_rows.lse[i]);
    for (int64_t j = 0; j < end; j += kLanes<Scalar>) {
      store(row + j, factor * exponential(load(row + j) * scale - reference));
    }
  }
}

// Row and column apart, where no common reference spans both.
template <typename Scalar>
void differentiate_apart(Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                         const SoftmaxGradient<Scalar>& of_rows,
                         const SoftmaxGradient<Scalar>& of_columns) {
  constexpr int64_t kStep = kLanes<Scalar>;
  for (int64_t i = 0; i < rows; ++i) {
    Scalar* const row = tile + i * kTileStride;
    const Scalar factor = of_rows.factor[i];
    for (int64_t j = 0; j < padded(columns); j += kStep) {
      const Vector<Scalar> logits = load(row + j) * scale;
      const Vector<Scalar> column_factor = load(of_columns.factor + j);
      Vector<Scalar> gradient{};
      if (factor != 0) gradient = factor * exponential(logits - of_rows.lse[i]);
      const Vector<Scalar> other = column_factor * exponential(logits - load(of_columns.lse + j));
      gradient += column_factor == Scalar(0) ? Vector<Scalar>{} : other;
      store(row + j, gradient);
    }
  }
}

template <typename Scalar>
void differentiate_rows_and_columns(Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                                    const SoftmaxGradient<Scalar>& of_rows,
                                    const SoftmaxGradient<Scalar>& of_columns) {
  constexpr int64_t kStep = kLanes<Scalar>;
  const int64_t end = padded(columns);
  Scalar low = kInfinity<Scalar>, high = -kInfinity<Scalar>;
  const auto widen = [&](const SoftmaxGradient<Scalar>& side, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      if (side.factor[i] == 0) continue;
      low = std::min(low, side.lse[i]);
      // Not std::max: a NaN has to end up in `high`.
      if (!(side.lse[i] <= high)) high = side.lse[i];
    }
  };
  widen(of_rows, rows);
  widen(of_columns, columns);
  if (low > high) {  // nothing flows back
    for (int64_t i = 0; i < rows; ++i) {
      std::fill(tile + i * kTileStride, tile + i * kTileStride + end, Scalar(0));
    }
    return;
  }
  if (!(high - low <= Scalar(kMaxSpread))) {
    differentiate_apart(tile, rows, columns, scale, of_rows, of_columns);
    return;
  }
  // f_i exp(s - lse_i) + f_j exp(s - lse_j) = exp(s - low) (f_i exp(low - lse_i) + f_j exp(low -
  // lse_j))
  const auto weight_of = [low](const SoftmaxGradient<Scalar>& side, int64_t i) {
    return side.factor[i] == 0 ? Scalar(0) : side.factor[i] * std::exp(low - side.lse[i]);
  };
  Scalar column_weight[kMaxBlock];
  for (int64_t j = 0; j < end; ++j) {
    column_weight[j] = j < columns ? weight_of(of_columns, j) : Scalar(0);
  }
  const Vector<Scalar> reference = broadcast(low);
  for (int64_t i = 0; i < rows; ++i) {
    Scalar* const row = tile + i * kTileStride;
    const Vector<Scalar> row_weight = broadcast(weight_of(of_rows, i));
    for (int64_t j = 0; j < end; j += kStep) {
      const Vector<Scalar> value = exponential(load(row + j) * scale - reference);
      store(row + j, value * (row_weight + load(column_weight + j)));
    }
  }
}

template <typename Scalar>
constexpr TileFunctions<Scalar> kTileFunctions{&sum_rows<Scalar>, &sum_rows_and_columns<Scalar>,
                                               &differentiate_rows<Scalar>,
                                               &differentiate_rows_and_columns<Scalar>};

}  // namespace stor::STOR_ISA
