// Makes clips on the CPU, a band of rows at a time; each thread has a ClipMaker of its own.
//
// A row of a clip is made in steps, each vectorised (row_kernels.h) on scratch rows that stay in
// the first-level cache: source rows are blended along y and time, interleaved channels parted
// into planes, the planes filtered along x and transformed, and the result stored. The flip is
// folded into the order of the taps; of a view turned by a quarter, a band of kBandRows rows is
// transposed on its way into the clip.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "arguments.h"
#include "pack_row.h"
#include "resample.h"
#include "resampling_tables.h"
#include "row_kernels.h"

namespace stor {

// One output tensor and the views that it shows.
struct ClipSet {
  ViewTable views;
  const float* color;  // (N, 3, 4) or null
  char* out;
};

// Everything of one call, shared by its threads. All sets have the same shape and strides.
struct ClipJob {
  const VideoBatch& batch;
  const ClipOptions& options;
  const RowKernels& kernels;
  std::vector<ClipSet> sets;
  Element source, output;
  int64_t source_bytes, output_bytes;  // of an element
  int64_t stride_n, stride_c, stride_t, stride_y, stride_x;

  int64_t bands() const {
    return (std::max(options.height, options.width) + kBandRows - 1) / kBandRows;
  }
  // A unit is a band of one frame of one view. Views of the same row in different sets are
  // neighbours, since they often show the same video.
  int64_t units_per_view() const { return options.frames * bands(); }
  int64_t units() const {
    return static_cast<int64_t>(sets.size()) * sets[0].views.size * units_per_view();
  }
};

class ClipMaker {
 public:
  explicit ClipMaker(const ClipJob& job) : job_(job) {}

  void make(int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      if (const int64_t index = unit / job_.units_per_view(); index != prepared_) {
        prepare(index);
        prepared_ = index;
      }
      const int64_t rest = unit % job_.units_per_view();
      make_band(rest / job_.bands(), rest % job_.bands() * kBandRows);
    }
  }

 private:
  // How the pixels of a source row lie in memory.
  enum class Layout { dense, planar, scattered };

  void prepare(int64_t index) {
    const int64_t sets = static_cast<int64_t>(job_.sets.size());
    set_ = &job_.sets[index % sets];
    const int64_t row = index / sets;
    const ClipOptions& options = job_.options;
    view_ = set_->views[row];
    video_ = &job_.batch.videos[view_.video];
    turned_ = view_.rotation % 2 == 1;
    place(row);
    transform_ = PixelTransform(options.norm, set_->color ? set_->color + 12 * row : nullptr);

    const int64_t height = turned_ ? options.width : options.height;
    const int64_t width = turned_ ? options.height : options.width;
    AxisTable columns;
    rows_.build({view_.rows(), video_->height, height}, options.antialias, mirror_rows_);
    columns.build({view_.columns(), video_->width, width}, options.antialias, mirror_columns_);
    find_layout();
    columns_.build(columns, job_.kernels, layout_ == Layout::planar ? 1 : channels());
    first_column_ = columns.first;
    pixels_ = columns.end - columns.first;
    reserve();
  }

  // Steps through the clip are made positive: what runs against them is resampled in reverse.
  void place(int64_t row) {
    const ClipOptions& options = job_.options;
    const Orientation turn(view_, options.height, options.width, job_.stride_y, job_.stride_x);
    mirror_rows_ = turn.per_row < 0;
    mirror_columns_ = turn.per_column < 0;
    per_row_ = std::abs(turn.per_row);
    per_column_ = std::abs(turn.per_column);
    clip_ = set_->out + row * job_.stride_n * job_.output_bytes;
  }

  void find_layout() {
    if (video_->stride_x == channels() && (channels() == 1 || video_->stride_c == 1)) {
      layout_ = Layout::dense;
    } else {
      layout_ = video_->stride_x == 1 ? Layout::planar : Layout::scattered;
    }
  }

