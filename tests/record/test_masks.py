"""Masks of every shape: padding is known, or the call is refused, or its absence is said."""

# ruff: noqa: PT012, SIM117 - what must fail is the whole recording
import pytest
import torch
from small_models import Model, mixtral, padded  # type: ignore[import-not-found, unused-ignore]

from modeval.errors import TraceError
from modeval.record.masks import token_mask
from modeval.record.recording import record

REAL = torch.tensor([[False, True, True, True], [True, True, False, False]])
CAUSAL = torch.ones(4, 4).tril().bool()
PAIRS = CAUSAL & REAL[:, None, None, :]


@pytest.mark.parametrize(
    "mask",
    [
        REAL,
        REAL.long(),
        REAL.float(),
        PAIRS,
        PAIRS.squeeze(1),
        PAIRS.float(),
        PAIRS.expand(2, 3, 4, 4),
        torch.zeros(2, 1, 4, 4).masked_fill(~PAIRS, torch.finfo(torch.float32).min),
        torch.zeros(2, 1, 4, 4).masked_fill(~PAIRS, float("-inf")),
        torch.nn.functional.pad(PAIRS, (0, 5)),  # room of a cache of fixed size
        REAL[:, None, None, :] & REAL[:, None, :, None],  # both ways
        {"sliding_attention": PAIRS, "full_attention": PAIRS},
        {"full_attention": None, "sliding_attention": PAIRS},
    ],
    ids=range(13),
)
def test_masks_of_any_shape_tell_the_same_padding(mask) -> None:
    found = token_mask(mask, 2, 4, 0)
    assert found is not None
    assert found.tolist() == REAL.tolist()


def test_masks_of_pairs_after_others_tell_the_new_tokens() -> None:
    whole = torch.ones(2, 1, 1, 6).bool()
    whole[1, ..., 4] = False
    found = token_mask(whole, 2, 1, 4)
    assert found is not None
    assert found.tolist() == [[True], [False]]


@pytest.mark.parametrize("mask", [None, {}, {"full_attention": None}, CAUSAL[None, None]])
def test_a_mask_that_masks_nothing_is_none(mask) -> None:
    assert token_mask(mask, 2, 4, 0) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 3), r"shape \[2, 3\], and the tokens \[2, 4\].*mask=ones_and_zeros"),
        (torch.ones(5, 4), r"shape \[5, 4\]"),
        (torch.ones(4), r"shape \[4\]"),
        (torch.ones(2, 1, 3, 4), r"shape \[2, 1, 3, 4\]"),
        (object(), "is a object, which does not say"),
        (PAIRS | torch.eye(4).bool(), "attend to themselves alone: padding, or documents of one"),
    ],
)
def test_a_mask_with_no_or_two_readings_is_refused(mask, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        token_mask(mask, 2, 4, 0)


def test_a_mask_of_pairs_leaves_padding_out_of_a_model() -> None:
    model = mixtral()
    ids, _ = padded([[5, 6, 7], [9, 8, 7, 6]])
    real = ids > 0
    pairs = CAUSAL & real[:, None, None, :]
    bias = torch.zeros(pairs.shape).masked_fill(~pairs, torch.finfo(torch.float32).min)
    with torch.no_grad(), record(model, 2) as recording:
        recording.label([0, 1])
        model(input_ids=ids, attention_mask=bias)
    assert recording.counts().samples[0].sum(0).tolist() == [3.0, 4.0]
    assert recording.header().padding == "excluded"


def test_the_absence_of_a_mask_is_said() -> None:
    model, ids = Model().eval(), torch.randint(0, 32, (3, 5))
    with torch.no_grad(), record(model) as recording:
        model(ids)
        model(ids, attention_mask=torch.ones_like(ids))
    assert recording.header().padding == "unknown"
    assert any("1 of 2 calls" in note for note in recording.header().notes)
    with torch.no_grad(), record(model) as recording:
        model(ids[:1])  # one sample needs no padding
        recording.label(None, mask=torch.ones_like(ids))
        model(ids)
    assert recording.header().padding == "excluded"
    assert recording.header().notes == ()


def test_a_mask_by_hand_of_another_shape_is_refused() -> None:
    model, ids = Model().eval(), torch.randint(0, 32, (3, 5))
    with pytest.raises(TraceError, match=r"mask= has the shape \(3, 4\), and the tokens \(3, 5\)"):
        with torch.no_grad(), record(model) as recording:
            recording.label(None, mask=torch.ones(3, 4))
            model(ids)


class Canvas(Model):  # type: ignore[misc, unused-ignore]
    """Reads a prompt and fills a canvas of the same length, whose tokens are others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mixtral()

    def forward(self, input_ids, decoder_input_ids, attention_mask=None):
        self.inner(input_ids=input_ids, attention_mask=attention_mask)
        return self.inner.model(input_ids=decoder_input_ids)


def test_a_canvas_does_not_take_the_mask_of_its_prompt() -> None:
    model = Canvas().eval()
    ids, mask = padded([[5, 6, 7], [9]])
    with torch.no_grad(), record(model, 2, routers="inner.*.gate") as recording:
        recording.label([0, 1])
        model(ids, torch.randint(3, 48, ids.shape), attention_mask=mask)
    assert recording.counts().samples[0].sum(0).tolist() == [6.0, 4.0]


def test_documents_in_a_row_have_positions_of_their_own(tmp_path) -> None:
    from modeval.trace.files import concatenate, read_trace  # noqa: PLC0415

    model, ids = Model().eval(), torch.randint(0, 32, (1, 5))
    path = tmp_path / "live.trace"
    with torch.no_grad(), record(model, 2, trace=path) as recording:
        recording.label([[0, 0, 1, 1, 1]], documents=[[7, 7, 8, 8, 8]])
        model(ids)
    read = concatenate(list(read_trace(path)[1]))
    mine = read[read.layer == 0]
    assert mine.document.tolist() == [7, 7, 8, 8, 8]
    assert mine.position.tolist() == [0, 1, 0, 1, 2]


def test_documents_in_a_row_that_are_not_told_apart_are_said() -> None:
    model = mixtral()
    ids, mask = padded([[5, 6, 7, 8, 9], [4, 3]])
    places = torch.tensor([[0, 1, 0, 1, 2], [0, 0, 0, 0, 1]])  # the second one is padded
    with torch.no_grad(), record(model) as recording:
        model(input_ids=ids, attention_mask=mask, position_ids=places)
    assert any("1 calls hold several documents" in note for note in recording.header().notes)
    with torch.no_grad(), record(model) as recording:
        model(input_ids=ids[1:], attention_mask=mask[1:], position_ids=places[1:])
        recording.label(None, documents=[[0, 0, 1, 1, 1], [2, 2, 2, 2, 2]])
        model(input_ids=ids, attention_mask=mask, position_ids=places)
    assert recording.header().notes == ()


def test_layers_that_run_several_times_are_said() -> None:
    class Looped(Model):  # type: ignore[misc, unused-ignore]
        def forward(self, input_ids, attention_mask=None):
            hidden = self.embed(input_ids)
            for _ in range(2):
                for layer in self.layers:
                    hidden = layer(hidden)
            return hidden

    with torch.no_grad(), record(Looped().eval()) as recording:
        recording.model(torch.ones(1, 4, dtype=torch.long))
    assert recording.counts().samples[0].sum() == 8
    assert "2 routers (layers.0.gate, layers.1.gate) route the same" in recording.header().notes[0]
