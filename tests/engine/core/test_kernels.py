"""Kernels of a GPU as the settings choose them, on a device that only says it is one."""

import os
import shutil

import pytest
import torch
from torch import nn

from engine.core import kernels
from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig, prepare_network, rounded_products, set_kernels
from losses import CRITERIA, build_criterion
from models.build import Architecture, build_model
from models.peers import build_peers
from tests.losses.common.test_base import OPTIONS, labels_of
from utils.checks import UserError
from utils.types import Batch

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Settings of the process are put back."""
    cudnn = torch.backends.cudnn
    held = cudnn.allow_tf32, cudnn.deterministic, torch.get_float32_matmul_precision()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    cudnn.allow_tf32, cudnn.deterministic = held[:2]
    torch.set_float32_matmul_precision(held[2])
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def chosen():
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, (True, False, False)),
        ({"tf32": False}, (False, False, False)),
        ({"deterministic": True}, (True, True, True)),
    ],
)
def test_kernels_of_convolutions_are_as_the_settings_say(settings, expected):
    set_kernels(KernelConfig(**settings), CUDA)
    assert chosen() == expected
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if "deterministic" in settings else None)


def test_a_workspace_of_the_users_own_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_kernels(KernelConfig(deterministic=True), CUDA)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_cpu_is_left_alone():
    before = chosen()
    set_kernels(KernelConfig(deterministic=True, tf32=False), CPU)
    assert chosen() == before


class Recording(nn.Module):
    """A layer that notes how products are rounded while it computes."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 2), []

    def forward(self, rows):
        self.seen.append(torch.get_float32_matmul_precision())
        if rows is None:
            raise ValueError("no rows")
        return self.layer(rows)


@pytest.mark.parametrize(
    "settings, device, within", [({}, CUDA, "high"), ({"tf32": False}, CUDA, "highest"), ({}, CPU, "highest")]
)
def test_products_are_rounded_in_the_network_alone(settings, device, within):
    network, config = Recording(), KernelConfig(**settings)
    prepare_network(network, config, device)
    network(torch.ones(1, 3))
    with pytest.raises(ValueError, match="no rows"):
        network(None)
    assert network.seen == [within, within]
    assert torch.get_float32_matmul_precision() == "highest"
    with rounded_products(config, device):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("wrap", [Runtime.wrap, Runtime.to_device])
def test_a_runtime_rounds_forward_and_backward(wrap, monkeypatch):
    seen = []

    def noted(config, device):
        seen.append((config, device))
        return rounded_products(config, CUDA)

    monkeypatch.setattr(kernels, "rounded_products", noted)
    monkeypatch.setattr("engine.core.distributed.rounded_products", noted)
    runtime, network = Runtime("cpu", "fp32", KernelConfig(compile=False)), Recording()
    monkeypatch.setattr(runtime, "device", CUDA)
    loss = wrap(runtime, network)(torch.ones(1, 3)).sum()
    assert (network.seen, len(seen)) == (["high"], 1)
    loss.register_hook(lambda _: network.seen.append(torch.get_float32_matmul_precision()))
    runtime.backward(loss, 1.0)
    assert (network.seen, len(seen)) == (["high", "high"], 2)


def products_with_gradient(loss, outputs):
    """Names of the products of float32 matrices behind a loss, up to the outputs of the network."""
    ends = {output.grad_fn for output in outputs}
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node in ends:
            continue
        seen.add(node)
        saved = getattr(node, "_saved_self", None), getattr(node, "_saved_mat2", None)
        if node.name().startswith(("MmBackward", "BmmBackward", "AddmmBackward")):
            found.append((node.name(), [each.dtype for each in saved if each is not None]))
        waiting += [following for following, _ in node.next_functions]
    return [name for name, dtypes in found if torch.float64 not in dtypes]


class Watched:
    """A network that keeps its outputs."""

    def __init__(self, network):
        self.network, self.outputs = network, []

    def __call__(self, *args, **kwargs):
        output = self.network(*args, **kwargs)
        tensors = (getattr(output, name) for name in output._fields)
        self.outputs += [each for each in tensors if isinstance(each, torch.Tensor) and each.requires_grad]
        return output

    def __getattr__(self, name):
        return getattr(self.network, name)


