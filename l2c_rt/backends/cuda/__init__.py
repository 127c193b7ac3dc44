"""The fused backend on a GPU: what a step launches, on static buffers, captured and replayed."""
