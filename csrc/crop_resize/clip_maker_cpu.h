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
#include "resample.h"
#include "resampling_tables.h"
#include "row_blender.h"
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
  explicit ClipMaker(const ClipJob& job)
      : job_(job), blender_(job.kernels, job.source, job.source_bytes, job.batch.channels) {}

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
    const bool is_planar = layout_of(*video_, channels()) == Layout::planar;
    columns_.build(columns, job_.kernels, is_planar ? 1 : channels());
    blender_.prepare(*video_, rows_, columns, columns_.filter());
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

  void reserve() {
    tile_stride_ = (columns_.filter().size + 2 * kBandRows - 1) / kBandRows * kBandRows;
    tile_plane_ = (turned_ ? kBandRows : 1) * tile_stride_;
    grow(tile_, channels() * tile_plane_);
    grow(turned_tile_, channels() * kBandRows * kBandRows);
  }

  void make_band(int64_t t, int64_t begin) {
    const int64_t end = std::min(begin + kBandRows, rows_.size());
    if (begin >= end) return;
    float frame_weights[2];
    const Taps frames =
        frame_taps(view_, t, video_->frames, job_.options.linear_time, frame_weights);
    char* const frame = clip_ + t * job_.stride_t * job_.output_bytes;
    for (int64_t row = begin; row < end; ++row) {
      blender_.prefetch(frames, row + 1);
      const float* const blended = blender_.blend(frames, frame_weights, row);
      char* const out = frame + row * per_row_ * job_.output_bytes;
      if (turned_) {
        filter_row(blended, Element::float32, tile_.data() + (row - begin) * tile_stride_,
                   tile_plane_);
      } else if (is_direct()) {
        filter_row(blended, job_.output, out, job_.stride_c);
      } else {
        filter_row(blended, Element::float32, tile_.data(), tile_plane_);
        const int64_t width = columns_.filter().size;
        put({tile_.data(), tile_plane_, 0, channels(), 1, width}, out, 0);
      }
    }
    if (turned_) put_turned(frame + begin * per_row_ * job_.output_bytes, end - begin);
  }

  // Whether the filter may write into the clip: in whole vectors.
  bool is_direct() const {
    return job_.stride_x == 1 && columns_.filter().size >= job_.kernels.lanes;
  }

  // Filters a blended row along x into planes of elements that lie `stride` apart.
  void filter_row(const float* row, Element element, void* to, int64_t stride) {
    const ColumnFilter& columns = columns_.filter();
    const bool is_finite = job_.source == Element::uint8;
    const Filters& filters = job_.kernels.filter[static_cast<int>(element)][is_finite];
    filters.by_window[columns.window](columns, row, blender_.stride(), channels(), transform_, to,
                                      stride);
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

  const ClipJob& job_;

  // Of the view that is being made.
  int64_t prepared_ = -1;
  const ClipSet* set_ = nullptr;
  View view_{};
  const Video* video_ = nullptr;
  PixelTransform transform_{Normalisation{}, nullptr};
  AxisTable rows_;
  ColumnTable columns_;
  RowBlender blender_;
  bool turned_ = false, mirror_rows_ = false, mirror_columns_ = false;
  int64_t per_row_ = 0, per_column_ = 0;
  char* clip_ = nullptr;

  // Scratch.
  AlignedVector<float> tile_, turned_tile_;
  int64_t tile_stride_ = 0, tile_plane_ = 0;
};

}  // namespace stor
