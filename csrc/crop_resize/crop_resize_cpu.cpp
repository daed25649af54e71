// Launchers of crop_resize and crop_resize_pair on the CPU: checks, then one parallel region for
// all clips of the call; clip_maker_cpu.h makes them.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <tuple>
#include <utility>

#include "../common/host_blocks.h"
#include "../common/isa.h"
#include "../views/tensors.h"
#include "arguments.h"
#include "clip_maker_cpu.h"

namespace stor {
namespace {

Element element_of(const char* op, const char* argument, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return Element::uint8;
    case ScalarType::Float:
      return Element::float32;
    case ScalarType::Half:
      return Element::float16;
    case ScalarType::BFloat16:
      return Element::bfloat16;
    default:
      STOR_CHECK(false, op, ": ", argument, ": expected uint8, float32, float16 or bfloat16");
  }
  return Element::uint8;
}

int64_t bytes_of(Element element) {
  return element == Element::uint8 ? 1 : element == Element::float32 ? 4 : 2;
}

// Hands out units in ever smaller pieces: large ones first, so that a view's tables are seldom
// worked out twice, small ones last, so that all threads finish together whatever their speed.
class Pieces {
 public:
  Pieces(int64_t units, int64_t threads) : units_(units), threads_(threads) {}

  // The next piece; empty at the end.
  std::pair<int64_t, int64_t> take() {
    int64_t begin = next_.load(std::memory_order_relaxed), end;
    do {
      end = begin + std::max<int64_t>((units_ - begin) / (2 * threads_), 1);
      if (begin >= units_) return {units_, units_};
    } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return {begin, end};
  }

 private:
  const int64_t units_, threads_;
  std::atomic<int64_t> next_{0};
};

// What is known of one set of clips before they are made.
struct ViewSet {
  const char* argument;
  ViewTable views;
  const std::optional<Tensor>& color;
};

// Places in a row are 32-bit numbers, of which gathers take more than of 64-bit ones.
void check_row_lengths(const char* op, const ViewSet& set, const VideoBatch& batch) {
  for (int64_t row = 0; row < set.views.size; ++row) {
    const View view = set.views[row];
    const double width = static_cast<double>(batch.videos[view.video].width);
    const double left = clamp(std::floor(view.columns().begin), 0.0, width - 1.0);
    const double right = clamp(std::ceil(view.columns().end), left + 1.0, width);
    const double elements = (right - left) * static_cast<double>(batch.channels);
    STOR_CHECK(elements < 0x1p31, op, ": ", set.argument, " row ", row,
               ": box: expected less than 2^31 elements of the video in a row of it, got ",
               elements);
  }
}

std::vector<Tensor> make_clips(const char* op, const VideoBatch& batch, const ClipOptions& options,
                               const std::vector<ViewSet>& sets) {
  std::vector<Tensor> clips;
  std::vector<std::optional<Tensor>> matrices;  // alive until the clips are made
  const Element source = element_of(op, "videos", batch.dtype);
  const Element output = element_of(op, "dtype", options.dtype);
  ClipJob job{batch,
              options,
              row_kernels(choose_isa(op)),
              {},
              source,
              output,
              bytes_of(source),
              bytes_of(output),
              0,
              0,
              0,
              0,
              0};
  for (const ViewSet& set : sets) {
    check_views(op, set.argument, set.views, static_cast<int64_t>(batch.videos.size()));
    check_row_lengths(op, set, batch);
    matrices.push_back(unpack_color(op, set.color, batch, set.views.size));
    const float* const color = matrices.back() ? matrices.back()->const_data_ptr<float>() : nullptr;
    for (int64_t i = 0; color && i < 12 * set.views.size; ++i) {
      STOR_CHECK(is_finite(color[i]), op, ": color row ", i / 12, ": expected finite numbers, got ",
                 color[i]);
    }
    clips.push_back(new_host_tensor(clip_shape(batch, options, set.views.size), options.dtype,
                                    job.output_bytes, options.channels_last));
    job.sets.push_back({set.views, color, static_cast<char*>(clips.back().mutable_data_ptr())});
  }
  const Tensor& head = clips[0];
  job.stride_n = head.stride(0);
  job.stride_c = head.stride(1);
  job.stride_t = head.stride(2);
  job.stride_y = head.stride(3);
  job.stride_x = head.stride(4);

  const int64_t threads = torch::stable::get_num_threads();
  Pieces pieces(job.units(), threads);
  torch::stable::parallel_for(0, std::min(threads, job.units()), 1, [&](int64_t, int64_t) {
    ClipMaker maker(job);
    for (auto piece = pieces.take(); piece.first < piece.second; piece = pieces.take()) {
      maker.make(piece.first, piece.second);
    }
  });
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
  return make_clips(kOp, batch, options, {{"views", unpacked.table(), color}})[0];
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
  const std::vector<Tensor> clips = make_clips(
      kOp, batch, options, {{"first", first, color_first}, {"second", second, color_second}});

  const OverlapTensors overlap(videos[0], {first.size});
  const OverlapTable rates = overlap.table();
  for (int64_t row = 0; row < first.size; ++row) {
    rates.set(row, measure_overlap(first[row], second[row], options.frames));
  }
  return std::tuple_cat(std::make_tuple(clips[0], clips[1]), overlap.tensors());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stor_ops, CPU, m) {
  m.impl("crop_resize", TORCH_BOX(&crop_resize_cpu));
  m.impl("crop_resize_pair", TORCH_BOX(&crop_resize_pair_cpu));
}

}  // namespace stor
