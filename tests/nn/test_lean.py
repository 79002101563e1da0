"""Attention in few passes is attention: values, sizes and gradients, with what is closed to it."""

import torch

from modeval.nn.lean import attend, shares


def test_gradients_of_shares_and_sizes_are_those_of_finite_differences() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    closed = torch.zeros(3, 5, dtype=torch.float64)
    closed[0, 1:] = closed[1, 2] = -torch.inf
    assert torch.autograd.gradcheck(lambda x: shares(x + closed), (logits,))


def test_what_is_closed_has_no_part_in_what_is_found_nor_in_gradients() -> None:
    query, key, value = (
        torch.randn(2, 4, 6, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    closed = torch.zeros(6, 6, dtype=torch.float64).masked_fill(torch.eye(6).bool(), -torch.inf)
    found, size = attend(query, key, value, closed)
    logits = query @ key.mT * 3**-0.5 + closed
    torch.testing.assert_close((found, size), (logits.softmax(-1) @ value, logits.logsumexp(-1)))
    expected = torch.autograd.grad(
        (logits.softmax(-1) @ value).sin().sum() + logits.logsumexp(-1).cos().sum(),
        (query, key, value),
    )
    ours = torch.autograd.grad(found.sin().sum() + size.cos().sum(), (query, key, value))
    torch.testing.assert_close(ours, expected)


def test_large_logits_do_not_overflow() -> None:
    share, size = shares(torch.tensor([[500.0, 1000.0]]))
    assert (share.tolist(), size.tolist()) == ([[0.0, 1.0]], [1000.0])
