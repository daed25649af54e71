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

  // Statistics per query over the keys of one call; statistics of several blocks of keys merge, and
  // the loss is made of them in stor_ops/info_nce.py. Without a key the queries meet each other,
  // each leaving itself out. lse is the logsumexp over keys; positive is the weighted sum of the
  // positives' logits, or if `inside` their weighted logsumexp; weight is the sum of their weights.
  m.def(
      "info_nce(Tensor query, Tensor? key, Tensor temperature, Tensor? query_id, Tensor? key_id, "
      "Tensor? positive_index, Tensor? positive_weight, bool inside) "
      "-> (Tensor lse, Tensor positive, Tensor weight)");
  // lse and positive may be those of more keys than are given here. grad_key is empty without a key
  // or unless need_key.
  m.def(
      "info_nce_backward(Tensor grad_lse, Tensor grad_positive, Tensor lse, Tensor positive, "
      "Tensor query, Tensor? key, Tensor temperature, Tensor? query_id, Tensor? key_id, "
      "Tensor? positive_index, Tensor? positive_weight, bool inside, bool need_key) "
      "-> (Tensor grad_query, Tensor grad_key, Tensor grad_temperature)");
}
