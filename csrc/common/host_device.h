// One spelling for functions that the CPU kernels, the CUDA kernels and the emulator all compile.
#pragma once

#if defined(__CUDACC__)
#define STOR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define STOR_HOST_DEVICE inline
#endif
