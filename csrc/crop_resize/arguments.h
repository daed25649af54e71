// Between the arguments of the crop_resize ops and the kernels' structs, for every device.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "../common/check.h"
#include "../views/unpack.h"
#include "pixel.h"
#include "video.h"

namespace stor {

struct VideoBatch {
  std::vector<Video> videos;
  ScalarType dtype;
  int64_t channels;
};

inline Video make_video(const char* op, const Tensor& tensor, int64_t first_dim, int64_t offset) {
  const auto size = [&](int64_t dim) { return tensor.size(first_dim + dim); };
  const auto stride = [&](int64_t dim) { return tensor.stride(first_dim + dim); };
  STOR_CHECK(size(0) >= 1 && size(1) >= 1 && size(2) >= 1, op,
             ": videos: expected at least one frame, row and column, got (", size(0), ", ", size(1),
             ", ", size(2), ", ", size(3), ")");
  const char* data = static_cast<const char*>(tensor.const_data_ptr());
  return {data + offset * static_cast<int64_t>(tensor.element_size()),
          size(0),
          size(1),
          size(2),
          stride(0),
          stride(1),
          stride(2),
          stride(3)};
}

inline VideoBatch unpack_videos(const char* op, const std::vector<Tensor>& tensors) {
  STOR_CHECK(!tensors.empty(), op, ": videos: expected at least one video, got none");
  const Tensor& head = tensors[0];
  const bool batched = tensors.size() == 1 && head.dim() == 5;
  VideoBatch batch{{}, head.scalar_type(), head.size(-1)};
  STOR_CHECK(batch.channels >= 1 && batch.channels <= kMaxChannels, op,
             ": videos: expected 1 to 4 channels in the last dimension, got ", batch.channels);
  if (batched) {
    for (int64_t i = 0; i < head.size(0); ++i) {
      batch.videos.push_back(make_video(op, head, 1, i * head.stride(0)));
    }
    return batch;
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    STOR_CHECK(tensor.dim() == 4, op, ": videos[", i, "]: expected (T, H, W, C), got ",
               tensor.dim(), " dimension(s)");
    STOR_CHECK(tensor.scalar_type() == batch.dtype && tensor.size(3) == batch.channels, op,
               ": videos[", i, "]: expected dtype and channels of videos[0]");
    batch.videos.push_back(make_video(op, tensor, 0, 0));
  }
  return batch;
}

struct ClipOptions {
  int64_t frames, height, width;
  bool antialias, linear_time, channels_last;
  ScalarType dtype;
  Normalisation norm;
};

inline ClipOptions make_options(const char* op, const VideoBatch& batch,
                                const std::vector<int64_t>& size,
                                const std::optional<std::vector<double>>& mean,
                                const std::optional<std::vector<double>>& std, bool antialias,
                                bool linear_time, ScalarType dtype, bool channels_last) {
  STOR_CHECK(size.size() == 3 && size[0] >= 1 && size[1] >= 1 && size[2] >= 1, op,
             ": size: expected three numbers (T, H, W) of at least 1");
  ClipOptions options{size[0], size[1], size[2], antialias, linear_time, channels_last, dtype, {}};
  const auto check = [&](const char* argument, const std::optional<std::vector<double>>& values) {
    STOR_CHECK(!values || static_cast<int64_t>(values->size()) == batch.channels, op, ": ",
               argument, ": expected one number per channel (", batch.channels, "), got ",
               values->size());
  };
  check("mean", mean);
  check("std", std);
  const double source_range = batch.dtype == ScalarType::Byte ? 255.0 : 1.0;
  const double output_range = dtype == ScalarType::Byte ? 255.0 : 1.0;
  for (int64_t c = 0; c < batch.channels; ++c) {
    options.norm.set(c, mean ? (*mean)[c] : 0.0, std ? (*std)[c] : 1.0, source_range, output_range);
  }
  return options;
}

// Returns the contiguous matrices, or an undefined optional.
inline std::optional<Tensor> unpack_color(const char* op, const std::optional<Tensor>& color,
                                          const VideoBatch& batch, int64_t num_views) {
  if (!color) return std::nullopt;
  STOR_CHECK(batch.channels == 3, op, ": color: expected videos of 3 channels, got ",
             batch.channels);
  STOR_CHECK(color->scalar_type() == ScalarType::Float && color->dim() == 3 &&
                 color->size(0) == num_views && color->size(1) == 3 && color->size(2) == 4,
             op, ": color: expected float32 (", num_views, ", 3, 4)");
  return torch::stable::contiguous(*color);
}

inline std::vector<int64_t> clip_shape(const VideoBatch& batch, const ClipOptions& options,
                                       int64_t num_views) {
  return {num_views, batch.channels, options.frames, options.height, options.width};
}

}  // namespace stor
