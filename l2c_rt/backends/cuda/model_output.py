"""The end of an evaluation whose result is the model's output, on static buffers."""

from __future__ import annotations

import torch
from torch import Tensor

from l2c_rt.backends.cuda.checking.first_step import model_output
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.kernels.operands import Reuses
from l2c_rt.plan.lowering import Final


class ModelOutput:
    """Final norm, linear and the layers behind it.  `out` [B, C, H, W] holds the result."""

    def __init__(self, program: ShapeProgram) -> None:
        self._program = program
        outer, like, shape = program.outer, program.buffers.h, program.buffers.shape
        batch, tokens = like.shape[:2]
        self._tokens = like.new_zeros(batch, tokens, outer.linear.out_features)
        self._image = like.new_zeros(batch, outer.channels, shape.height, shape.width)
        self.out = self._image
        if outer.after is not None:
            self.out = torch.zeros_like(outer.after(self._image))

    def finish(self, launch: Final, reuses: Reuses) -> None:
        """Launch the end of an evaluation."""
        p = self._program
        assert launch.source is not None
        x, h = p.buffers.stream(launch.source), p.buffers.h
        self._norm(x, launch, reuses, h)
        linear, outer = p.outer.linear, p.outer
        flat, out = h.view(-1, h.shape[-1]), self._tokens.view(-1, linear.out_features)
        if linear.bias is None:
            torch.mm(flat, linear.weight.detach().t(), out=out)
        else:
            torch.addmm(linear.bias.detach(), flat, linear.weight.detach().t(), out=out)
        unpatchify_into(
            self._image, self._tokens[:, outer.prefix_tokens :], outer.patches.kernel_size[0]
        )
        if outer.after is not None:
            self.out.copy_(outer.after(self._image))

    def meaning(self) -> Tensor:
        """What `out` holds after an evaluation that computes everything."""
        p = self._program
        x = p.buffers.latents.to(p.buffers.h.dtype)
        return model_output(p.model, x, p.tables.t[:1].expand(len(x)), p.tables.of_images())

    def _norm(self, x: Tensor, launch: Final, reuses: Reuses, h: Tensor) -> None:
        p, k, norm = self._program, self._program.kernels, self._program.outer.norm
        if p.outer.modulation is not None:
            chunks = (p.tables.final, p.tables.final + 1, norm.eps)
            if launch.terms:
                k.reuse_run(x, reuses, p.tables.modulation, *chunks, out=(x, h))
            else:
                k.norm_modulate(x, p.tables.modulation, *chunks, out=h)
            return
        affine = (norm.weight.detach(), norm.bias.detach(), norm.eps)
        if launch.terms:
            assert launch.source is not None
            k.reuse_run_norm(x, reuses, *affine, out=(p.buffers.written_over(launch.source), h))
        else:
            k.norm(x, *affine, out=h)


def unpatchify_into(image: Tensor, tokens: Tensor, patch: int) -> None:
    """Shapes: image [B, C, H, W]; tokens [B, H W / P^2, P P C], channels last in a patch."""
    b, c, height, width = image.shape
    rows, columns = height // patch, width // patch
    grid = tokens.reshape(b, rows, columns, patch, patch, c)
    image.view(b, c, rows, patch, columns, patch).copy_(grid.permute(0, 5, 1, 3, 2, 4))
