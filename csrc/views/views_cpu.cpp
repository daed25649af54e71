// CPU launchers of sample_view_pairs, overlap_rate and pairwise_overlap_rate.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "sampling_params.h"
#include "tensors.h"

namespace stor {
namespace {

constexpr int64_t kPairsPerTask = 512;

std::vector<Tensor> sample_view_pairs_cpu(const Tensor& num_frames, const Tensor& heights,
                                          const Tensor& widths, const Tensor& keys,
                                          int64_t clip_frames, int64_t seed, int64_t epoch,
                                          int64_t draw, std::vector<double> scale,
                                          std::vector<double> ratio, std::vector<double> strides,
                                          std::vector<double> rates, bool rotate, double flip) {
  const SamplingParams params = make_sampling_params(clip_frames, seed, epoch, draw, scale, ratio,
                                                     strides, rates, rotate, flip);
  const VideoColumns columns(num_frames, heights, widths, keys);
  const VideoTable videos = columns.table();
  for (int64_t row = 0; row < videos.size; ++row) {
    const VideoShape shape = videos.shape(row);
    STOR_CHECK(shape.valid(), "sample_view_pairs: row ", row,
               ": expected num_frames, height and width of 1 to ", kMaxExtent, ", got ",
               shape.frames, ", ", shape.height, " and ", shape.width);
  }
  const PairTensors result(num_frames, videos.size);
  const PairTable pairs = result.table();
  torch::stable::parallel_for(0, videos.size, kPairsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      pairs.set(row, sample_view_pair(params, row, videos.shape(row), videos.key(row)));
    }
  });
  return result.tensors();
}

std::tuple<Tensor, Tensor, Tensor> overlap_rate_cpu(std::vector<Tensor> first_fields,
                                                    std::vector<Tensor> second_fields,
                                                    int64_t clip_frames) {
  constexpr const char* kOp = "overlap_rate";
  const UnpackedViews first_views(kOp, "first", first_fields);
  const UnpackedViews second_views(kOp, "second", second_fields);
  const ViewTable first = first_views.table(), second = second_views.table();
  STOR_CHECK(clip_frames >= 1, kOp, ": clip_frames: expected at least 1, got ", clip_frames);
  STOR_CHECK(first.size == second.size, kOp, ": second: expected ", first.size,
             " views as in first, got ", second.size);
  check_views(kOp, "first", first, -1);
  check_views(kOp, "second", second, -1);
  const OverlapTensors result(first_fields[0], {first.size});
  const OverlapTable rates = result.table();
  for (int64_t row = 0; row < first.size; ++row) {
    rates.set(row, measure_overlap(first[row], second[row], clip_frames));
  }
  return result.tensors();
}

std::tuple<Tensor, Tensor, Tensor> pairwise_overlap_rate_cpu(std::vector<Tensor> first_fields,
                                                             std::vector<Tensor> second_fields,
                                                             int64_t clip_frames) {
  constexpr const char* kOp = "pairwise_overlap_rate";
  const UnpackedViews first_views(kOp, "first", first_fields);
  const UnpackedViews second_views(kOp, "second", second_fields);
  const ViewTable first = first_views.table(), second = second_views.table();
  STOR_CHECK(clip_frames >= 1, kOp, ": clip_frames: expected at least 1, got ", clip_frames);
  check_views(kOp, "first", first, -1);
  check_views(kOp, "second", second, -1);
  const OverlapTensors result(first_fields[0], {first.size, second.size});
  const OverlapTable rates = result.table();
  torch::stable::parallel_for(0, first.size, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const View a = first[row];
      for (int64_t column = 0; column < second.size; ++column) {
        rates.set(row * second.size + column, measure_overlap(a, second[column], clip_frames));
      }
    }
  });
  return result.tensors();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CPU, m) {
  m.impl("sample_view_pairs", TORCH_BOX(&sample_view_pairs_cpu));
  m.impl("overlap_rate", TORCH_BOX(&overlap_rate_cpu));
  m.impl("pairwise_overlap_rate", TORCH_BOX(&pairwise_overlap_rate_cpu));
}

}  // namespace stor
