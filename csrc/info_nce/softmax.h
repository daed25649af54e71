// The softmax arithmetic on one tile of logits, vectorised; see softmax.inl.
//
// A tile is row-major with kTileStride columns, of which the first `columns`, rounded up to
// kPadding, are read: the caller fills what it adds with -infinity. Logits are unscaled dot
// products; `scale` is 1 / temperature.
#pragma once

#include <cstdint>

#include "../common/isa.h"

namespace stor {

constexpr int64_t kMaxBlock =
    256;  // rows and columns of a tile: 256 KiB of floats, half an L2 cache
constexpr int64_t kTileStride = kMaxBlock;
constexpr int64_t kPadding = 16;  // lanes of the widest vector

// sum[i] of exp(scale * logit - max[i]), per row or per column.
template <typename Scalar>
struct ExpSums {
  Scalar max[kMaxBlock];
  Scalar sum[kMaxBlock];
};

// What flows back into the logits of a row or a column: factor * exp(scale * logit - lse).
// A factor of 0 adds nothing, whatever lse is.
template <typename Scalar>
struct SoftmaxGradient {
  Scalar lse[kMaxBlock];
  Scalar factor[kMaxBlock];
};

template <typename Scalar>
struct TileFunctions {
  // The exponentials of every row.
  void (*sum_rows)(const Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                   ExpSums<Scalar>& of_rows);
  // Those of every row and of every column, from one exponential for both where the range allows.
  void (*sum_rows_and_columns)(const Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                               ExpSums<Scalar>& of_rows, ExpSums<Scalar>& of_columns);
  // Replaces the logits by their gradient.
  void (*differentiate_rows)(Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                             const SoftmaxGradient<Scalar>& of_rows);
  // The same where a logit counts in its row and, being symmetric, in its column.
  void (*differentiate_rows_and_columns)(Scalar* tile, int64_t rows, int64_t columns, Scalar scale,
                                         const SoftmaxGradient<Scalar>& of_rows,
                                         const SoftmaxGradient<Scalar>& of_columns);
};

template <typename Scalar>
const TileFunctions<Scalar>& tile_functions(Isa isa);

}  // namespace stor
