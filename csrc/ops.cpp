// The schema of every op, in one place. A library per device registers the implementations;
// fakes and autograd formulas stand in Python beside each wrapper (stor_ops/<op>.py).
//
// A `views` argument is the list [video, start, stride, box, flip, rotation]: the fields of
// stor_ops.Views in their order.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(stor_ops, m) {
  // Returns the six fields of `first`, the six of `second`, then spatial_class, temporal_class,
  // playback_class and rotation_class.
  m.def(
      "sample_view_pairs(Tensor num_frames, Tensor heights, Tensor widths, Tensor keys, "
      "int clip_frames, SymInt seed, SymInt epoch, SymInt draw, float[] scale, float[] ratio, "
      "float[] strides, float[] rates, bool rotate, float flip) -> Tensor[]");

  m.def(
      "overlap_rate(Tensor[] first, Tensor[] second, int clip_frames) -> (Tensor, Tensor, Tensor)");
  m.def(
      "pairwise_overlap_rate(Tensor[] first, Tensor[] second, int clip_frames) "
      "-> (Tensor, Tensor, Tensor)");

  // videos: one (B, T, H, W, C) tensor, or any number of (T, H, W, C) tensors.
  m.def(
      "crop_resize(Tensor[] videos, Tensor[] views, int[] size, float[]? mean, float[]? std, "
      "Tensor? color, bool antialias, bool linear_time, ScalarType dtype, bool channels_last) "
      "-> Tensor");
  // Returns both clip batches, then the spatial, temporal and joint overlap rate.
  m.def(
      "crop_resize_pair(Tensor[] videos, Tensor[] first, Tensor[] second, int[] size, "
      "float[]? mean, float[]? std, Tensor? color_first, Tensor? color_second, bool antialias, "
      "bool linear_time, ScalarType dtype, bool channels_last) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // Sums and statistics per row; the reduction over rows and ranks is in stor_ops/info_nce.py.
  // self_offset: row i of query is row i + self_offset of key and is excluded; -1: nothing is.
  m.def(
      "info_nce(Tensor query, Tensor key, Tensor temperature, Tensor? query_id, Tensor? key_id, "
      "Tensor? positive_index, Tensor? positive_weight, bool inside, int self_offset) "
      "-> (Tensor loss, Tensor lse, Tensor positive_lse, Tensor has_positive)");
  m.def(
      "info_nce_backward(Tensor grad_loss, Tensor lse, Tensor positive_lse, Tensor query, "
      "Tensor key, Tensor temperature, Tensor? query_id, Tensor? key_id, Tensor? positive_index, "
      "Tensor? positive_weight, bool inside, int self_offset) -> (Tensor, Tensor, Tensor)");
}
