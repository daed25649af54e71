"""Triton kernels, for CUDA devices. Importing this package imports no triton: the first call does."""
