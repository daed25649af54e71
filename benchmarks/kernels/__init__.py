"""Evidence on CUDA kernels that needs no GPU: `budgets` (the compiler's), `traffic` (the emulator's)."""
