"""Adafactor: equal to Hugging Face's, whole and sharded; its precision, its state and its collectives.

Run as a script, this file is one of the processes that the tests of sharding start.
"""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from transformers.optimization import Adafactor as HuggingFaceAdafactor

from magicoder.training.adafactor import Adafactor

SHAPES = [(7, 5), (8, 12), (3, 4), (1, 5), (1, 1), (6,), (1,), (3, 4, 5), (5, 2, 3, 2), (50, 8)]
DECAYED = {"clip_threshold": 0.5, "decay_rate": -0.6, "weight_decay": 0.1}


def values(shapes: list[tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def gradients(shapes: list[tuple[int, ...]], step: int) -> list[torch.Tensor | None]:
    """Of all sizes; some missing, some zero, some with zero rows as an embedding's."""
    made: list[torch.Tensor | None] = []
    for number, gradient in enumerate(values(shapes, 1000 + step)):
        if (step + number) % 7 == 3:
            made.append(None)
        elif (step + number) % 11 == 5:
            made.append(torch.zeros_like(gradient))
        else:
            gradient[1::3] = 0.0
            made.append(gradient * 10.0 ** (step % 5 - 2))
    return made


def parameters(tensors: list[torch.Tensor]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(tensor.clone()) for tensor in tensors]


def carry_out(optimizer: Any, steps: range) -> list[float]:
    """Steps with gradients that depend on the step alone; the norms of their updates."""
    members = optimizer.param_groups[0]["params"]
    norms = []
    for step in steps:
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        shapes = [tuple(member.shape) for member in members]
        for member, gradient in zip(members, gradients(shapes, step), strict=True):
            member.grad = None if gradient is None else distributed_like(member, gradient.to(member.dtype))
        optimizer.step()
        if isinstance(optimizer, Adafactor):
            norms.append(optimizer.update_norm.item())
    return norms


def distributed_like(parameter: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("options", [{}, DECAYED, {"decay_rate": -1.0, "clip_threshold": 100.0}])
def test_equals_hugging_faces(options: dict[str, float]) -> None:
    ours, theirs = parameters(values(SHAPES, 0)), parameters(values(SHAPES, 0))
    carry_out(Adafactor(ours, **options), range(50))
    carry_out(HuggingFaceAdafactor(theirs, lr=0.0, scale_parameter=False, relative_step=False, **options), range(50))
    for one, other in zip(ours, theirs, strict=True):
        assert relative_difference(one, other) < 1e-6


def test_scalars_change_and_parameters_without_gradients_stay() -> None:
    scalar, frozen = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = Adafactor([scalar, frozen], lr=0.1)
    optimizer.step()
    assert optimizer.update_norm.item() == 0.0
    scalar.grad = torch.tensor(-3.0)
    optimizer.step()
    assert scalar.item() == pytest.approx(1.1)
    assert optimizer.update_norm.item() == pytest.approx(0.1)
    assert frozen not in optimizer.state


def test_update_norm_is_that_of_the_change() -> None:
    before, after = values(SHAPES, 0), parameters(values(SHAPES, 0))
    norm = carry_out(Adafactor(after), range(1))[0]
    change = sum((old - new).square().sum().item() for old, new in zip(before, after, strict=True)) ** 0.5
    assert norm == pytest.approx(change, rel=1e-4)


def test_weight_decay_does_not_count_in_the_update_norm() -> None:
    plain, decayed = (Adafactor(parameters(values(SHAPES, 0)), weight_decay=decay) for decay in (0.0, 0.5))
    assert carry_out(plain, range(3)) == carry_out(decayed, range(3))


def test_a_closure_makes_the_gradients() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = Adafactor([parameter], lr=0.5)

    def closure() -> float:
        parameter.sum().backward()
        return 7.0

    assert optimizer.step(closure) == 7.0
    assert parameter.tolist() == [0.5, 0.5]


def test_a_step_reads_no_value_of_a_tensor() -> None:
    # Tensors on the device "meta" have none.
    members = [torch.nn.Parameter(torch.empty(shape, device="meta", dtype=torch.bfloat16)) for shape in SHAPES]
    optimizer = Adafactor(members, lr=0.1, rounding="stochastic", **DECAYED)
    for member in members:
        member.grad = torch.empty_like(member)
    optimizer.step()
    assert optimizer.update_norm.shape == ()


def test_nearest_rounding_is_that_of_the_float32_step() -> None:
    start = values(SHAPES, 0, torch.bfloat16)
    rounded, exact = parameters(start), parameters([tensor.float() for tensor in start])
    for members in (rounded, exact):
        for member, gradient in zip(members, values(SHAPES, 1, torch.bfloat16), strict=True):
            member.grad = gradient.to(member.dtype)
        Adafactor(members, lr=0.01).step()
    for one, other in zip(rounded, exact, strict=True):
        assert torch.equal(one, other.to(torch.bfloat16))


def test_stochastic_rounding_keeps_changes_that_nearest_loses() -> None:
    start = torch.ones(100, 100, dtype=torch.bfloat16)
    ends = {}
    for rounding in ("nearest", "stochastic"):
        (parameter,) = parameters([start])
        optimizer = Adafactor([parameter], lr=1e-4, rounding=rounding)
        for _ in range(20):
            parameter.grad = torch.ones_like(start)
            optimizer.step()
        ends[rounding] = parameter.float().mean().item()
    assert ends["nearest"] == 1.0
    assert ends["stochastic"] == pytest.approx(1.0 - 20 * 1e-4, abs=2e-4)


def test_other_seeds_steps_and_parameters_round_otherwise() -> None:
    def ends(seed: int) -> list[torch.Tensor]:
        members = parameters([torch.ones(100, 100, dtype=torch.bfloat16)] * 2)
        optimizer = Adafactor(members, lr=1e-3, rounding="stochastic", seed=seed)
        made = []
        for _ in range(2):
            for member in members:
                member.grad = torch.ones_like(member)
            optimizer.step()
            made += [member.detach().clone() for member in members]
            for member in members:
                member.data.fill_(1.0)
        return made

    results = ends(0) + ends(1)
    for number, one in enumerate(results):
        assert not any(torch.equal(one, other) for other in results[:number])
    assert all(map(torch.equal, results, ends(0) + ends(1)))


def test_master_weights_change_as_float32_parameters_do() -> None:
    start = values(SHAPES, 0, torch.bfloat16)
    rounded, exact = parameters(start), parameters([tensor.float() for tensor in start])
    optimizer = Adafactor(rounded, lr=1e-3, master_weights=True, weight_decay=0.1)
    reference = Adafactor(exact, lr=1e-3, weight_decay=0.1, master_weights=True)
    for step in range(10):
        for one, other, gradient in zip(rounded, exact, values(SHAPES, step, torch.bfloat16), strict=True):
            one.grad, other.grad = gradient, gradient.float()
        optimizer.step()
        reference.step()
    for one, other in zip(rounded, exact, strict=True):
        assert torch.equal(optimizer.state[one]["master"], other)
        assert torch.equal(one, other.to(torch.bfloat16))
        assert "master" not in reference.state[other]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("master_weights", [False, True])
def test_a_loaded_state_goes_on_bit_for_bit(rounding: Any, master_weights: bool) -> None:
    options: dict[str, Any] = {"rounding": rounding, "master_weights": master_weights, "seed": 3}
    undisturbed = parameters(values(SHAPES, 0, torch.bfloat16))
    optimizer = Adafactor(undisturbed, **options)
    carry_out(optimizer, range(4))
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = parameters([member.detach() for member in undisturbed])
    carry_out(optimizer, range(4, 8))

    loaded = Adafactor(resumed, **options)
    loaded.load_state_dict(saved)
    carry_out(loaded, range(4, 8))
    assert all(map(torch.equal, resumed, undisturbed))
    moments = [entry for state in loaded.state.values() for name, entry in state.items() if name != "step"]
    assert {entry.dtype for entry in moments} == {torch.float32}


def test_state_initialised_at_once_is_that_of_the_first_step() -> None:
    ends = []
    for at_once in (True, False):
        members = parameters(values(SHAPES, 0, torch.bfloat16))
        optimizer = Adafactor(members, master_weights=True)
        if at_once:
            optimizer.initialize_state()
            assert [optimizer.state[member]["step"] for member in members] == [0] * len(members)
        carry_out(optimizer, range(3))
        ends.append((members, [optimizer.state[member] for member in members]))
    for one, state, other, other_state in zip(*ends[0], *ends[1], strict=True):
        assert torch.equal(one, other)
        assert state.keys() == other_state.keys()
        assert all(torch.equal(torch.as_tensor(state[name]), torch.as_tensor(other_state[name])) for name in state)


def test_a_parameter_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="float32 and bfloat16 parameters"):
        Adafactor([torch.nn.Parameter(torch.ones(2, dtype=torch.float64))])


# Sharding. Each process carries out the cases below; the first one writes what came out, which the tests compare with
# what comes out without sharding.

CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "float32 decayed": (torch.float32, DECAYED),
    "nearest": (torch.bfloat16, {}),
    "stochastic": (torch.bfloat16, {"rounding": "stochastic"}),
    "master": (torch.bfloat16, {"master_weights": True, "rounding": "stochastic"}),
}
STEPS = range(10)
PROCESSES = [2, 4]


def sharded(tensors: list[torch.Tensor], mesh: DeviceMesh) -> list[torch.nn.Parameter]:
    """Parameters sharded over the mesh, but one that is replicated and one that is plain."""
    build_model: list[torch.Tensor] = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in tensors]
    build_model[-1] = distribute_tensor(tensors[-1], mesh, [Replicate()])
    build_model[1] = tensors[1].clone()
    return [torch.nn.Parameter(tensor) for tensor in build_model]


