// Overlap rates of two views, measured over the first: gamma_s and gamma_t of CSTP (arXiv
// 2112.08913).
#pragma once

#include "view.h"

namespace stor {

struct Overlap {
  double spatial;
  double temporal;
  STOR_HOST_DEVICE double joint() const { return spatial * temporal; }
};

// |a n b| / |a|. Each axis is divided for itself, so that no area can overflow.
STOR_HOST_DEVICE double shared_part(Interval a, Interval b) {
  const double begin = a.begin > b.begin ? a.begin : b.begin;
  const double end = a.end < b.end ? a.end : b.end;
  return end > begin ? (end - begin) / a.length() : 0.0;
}

// Both views must be free of faults. Views of different videos share nothing.
STOR_HOST_DEVICE Overlap measure_overlap(const View& a, const View& b, int64_t clip_frames) {
  if (a.video != b.video) return {0.0, 0.0};
  // Times are counted from a's start: added to a huge start, a short clip would be rounded to
  // nothing.
  const double clip = static_cast<double>(clip_frames);
  const double later = static_cast<double>(b.start) - static_cast<double>(a.start);
  return {shared_part(a.columns(), b.columns()) * shared_part(a.rows(), b.rows()),
          shared_part({0.0, clip * a.stride}, {later, later + clip * b.stride})};
}

// For kernels that cannot raise: NaN where a view is unusable. num_videos < 0: not known.
STOR_HOST_DEVICE Overlap overlap_or_nan(const View& a, const View& b, int64_t clip_frames,
                                        int64_t num_videos) {
  const bool usable = find_fault(a, num_videos) == ViewFault::kNone &&
                      find_fault(b, num_videos) == ViewFault::kNone;
  return usable ? measure_overlap(a, b, clip_frames) : Overlap{not_a_number(), not_a_number()};
}

}  // namespace stor
