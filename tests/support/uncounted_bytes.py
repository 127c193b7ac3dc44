"""Bytes that a kernel's own model and `cost` do not both count."""

from __future__ import annotations

from dataclasses import dataclass

from recorded_runs import IMAGES, Record


@dataclass(frozen=True)
class UncountedTerms:
    """What a kernel's byte model and `cost` do not both count, in bytes of one evaluation."""

    batch: int
    tokens: int
    width: int
    pixels: int
    outputs: int
    prefix_tokens: int

    @property
    def patches(self) -> int:
        return self.tokens - self.prefix_tokens

    def latents(self, passes: int) -> int:
        """float32, which `cost` leaves out: read by the embedding, read and written at the end."""
        return 4 * passes * IMAGES * self.patches * self.pixels

    def positions(self) -> int:
        """A table that is read with the embedding and is no weight of `cost`'s."""
        return 2 * self.tokens * self.width

    def variance(self) -> int:
        """Rows of the final linear that the kernel never computes, and the linear's bias."""
        return 2 * ((self.outputs - self.pixels) * self.width + self.outputs)

    def prefix_latents(self) -> int:
        """The embedding's model counts a patch of latents for prefix tokens too."""
        return 4 * IMAGES * self.prefix_tokens * self.pixels

    def prefix_at_the_end(self, terms: int) -> int:
        """Rows of prefix tokens in the last sum, which the final kernel does not read."""
        return 2 * (terms + 1) * self.batch * self.prefix_tokens * self.width

    def affine(self, sums: int) -> int:
        """Weight and bias of a norm, for every kernel that sums, with a norm or without."""
        return 4 * self.width * sums

    def absent_bias(self, attentions: int) -> int:
        """The product's model counts a bias for q, k and v, which U-ViT's have not."""
        return 6 * self.width * attentions

    def absent_biases(self, sums: int) -> int:
        """The same for sums of products in place of long skips."""
        return 2 * self.width * sums


def left_out(record: Record) -> UncountedTerms:
    p = record.shape_program
    batch, tokens, width = p.buffers.h.shape
    pixels = p.buffers.shape.channels * p.outer.patches.kernel_size[0] ** 2
    return UncountedTerms(
        batch, tokens, width, pixels, p.outer.linear.out_features, p.outer.prefix_tokens
    )
