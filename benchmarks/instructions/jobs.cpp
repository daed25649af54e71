// Fixed small jobs for the CPU kernels, run under callgrind by __main__.py. No torch is involved.
//
//     jobs            lists the jobs
//     jobs NAME       runs one; only what happens inside measured() is counted
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../../csrc/info_nce/schedule.h"
#include "../../csrc/info_nce/softmax.h"
#include "../../csrc/views/overlap.h"
#include "../../csrc/views/sampling_params.h"

namespace {

using namespace stor;
using Jobs = std::map<std::string, std::function<void()>>;

std::vector<float> numbers(size_t count, float scale) {
  std::vector<float> values(count);
  uint32_t state = 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = scale * (static_cast<float>(state >> 8) / (1 << 23) - 1);
  }
  return values;
}

// One pass over a tile of 256 x 250 logits.
void add_softmax(Jobs& jobs, const std::string& name, Isa isa) {
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
  jobs["info_nce forward symmetric " + name] = [=, &functions] {
    functions.sum_rows_and_columns(state->tile.data(), kRows, kColumns, kScale, state->rows,
                                   state->columns);
  };
  jobs["info_nce forward " + name] = [=, &functions] {
    functions.sum_rows(state->tile.data(), kRows, kColumns, kScale, state->rows);
  };
  jobs["info_nce backward symmetric " + name] = [=, &functions] {
    functions.differentiate_rows_and_columns(state->tile.data(), kRows, kColumns, kScale,
                                             state->row_gradient, state->column_gradient);
  };
  jobs["info_nce backward " + name] = [=, &functions] {
    functions.differentiate_rows(state->tile.data(), kRows, kColumns, kScale, state->row_gradient);
  };
}

// 64 pairs of views, and their overlap.
void add_views(Jobs& jobs) {
  const auto pairs = std::make_shared<std::vector<ViewPair>>(64);
  const SamplingParams params = make_sampling_params(
      16, 1, 2, 0, {0.2, 1.0}, {0.75, 1.3333}, {1, 2, 4, 8}, {1.0, 0.8, 0.6, 0.4, 0.2}, true, 0.5);
  const auto sample = [=] {
    for (size_t i = 0; i < pairs->size(); ++i) {
      const VideoShape shape{static_cast<int64_t>(100 + 7 * i), 240, 320};
      (*pairs)[i] = sample_view_pair(params, static_cast<int64_t>(i), shape, 1000 + 13 * i);
    }
  };
  sample();  // for the overlap
  jobs["sample_view_pairs"] = sample;
  jobs["overlap_rate"] = [=] {
    volatile double sink = 0;
    for (const ViewPair& pair : *pairs) sink = measure_overlap(pair.first, pair.second, 16).joint();
    (void)sink;
  };
}

}  // namespace

// callgrind is told to count in here.
extern "C" __attribute__((noinline, visibility("default"))) void measured(
    const std::function<void()>& job) {
  job();
}

int main(int count, char** arguments) {
  Jobs jobs;
  for (const auto& [name, isa] : {std::pair{"baseline", Isa::baseline}, {"avx2", Isa::avx2}}) {
    if (is_supported(isa)) add_softmax(jobs, name, isa);
  }
  add_views(jobs);
  if (count == 1) {
    for (const auto& [name, job] : jobs) std::puts(name.c_str());
    return 0;
  }
  const auto chosen = jobs.find(arguments[1]);
  if (chosen == jobs.end()) {
    std::fprintf(stderr, "no job is called %s\n", arguments[1]);
    return 2;
  }
  measured(chosen->second);
}