  void reserve() {
    // Lanes that have fewer taps than others read on, and so do permutations: see ColumnFilter.
    const int64_t row = pixels_ + columns_.filter().taps;
    plane_stride_ = (row + kRowPadding) / kMaxLanes * kMaxLanes;
    grow(planes_, channels() * plane_stride_);
    grow(interleaved_, channels() * row + kRowPadding);
    if (layout_ == Layout::scattered) {
      grow(packed_, (channels() * pixels_ + kRowPadding) * job_.source_bytes);
    }
    tile_stride_ = (columns_.filter().size + 2 * kBandRows - 1) / kBandRows * kBandRows;
    tile_plane_ = (turned_ ? kBandRows : 1) * tile_stride_;
    grow(tile_, channels() * tile_plane_);
    grow(turned_tile_, channels() * kBandRows * kBandRows);
  }

  template <typename Scalar>
  static void grow(AlignedVector<Scalar>& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
  }

  void make_band(int64_t t, int64_t begin) {
    const int64_t end = std::min(begin + kBandRows, rows_.size());
    if (begin >= end) return;
    float frame_weights[2];
    const Taps frames =
        frame_taps(view_, t, video_->frames, job_.options.linear_time, frame_weights);
    char* const frame = clip_ + t * job_.stride_t * job_.output_bytes;
    for (int64_t row = begin; row < end; ++row) {
      prefetch(frames, row + 1);
      blend_row(frames, frame_weights, row);
      char* const out = frame + row * per_row_ * job_.output_bytes;
      if (turned_) {
        filter_row(tile_.data() + (row - begin) * tile_stride_, tile_plane_);
      } else if (is_direct()) {
        filter_row(reinterpret_cast<float*>(out), job_.stride_c);
      } else {
        filter_row(tile_.data(), tile_plane_);
        const int64_t width = columns_.filter().size;
        put({tile_.data(), tile_plane_, 0, channels(), 1, width}, out, 0);
      }
    }
    if (turned_) put_turned(frame + begin * per_row_ * job_.output_bytes, end - begin);
  }

  // Asks for the source rows that an output row reads: the processor's own prefetching does not see
  // where the crop's next row begins. (Inlined, since GCC drops calls that only prefetch.)
  __attribute__((always_inline)) void prefetch(const Taps& frames, int64_t row) {
    if (layout_ != Layout::dense || row >= rows_.size()) return;
    const Taps taps = rows_.taps[row];
    const int64_t bytes = pixels_ * channels() * job_.source_bytes;
    for (int64_t f = 0; f < frames.count; ++f) {
      for (int64_t y = 0; y < taps.count; ++y) {
        const char* const line = address(frames.first + f, taps.first + y, 0);
        for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(line + byte);
      }
    }
  }

  // Whether the filter may write into the clip: as floats, in whole vectors.
  bool is_direct() const {
    return job_.output == Element::float32 && job_.stride_x == 1 &&
           columns_.filter().size >= job_.kernels.lanes;
  }

  // The sum of the source rows that output row `row` reads, as planes or interleaved.
  void blend_row(const Taps& frames, const float* frame_weights, int64_t row) {
    const Taps taps = rows_.taps[row];
    const float* weights = rows_.weights_of(row);
    if (frames.count > 1) {
      stack_weights_.resize(frames.count * taps.count);
      for (int64_t i = 0; i < frames.count * taps.count; ++i) {
        stack_weights_[i] = frame_weights[i / taps.count] * weights[i % taps.count];
      }
      weights = stack_weights_.data();
    }
    const char* const data = address(frames.first, taps.first, 0);
    const RowStack stack{data,   frames.count, taps.count, video_->stride_t, video_->stride_y,
                         weights};
    const auto blend = job_.kernels.blend[static_cast<int>(job_.source)];
    switch (layout_) {
      case Layout::dense:
        blend(stack, pixels_ * channels(), false, dense_row());
        break;
      case Layout::planar:
        for (int64_t c = 0; c < channels(); ++c) {
          RowStack plane = stack;
          plane.data = address(frames.first, taps.first, c);
          blend(plane, pixels_, false, planes_.data() + c * plane_stride_);
        }
        return;
      case Layout::scattered:
        blend_scattered(stack, blend);
        break;
    }
    if (is_parted()) {
      job_.kernels.split[channels()](interleaved_.data(), pixels_, planes_.data(), plane_stride_);
    }
  }

