// CPU launchers of sample_view_pairs, overlap_rate and pairwise_overlap_rate.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "overlap.h"
#include "sampling.h"
#include "sampling_params.h"
#include "unpack.h"

namespace stor {
namespace {

constexpr int64_t kPairsPerTask = 512;

std::vector<Tensor> new_views(const Tensor& like, int64_t rows) {
  using torch::stable::new_empty;
  return {new_empty(like, {rows}, ScalarType::Long),  new_empty(like, {rows}, ScalarType::Float),
          new_empty(like, {rows}, ScalarType::Float), new_empty(like, {rows, 4}, ScalarType::Float),
          new_empty(like, {rows}, ScalarType::Bool),  new_empty(like, {rows}, ScalarType::Byte)};
}

MutableViewTable writable(const std::vector<Tensor>& fields) {
  return {fields[0].mutable_data_ptr<int64_t>(), fields[1].mutable_data_ptr<float>(),
          fields[2].mutable_data_ptr<float>(),   fields[3].mutable_data_ptr<float>(),
          fields[4].mutable_data_ptr<bool>(),    fields[5].mutable_data_ptr<uint8_t>()};
}

std::vector<Tensor> sample_view_pairs_cpu(const Tensor& num_frames, const Tensor& heights,
                                          const Tensor& widths, const Tensor& keys,
                                          int64_t clip_frames, int64_t seed, int64_t epoch,
                                          int64_t draw, std::vector<double> scale,
                                          std::vector<double> ratio, std::vector<double> strides,
                                          std::vector<double> rates, bool rotate, double flip) {
  const SamplingParams params = make_sampling_params(clip_frames, seed, epoch, draw, scale, ratio,
                                                     strides, rates, rotate, flip);
  const VideoColumns videos(num_frames, heights, widths, keys);
  const int64_t rows = videos.size();
  for (int64_t row = 0; row < rows; ++row) {
    const VideoShape shape = videos.shape(row);
    STOR_CHECK(shape.valid(), "sample_view_pairs: row ", row,
               ": expected num_frames, height and width of 1 to ", kMaxExtent, ", got ",
               shape.frames, ", ", shape.height, " and ", shape.width);
  }

  std::vector<Tensor> result = new_views(num_frames, rows);
  const std::vector<Tensor> second_fields = new_views(num_frames, rows);
  const MutableViewTable first = writable(result), second = writable(second_fields);
  result.insert(result.end(), second_fields.begin(), second_fields.end());
  for (int label = 0; label < 3; ++label) {
    result.push_back(torch::stable::new_empty(num_frames, {rows}, ScalarType::Long));
  }
  result.push_back(torch::stable::new_empty(num_frames, {rows, 2}, ScalarType::Long));
  int64_t* const spatial = result[12].mutable_data_ptr<int64_t>();
  int64_t* const temporal = result[13].mutable_data_ptr<int64_t>();
  int64_t* const playback = result[14].mutable_data_ptr<int64_t>();
  int64_t* const rotation = result[15].mutable_data_ptr<int64_t>();

  torch::stable::parallel_for(0, rows, kPairsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const ViewPair pair = sample_view_pair(params, row, videos.shape(row), videos.key(row));
      first.set(row, pair.first);
      second.set(row, pair.second);
      spatial[row] = pair.spatial_class;
      temporal[row] = pair.temporal_class;
      playback[row] = pair.playback_class;
      rotation[2 * row] = pair.rotation_class[0];
      rotation[2 * row + 1] = pair.rotation_class[1];
    }
  });
  return result;
}

struct OverlapTensors {
  Tensor spatial, temporal, joint;
  float *spatial_data, *temporal_data, *joint_data;

  OverlapTensors(const Tensor& like, const std::vector<int64_t>& shape)
      : spatial(torch::stable::new_empty(like, shape, ScalarType::Float)),
        temporal(torch::stable::new_empty(like, shape, ScalarType::Float)),
        joint(torch::stable::new_empty(like, shape, ScalarType::Float)),
        spatial_data(spatial.mutable_data_ptr<float>()),
        temporal_data(temporal.mutable_data_ptr<float>()),
        joint_data(joint.mutable_data_ptr<float>()) {}

  void set(int64_t index, const Overlap& overlap) const {
    spatial_data[index] = static_cast<float>(overlap.spatial);
    temporal_data[index] = static_cast<float>(overlap.temporal);
    joint_data[index] = static_cast<float>(overlap.joint());
  }
  std::tuple<Tensor, Tensor, Tensor> tensors() const { return {spatial, temporal, joint}; }
};

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
  for (int64_t row = 0; row < first.size; ++row) {
    result.set(row, measure_overlap(first[row], second[row], clip_frames));
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
  torch::stable::parallel_for(0, first.size, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const View a = first[row];
      for (int64_t column = 0; column < second.size; ++column) {
        result.set(row * second.size + column, measure_overlap(a, second[column], clip_frames));
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
