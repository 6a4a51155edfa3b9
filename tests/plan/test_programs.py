"""Exported programs: planned as the model is, and rewritten as programs of the same signature, sizes and dialect."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx

import fxteleport as ft


class Network(nn.Module):
    """Convolutions, norms and attention, in more than one container."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.mixed = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)
        self.normed, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = F.gelu(self.mixed(F.relu(self.norm(self.stem(x))))).flatten(2).transpose(1, 2)
        x = self.normed(x) * self.scale
        x = self.attention(x, x, x)[0]
        return {"y": self.head(x.mean(1)), "sizes": [x.reshape(x.shape[0] * 2, -1)]}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return ft.randomize(Network().eval())


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["sizes", "static", "decomposed"])
def program(request: pytest.FixtureRequest, model: nn.Module, x: Tensor) -> ExportedProgram:
    sizes = None if request.param == "static" else ({0: Dim("batch", min=2, max=64)},)
    made = torch.export.export(model, (x,), dynamic_shapes=sizes)
    return made.run_decompositions() if request.param == "decomposed" else made


def parts(program: ExportedProgram, kind: str) -> list[str]:
    specs = program.graph_signature.input_specs
    return [str(s.target) for s in specs if s.kind.name == kind]


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_a_program_is_as_free_as_its_model_and_stays_a_program(
    program: ExportedProgram, model: nn.Module, x: Tensor, mode: str
) -> None:
    plan = ft.plan(program, mode=mode)
    eager = ft.plan(model, x, mode=mode, norm_stats="rescaled")  # a program's norms are in eval mode for good
    assert plan.num_free == eager.num_free
    assert not plan.opaque
    assert not plan.conditions
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert isinstance(made, ExportedProgram)
    assert made.call_spec.in_spec == program.call_spec.in_spec
    assert made.call_spec.out_spec == program.call_spec.out_spec
    assert parts(made, "PARAMETER") == parts(program, "PARAMETER")
    kept = parts(program, "BUFFER")
    assert parts(made, "BUFFER")[: len(kept)] == kept
    assert mode == "full" or parts(made, "BUFFER") == kept
    assert str(made.range_constraints) == str(program.range_constraints)
    assert [v.dialect for v in made.verifiers] == [v.dialect for v in program.verifiers]
    report = ft.verify(program, made)
    assert report.passed
    assert report.bitwise_equal
    assert report.nodes > 20
    assert report.parameters > 10


def test_the_program_runs_at_every_size_that_it_leaves_free(program: ExportedProgram) -> None:
    plan = ft.plan(program)
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    if not program.range_constraints:
        return
    x = torch.randn(5, 3, 4, 4)
    assert torch.equal(made.module()(x)["y"], program.module()(x)["y"])
    with pytest.raises(Exception, match=r"64|guard|Guard"):
        made.module()(torch.randn(65, 3, 4, 4))


def test_a_teleported_program_is_saved_and_loaded(program: ExportedProgram, x: Tensor) -> None:
    plan = ft.plan(program)
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    file = io.BytesIO()
    torch.export.save(made, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert torch.equal(loaded.module()(x)["y"], program.module()(x)["y"])
    assert ft.verify(program, loaded).bitwise_equal
    assert ft.plan(loaded).num_free > 0


def test_a_wrong_program_is_noticed(program: ExportedProgram) -> None:
    plan = ft.plan(program)
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    with torch.no_grad():
        made.state_dict["mixed.weight"].view(-1)[5] *= 1.5
    report = ft.verify(program, made)
    assert not report.passed
    assert report.wrong_parameter is not None
    assert report.wrong_parameter.name == "mixed.weight"


def test_in_place(model: nn.Module, x: Tensor) -> None:
    program = torch.export.export(copy.deepcopy(model), (x,))
    before, weight = program.module()(x)["y"], program.state_dict["mixed.weight"].clone()
    plan = ft.plan(program, mode="weights")
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    other = copy.deepcopy(program)
    assert plan.apply_(cob) is program
    assert not torch.equal(program.state_dict["mixed.weight"], weight)
    assert torch.equal(program.module()(x)["y"], before)
    assert plan.apply_(cob, other) is other
    assert torch.equal(other.state_dict["mixed.weight"], program.state_dict["mixed.weight"])


def test_inputs_in_containers_and_by_keyword(x: Tensor) -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 4)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, d: dict[str, list[Tensor]], *, k: Tensor | None = None, scale: float = 1.0) -> Any:
            self.count.add_(1)
            h = torch.relu(self.a(d["x"][0])) * scale
            return self.b(h if k is None else h * k), {"rows": h.shape[0]}

    n = Dim("n", min=2)
    given: Any = ({"x": [torch.randn(3, 4)]},), {"k": torch.rand(3, 1)}
    program = torch.export.export(Nested(), *given, dynamic_shapes={"d": {"x": [{0: n}]}, "k": {0: n}})
    for known in (True, False):
        if not known:
            program._example_inputs = None
        plan = ft.plan(program)
        assert plan.num_free == 6
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert str(made.range_constraints) == str(program.range_constraints)
    assert ft.verify(program, made, *given[0], **given[1]).bitwise_equal


def _exported(model: nn.Module, x: Tensor) -> nn.Module:
    return torch.export.export(model, (x,)).module()


# Other graphs of the same model, whose code is not the model's.
GRAPHS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "module": _exported,
    "without guards": lambda m, x: torch.export.export(m, (x,)).module(check_guards=False),
    "unflattened": lambda m, x: torch.export.unflatten(torch.export.export(m, (x,))),
    "a part": lambda m, x: nn.Sequential(_exported(m, x)),
    "decomposed": lambda m, x: torch.export.export(m, (x,)).run_decompositions().module(),
    "symbolic trace": lambda m, x: torch.fx.symbolic_trace(m),
    "make_fx": lambda m, x: make_fx(m)(x),
}


class Plain(nn.Sequential):
    """A network that every front end takes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.GELU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1), nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 2),
        )  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", GRAPHS)
def test_other_graphs_of_a_model(name: str, mode: str) -> None:
    model, x = ft.randomize(Plain().eval()), torch.randn(2, 3, 4, 4)
    graph = GRAPHS[name](model, x)
    plan = ft.plan(graph, x, mode=mode)
    as_layers = any(isinstance(m, nn.BatchNorm2d) for m in graph.modules())
    norm_stats = "fixed" if as_layers else "rescaled"  # of a function, the statistics are constants of eval mode
    assert plan.num_free == ft.plan(model, x, mode=mode, norm_stats=norm_stats).num_free
    assert not plan.opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(graph, network, x).bitwise_equal
    if mode == "weights":
        before = graph(x)
        plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0))
        assert torch.equal(graph(x), before)


@pytest.mark.parametrize("whole", [True, False])
def test_a_scripted_module_says_what_to_do(whole: bool) -> None:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Plain().eval(), torch.randn(2, 3, 4, 4)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    with pytest.raises(ft.ModelError, match=r"scripted: .* load_state_dict"):
        ft.plan(loaded if whole else nn.Sequential(loaded), torch.randn(2, 3, 4, 4))


@pytest.mark.slow
def test_a_teleported_program_is_compiled_ahead_of_time(tmp_path: Any) -> None:
    model, x = ft.randomize(Plain().eval()), torch.randn(2, 3, 4, 4)
    plan = ft.plan(torch.export.export(model, (x,)))
    made: Any = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    package = torch._inductor.aoti_compile_and_package(made, package_path=str(tmp_path / "model.pt2"))
    with torch.no_grad():
        torch.testing.assert_close(torch._inductor.aoti_load_package(package)(x), model(x))
