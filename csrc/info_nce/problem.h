// The arguments of info_nce and info_nce_backward on the CPU: checked, in the dtype of the sums and
// cut into blocks.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "../common/check.h"
#include "matmul.h"
#include "positives.h"
#include "softmax.h"

namespace stor {

constexpr const char* kInfoNce = "multi_positive_info_nce";

// The arguments as torch passes them.
struct InfoNceArguments {
  const Tensor& query;
  const std::optional<Tensor>& key;
  const Tensor& temperature;
  const std::optional<Tensor>&query_id, &key_id, &positive_index, &positive_weight;
  bool inside;

  bool is_double() const {
    return query.scalar_type() == ScalarType::Double ||
           (key && key->scalar_type() == ScalarType::Double);
  }
};

template <typename Scalar>
Tensor dense(const Tensor& values) {
  return torch::stable::contiguous(torch::stable::to(values, kScalarType<Scalar>));
}

// The rows of one side, and its blocks.
template <typename Scalar>
struct Side {
  Tensor rows;  // (N, D), contiguous
  int64_t dim;
  std::vector<Block> blocks;

  explicit Side(const Tensor& values)
      : rows(dense<Scalar>(values)), dim(rows.size(1)), blocks(make_blocks(size(), block_size())) {}

  int64_t size() const { return rows.size(0); }
  // Blocks as large as the cache likes, but some eight of them for the threads to share. Not by
  // the number of threads: it would show in the bits of the result.
  int64_t block_size() const {
    const int64_t eighth = (size() / 8 + kPadding - 1) / kPadding * kPadding;
    return std::clamp<int64_t>(eighth, 64, kMaxBlock);
  }
  Tensor block(int64_t b) const { return part(rows, b); }
  Tensor transposed_block(int64_t b) const {
    return matrix(first_row(b), dim, blocks[b].size, 1, dim);
  }
  // The rows of block b of another tensor of this shape.
  Tensor part(const Tensor& of, int64_t b) const {
    return matrix(of.const_data_ptr<Scalar>() + blocks[b].begin * dim, blocks[b].size, dim, dim);
  }

 private:
  const Scalar* first_row(int64_t b) const {
    return rows.const_data_ptr<Scalar>() + blocks[b].begin * dim;
  }
};

template <typename Scalar>
struct InfoNceProblem {
  Side<Scalar> query;
  std::optional<Side<Scalar>> other;  // the keys, unless they are the queries
  Scalar scale;                       // 1 / temperature
  bool inside;
  Positives positives;
  const TileFunctions<Scalar>& functions;

  explicit InfoNceProblem(const InfoNceArguments& arguments)
      : query(arguments.query),
        other(arguments.key ? std::optional<Side<Scalar>>(*arguments.key) : std::nullopt),
        scale(checked_scale(arguments.temperature)),
        inside(arguments.inside),
        positives(find_positives(arguments)),
        functions(tile_functions<Scalar>(choose_isa(kInfoNce))) {}

  bool against_itself() const { return !other; }
  const Side<Scalar>& key() const { return other ? *other : query; }

 private:
  static Scalar checked_scale(const Tensor& temperature) {
    const double value = *dense<double>(temperature).const_data_ptr<double>();
    STOR_CHECK(value > 0 && std::isfinite(value), kInfoNce,
               ": temperature: expected a finite number above 0, got ", value);
    return static_cast<Scalar>(1 / value);
  }

  Positives find_positives(const InfoNceArguments& arguments) const {
    const auto longs = [](const Tensor& values) { return values.const_data_ptr<int64_t>(); };
    if (arguments.query_id) {
      const Tensor query_id = torch::stable::contiguous(*arguments.query_id);
      const Tensor key_id =
          arguments.key_id ? torch::stable::contiguous(*arguments.key_id) : query_id;
      return Positives::by_id(longs(query_id), longs(key_id), query.blocks, key().blocks,
                              against_itself());
    }
    STOR_CHECK(arguments.positive_index.has_value(), kInfoNce,
               ": query_id: expected either query_id or positive_index, got neither");
    const Tensor index = torch::stable::contiguous(*arguments.positive_index);
    const int64_t width = index.size(1), count = query.size() * width;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = longs(index)[i];
      STOR_CHECK(-1 <= column && column < key().size(), kInfoNce, ": positive_index row ",
                 i / width, ": expected -1 to ", key().size() - 1, ", got ", column);
    }
    std::optional<Tensor> weight;
    if (arguments.positive_weight) weight = torch::stable::contiguous(*arguments.positive_weight);
    const float* const weights = weight ? weight->const_data_ptr<float>() : nullptr;
    for (int64_t i = 0; weights && i < count; ++i) {
      STOR_CHECK(weights[i] >= 0 && std::isfinite(weights[i]), kInfoNce, ": positive_weight row ",
                 i / width, ": expected finite and not negative, got ", weights[i]);
    }
    return Positives::by_index(longs(index), weights, width, query.blocks, key().blocks,
                               against_itself());
  }
};

}  // namespace stor