COMPARE_VECTORS = {"imcl", "lac", "sarb", "hst"}
"""Methods with products of vectors (scores of a classifier, layers, cosines), rounded as those of networks are."""


@pytest.mark.parametrize("method", sorted(CRITERIA.keys() - COMPARE_VECTORS))
def test_no_method_multiplies_float32_matrices_that_have_a_gradient(method):
    """They would be rounded in the backward pass of the networks."""
    codes, needs = labels_of(method), CRITERIA[method].criterion.needs
    architecture = Architecture.of(model="scenenet", weights="none", head="ctran" if "labels" in needs else "linear")
    build = build_peers if "peers" in needs else build_model
    network = build(architecture, codes.shape[1], 0, label_info=None)
    options = {**OPTIONS.get(method, {}), "feature_width": network.feature_width}
    criterion = build_criterion(method, observed=codes, epochs=4, **options)
    scores = torch.zeros(codes.shape)
    index = torch.arange(6)
    for epoch in (1, 4):
        criterion.on_epoch_start(epoch, scores if criterion.wants_train_scores(epoch) else None)
        images = torch.rand(6, 3, 40, 40, generator=torch.Generator().manual_seed(epoch))
        batch = Batch(images, torch.from_numpy(codes[:6]).float(), index, images.flip(3))
        peers = [Watched(network.f), Watched(network.g)] if "peers" in needs else [Watched(network)]
        model = type("Pair", (), {"f": peers[0], "g": peers[1]})() if "peers" in needs else peers[0]
        loss = criterion(model, batch).total
        assert loss.requires_grad or method == "decoupling"  # the networks may agree everywhere
        if loss.requires_grad:
            assert products_with_gradient(loss, [each for peer in peers for each in peer.outputs]) == []


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"^--compile: no C\+\+ compiler no-such-compiler here; install it"):
        KernelConfig(compile=True)


@pytest.mark.parametrize(("platform", "compiler"), [("linux", "g++"), ("darwin", "clang++")])
def test_without_a_choice_the_usual_compiler_of_the_system_is_needed(monkeypatch, platform, compiler):
    asked = []
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(kernels.sys, "platform", platform)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: asked.append(name) or "/usr/bin/it")
    assert KernelConfig(compile=True).compile
    KernelConfig(compile=False)
    assert asked == [compiler]
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=f"no C\\+\\+ compiler {compiler.rstrip('+')}"):
        KernelConfig(compile=True)


@pytest.mark.parametrize("device", [CUDA, CPU])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_forward_pass_is_compiled_where_that_is_asked_for(monkeypatch, device, compiled):
    done = []

    def compile_it(forward):
        done.append(forward)
        return lambda rows: forward(2 * rows)

    monkeypatch.setattr(kernels, "_require_compiler", lambda: None)
    monkeypatch.setattr(torch, "compile", compile_it)
    network = Recording()
    expected = network(torch.full((1, 3), 2.0 if compiled else 1.0))
    prepare_network(network, KernelConfig(compile=compiled), device)
    assert torch.equal(network(torch.ones(1, 3)), expected)
    assert len(done) == compiled
    assert network.seen[1] == ("high" if device is CUDA else "highest")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_a_compiled_network_computes_the_same():
    network = build_model(Architecture.of(model="scenenet", weights="none"), 5, 0)
    images = torch.rand(4, 3, 40, 40)
    expected = network.eval()(images).logits
    compiled = Runtime("cpu", "fp32", KernelConfig(compile=True)).wrap(network)
    torch.testing.assert_close(compiled(images).logits, expected)
    compiled(images).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_runtime_sets_the_kernels_that_it_is_given(monkeypatch):
    given = []
    monkeypatch.setattr("engine.core.distributed.set_kernels", lambda *how: given.append(how))
    config = KernelConfig(deterministic=True)
    assert Runtime("cpu", "fp32", config).kernels == config
    assert given == [(config, CPU)]


@pytest.mark.parametrize(("settings", "device"), [({}, CPU), ({"tf32": False}, CUDA), ({"tf32": False}, CPU)])
def test_a_network_stays_as_it_is_where_nothing_is_rounded_or_compiled(settings, device):
    network = nn.Linear(2, 2)
    prepare_network(network, KernelConfig(**settings), device)
    assert "forward" not in vars(network)
