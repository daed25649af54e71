// CUDA launchers of crop_resize and crop_resize_pair: one launch for a whole batch, no wait.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "../common/launch.h"
#include "../views/tensors.h"
#include "arguments.h"
#include "crop_resize_kernel.cuh"

namespace stor {
namespace {

SourceKind source_kind(const char* op, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return SourceKind::kUint8;
    case ScalarType::Float:
      return SourceKind::kFloat;
    case ScalarType::Half:
      return SourceKind::kHalf;
    case ScalarType::BFloat16:
      return SourceKind::kBfloat16;
    default:
      STOR_CHECK(false, op, ": videos: expected uint8, float32, float16 or bfloat16");
  }
  return SourceKind::kUint8;
}

// The videos' table on their device. It travels through page-locked memory, which torch's allocator
// does not hand out again before the copy is done: nobody has to wait.
Tensor upload(const VideoBatch& batch, const Tensor& like) {
  const int64_t rows = static_cast<int64_t>(batch.videos.size());
  const Tensor host =
      torch::stable::empty({rows, 8}, ScalarType::Long, std::nullopt,
                           torch::stable::Device(torch::headeronly::DeviceType::CPU),
                           /*pin_memory=*/true);
  std::memcpy(host.mutable_data_ptr(), batch.videos.data(), batch.videos.size() * sizeof(Video));
  Tensor table = torch::stable::new_empty(like, {rows, 8}, ScalarType::Long);
  torch::stable::copy_(table, host, /*non_blocking=*/true);
  return table;
}

Tensor new_clips(const VideoBatch& batch, const ClipOptions& options, int64_t num_views,
                 const Tensor& like) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(
      clip_shape(batch, options, num_views), options.dtype, std::nullopt, like.device(),
      std::nullopt,
      options.channels_last ? MemoryFormat::ChannelsLast3d : MemoryFormat::Contiguous);
}

CropJob make_job(const char* op, const VideoBatch& batch, const ClipOptions& options) {
  CropJob job{};
  job.num_videos = static_cast<int64_t>(batch.videos.size());
  job.frames = options.frames;
  job.height = options.height;
  job.width = options.width;
  job.channels = static_cast<int>(batch.channels);
  job.antialias = options.antialias;
  job.linear_time = options.linear_time;
  job.source = source_kind(op, batch.dtype);
  job.norm = options.norm;
  job.channels_last = options.channels_last;
  set_tiles(job);
  return job;
}

template <typename Output>
void launch(const char* op, const CropJob& job, cudaStream_t stream) {
  constexpr int kShared = sizeof(CropShared);
  STD_CUDA_CHECK(cudaFuncSetAttribute(crop_resize_kernel<Output>,
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  STOR_LAUNCH(crop_resize_kernel<Output>, checked_grid(op, num_blocks(job)), kCropThreads, kShared,
              stream, job);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

void launch_for(const char* op, ScalarType dtype, const CropJob& job, cudaStream_t stream) {
  if (num_blocks(job) == 0) return;
  switch (dtype) {
    case ScalarType::Float:
      return launch<float>(op, job, stream);
    case ScalarType::Half:
      return launch<__half>(op, job, stream);
    case ScalarType::BFloat16:
      return launch<__nv_bfloat16>(op, job, stream);
    case ScalarType::Byte:
      return launch<uint8_t>(op, job, stream);
    default:
      STOR_CHECK(false, op, ": dtype: expected float32, float16, bfloat16 or uint8");
  }
}

Tensor crop_resize_cuda(std::vector<Tensor> videos, std::vector<Tensor> fields,
                        std::vector<int64_t> size, std::optional<std::vector<double>> mean,
                        std::optional<std::vector<double>> std, std::optional<Tensor> color,
                        bool antialias, bool linear_time, ScalarType dtype, bool channels_last) {
  constexpr const char* kOp = "crop_resize";
  const VideoBatch batch = unpack_videos(kOp, videos);
  const LaunchScope scope(videos[0]);
  const UnpackedViews views(kOp, "views", fields);
  const ClipOptions options =
      make_options(kOp, batch, size, mean, std, antialias, linear_time, dtype, channels_last);
  const int64_t rows = views.table().size;
  const std::optional<Tensor> matrices = unpack_color(kOp, color, batch, rows);
  const Tensor clips = new_clips(batch, options, rows, videos[0]);
  const Tensor table = upload(batch, videos[0]);

  CropJob job = make_job(kOp, batch, options);
  job.videos = static_cast<const Video*>(table.const_data_ptr());
  job.num_targets = 1;
  job.targets[0] = {views.table(), matrices ? matrices->const_data_ptr<float>() : nullptr,
                    clips.mutable_data_ptr()};
  launch_for(kOp, dtype, job, scope.stream());
  return clips;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> crop_resize_pair_cuda(
    std::vector<Tensor> videos, std::vector<Tensor> first_fields, std::vector<Tensor> second_fields,
    std::vector<int64_t> size, std::optional<std::vector<double>> mean,
    std::optional<std::vector<double>> std, std::optional<Tensor> color_first,
    std::optional<Tensor> color_second, bool antialias, bool linear_time, ScalarType dtype,
    bool channels_last) {
  constexpr const char* kOp = "crop_resize_pair";
  const VideoBatch batch = unpack_videos(kOp, videos);
  const LaunchScope scope(videos[0]);
  const UnpackedViews first(kOp, "first", first_fields), second(kOp, "second", second_fields);
  const int64_t rows = first.table().size;
  STOR_CHECK(rows == second.table().size, kOp, ": second: expected ", rows,
             " views as in first, got ", second.table().size);
  const ClipOptions options =
      make_options(kOp, batch, size, mean, std, antialias, linear_time, dtype, channels_last);
  const std::optional<Tensor> matrices[2] = {unpack_color(kOp, color_first, batch, rows),
                                             unpack_color(kOp, color_second, batch, rows)};
  const Tensor clips[2] = {new_clips(batch, options, rows, videos[0]),
                           new_clips(batch, options, rows, videos[0])};
  const OverlapTensors overlap(videos[0], {rows});
  const Tensor table = upload(batch, videos[0]);

  CropJob job = make_job(kOp, batch, options);
  job.videos = static_cast<const Video*>(table.const_data_ptr());
  job.num_targets = 2;
  job.overlap = overlap.table();
  for (int i = 0; i < 2; ++i) {
    job.targets[i] = {i == 0 ? first.table() : second.table(),
                      matrices[i] ? matrices[i]->const_data_ptr<float>() : nullptr,
                      clips[i].mutable_data_ptr()};
  }
  launch_for(kOp, dtype, job, scope.stream());
  return std::tuple_cat(std::make_tuple(clips[0], clips[1]), overlap.tensors());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CUDA, m) {
  m.impl("crop_resize", TORCH_BOX(&crop_resize_cuda));
  m.impl("crop_resize_pair", TORCH_BOX(&crop_resize_pair_cuda));
}

}  // namespace stor
