// CPU kernels of info_nce and info_nce_backward.
//
// Logits are computed in tiles by torch's matrix product, and never leave the cache: the forward
// pass reduces each tile to sums per row, the backward pass computes it anew, turns it into its
// gradient and multiplies that with queries and keys. Where queries meet each other the logits are
// symmetric: each pair of blocks is one tile, which serves the rows of both.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "statistics.h"
#include "tiles.h"

namespace stor {
namespace {

template <typename Scalar>
std::tuple<Tensor, Tensor, Tensor> forward(const InfoNceArguments& arguments) {
  const InfoNceProblem<Scalar> problem(arguments);
  const Side<Scalar>&query = problem.query, &key = problem.key();
  const Scalar scale = problem.scale;
  std::vector<RowStatistics> statistics(query.size());

  // Positives of the queries of one block among the keys of the other; they may be tile columns.
  const auto add_positives = [&](int64_t queries, int64_t keys, const Scalar* tile,
                                 int64_t query_stride, int64_t key_stride) {
    problem.positives.visit(queries, keys, [&](int64_t row, int64_t column, float weight) {
      const double logit = double(scale) * tile[row * query_stride + column * key_stride];
      statistics[query.blocks[queries].begin + row].add_positive(logit, weight, problem.inside);
    });
  };
  const auto add_sums = [&](int64_t block, const ExpSums<Scalar>& sums) {
    for (int64_t i = 0; i < query.blocks[block].size; ++i) {
      statistics[query.blocks[block].begin + i].all.add(sums.max[i], sums.sum[i]);
    }
  };
  const auto work = [&](TileIndex index, Workspace<Scalar>& workspace) {
    const Scalar* const tile = workspace.tile;
    const auto [i, j] = index;
    const int64_t rows = query.blocks[i].size, columns = key.blocks[j].size;
    add_positives(i, j, tile, kTileStride, 1);
    if (problem.against_itself() && i != j) {
      add_positives(j, i, tile, 1, kTileStride);
      problem.functions.sum_rows_and_columns(tile, rows, columns, scale, workspace.row_sums,
                                             workspace.column_sums);
      add_sums(j, workspace.column_sums);
    } else {
      problem.functions.sum_rows(tile, rows, columns, scale, workspace.row_sums);
    }
    add_sums(i, workspace.row_sums);
  };
  if (problem.against_itself()) {
    for_each_tile(problem, TournamentSchedule(query.blocks.size()), work);
  } else {
    for_each_tile(problem, RectangleSchedule(query.blocks.size(), key.blocks.size()), work);
  }

  const auto new_column = [&] {
    return torch::stable::new_empty(query.rows, {query.size()}, kScalarType<Scalar>);
  };
  const Tensor lse = new_column(), positive = new_column(), weight = new_column();
  for (int64_t row = 0; row < query.size(); ++row) {
    const RowStatistics& of_row = statistics[row];
    lse.mutable_data_ptr<Scalar>()[row] = static_cast<Scalar>(of_row.all.value());
    positive.mutable_data_ptr<Scalar>()[row] =
        static_cast<Scalar>(problem.inside ? of_row.positives.value() : of_row.weighted_sum);
    weight.mutable_data_ptr<Scalar>()[row] = static_cast<Scalar>(of_row.weight);
  }
  return {lse, positive, weight};
}

// What flows back into the rows of the statistics.
template <typename Scalar>
struct RowGradients {
  Tensor grad_lse, grad_positive, lse, positive;

  RowGradients(const Tensor& grad_lse, const Tensor& grad_positive, const Tensor& lse,
               const Tensor& positive)
      : grad_lse(dense<Scalar>(grad_lse)),
        grad_positive(dense<Scalar>(grad_positive)),
        lse(dense<Scalar>(lse)),
        positive(dense<Scalar>(positive)) {}

  // Gradients with respect to unscaled logits: 1 / temperature is a factor of all.
  void softmax(const Block& block, Scalar scale, SoftmaxGradient<Scalar>& gradient) const {
    const int64_t padding = (block.size + kPadding - 1) / kPadding * kPadding;
    for (int64_t i = 0; i < padding; ++i) {
      const bool inside = i < block.size;
      gradient.factor[i] = inside ? scale * value(grad_lse, block.begin + i) : Scalar(0);
      gradient.lse[i] = inside ? value(lse, block.begin + i) : Scalar(0);
    }
  }
  // That of a positive's own logit.
  Scalar of_positive(int64_t row, Scalar logit, Scalar weight, Scalar scale, bool inside) const {
    const Scalar gradient = value(grad_positive, row);
    if (gradient == 0) return 0;
    const Scalar share = inside ? std::exp(logit * scale - value(positive, row)) : Scalar(1);
    return gradient * scale * weight * share;
  }

