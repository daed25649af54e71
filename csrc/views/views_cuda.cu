// CUDA launchers of sample_view_pairs, overlap_rate and pairwise_overlap_rate. No call waits for
// the device. Compiled with -fmad=false: the sampled views must have the same bits as on the CPU.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/launch.h"
#include "sampling_params.h"
#include "tensors.h"
#include "views_kernels.cuh"

namespace stor {
namespace {

unsigned blocks_for(const char* op, int64_t rows) {
  return checked_grid(op, (rows + kViewThreads - 1) / kViewThreads);
}

std::vector<Tensor> sample_view_pairs_cuda(const Tensor& num_frames, const Tensor& heights,
                                           const Tensor& widths, const Tensor& keys,
                                           int64_t clip_frames, int64_t seed, int64_t epoch,
                                           int64_t draw, std::vector<double> scale,
                                           std::vector<double> ratio, std::vector<double> strides,
                                           std::vector<double> rates, bool rotate, double flip) {
  const SamplingParams params = make_sampling_params(clip_frames, seed, epoch, draw, scale, ratio,
                                                     strides, rates, rotate, flip);
  const LaunchScope scope(num_frames);
  const VideoColumns columns(num_frames, heights, widths, keys);
  const VideoTable videos = columns.table();
  const PairTensors result(num_frames, videos.size);
  if (videos.size > 0) {
    STOR_LAUNCH(sample_view_pairs_kernel, blocks_for("sample_view_pairs", videos.size),
                kViewThreads, 0, scope.stream(), params, videos, result.table());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return result.tensors();
}

std::tuple<Tensor, Tensor, Tensor> overlap_rate_cuda(std::vector<Tensor> first_fields,
                                                     std::vector<Tensor> second_fields,
                                                     int64_t clip_frames) {
  constexpr const char* kOp = "overlap_rate";
  STOR_CHECK(clip_frames >= 1, kOp, ": clip_frames: expected at least 1, got ", clip_frames);
  STOR_CHECK(!first_fields.empty(), kOp, ": first: expected 6 tensors, got 0");
  const LaunchScope scope(first_fields[0]);
  const UnpackedViews first_views(kOp, "first", first_fields);
  const UnpackedViews second_views(kOp, "second", second_fields);
  const ViewTable first = first_views.table(), second = second_views.table();
  STOR_CHECK(first.size == second.size, kOp, ": second: expected ", first.size,
             " views as in first, got ", second.size);
  const OverlapTensors result(first_fields[0], {first.size});
  if (first.size > 0) {
    STOR_LAUNCH(overlap_rate_kernel, blocks_for(kOp, first.size), kViewThreads, 0, scope.stream(),
                first, second, clip_frames, result.table());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return result.tensors();
}

std::tuple<Tensor, Tensor, Tensor> pairwise_overlap_rate_cuda(std::vector<Tensor> first_fields,
                                                              std::vector<Tensor> second_fields,
                                                              int64_t clip_frames) {
  constexpr const char* kOp = "pairwise_overlap_rate";
  STOR_CHECK(clip_frames >= 1, kOp, ": clip_frames: expected at least 1, got ", clip_frames);
  STOR_CHECK(!first_fields.empty(), kOp, ": first: expected 6 tensors, got 0");
  const LaunchScope scope(first_fields[0]);
  const UnpackedViews first_views(kOp, "first", first_fields);
  const UnpackedViews second_views(kOp, "second", second_fields);
  const ViewTable first = first_views.table(), second = second_views.table();
  const OverlapTensors result(first_fields[0], {first.size, second.size});
  if (first.size > 0 && second.size > 0) {
    STOR_LAUNCH(pairwise_overlap_rate_kernel, checked_grid(kOp, first.size), kViewThreads, 0,
                scope.stream(), first, second, clip_frames, result.table());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return result.tensors();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CUDA, m) {
  m.impl("sample_view_pairs", TORCH_BOX(&sample_view_pairs_cuda));
  m.impl("overlap_rate", TORCH_BOX(&overlap_rate_cuda));
  m.impl("pairwise_overlap_rate", TORCH_BOX(&pairwise_overlap_rate_cuda));
}

}  // namespace stor
