// sample_view_pairs and overlap_rate: 64 pairs of views, and their overlap.
#include <cstdint>
#include <memory>
#include <vector>

#include "../../../csrc/views/overlap.h"
#include "../../../csrc/views/sampling_params.h"
#include "jobs.h"

namespace stor::instructions {

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

}  // namespace stor::instructions
