// Between the op's Tensor[] and the kernels' ViewTable.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "../common/check.h"
#include "view.h"

namespace stor {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline const char* describe(ViewFault fault) {
  switch (fault) {
    case ViewFault::kVideo:
      return "video: expected an index into the batch";
    case ViewFault::kStart:
      return "start: expected a finite frame";
    case ViewFault::kStride:
      return "stride: expected a finite number above 0";
    case ViewFault::kBoxNotFinite:
      return "box: expected finite edges";
    case ViewFault::kBoxEmpty:
      return "box: expected x0 < x1 and y0 < y1";
    case ViewFault::kRotation:
      return "rotation: expected 0, 1, 2 or 3 quarter turns";
    case ViewFault::kNone:
      break;
  }
  return "no fault";
}

inline std::string format(const View& view) {
  return concat("video ", view.video, ", start ", view.start, ", stride ", view.stride, ", box (",
                view.box[0], ", ", view.box[1], ", ", view.box[2], ", ", view.box[3],
                "), rotation ", static_cast<int>(view.rotation));
}

// Owns contiguous columns for as long as the table is in use.
class UnpackedViews {
 public:
  UnpackedViews(const char* op, const char* argument, const std::vector<Tensor>& fields) {
    static constexpr const char* kNames[6] = {"video", "start", "stride",
                                              "box",   "flip",  "rotation"};
    static constexpr ScalarType kTypes[6] = {ScalarType::Long,  ScalarType::Float,
                                             ScalarType::Float, ScalarType::Float,
                                             ScalarType::Bool,  ScalarType::Byte};
    STOR_CHECK(fields.size() == 6, op, ": ", argument, ": expected 6 tensors, got ", fields.size());
    for (int i = 0; i < 6; ++i) {
      const Tensor& field = fields[i];
      const int dim = i == 3 ? 2 : 1;
      STOR_CHECK(field.scalar_type() == kTypes[i], op, ": ", argument, ".", kNames[i],
                 ": unexpected dtype");
      STOR_CHECK(field.dim() == dim && field.size(0) == fields[0].size(0), op, ": ", argument, ".",
                 kNames[i], ": expected ", dim, " dimension(s) and ", fields[0].size(0),
                 " row(s) as in video, got ", field.dim(), " dimension(s)",
                 field.dim() > 0 ? concat(" and ", field.size(0), " row(s)") : "");
      columns_.push_back(torch::stable::contiguous(field));
    }
    STOR_CHECK(columns_[3].size(1) == 4, op, ": ", argument, ".box: expected shape (",
               columns_[0].size(0), ", 4), got (", columns_[3].size(0), ", ", columns_[3].size(1),
               ")");
  }

  ViewTable table() const {
    return {columns_[0].const_data_ptr<int64_t>(),
            columns_[1].const_data_ptr<float>(),
            columns_[2].const_data_ptr<float>(),
            columns_[3].const_data_ptr<float>(),
            columns_[4].const_data_ptr<bool>(),
            columns_[5].const_data_ptr<uint8_t>(),
            columns_[0].size(0)};
  }

 private:
  std::vector<Tensor> columns_;
};

// Host tables only: names the first row that no kernel may use.
inline void check_views(const char* op, const char* argument, const ViewTable& views,
                        int64_t num_videos) {
  for (int64_t row = 0; row < views.size; ++row) {
    const View view = views[row];
    const ViewFault fault = find_fault(view, num_videos);
    STOR_CHECK(fault == ViewFault::kNone, op, ": ", argument, " row ", row, ": ", describe(fault),
               num_videos >= 0 && fault == ViewFault::kVideo
                   ? concat(" of ", num_videos, " video(s)")
                   : "",
               ", got ", format(view));
  }
}

}  // namespace stor
