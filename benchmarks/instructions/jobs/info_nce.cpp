// The softmax of multi_positive_info_nce: one pass over a tile of 256 x 250 logits.
#include <cstdint>
#include <memory>
#include <vector>

#include "../../../csrc/info_nce/schedule.h"
#include "../../../csrc/info_nce/softmax.h"
#include "jobs.h"

namespace stor::instructions {
namespace {

std::vector<float> numbers(size_t count, float scale) {
  std::vector<float> values(count);
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = scale * (static_cast<float>(state >> 8) / (1 << 23) - 1);
  }
  return values;
}

}  // namespace

void add_info_nce(Jobs& jobs, const std::string& isa_name, Isa isa) {
  struct State {
    std::vector<float> tile = numbers(kMaxBlock * kTileStride, 1.0f);
    ExpSums<float> rows, columns;
    SoftmaxGradient<float> row_gradient, column_gradient;
  };
  const auto state = std::make_shared<State>();
  for (int64_t i = 0; i < kMaxBlock; ++i) {
    state->row_gradient.lse[i] = state->column_gradient.lse[i] = 12.0f;
    state->row_gradient.factor[i] = state->column_gradient.factor[i] = 1.0f;
  }
  const TileFunctions<float>& functions = tile_functions<float>(isa);
  constexpr int64_t kRows = 256, kColumns = 250;
  constexpr float kScale = 10;
  jobs["info_nce forward symmetric " + isa_name] = [=, &functions] {
    functions.sum_rows_and_columns(state->tile.data(), kRows, kColumns, kScale, state->rows,
                                   state->columns);
  };
  jobs["info_nce forward " + isa_name] = [=, &functions] {
    functions.sum_rows(state->tile.data(), kRows, kColumns, kScale, state->rows);
  };
  jobs["info_nce backward symmetric " + isa_name] = [=, &functions] {
    functions.differentiate_rows_and_columns(state->tile.data(), kRows, kColumns, kScale,
                                             state->row_gradient, state->column_gradient);
  };
  jobs["info_nce backward " + isa_name] = [=, &functions] {
    functions.differentiate_rows(state->tile.data(), kRows, kColumns, kScale, state->row_gradient);
  };
}

}  // namespace stor::instructions
