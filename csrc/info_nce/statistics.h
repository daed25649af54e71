// Sums over the logits of a row that grow tile by tile.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace stor {

// sum of exp(x - max), for any x and in any order; the logarithm of the sum of exp(x) in the end.
class LogSumExp {
 public:
  void add(double max, double sum) {
    if (max == -kInfinity) return;
    if (max <= max_) {
      sum_ += sum * std::exp(max - max_);
    } else {  // also NaN and +infinity, which then stay
      sum_ = sum + (max_ == -kInfinity ? 0 : sum_ * std::exp(max_ - max));
      max_ = max;
    }
  }
  double value() const { return max_ == -kInfinity ? -kInfinity : max_ + std::log(sum_); }

 private:
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double max_ = -kInfinity;
  double sum_ = 0;
};

// What the loss of a row is made of.
struct RowStatistics {
  LogSumExp all;            // over the keys
  LogSumExp positives;      // over the positives, with log weights; form "in"
  double weighted_sum = 0;  // of the positives' logits; form "out"
  double weight = 0;

  void add_positive(double logit, double positive_weight, bool inside) {
    weight += positive_weight;
    if (inside) {
      positives.add(logit + std::log(positive_weight), 1);
    } else {
      weighted_sum += positive_weight * logit;
    }
  }
};

}  // namespace stor
