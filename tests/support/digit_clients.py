"""Clients of the HTTP examples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def assert_each_gets_its_own_image(client: Any) -> None:
    """Five at once: two ask for the same image, the others for others."""

    def get(label: int) -> Tensor:
        response = client.get(f"/digit/{label}", params={"seed": label})
        assert response.status_code == 200, response.text
        return torch.tensor(response.json())

    labels = [0, 1, 2, 3, 1]
    with ThreadPoolExecutor(5) as pool:
        images = list(pool.map(get, labels))
    assert all(image.shape == (8, 8) for image in images)
    torch.testing.assert_close(images[1], images[4], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(images[0], images[1], atol=0.1)
