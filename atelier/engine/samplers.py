"""Every sampler as coefficients of one formula, x' = a·x + b0·D + b1·D₋₁ + b2·D₋₂ + s·noise.

x = α·x₀ + σ·ε are the latents before a step, D is the prediction of x₀ made in it, D₋₁ and D₋₂ are the predictions of
the two steps before, and noise is standard normal. A prime marks the level that a step goes to; λ = ln(α/σ) and
h = λ' − λ. These functions are pure float64 arithmetic over the steps of a schedule; `schedules` provides the levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]  # [steps]


@dataclass(frozen=True, slots=True)
class Levels:
    """Noise levels before and after every step; latents at a level are α·x₀ + σ·ε."""

    alpha: Array
    sigma: Array
    next_alpha: Array
    next_sigma: Array

    def from_step(self, first: int) -> Levels:
        """Return the noise levels of the steps from index `first` on."""
        return Levels(self.alpha[first:], self.sigma[first:], self.next_alpha[first:], self.next_sigma[first:])

    @property
    def h(self) -> Array:
        """Increase of λ = ln(α/σ) over each step, [steps]; infinite for a step that ends without noise."""
        with np.errstate(divide="ignore"):
            return np.log(self.next_alpha / self.next_sigma) - self.lambdas

    @property
    def lambdas(self) -> Array:
        return np.log(self.alpha / self.sigma)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Coefficients of every step for x' = a·x + b0·D + b1·D₋₁ + b2·D₋₂ + s·noise.

    x and x' are the latents before and after the step; D, D₋₁ and D₋₂ are the predictions of x₀ in this step and in
    the two steps before.
    """

    a: Array
    b0: Array
    b1: Array
    b2: Array
    s: Array


def ddim(levels: Levels, *, eta: float) -> Coefficients:
    """Return the coefficients of DDIM: Song et al. 2021, eq. 12 and 16.

    With α = 1 it is Euler's method on the probability flow for η = 0 (Karras et al. 2022, algorithm 1 without churn)
    and the ancestral Euler sampler for η = 1.
    """
    alpha, sigma, next_alpha, next_sigma = levels.alpha, levels.sigma, levels.next_alpha, levels.next_sigma
    removed = np.maximum(sigma**2 - (alpha * next_sigma / next_alpha) ** 2, 0)
    s = eta * next_sigma / sigma * np.sqrt(removed)
    a = np.sqrt(next_sigma**2 - s**2) / sigma
    zero = np.zeros_like(a)
    return Coefficients(a=a, b0=next_alpha - alpha * a, b1=zero, b2=zero, s=s)


def dpmpp_2m(levels: Levels) -> Coefficients:
    """Return the coefficients of DPM-Solver++(2M): Lu et al. 2022b, algorithm 2.

    The first and the last step are of first order.
    """
    return _second_order(levels, a=levels.next_sigma / levels.sigma, weight=-levels.next_alpha * np.expm1(-levels.h))


def dpmpp_2m_sde(levels: Levels) -> Coefficients:
    """Return the coefficients of SDE-DPM-Solver++(2M), midpoint: Lu et al. 2022b, eq. 18 and appendix."""
    fresh = -np.expm1(-2 * levels.h)
    coefficients = _second_order(
        levels, a=levels.next_sigma / levels.sigma * np.exp(-levels.h), weight=levels.next_alpha * fresh
    )
    coefficients.s[:] = levels.next_sigma * np.sqrt(fresh)
    return coefficients


def _second_order(levels: Levels, *, a: Array, weight: Array) -> Coefficients:
    """Return the coefficients of x' = a·x + weight·(D + (D − D₋₁)/2r) with r = h₋₁/h.

    D and D₋₁ are the predictions of x₀ in this step and the one before. The first and the last step use D alone.
    """
    share = np.zeros_like(a)
    share[1:-1] = levels.h[1:-1] / (2 * levels.h[:-2])
    zero = np.zeros_like(a)
    return Coefficients(a=a, b0=weight * (1 + share), b1=-weight * share, b2=zero, s=zero.copy())


def lcm(levels: Levels, *, timesteps: Array, timestep_scaling: float) -> Coefficients:
    """Return LCM's coefficients: Luo et al. 2023, algorithm 3; boundary condition of Song et al. 2023, eq. 5."""
    sigma_data = 0.5
    scaled = timestep_scaling * timesteps
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / np.sqrt(scaled**2 + sigma_data**2)
    zero = np.zeros_like(scaled)
    return Coefficients(
        a=levels.next_alpha * c_skip, b0=levels.next_alpha * c_out, b1=zero, b2=zero, s=levels.next_sigma
    )


def heun(levels: Levels) -> Coefficients:
    """Return the coefficients of Heun's method: Karras et al. 2022, algorithm 1 without churn, for α = 1.

    Every step but the last takes two UNet evaluations. The first is an Euler step from x to x̂. The second reads x̂
    and recovers x from x̂ and D₋₁; with r = σ'/σ, the mean of both slopes gives x' = x̂ + (1 − r)/2r · (D − D₋₁).
    """
    r = levels.next_sigma / levels.sigma
    a, b0, b1 = r.copy(), 1 - r, np.zeros_like(r)
    second = slice(1, None, 2)
    ratio = levels.sigma[second] / levels.sigma[:-1:2]
    a[second] = 1
    b0[second] = (1 - ratio) / (2 * ratio)
    b1[second] = -b0[second]
    zero = np.zeros_like(r)
    return Coefficients(a=a, b0=b0, b1=b1, b2=zero, s=zero)


def unipc(levels: Levels) -> Coefficients:
    """Return the coefficients of UniPC of order 2 with B₂(h): Zhao et al. 2023, algorithms 1 to 3 and eq. 5, 9.

    The corrector of a step needs D at the level that the step goes to, so it is applied in the following step. It
    starts from the same latents as the predictor; therefore it adds to x only a combination of D, D₋₁ and D₋₂.
    """
    num_steps = len(levels.alpha)
    lambdas, h = levels.lambdas, levels.h
    weight = -levels.next_alpha * np.expm1(-h)
    a = levels.next_sigma / levels.sigma
    b0, b1, b2 = weight.copy(), np.zeros(num_steps), np.zeros(num_steps)
    for k in range(1, num_steps):
        if k < num_steps - 1:
            reach = (lambdas[k - 1] - lambdas[k]) / h[k]
            b0[k] -= weight[k] / (2 * reach)
            b1[k] += weight[k] / (2 * reach)
        c0, c1, c2 = _corrector(lambdas, h[k - 1], k)
        b0[k] += a[k] * weight[k - 1] * c0
        b1[k] += a[k] * weight[k - 1] * c1
        b2[k] += a[k] * weight[k - 1] * c2
    return Coefficients(a=a, b0=b0, b1=b1, b2=b2, s=np.zeros(num_steps))


def _corrector(lambdas: Array, h: float, k: int) -> tuple[float, float, float]:
    """Return the weights of D, D₋₁ and D₋₂ (x₀ predicted in steps k, k − 1, k − 2) in UniPC's corrector for step k−1.

    They are relative to the weight of the prediction in a first-order update; `h` is the increase of λ in step k − 1.
    """
    if k == 1:
        return 0.5, -0.5, 0.0
    reach = (lambdas[k - 2] - lambdas[k - 1]) / h
    phi_1 = np.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 0.5
    rho_before, rho_now = np.linalg.solve([[1, 1], [reach, 1]], [phi_2 / phi_1, 2 * phi_3 / phi_1])
    more = (rho_before - 0.5) / reach
    return rho_now, -rho_now - more, more
