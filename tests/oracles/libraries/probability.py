"""Flows, differential equations, Gaussian processes and forecasts: nflows, zuko, torchdiffeq, gpytorch and others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from survey import call
from torch import Tensor, nn

from libraries.called import Called, Method, noise, of

X, MORE = call(noise(4, 6)), call(noise(7, 6))


@of("nflows", "masked autoregressive flow, log_prob")
def autoregressive() -> Called:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import CompositeTransform, MaskedAffineAutoregressiveTransform, ReversePermutation

    steps = [
        ReversePermutation(6),
        MaskedAffineAutoregressiveTransform(6, 12),
        MaskedAffineAutoregressiveTransform(6, 12),
    ]
    return Called(Method(Flow(CompositeTransform(steps), StandardNormal([6])), "log_prob"), X, (MORE,))


@of("nflows", "RealNVP, log_prob")
def real_nvp() -> Called:
    from nflows.flows import SimpleRealNVP

    return Called(Method(SimpleRealNVP(6, 12, num_layers=2, num_blocks_per_layer=1), "log_prob"), X, (MORE,))


@of("nflows", "rational-quadratic spline, log_prob")
def spline() -> Called:
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import MaskedPiecewiseRationalQuadraticAutoregressiveTransform as Spline

    network = Flow(Spline(6, 12, num_bins=4, tails="linear", tail_bound=3.0), StandardNormal([6]))
    return Called(Method(network, "log_prob"), X, (MORE,))


class LogProb(nn.Module):
    """The log probability under a conditional flow, which gives a distribution."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return (self.flow() if context is None else self.flow(context)).log_prob(x)


def flow(name: str, *sizes: int, **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        import zuko

        network = LogProb(getattr(zuko.flows, name)(*sizes, hidden_features=(12, 12), **settings))
        return Called(network, call(noise(4, 6), noise(4, 3)), (call(noise(7, 6), noise(7, 3)),))

    return make


for name, settings in (
    ("MAF", {"transforms": 2}),
    ("NSF", {"transforms": 2, "bins": 4}),
    ("NICE", {"transforms": 2}),
    ("NCSF", {"transforms": 1, "bins": 4}),
    ("SOSPF", {"transforms": 1}),
    ("NAF", {"transforms": 1}),
    ("UNAF", {"transforms": 1}),
    ("BPF", {"transforms": 1}),
    ("CNF", {}),
):
    of("zuko", f"{name}, log_prob")(flow(name, 6, 3, **settings))


@of("zuko", "GMM, log_prob")
def mixture() -> Called:
    import zuko

    network = LogProb(zuko.flows.GMM(6, 3, components=4, hidden_features=(12,)))
    return Called(network, call(noise(4, 6), noise(4, 3)), (call(noise(7, 6), noise(7, 3)),))


class Field(nn.Module):
    """What drives an equation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y)


class Solved(nn.Module):
    """Layers around the solution of an equation."""

    def __init__(self, adjoint: bool = False, **how: Any) -> None:
        super().__init__()
        self.before, self.field, self.after = nn.Linear(5, 6), Field(), nn.Sequential(nn.ReLU(), nn.Linear(6, 3))
        self.adjoint, self.how = adjoint, how
        self.register_buffer("times", torch.tensor([0.0, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        import torchdiffeq

        solve = torchdiffeq.odeint_adjoint if self.adjoint else torchdiffeq.odeint
        return self.after(solve(self.field, self.before(x), self.times, **self.how)[-1])


for name, how in (
    ("odeint, dopri5", {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}),
    ("odeint, rk4", {"method": "rk4"}),
    ("odeint, euler with a step size", {"method": "euler", "options": {"step_size": 0.25}}),
    ("odeint_adjoint, dopri5", {"method": "dopri5", "adjoint": True, "rtol": 1e-3, "atol": 1e-3}),
    ("odeint_adjoint, midpoint", {"method": "midpoint", "adjoint": True}),
):

    @of("torchdiffeq", name)
    def solved(how: dict[str, Any] = how) -> Called:
        return Called(Solved(**how), call(noise(4, 5)), (call(noise(7, 5)),))


@of("gpytorch", "exact GP, in eval mode")
def exact_gp() -> Called:
    import gpytorch

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self) -> None:
            likelihood = gpytorch.likelihoods.GaussianLikelihood()
            super().__init__(noise(8, 3), noise(8), likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gp = Model()

        def forward(self, x: Tensor) -> Tensor:
            return self.gp(x).mean

    return Called(Mean(), call(noise(4, 3)))


class Features(nn.Module):
    """A deep kernel: the covariance of what a network makes of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        import gpytorch

        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
        self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=4))

    def forward(self, x: Tensor) -> Tensor:
        return self.kernel(self.net(x)).to_dense()


@of("gpytorch", "deep kernel, its covariance")
def deep_kernel() -> Called:
    return Called(Features(), X, (MORE,))


@of("gpytorch", "variational GP behind a network")
def variational() -> Called:
    import gpytorch

    class Process(gpytorch.models.ApproximateGP):  # type: ignore[misc]
        def __init__(self) -> None:
            points = noise(5, 4)
            distribution = gpytorch.variational.CholeskyVariationalDistribution(5)
            super().__init__(gpytorch.variational.VariationalStrategy(self, points, distribution))
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, x: Tensor) -> Any:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.process = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)), Process()

        def forward(self, x: Tensor) -> Tensor:
            return self.process(self.net(x)).mean

    return Called(Regression(), X, (MORE,))
