"""The other way to a cohort with PyTorch: ``torch.func.vmap`` over the plain model's parameters."""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from modeval.cli.bench.plain_pytorch import FAMILIES
from modeval.spec import DataSpec, ModelSpec
from modeval.types import Batch


def vmapped_step(
    data: DataSpec, model: ModelSpec, seeds: int, source: Iterator[Batch], device: torch.device
) -> Callable[[], None]:
    """Return what does one step of ``seeds`` plain models at once, drawing included.

    Written as the documentation of PyTorch has it: stacked parameters, the gradient of one model
    mapped over them, and the fused optimiser on the stacks.

    Raises:
        RuntimeError: PyTorch cannot map what the model is made of.
    """
    models = [FAMILIES[data.task](data, model).to(device) for _ in range(seeds)]
    if any(isinstance(part, torch.nn.LSTM) for part in models[0].modules()):
        raise RuntimeError("PyTorch has no batching rule for its LSTM, and takes one after another")
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    optimiser = torch.optim.Adam(list(parameters.values()), lr=1e-4, fused=True)

    def loss(own: dict[str, Tensor], held: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        prediction = functional_call(base, (own, held), (x,))
        if data.objective == "regression":
            return F.l1_loss(prediction, target)
        return F.binary_cross_entropy_with_logits(prediction, target)

    gradients = vmap(grad(loss))

    def step() -> None:
        batch = next(source)
        one_hot = F.one_hot(batch.rule, data.rules).to(batch.inputs.dtype)
        found = gradients(parameters, buffers, torch.cat((batch.inputs, one_hot), -1), batch.target)
        for name, value in parameters.items():
            value.grad = found[name].contiguous()
        optimiser.step()

    step()  # what cannot be mapped is refused here
    return step
