"""Ranks of torch.distributed: their counts are added, and a missing one is an error."""

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# --- ranks ---------------------------------------------------------------------------------------


WORKER = """
import sys, torch
import torch.distributed as distributed
sys.path.insert(0, sys.argv[3])
from small_models import Model
from modeval.record.recording import record

rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
torch.manual_seed(0)
model = Model().eval()
ids = torch.randint(0, 32, (2, 4), generator=torch.Generator().manual_seed(rank))
with torch.no_grad(), record(torch.nn.parallel.DistributedDataParallel(model), 2) as recording:
    recording.label([0, 1])
    recording.model(ids)
whole, mine = recording.counts(), recording.counts(local=True)
assert recording.layers == ("layers.0.gate", "layers.1.gate"), recording.layers
other = [None, None]
distributed.all_gather_object(other, mine.tensors())
for name, part in whole.tensors().items():
    torch.testing.assert_close(part, other[0][name] + other[1][name])
assert whole.samples.sum() == 32 and mine.samples.sum() == 16
blocks = [set(entry["samples"].sum((0, 2)).nonzero().flatten().tolist()) for entry in other]
assert not blocks[0] & blocks[1], blocks  # documents of different ranks are different
distributed.destroy_process_group()
print("fine")
"""


UNEVEN = """
import sys, torch
import torch.distributed as distributed
sys.path.insert(0, sys.argv[3])
from small_models import Model
from modeval.errors import TraceError
from modeval.record.ranks import reduce_counts
from modeval.record.recording import record

rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
)
with torch.no_grad(), record(Model().eval()) as recording:
    recording.model(torch.ones(1, 4, dtype=torch.long))
if rank == 0:  # the other one never comes
    try:
        reduce_counts(recording.groups(local=True), recording.layers, wait=2.0)
    except TraceError as error:
        assert "A rank did not come to add its counts within 2 s" in str(error), error
        print("fine")
else:
    import time
    time.sleep(4)
    print("fine")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [WORKER, UNEVEN], ids=["even", "uneven"])
def test_counts_are_summed_over_ranks_or_the_missing_rank_is_an_error(script: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = str(Path(__file__).parents[1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(rank), port, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert out == "fine\n", error
