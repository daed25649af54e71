// CPU kernel and launchers of crop_resize and crop_resize_pair.
//
// One task is one output frame of one view: source rows are blended into one row of floats (rows
// and frames together), that row is filtered along x, and each pixel is transformed and stored
// where flip and rotation put it. Weights are computed once per view and thread.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "../views/tensors.h"
#include "arguments.h"
#include "resample.h"

namespace stor {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// The taps of every output along one axis.
struct AxisTable {
  std::vector<Taps> taps;
  std::vector<float> weights;
  int64_t weights_per_output = 0;
  int64_t first = 0, end = 0;  // all source pixels that any output reads

  void build(const ResampleAxis& axis, bool antialias) {
    weights_per_output = std::max<int64_t>(max_taps(axis, antialias), 1);
    taps.resize(axis.size);
    weights.resize(axis.size * weights_per_output);
    first = axis.extent, end = 0;
    for (int64_t i = 0; i < axis.size; ++i) {
      taps[i] = axis_taps(axis, i, antialias, weights.data() + i * weights_per_output);
      first = std::min(first, taps[i].first);
      end = std::max(end, taps[i].first + taps[i].count);
    }
  }
  const float* weights_of(int64_t output) const {
    return weights.data() + output * weights_per_output;
  }
};

// row += weight * source[columns], channels interleaved in `row`.
template <typename Source>
void add_row(const Video& video, int64_t frame, int64_t y, int64_t first_column, int64_t columns,
             int64_t channels, float weight, float* row) {
  const Source* source = static_cast<const Source*>(video.data) + frame * video.stride_t +
                         y * video.stride_y + first_column * video.stride_x;
  if (video.stride_c == 1 && video.stride_x == channels) {
    for (int64_t i = 0; i < columns * channels; ++i) {
      row[i] += weight * static_cast<float>(source[i]);
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t x = 0; x < columns; ++x) {
      row[x * channels + c] +=
          weight * static_cast<float>(source[x * video.stride_x + c * video.stride_c]);
    }
  }
}

using AddRow = void (*)(const Video&, int64_t, int64_t, int64_t, int64_t, int64_t, float, float*);

AddRow add_row_for(const char* op, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return &add_row<uint8_t>;
    case ScalarType::Float:
      return &add_row<float>;
    case ScalarType::Half:
      return &add_row<Half>;
    case ScalarType::BFloat16:
      return &add_row<BFloat16>;
    default:
      STOR_CHECK(false, op, ": videos: expected uint8, float32, float16 or bfloat16");
  }
  return nullptr;
}

template <typename Output>
Output convert(float value) {
  return static_cast<Output>(value);
}
template <>
uint8_t convert<uint8_t>(float value) {
  return to_uint8(value);
}

// Filters one blended row along x and stores it: output column i goes to out[i * step].
template <typename Output>
void store_row(const float* row, const AxisTable& columns, const PixelTransform& transform,
               int channels, int64_t step, int64_t channel_stride, Output* out) {
  const int64_t width = static_cast<int64_t>(columns.taps.size());
  for (int64_t i = 0; i < width; ++i) {
    const Taps taps = columns.taps[i];
    const float* weights = columns.weights_of(i);
    const float* source = row + (taps.first - columns.first) * channels;
    float pixel[kMaxChannels] = {0, 0, 0, 0};
    for (int64_t tap = 0; tap < taps.count; ++tap, source += channels) {
      for (int c = 0; c < channels; ++c) pixel[c] += weights[tap] * source[c];
    }
    for (int c = 0; c < channels; ++c) {
      out[i * step + c * channel_stride] = convert<Output>(transform.apply(pixel, channels, c));
    }
  }
}

// Everything of one call, shared by its tasks.
template <typename Output>
struct Job {
  const VideoBatch& batch;
  const ViewTable& views;
  const ClipOptions& options;
  const float* color;  // (N, 3, 4) or null
  AddRow add_row;
  Output* out;
  int64_t stride_n, stride_c, stride_t, stride_y, stride_x;

  // Tasks begin .. end - 1; task = view * frames + frame.
  void run(int64_t begin, int64_t end) const {
    AxisTable rows, columns;
    std::vector<float> row;
    int64_t prepared = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t index = task / options.frames, t = task % options.frames;
      const View view = views[index];
      const Video& video = batch.videos[view.video];
      if (index != prepared) {
        const bool turned = view.rotation % 2 == 1;
        rows.build({view.rows(), video.height, turned ? options.width : options.height},
                   options.antialias);
        columns.build({view.columns(), video.width, turned ? options.height : options.width},
                      options.antialias);
        row.resize((columns.end - columns.first) * batch.channels);
        prepared = index;
      }
      resample_frame(view, video, index, t, rows, columns, row);
    }
  }

  void resample_frame(const View& view, const Video& video, int64_t index, int64_t t,
                      const AxisTable& rows, const AxisTable& columns,
                      std::vector<float>& row) const {
    const int channels = static_cast<int>(batch.channels);
    const int64_t source_columns = columns.end - columns.first;
    const PixelTransform transform(options.norm, color ? color + 12 * index : nullptr);
    const Orientation place(view, options.height, options.width, stride_y, stride_x);
    Output* const frame_out = out + index * stride_n + t * stride_t + place.origin;

    float frame_weights[2];
    const Taps frames = frame_taps(view, t, video.frames, options.linear_time, frame_weights);
    for (int64_t r = 0; r < static_cast<int64_t>(rows.taps.size()); ++r) {
      std::fill(row.begin(), row.end(), 0.0f);
      const Taps taps = rows.taps[r];
      for (int64_t f = 0; f < frames.count; ++f) {
        for (int64_t tap = 0; tap < taps.count; ++tap) {
          add_row(video, frames.first + f, taps.first + tap, columns.first, source_columns,
                  channels, frame_weights[f] * rows.weights_of(r)[tap], row.data());
        }
      }
      store_row(row.data(), columns, transform, channels, place.per_column, stride_c,
                frame_out + r * place.per_row);
    }
  }
};

