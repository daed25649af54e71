"""What the kernels cost: memory traffic and compiler figures here, times on a GPU."""
