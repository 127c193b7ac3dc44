"""What a GPU is asked to do: CUDA graphs, streams and their order, times by events."""
