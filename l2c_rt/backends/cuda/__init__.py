"""The fused backend on a GPU: what a row launches, on static buffers, captured and replayed."""
