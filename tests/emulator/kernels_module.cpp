// The CUDA kernels of csrc/ as Python functions on addresses; tests/emulated.py is their friendly
// side.
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "bindings.h"
#include "crop_resize/crop_resize_kernel.cuh"
#include "views/sampling_params.h"
#include "views/views_kernels.cuh"

namespace {

using namespace stor;
using Address = uintptr_t;
using Fields = std::array<Address, 6>;  // of a Views, in its order

template <typename Value>
Value* at(Address address) {
  return reinterpret_cast<Value*>(address);
}

ViewTable view_table(const Fields& fields, int64_t size) {
  return {at<const int64_t>(fields[0]),
          at<const float>(fields[1]),
          at<const float>(fields[2]),
          at<const float>(fields[3]),
          at<const bool>(fields[4]),
          at<const uint8_t>(fields[5]),
          size};
}

MutableViewTable mutable_view_table(const Fields& fields) {
  return {at<int64_t>(fields[0]), at<float>(fields[1]), at<float>(fields[2]),
          at<float>(fields[3]),   at<bool>(fields[4]),  at<uint8_t>(fields[5])};
}

OverlapTable overlap_table(const std::array<Address, 3>& rates) {
  return {at<float>(rates[0]), at<float>(rates[1]), at<float>(rates[2])};
}

unsigned blocks_for(int64_t rows) {
  return static_cast<unsigned>((rows + kViewThreads - 1) / kViewThreads);
}

void run_sample(const std::array<Address, 4>& videos, int64_t rows, const Fields& first,
                const Fields& second, const std::array<Address, 4>& classes, int64_t clip_frames,
                int64_t seed, int64_t epoch, int64_t draw, const std::vector<double>& scale,
                const std::vector<double>& ratio, const std::vector<double>& strides,
                const std::vector<double>& rates, bool rotate, double flip) {
  const SamplingParams params = make_sampling_params(clip_frames, seed, epoch, draw, scale, ratio,
                                                     strides, rates, rotate, flip);
  const VideoTable table{at<const int64_t>(videos[0]), at<const int64_t>(videos[1]),
                         at<const int64_t>(videos[2]), at<const int64_t>(videos[3]), rows};
  const PairTable pairs{mutable_view_table(first), mutable_view_table(second),
                        at<int64_t>(classes[0]),   at<int64_t>(classes[1]),
                        at<int64_t>(classes[2]),   at<int64_t>(classes[3])};
  STOR_LAUNCH(sample_view_pairs_kernel, blocks_for(rows), kViewThreads, 0, nullptr, params, table,
              pairs);
}

void run_overlap(const Fields& first, int64_t rows, const Fields& second, int64_t columns,
                 bool pairwise, int64_t clip_frames, const std::array<Address, 3>& rates) {
  const ViewTable a = view_table(first, rows), b = view_table(second, columns);
  if (pairwise) {
    STOR_LAUNCH(pairwise_overlap_rate_kernel, static_cast<unsigned>(rows), kViewThreads, 0, nullptr,
                a, b, clip_frames, overlap_table(rates));
  } else {
    STOR_LAUNCH(overlap_rate_kernel, blocks_for(rows), kViewThreads, 0, nullptr, a, b, clip_frames,
                overlap_table(rates));
  }
}

// address, frames, height, width and the four strides
using VideoRow = std::array<int64_t, 8>;

struct Target {
  Fields views;
  Address color, clips;
};

template <typename Output>
void launch(const CropJob& job) {
  STOR_LAUNCH(crop_resize_kernel<Output>, static_cast<unsigned>(num_blocks(job)), kCropThreads,
              sizeof(CropShared), nullptr, job);
}

void run_crop(const std::vector<VideoRow>& rows, const std::vector<Target>& targets,
              int64_t num_views, const std::array<int64_t, 3>& size, int channels, int source,
              int output, const std::vector<float>& mean, const std::vector<float>& std,
              bool antialias, bool linear_time, bool channels_last,
              const std::optional<std::array<Address, 3>>& overlap) {
  std::vector<Video> videos;
  for (const VideoRow& row : rows) {
    videos.push_back({at<const void>(static_cast<Address>(row[0])), row[1], row[2], row[3], row[4],
                      row[5], row[6], row[7]});
  }
  CropJob job{};
  job.videos = videos.data();
  job.num_videos = static_cast<int64_t>(videos.size());
  job.num_targets = static_cast<int>(targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    job.targets[i] = {view_table(targets[i].views, num_views), at<const float>(targets[i].color),
                      at<void>(targets[i].clips)};
  }
  if (overlap) job.overlap = overlap_table(*overlap);
  job.frames = size[0];
  job.height = size[1];
  job.width = size[2];
  job.channels = channels;
  job.antialias = antialias;
  job.linear_time = linear_time;
  job.source = static_cast<SourceKind>(source);
  job.channels_last = channels_last;
  const auto kind = static_cast<SourceKind>(output);
  for (int c = 0; c < channels; ++c) {
    job.norm.set(c, mean.empty() ? 0.0 : mean[c], std.empty() ? 1.0 : std[c],
                 job.source == SourceKind::kUint8 ? 255.0 : 1.0,
                 kind == SourceKind::kUint8 ? 255.0 : 1.0);
  }
  set_tiles(job);
  switch (kind) {
    case SourceKind::kUint8:
      return launch<uint8_t>(job);
    case SourceKind::kFloat:
      return launch<float>(job);
    case SourceKind::kHalf:
      return launch<__half>(job);
    default:
      return launch<__nv_bfloat16>(job);
  }
}

}  // namespace

PYBIND11_MODULE(kernels_module, module) {
  namespace py = pybind11;
  stor::emulator::bind_emulator(module);
  py::class_<Target>(module, "Target").def(py::init([](Fields views, Address color, Address clips) {
    return Target{views, color, clips};
  }));
  module.def("sample_view_pairs", &run_sample);
  module.def("overlap_rate", &run_overlap);
  module.def("crop_resize", &run_crop);
}
