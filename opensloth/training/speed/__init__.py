"""What makes the transformers engine fast: fewer and leaner kernels with the same results, on CPUs and GPUs."""
