// The tensors that the view ops return, and the tables through which kernels of any device fill
// them.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "tables.h"
#include "unpack.h"

namespace stor {

// Owns contiguous columns of the videos to sample.
class VideoColumns {
 public:
  VideoColumns(const Tensor& num_frames, const Tensor& heights, const Tensor& widths,
               const Tensor& keys)
      : columns_{column("num_frames", num_frames, num_frames),
                 column("heights", heights, num_frames), column("widths", widths, num_frames),
                 column("keys", keys, num_frames)} {}

  VideoTable table() const {
    const auto longs = [&](int i) { return columns_[i].const_data_ptr<int64_t>(); };
    return {longs(0), longs(1), longs(2), longs(3), columns_[0].size(0)};
  }

 private:
  static Tensor column(const char* argument, const Tensor& values, const Tensor& like) {
    STOR_CHECK(values.scalar_type() == ScalarType::Long, "sample_view_pairs: ", argument,
               ": expected dtype int64");
    STOR_CHECK(values.dim() == 1 && values.size(0) == like.size(0), "sample_view_pairs: ", argument,
               ": expected 1 dimension as long as num_frames");
    return torch::stable::contiguous(values);
  }

  std::vector<Tensor> columns_;
};

// What sample_view_pairs returns: the fields of both Views, then the classes.
class PairTensors {
 public:
  PairTensors(const Tensor& like, int64_t rows) {
    using torch::stable::new_empty;
    for (int view = 0; view < 2; ++view) {
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Long));
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Float));
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Float));
      tensors_.push_back(new_empty(like, {rows, 4}, ScalarType::Float));
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Bool));
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Byte));
    }
    for (int label = 0; label < 3; ++label) {
      tensors_.push_back(new_empty(like, {rows}, ScalarType::Long));
    }
    tensors_.push_back(new_empty(like, {rows, 2}, ScalarType::Long));
  }

  PairTable table() const {
    const auto longs = [&](int i) { return tensors_[i].mutable_data_ptr<int64_t>(); };
    return {views(0), views(6), longs(12), longs(13), longs(14), longs(15)};
  }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  MutableViewTable views(int at) const {
    return {
        tensors_[at].mutable_data_ptr<int64_t>(),   tensors_[at + 1].mutable_data_ptr<float>(),
        tensors_[at + 2].mutable_data_ptr<float>(), tensors_[at + 3].mutable_data_ptr<float>(),
        tensors_[at + 4].mutable_data_ptr<bool>(),  tensors_[at + 5].mutable_data_ptr<uint8_t>()};
  }

  std::vector<Tensor> tensors_;
};

// The spatial, temporal and joint overlap rate, of one shape.
class OverlapTensors {
 public:
  OverlapTensors(const Tensor& like, const std::vector<int64_t>& shape)
      : spatial_(torch::stable::new_empty(like, shape, ScalarType::Float)),
        temporal_(torch::stable::new_empty(like, shape, ScalarType::Float)),
        joint_(torch::stable::new_empty(like, shape, ScalarType::Float)) {}

  OverlapTable table() const {
    return {spatial_.mutable_data_ptr<float>(), temporal_.mutable_data_ptr<float>(),
            joint_.mutable_data_ptr<float>()};
  }
  std::tuple<Tensor, Tensor, Tensor> tensors() const { return {spatial_, temporal_, joint_}; }

 private:
  Tensor spatial_, temporal_, joint_;
};

}  // namespace stor
