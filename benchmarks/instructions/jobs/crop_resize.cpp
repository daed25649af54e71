// crop_resize as one thread makes it: two views of two small uint8 videos by a new ClipMaker, which
// works out their tables first.
//
// clip_maker_cpu.h includes headers of torch, none of whose functions are called: nothing of torch
// is linked.
#include <cstdint>
#include <memory>
#include <vector>

#include "../../../csrc/crop_resize/clip_maker_cpu.h"
#include "jobs.h"

namespace stor::instructions {
namespace {

enum class Memory { interleaved, planar, scattered };  // as ClipMaker tells them apart

// How a job differs from upright float32 clips without antialias of the nearest frames.
struct Variant {
  const char* name;
  bool antialias = false, linear_time = false, channels_last = false, color = false;
  bool turned = false;  // flipped, then turned by a quarter
  bool shrunk = false;  // so far that no vectors hold a block's pixels: they are gathered
  ScalarType dtype = ScalarType::Float;
  Memory memory = Memory::interleaved;
};

constexpr Variant kVariants[] = {
    {.name = "float32"},
    {.name = "bfloat16 antialias turned",
     .antialias = true,
     .turned = true,
     .dtype = ScalarType::BFloat16},
    {.name = "float32 linear color", .linear_time = true, .color = true},
    {.name = "bfloat16 antialias channels_last",
     .antialias = true,
     .channels_last = true,
     .dtype = ScalarType::BFloat16},
    {.name = "float32 antialias shrunk", .antialias = true, .shrunk = true},
    {.name = "float32 antialias planar", .antialias = true, .memory = Memory::planar},
    {.name = "float32 antialias scattered", .antialias = true, .memory = Memory::scattered},
};

constexpr int64_t kViews = 2, kChannels = 3;
// No multiples of a vector or of kBandRows: the ends of rows and bands have code of their own.
constexpr int64_t kFrames = 4, kHeight = 20, kWidth = 28;
constexpr int64_t kPlane = kFrames * kHeight * kWidth;

// What the launcher makes of a call's arguments. Pixels are 0: no count depends on them.
struct Call {
  VideoBatch batch{{}, ScalarType::Byte, kChannels};
  ClipOptions options;
  std::vector<std::vector<uint8_t>> pixels;
  std::vector<char> clips;

  // The columns of the views: one shrinks its video, the other enlarges it.
  int64_t videos[kViews] = {0, 1};
  float starts[kViews] = {0.25f, 1.25f}, strides[kViews] = {0.75f, 0.5f};
  float boxes[kViews][4] = {{4.5f, 3.25f, 70.5f, 57.0f}, {10.0f, 8.0f, 32.0f, 25.0f}};
  bool flips[kViews];
  uint8_t rotations[kViews];
  float colors[kViews][3][4] = {};

  explicit Call(const Variant& variant)
      : options{.frames = kFrames,
                .height = kHeight,
                .width = kWidth,
                .antialias = variant.antialias,
                .linear_time = variant.linear_time,
                .channels_last = variant.channels_last,
                .dtype = variant.dtype,
                .norm = {}} {
    for (int64_t c = 0; c < kChannels; ++c) options.norm.set(c, 0.4, 0.2, 255.0, 1.0);
    for (int64_t view = 0; view < kViews; ++view) {
      flips[view] = variant.turned;
      rotations[view] = variant.turned ? 1 : 0;
      if (variant.shrunk) boxes[view][2] += 130.0f;
    }
    add_video(60, 220, variant.memory);
    add_video(40, 170, variant.memory);
    clips.resize(kViews * kChannels * kPlane * sizeof(float));
  }
  Call(const Call&) = delete;  // the views point into it

  void add_video(int64_t height, int64_t width, Memory memory) {
    const int64_t plane = height * width;
    const int64_t pixel = memory == Memory::interleaved ? kChannels : kChannels + 1;
    pixels.emplace_back(kFrames * plane * pixel);
    const void* const data = pixels.back().data();
    batch.videos.push_back(
        memory == Memory::planar
            ? Video{data, kFrames, height, width, kChannels * plane, width, 1, plane}
            : Video{data, kFrames, height, width, pixel * plane, pixel * width, pixel, 1});
  }

  ClipSet set(bool color) {
    return {{videos, starts, strides, boxes[0], flips, rotations, kViews},
            color ? colors[0][0] : nullptr,
            clips.data()};
  }
};

ClipJob make_job(Call& call, const Variant& variant, Isa isa) {
  const bool is_float = variant.dtype == ScalarType::Float;
  const int64_t pixel = variant.channels_last ? kChannels : 1;
  return {.batch = call.batch,
          .options = call.options,
          .kernels = row_kernels(isa),
          .sets = {call.set(variant.color)},
          .source = Element::uint8,
          .output = is_float ? Element::float32 : Element::bfloat16,
          .source_bytes = 1,
          .output_bytes = is_float ? 4 : 2,
          .stride_n = kChannels * kPlane,
          .stride_c = variant.channels_last ? 1 : kPlane,
          .stride_t = kHeight * kWidth * pixel,
          .stride_y = kWidth * pixel,
          .stride_x = pixel};
}

}  // namespace

void add_crop_resize(Jobs& jobs, const std::string& isa_name, Isa isa) {
  for (const Variant& variant : kVariants) {
    const auto call = std::make_shared<Call>(variant);
    const ClipJob job = make_job(*call, variant, isa);
    jobs[std::string("crop_resize ") + variant.name + " " + isa_name] = [call, job] {
      ClipMaker(job).make(0, job.units());
    };
  }
}

}  // namespace stor::instructions