template <typename Output>
void crop_resize_into(const char* op, const VideoBatch& batch, const ViewTable& views,
                      const ClipOptions& options, const float* color, const Tensor& clips) {
  const Job<Output> job{batch,
                        views,
                        options,
                        color,
                        add_row_for(op, batch.dtype),
                        static_cast<Output*>(clips.mutable_data_ptr()),
                        clips.stride(0),
                        clips.stride(1),
                        clips.stride(2),
                        clips.stride(3),
                        clips.stride(4)};
  torch::stable::parallel_for(0, views.size * options.frames, 1,
                              [&](int64_t begin, int64_t end) { job.run(begin, end); });
}

Tensor run_crop_resize(const char* op, const char* argument, const VideoBatch& batch,
                       const ViewTable& views, const ClipOptions& options,
                       const std::optional<Tensor>& color, const Tensor& like) {
  check_views(op, argument, views, static_cast<int64_t>(batch.videos.size()));
  const std::optional<Tensor> matrices = unpack_color(op, color, batch, views.size);
  const float* const matrix_data = matrices ? matrices->const_data_ptr<float>() : nullptr;
  for (int64_t i = 0; matrix_data && i < 12 * views.size; ++i) {
    STOR_CHECK(is_finite(matrix_data[i]), op, ": color row ", i / 12,
               ": expected finite numbers, got ", matrix_data[i]);
  }
  const Tensor clips = new_clips(batch, options, views.size, like);
  switch (options.dtype) {
    case ScalarType::Float:
      crop_resize_into<float>(op, batch, views, options, matrix_data, clips);
      break;
    case ScalarType::Half:
      crop_resize_into<Half>(op, batch, views, options, matrix_data, clips);
      break;
    case ScalarType::BFloat16:
      crop_resize_into<BFloat16>(op, batch, views, options, matrix_data, clips);
      break;
    case ScalarType::Byte:
      crop_resize_into<uint8_t>(op, batch, views, options, matrix_data, clips);
      break;
    default:
      STOR_CHECK(false, op, ": dtype: expected float32, float16, bfloat16 or uint8");
  }
  return clips;
}

Tensor crop_resize_cpu(std::vector<Tensor> videos, std::vector<Tensor> views,
                       std::vector<int64_t> size, std::optional<std::vector<double>> mean,
                       std::optional<std::vector<double>> std, std::optional<Tensor> color,
                       bool antialias, bool linear_time, ScalarType dtype, bool channels_last) {
  constexpr const char* kOp = "crop_resize";
  const VideoBatch batch = unpack_videos(kOp, videos);
  const UnpackedViews unpacked(kOp, "views", views);
  const ClipOptions options =
      make_options(kOp, batch, size, mean, std, antialias, linear_time, dtype, channels_last);
  return run_crop_resize(kOp, "views", batch, unpacked.table(), options, color, videos[0]);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> crop_resize_pair_cpu(
    std::vector<Tensor> videos, std::vector<Tensor> first_fields, std::vector<Tensor> second_fields,
    std::vector<int64_t> size, std::optional<std::vector<double>> mean,
    std::optional<std::vector<double>> std, std::optional<Tensor> color_first,
    std::optional<Tensor> color_second, bool antialias, bool linear_time, ScalarType dtype,
    bool channels_last) {
  constexpr const char* kOp = "crop_resize_pair";
  const VideoBatch batch = unpack_videos(kOp, videos);
  const UnpackedViews first_views(kOp, "first", first_fields);
  const UnpackedViews second_views(kOp, "second", second_fields);
  const ViewTable first = first_views.table(), second = second_views.table();
  STOR_CHECK(first.size == second.size, kOp, ": second: expected ", first.size,
             " views as in first, got ", second.size);
  const ClipOptions options =
      make_options(kOp, batch, size, mean, std, antialias, linear_time, dtype, channels_last);
  const Tensor clips_first =
      run_crop_resize(kOp, "first", batch, first, options, color_first, videos[0]);
  const Tensor clips_second =
      run_crop_resize(kOp, "second", batch, second, options, color_second, videos[0]);

  const OverlapTensors overlap(videos[0], {first.size});
  const OverlapTable rates = overlap.table();
  for (int64_t row = 0; row < first.size; ++row) {
    rates.set(row, measure_overlap(first[row], second[row], options.frames));
  }
  return std::tuple_cat(std::make_tuple(clips_first, clips_second), overlap.tensors());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CPU, m) {
  m.impl("crop_resize", TORCH_BOX(&crop_resize_cpu));
  m.impl("crop_resize_pair", TORCH_BOX(&crop_resize_pair_cpu));
}

}  // namespace stor