  // Whether interleaved rows are parted into planes: not where pixels are gathered one by one.
  bool is_parted() const { return channels() > 1 && columns_.filter().window > 0; }
  float* dense_row() { return channels() == 1 ? planes_.data() : interleaved_.data(); }

  // One source row at a time is copied into a dense one.
  template <typename Blend>
  void blend_scattered(const RowStack& stack, Blend blend) {
    const int64_t lanes = job_.kernels.lanes;
    const int64_t count = (pixels_ * channels() + lanes - 1) / lanes * lanes;
    for (int64_t i = 0; i < stack.frames * stack.rows; ++i) {
      const int64_t offset = i / stack.rows * stack.stride_t + i % stack.rows * stack.stride_y;
      pack(static_cast<const char*>(stack.data) + offset * job_.source_bytes);
      blend({packed_.data(), 1, 1, 0, 0, stack.weights + i}, count, i > 0, dense_row());
    }
  }

  void pack(const char* from) {
    switch (job_.source_bytes) {
      case 1:
        return pack_row<uint8_t>(from, *video_, pixels_, channels(), packed_.data());
      case 2:
        return pack_row<uint16_t>(from, *video_, pixels_, channels(), packed_.data());
      default:
        return pack_row<uint32_t>(from, *video_, pixels_, channels(), packed_.data());
    }
  }

  // Filters the blended row along x into planes that lie `stride` apart.
  void filter_row(float* to, int64_t stride) {
    const ColumnFilter& columns = columns_.filter();
    const auto filter = job_.kernels.filter[job_.source == Element::uint8][columns.window];
    const bool interleaved = layout_ != Layout::planar && channels() > 1 && !is_parted();
    filter(columns, interleaved ? interleaved_.data() : planes_.data(),
           interleaved ? 1 : plane_stride_, channels(), transform_, to, stride);
  }

  // The band's rows become columns of the clip, `rows` pixels of each output row at `out`.
  void put_turned(char* out, int64_t rows) {
    const int64_t columns = columns_.filter().size;
    for (int64_t x = 0; x < columns; x += kBandRows) {
      for (int64_t c = 0; c < channels(); ++c) {
        job_.kernels.turn(tile_.data() + c * tile_plane_ + x, tile_stride_,
                          turned_tile_.data() + c * kBandRows * kBandRows);
      }
      const int64_t runs = std::min(kBandRows, columns - x);
      put({turned_tile_.data(), kBandRows * kBandRows, kBandRows, channels(), runs, rows},
          out + x * per_column_ * job_.output_bytes, per_column_);
    }
  }

  void put(const Runs& runs, char* out, int64_t run_stride) const {
    const bool interleaved = job_.stride_x != 1;
    job_.kernels.put[static_cast<int>(job_.output)](runs, out, run_stride, job_.stride_c,
                                                    interleaved);
  }

  int64_t channels() const { return job_.batch.channels; }
  const char* address(int64_t frame, int64_t y, int64_t c) const {
    const int64_t offset = frame * video_->stride_t + y * video_->stride_y +
                           first_column_ * video_->stride_x + c * video_->stride_c;
    return static_cast<const char*>(video_->data) + offset * job_.source_bytes;
  }

  const ClipJob& job_;

  // Of the view that is being made.
  int64_t prepared_ = -1;
  const ClipSet* set_ = nullptr;
  View view_{};
  const Video* video_ = nullptr;
  PixelTransform transform_{Normalisation{}, nullptr};
  AxisTable rows_;
  ColumnTable columns_;
  Layout layout_ = Layout::dense;
  bool turned_ = false, mirror_rows_ = false, mirror_columns_ = false;
  int64_t per_row_ = 0, per_column_ = 0;
  char* clip_ = nullptr;
  int64_t first_column_ = 0, pixels_ = 0;

  // Scratch. Padding is read, but with weights of 0: it starts as zeros and stays finite.
  AlignedVector<float> interleaved_, planes_, tile_, turned_tile_;
  std::vector<float> stack_weights_;
  AlignedVector<char> packed_;
  int64_t plane_stride_ = 0, tile_stride_ = 0, tile_plane_ = 0;
};

}  // namespace stor