def outcome(case: str, mesh: DeviceMesh | None) -> dict[str, Any]:
    dtype, options = CASES[case]
    start = values(SHAPES, 0, dtype)
    members = sharded(start, mesh) if mesh else parameters(start)
    optimizer = Adafactor(members, **options)
    norms = carry_out(optimizer, STEPS)
    entries = [(name, entry) for member in members for name, entry in optimizer.state[member].items() if name != "step"]
    return {
        "parameters": [whole(member) for member in members],
        "state": [whole(entry) for _, entry in entries],
        "norms": torch.tensor(norms),
        "placements": [(name, entry.placements) for name, entry in entries if isinstance(entry, DTensor)],
    }


def collectives(members: list[torch.nn.Parameter]) -> int:
    optimizer = Adafactor(members, lr=0.1, master_weights=True)
    optimizer.initialize_state()
    for member in members:
        member.grad = torch.ones_like(member)
    with CommDebugMode() as counter:
        optimizer.step()
    return counter.get_total_counts()


def small_model(mesh: DeviceMesh | None, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Sharded by FSDP2 if there is a mesh."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 6), torch.nn.Linear(6, 3), torch.nn.LayerNorm(3)).to(dtype)
    return fully_shard(model, mesh=mesh) if mesh else model


def train(model: torch.nn.Module, optimizer: Adafactor, steps: range) -> list[torch.Tensor]:
    """The parameters after steps with the model's own gradients."""
    for step in steps:
        model(torch.arange(step, step + 6)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [whole(parameter).clone() for parameter in model.parameters()]


def fully_sharded(mesh: DeviceMesh | None) -> list[torch.Tensor]:
    model = small_model(mesh)
    return train(model, Adafactor(model.parameters(), lr=0.01), range(5))


def reloaded(mesh: DeviceMesh, directory: Path) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the parameters after a run, and after one that resumes from a checkpoint."""
    ends = []
    for resumes in (False, True):
        model = small_model(mesh, torch.bfloat16)
        optimizer = Adafactor(model.parameters(), lr=0.01, master_weights=True, rounding="stochastic")
        optimizer.initialize_state()
        if not resumes:
            train(model, optimizer, range(3))
            saved = get_state_dict(model, optimizer)
            checkpoint.save({"model": saved[0], "optimizer": saved[1]}, checkpoint_id=directory)
        else:
            empty = get_state_dict(model, optimizer)
            checkpoint.load({"model": empty[0], "optimizer": empty[1]}, checkpoint_id=directory)
            set_state_dict(model, optimizer, model_state_dict=empty[0], optim_state_dict=empty[1])
        ends.append(train(model, optimizer, range(3, 6)))
    return ends[0], ends[1]


def refusal(parameter: torch.Tensor, gradient: torch.Tensor) -> str:
    member = torch.nn.Parameter(parameter)
    member.grad = gradient
    try:
        Adafactor([member]).step()
    except ValueError as error:
        return str(error)
    return ""


def process(rank: int, processes: int, directory: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{directory / 'meeting'}", rank=rank, world_size=processes)
    mesh = init_device_mesh("cpu", (processes,))
    grid = init_device_mesh("cpu", (1, processes))
    start = values(SHAPES, 0)
    by_rows = distribute_tensor(start[0], mesh, [Shard(0)])
    by_columns = distribute_tensor(start[0], mesh, [Shard(1)])
    on_a_grid = distribute_tensor(start[0], grid, [Replicate(), Shard(0)])
    results: dict[str, Any] = {case: outcome(case, mesh) for case in CASES}
    results["collectives"] = collectives(sharded(start, mesh))
    results["collectives without matrices"] = collectives(sharded([torch.ones(5), start[1], torch.ones(3)], mesh))
    results["collectives unsharded"] = collectives(parameters(start))
    results["fully sharded"] = fully_sharded(mesh)
    results["reloaded"] = reloaded(mesh, directory / "checkpoint")
    results["refused placements"] = [refusal(by_columns, by_columns), refusal(on_a_grid, on_a_grid)]
    results["refused gradient"] = refusal(by_rows, by_columns)
    if rank == 0:
        torch.save(results, directory / "results.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=PROCESSES)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the first of several processes wrote."""
    directory = tmp_path_factory.mktemp("processes")
    arguments = [str(request.param), str(directory)]
    running = [subprocess.Popen([sys.executable, __file__, str(rank), *arguments]) for rank in range(request.param)]
    try:
        assert [one.wait(timeout=120) for one in running] == [0] * request.param
    finally:
        for one in running:
            one.kill()
    return torch.load(directory / "results.pt", weights_only=False)


@pytest.mark.parametrize("case", ["float32", "float32 decayed"])
def test_shards_equal_the_whole(results: dict[str, Any], case: str) -> None:
    expected = outcome(case, mesh=None)
    for kind in ("parameters", "state"):
        for one, other in zip(results[case][kind], expected[kind], strict=True):
            assert relative_difference(one, other) < 1e-6
    assert torch.allclose(results[case]["norms"], expected["norms"], rtol=1e-6)


@pytest.mark.parametrize("case", ["nearest", "stochastic", "master"])
def test_bfloat16_shards_equal_the_whole_up_to_summation_order(results: dict[str, Any], case: str) -> None:
    made = torch.cat([tensor.flatten() for tensor in results[case]["parameters"]])
    expected = torch.cat([tensor.flatten() for tensor in outcome(case, mesh=None)["parameters"]])
    assert (made == expected).float().mean() > 0.98
    assert torch.allclose(made.float(), expected.float(), rtol=2**-7)


def test_state_is_sharded_but_for_the_columns_of_matrices(results: dict[str, Any]) -> None:
    placements = results["master"]["placements"]
    shapes = [shape for number, shape in enumerate(SHAPES[:-1]) if number != 1]  # the others are not sharded
    expected = []
    for shape in shapes:
        moments = ["second_moment"] if len(shape) == 1 else ["row", "column"]
        expected += [(name, Replicate() if name == "column" and len(shape) == 2 else Shard(0)) for name in moments]
        expected.append(("master", Shard(0)))
    expected += [(name, Replicate()) for name in ("row", "column", "master")]
    assert placements == [(name, (placement,)) for name, placement in expected]


def test_step_needs_two_collectives_or_none_without_shards(results: dict[str, Any]) -> None:
    assert results["collectives"] == 2
    assert results["collectives without matrices"] <= 2
    assert results["collectives unsharded"] == 0


def test_equals_the_whole_on_what_fsdp2_shards(results: dict[str, Any]) -> None:
    for one, other in zip(results["fully sharded"], fully_sharded(mesh=None), strict=True):
        assert relative_difference(one, other) < 1e-5  # the gradients' own rounding is in it


def test_distributed_checkpoint_resumes_bit_for_bit(results: dict[str, Any]) -> None:
    assert all(map(torch.equal, *results["reloaded"]))


def test_other_placements_are_refused(results: dict[str, Any]) -> None:
    for message in results["refused placements"]:
        assert "replicated or sharded on dimension 0 over a mesh of one dimension" in message
    assert "a gradient is" in results["refused gradient"]


if __name__ == "__main__":
    process(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
