// Every kernel instantiation of the project, for budgets.py to compile: not part of any library.
#include "crop_resize/crop_resize_kernel.cuh"
#include "views/views_kernels.cuh"

namespace stor {

template __global__ void crop_resize_kernel<float>(const __grid_constant__ CropJob);
template __global__ void crop_resize_kernel<__half>(const __grid_constant__ CropJob);
template __global__ void crop_resize_kernel<__nv_bfloat16>(const __grid_constant__ CropJob);
template __global__ void crop_resize_kernel<uint8_t>(const __grid_constant__ CropJob);

// The name of this one tells what the launchers know and ptxas does not.
template <int crop_shared_bytes, int crop_threads, int view_threads>
__global__ void launch_facts() {}
template __global__ void launch_facts<sizeof(CropShared), kCropThreads, kViewThreads>();

}  // namespace stor
