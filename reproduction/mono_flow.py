"""A field that is carried along and spreads: advection and diffusion on a periodic square, and how exact it is.

u_t + v . grad u = kappa laplace u, with a steady velocity v = (a, b) + curl psi that has no divergence. Solved by
Fourier modes with the 2/3 rule, diffusion exactly (integrating factor), advection by Runge-Kutta of order 4. For a
velocity that is the same everywhere the solution is known, exp(-i k.v t - kappa k^2 t) for each mode; :func:`check`
compares.
"""

import json
import math

import torch
from torch import Tensor

SIDE = 2 * math.pi
FINE = 32  # grid points a side while solving


def _waves(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return wave numbers in x and y, and True where a mode is kept by the 2/3 rule."""
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    kx, ky = torch.meshgrid(k, k, indexing="ij")
    return kx, ky, (kx.abs() < size / 3) & (ky.abs() < size / 3)


def velocity(n: int, swirl: float, generator: torch.Generator, size: int = FINE) -> Tensor:
    """Return velocities ``(n, 2, size, size)``: a direction for each sequence, and eddies of the four lowest waves."""
    kx, ky, _ = _waves(size)
    angle = torch.rand(n, generator=generator, dtype=torch.float64) * 2 * math.pi
    mean = torch.stack([angle.cos(), angle.sin()], 1)[:, :, None, None]
    draw = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    psi = torch.fft.fft2(draw) * ((kx**2 + ky**2 <= 4) & (kx**2 + ky**2 > 0))
    curl = torch.stack([torch.fft.ifft2(1j * ky * psi).real, torch.fft.ifft2(-1j * kx * psi).real], 1)
    return mean + swirl * curl / curl.square().mean((1, 2, 3), keepdim=True).sqrt()


def blobs(n: int, generator: torch.Generator, count: int = 4, size: int = FINE) -> Tensor:
    """Return fields ``(n, size, size)``: a few round spots of different height and width."""
    grid = torch.arange(size, dtype=torch.float64) * SIDE / size
    centre = torch.rand(2, n, count, generator=generator, dtype=torch.float64) * SIDE
    height, width = torch.rand(2, n, count, generator=generator, dtype=torch.float64)
    x, y = (torch.cos(grid[None, None] - place[..., None]) - 1 for place in centre)
    steep = (1 / (0.4 + 0.4 * width).square())[..., None]
    return (
        (0.3 + height)[..., None, None] * (steep * x).exp()[..., None] * (steep * y).exp()[..., None, :]
    ).sum(1)


def solve(start: Tensor, flow: Tensor, times: int, every: float, kappa: float, steps: int = 6) -> Tensor:
    """Return the field at ``times`` moments ``every`` apart, the start first, ``(n, times, size, size)``."""
    kx, ky, kept = _waves(start.shape[-1])
    step = every / steps
    decay = torch.exp(-kappa * (kx**2 + ky**2) * step / 2)

    def carried(modes: Tensor) -> Tensor:
        slope = torch.stack([torch.fft.ifft2(1j * kx * modes).real, torch.fft.ifft2(1j * ky * modes).real], 1)
        return -torch.fft.fft2((flow * slope).sum(1)) * kept

    modes = torch.fft.fft2(start) * kept
    found = [modes]
    for _ in range(times - 1):
        for _ in range(steps):
            a = carried(modes)
            b = carried(decay * (modes + step / 2 * a))
            c = carried(decay * modes + step / 2 * b)
            d = carried(decay**2 * modes + step * decay * c)
            modes = decay**2 * modes + step / 6 * (decay**2 * a + 2 * decay * (b + c) + d)
        found.append(modes)
    return torch.fft.ifft2(torch.stack(found, 1)).real


def sequences(
    n: int, times: int, seed: int, *, grid: int = 16, every: float = 0.3, kappa: float = 0.02
) -> Tensor:
    """Return sequences of fields, float32 ``(n, times, 1, grid, grid)``, each with a velocity of its own."""
    generator = torch.Generator().manual_seed(seed)
    flow = velocity(n, 0.7, generator)
    fields = solve(blobs(n, generator), flow, times, every, kappa)
    return fields[:, :, None, :: FINE // grid, :: FINE // grid].float()


def check(
    seed: int = 0, n: int = 8, times: int = 10, every: float = 0.3, kappa: float = 0.02
) -> dict[str, float]:
    """Return errors of the solver, relative to the field's root mean square.

    ``exact``: against the known solution for even velocities; ``halved``: what halving the step changes with eddies;
    ``mass``: change of the field's mean, which must not change at all.
    """
    generator = torch.Generator().manual_seed(seed)
    even, eddies, start = velocity(n, 0.0, generator), velocity(n, 0.7, generator), blobs(n, generator)
    kx, ky, kept = _waves(FINE)
    t = every * (times - 1)
    a, b = even[:, 0, :1, :1], even[:, 1, :1, :1]
    known = (
        torch.fft.fft2(start) * kept * torch.exp(-1j * (kx * a + ky * b) * t - kappa * (kx**2 + ky**2) * t)
    )
    known = torch.fft.ifft2(known).real
    found = solve(start, even, times, every, kappa)[:, -1]
    coarse = solve(start, eddies, times, every, kappa)[:, -1]
    fine = solve(start, eddies, times, every, kappa, steps=12)[:, -1]
    size = known.square().mean().sqrt()
    return {
        "exact": float((found - known).square().mean().sqrt() / size),
        "halved": float((coarse - fine).square().mean().sqrt() / size),
        "mass": float((coarse.mean((1, 2)) - start.mean((1, 2))).abs().max() / size),
    }


if __name__ == "__main__":
    errors = check()
    print(json.dumps(errors))
    if max(errors["exact"], errors["halved"]) > 1e-3:
        raise SystemExit("The solver of the flow is not exact.")