 private:
  static Scalar value(const Tensor& column, int64_t row) {
    return column.const_data_ptr<Scalar>()[row];
  }
};

// sum over all elements of a . b
template <typename Scalar>
double dot(const Tensor& a, const Tensor& b) {
  const Scalar *x = a.const_data_ptr<Scalar>(), *y = b.const_data_ptr<Scalar>();
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += double(x[i]) * y[i];
  return sum;
}

template <typename Scalar>
std::tuple<Tensor, Tensor, Tensor> backward(const InfoNceArguments& arguments,
                                            const RowGradients<Scalar>& gradients, bool need_key) {
  const InfoNceProblem<Scalar> problem(arguments);
  const Side<Scalar>&query = problem.query, &key = problem.key();
  const Scalar scale = problem.scale;
  const bool symmetric = problem.against_itself();
  need_key = need_key && !symmetric;
  const auto zeros = [](const Tensor& like, std::vector<int64_t> shape) {
    return torch::stable::new_zeros(like, shape, kScalarType<Scalar>);
  };
  const Tensor grad_query = zeros(query.rows, {query.size(), query.dim});
  const Tensor grad_key = need_key ? zeros(key.rows, {key.size(), key.dim}) : zeros(key.rows, {0});

  const auto collect_positives = [&](int64_t queries, int64_t keys, Workspace<Scalar>& workspace,
                                     int64_t query_stride, int64_t key_stride) {
    problem.positives.visit(queries, keys, [&](int64_t row, int64_t column, float weight) {
      const int64_t position = row * query_stride + column * key_stride;
      workspace.additions.push_back(
          {position,
           gradients.of_positive(query.blocks[queries].begin + row, workspace.tile[position],
                                 weight, scale, problem.inside)});
    });
  };
  const auto work = [&](TileIndex index, Workspace<Scalar>& workspace) {
    Scalar* const tile = workspace.tile;
    const auto [i, j] = index;
    const int64_t rows = query.blocks[i].size, columns = key.blocks[j].size;
    workspace.additions.clear();
    collect_positives(i, j, workspace, kTileStride, 1);
    gradients.softmax(query.blocks[i], scale, workspace.row_gradient);
    if (symmetric) {
      // A diagonal tile holds each pair twice, once as row and column, once as column and row.
      collect_positives(j, i, workspace, 1, kTileStride);
      gradients.softmax(query.blocks[j], scale, workspace.column_gradient);
      problem.functions.differentiate_rows_and_columns(
          tile, rows, columns, scale, workspace.row_gradient, workspace.column_gradient);
    } else {
      problem.functions.differentiate_rows(tile, rows, columns, scale, workspace.row_gradient);
    }
    for (const auto& addition : workspace.additions) tile[addition.position] += addition.value;

    multiply_into(matrix(tile, rows, columns, kTileStride), key.block(j),
                  query.part(grad_query, i));
    const bool other_rows = symmetric ? i != j : need_key;
    if (other_rows) {
      multiply_into(matrix(tile, columns, rows, 1, kTileStride), query.block(i),
                    key.part(symmetric ? grad_query : grad_key, j));
    }
  };
  if (symmetric) {
    for_each_tile(problem, TournamentSchedule(query.blocks.size()), work);
  } else {
    for_each_tile(problem, RectangleSchedule(query.blocks.size(), key.blocks.size()), work);
  }

  // d loss / d temperature = -1 / temperature * sum of gradient * scaled logit, and the sum over a
  // row is the product of the query with its gradient. Symmetric tiles count every logit twice.
  const double product = dot<Scalar>(query.rows, grad_query);
  const Tensor grad_temperature = torch::stable::full(
      {}, -double(scale) * product / (symmetric ? 2 : 1), arguments.temperature.scalar_type());
  const Tensor& key_argument = arguments.key ? *arguments.key : arguments.query;
  return {torch::stable::to(grad_query, arguments.query.scalar_type()),
          torch::stable::to(grad_key, key_argument.scalar_type()), grad_temperature};
}

std::tuple<Tensor, Tensor, Tensor> info_nce_cpu(Tensor query, std::optional<Tensor> key,
                                                Tensor temperature, std::optional<Tensor> query_id,
                                                std::optional<Tensor> key_id,
                                                std::optional<Tensor> positive_index,
                                                std::optional<Tensor> positive_weight,
                                                bool inside) {
  const InfoNceArguments arguments{
      query, key, temperature, query_id, key_id, positive_index, positive_weight, inside};
  return arguments.is_double() ? forward<double>(arguments) : forward<float>(arguments);
}

std::tuple<Tensor, Tensor, Tensor> info_nce_backward_cpu(
    Tensor grad_lse, Tensor grad_positive, Tensor lse, Tensor positive, Tensor query,
    std::optional<Tensor> key, Tensor temperature, std::optional<Tensor> query_id,
    std::optional<Tensor> key_id, std::optional<Tensor> positive_index,
    std::optional<Tensor> positive_weight, bool inside, bool need_key) {
  const InfoNceArguments arguments{
      query, key, temperature, query_id, key_id, positive_index, positive_weight, inside};
  if (arguments.is_double()) {
    return backward<double>(arguments, {grad_lse, grad_positive, lse, positive}, need_key);
  }
  return backward<float>(arguments, {grad_lse, grad_positive, lse, positive}, need_key);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CPU, m) {
  m.impl("info_nce", TORCH_BOX(&info_nce_cpu));
  m.impl("info_nce_backward", TORCH_BOX(&info_nce_backward_cpu));
}

}  // namespace stor
