"""Each foreign format, as its program writes it, becomes the routing that was put in."""

import base64
import collections
import gzip
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modeval.errors import TraceError
from modeval.trace.convert import convert
from modeval.trace.counts import load_counts
from modeval.trace.files import chunks, concatenate, open_trace
from modeval.trace.importers.format import Options
from modeval.trace.importers.formats import FORMATS, detect, source_files
from modeval.trace.importers.import_files import Imported, import_source
from modeval.trace.trace import TraceChunk

pa = pytest.importorskip("pyarrow", reason="traces are Parquet files")
parquet = pytest.importorskip("pyarrow.parquet")

TOKENS, LAYERS, CHOICES, MODULES = 6, 3, 2, 8
DRAW = np.random.default_rng(0)
CHOSEN = DRAW.random((TOKENS, LAYERS, MODULES)).argsort(-1)[..., :CHOICES]
CHOSEN[0] = [7, 0]  # every module is used, and no token looks like padding
COUNTS = np.stack([np.bincount(CHOSEN[:, x].ravel(), minlength=MODULES) for x in range(LAYERS)])
SCORES = np.sort(DRAW.random((TOKENS, LAYERS, CHOICES)).astype(np.float32))[..., ::-1]
SCORES = (SCORES / SCORES.sum(-1, keepdims=True)).astype(np.float32)


def packed(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def lines(path: Path, *records: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def megatron_trace(folder: Path) -> None:
    for rank, part in enumerate((CHOSEN[:4], CHOSEN[4:])):
        records = [
            {
                "step": 0,
                "stage": "pre_dispatch",
                "block": "decoder",
                "layer": layer,
                "rank": rank,
                "num_tokens": len(part),
                "topk": CHOICES,
                "top_indices": part[:, layer].tolist(),
            }
            for layer in range(LAYERS)
        ]
        lines(folder / f"router_trace_rank{rank}.jsonl", *records)
    (folder / "hidden_states_rank0.bin").write_bytes(b"\0" * 32)


def megatron_counts(folder: Path) -> None:
    half = MODULES // 2
    for rank in range(2):
        local = COUNTS[:, rank * half : (rank + 1) * half]
        records: list[dict[str, Any]] = [
            {
                "iter": 1,
                "block": "decoder",
                "layer": layer,
                "tpe": [(row // 2).tolist(), (row - row // 2).tolist()],
            }
            for layer, row in enumerate(local)
        ]
        lines(folder / f"rank{rank}.jsonl", *records)


def vllm(folder: Path) -> None:
    choices = [{"index": 0, "routed_experts": packed(CHOSEN.astype(np.uint8))}]
    lines(folder / "replies.jsonl", {"usage": {"prompt_tokens": 4}, "choices": choices})


def vllm_old(folder: Path) -> None:
    choices = [{"index": 0, "routed_experts": CHOSEN[4:].tolist()}]
    reply = {"prompt_routed_experts": CHOSEN[:4].tolist(), "choices": choices}
    (folder / "reply.json").write_text(json.dumps([reply]))


def sglang_request(folder: Path) -> None:
    text = base64.b64encode(CHOSEN.astype("<i4").tobytes()).decode()
    meta = {"prompt_tokens": 4, "completion_tokens": 3, "routed_experts": text}
    lines(folder / "replies.jsonl", {"text": "x", "meta_info": meta})


def sglang_stat(folder: Path) -> None:
    count = torch.from_numpy(np.stack([COUNTS - COUNTS // 2, COUNTS // 2]).astype(np.int32))
    dump = {"rank": 0, "logical_count": count, "average_utilization_rate_over_window": None}
    torch.save(dump, folder / "expert_distribution_recorder_1.pt")


PHYSICAL = np.stack([np.roll(np.arange(MODULES), layer) for layer in range(LAYERS)])


def sglang_pass(folder: Path) -> None:
    ids = np.full((LAYERS, TOKENS, 8), -1, dtype=np.int32)
    for layer in range(LAYERS):
        ids[layer, :, :CHOICES] = np.argsort(PHYSICAL[layer])[CHOSEN[:, layer]]
    records: list[dict[str, Any]] = [
        {
            "forward_pass_id": number,
            "rank": 0,
            "input_ids": torch.arange(start, end),
            "positions": torch.arange(start, end),
            "extend_seq_lens": torch.tensor([end - start]) if number == 0 else None,
            "forward_mode": 1 + number,
            "topk_ids_of_layer": torch.from_numpy(ids[:, start:end].copy()),
            "misc_objects": [],
        }
        for number, (start, end) in enumerate(((0, 4), (4, TOKENS)))
    ]
    dump = {"records": records, "last_physical_to_logical_map": torch.from_numpy(PHYSICAL)}
    torch.save(dump, folder / "expert_distribution_recorder_1_0.pt")


def sglang_pass_counts(folder: Path) -> None:
    physical = np.take_along_axis(COUNTS, PHYSICAL, 1)
    records = [{"forward_pass_id": 0, "global_physical_count": torch.from_numpy(physical)}]
    dump = {"records": records, "last_physical_to_logical_map": torch.from_numpy(PHYSICAL)}
    torch.save(dump, folder / "expert_distribution_recorder_1_0.pt")


def triples(separator: str) -> str:
    return "".join(
        f"{layer}{separator}{module}{separator}{count}\n"
        for layer, row in enumerate(COUNTS)
        for module, count in enumerate(row)
    )


def sglang_csv(folder: Path) -> None:
    (folder / "counts.csv").write_text("layer_id,expert_id,count\n" + triples(","))


def olmoe(folder: Path) -> None:
    record = {
        "input_ids": list(range(TOKENS)),
        "predicted_token_ids": list(range(TOKENS)),
        "exp_ids": CHOSEN.transpose(0, 2, 1).tolist(),
    }
    lines(folder / "c4_results.jsonl", record)


def olmoe_counts(folder: Path) -> None:
    counters = [
        collections.Counter({np.int64(m): int(n) for m, n in enumerate(row)}) for row in COUNTS
    ]
    (folder / "code.pkl").write_bytes(pickle.dumps(counters))


def flame(folder: Path) -> None:
    for layer in range(LAYERS):
        place = folder / f"layer_{layer:02d}"
        place.mkdir()
        table = {"indices": CHOSEN[:, layer].tolist(), "scores": SCORES[:, layer].tolist()}
        parquet.write_table(pa.table(table), place / "0.parquet")


def flame_pt(folder: Path) -> None:
    for layer in range(LAYERS):
        place = folder / "540" / str(layer)
        place.mkdir(parents=True)
        pair = (
            torch.from_numpy(SCORES[:, layer].copy()),
            torch.from_numpy(CHOSEN[:, layer].copy()),
        )
        torch.save(pair, place / "0.pt")


def imatrix(folder: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="GGUF is read by the package gguf")
    writer = gguf.GGUFWriter(folder / "imatrix.gguf", "imatrix")
    for layer, row in enumerate(COUNTS):
        for kind in ("gate", "up", "down"):
            name = f"blk.{layer}.ffn_{kind}_exps.weight"
            writer.add_tensor(f"{name}.counts", row.astype(np.float32)[:, None])
            writer.add_tensor(f"{name}.in_sum2", np.zeros((MODULES, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llamacpp_csv(folder: Path) -> None:
    rows = [
        f"{layer},{module}" for token in CHOSEN for layer, row in enumerate(token) for module in row
    ]
    (folder / "moe-trace.csv").write_text("layer,expert\n" + "\n".join(rows) + "\n")


def moe_l2(folder: Path) -> None:
    text = [
        f"EXPERT|L{layer}|T{token}: {CHOSEN[token, layer].tolist()}"
        for token in range(TOKENS)
        for layer in range(LAYERS)
    ]
    (folder / "run.log").write_text("\n".join(["loading the model", *text]) + "\n")


def colibri(folder: Path) -> None:
    (folder / "code_0.txt").write_text("-1 8 2\n" + triples(" "))


def glm52(folder: Path) -> None:
    layers = {
        str(layer): {
            "executed_topk": CHOSEN[:, layer].tolist(),
            "executed_scores": (SCORES[:, layer] - 3).tolist(),
        }
        for layer in range(LAYERS)
    }
    export = {
        "format": "glm52-routing-trace-export/v2",
        "layer_map": {"traced_layers": list(range(LAYERS))},
        "routing": {"k": CHOICES},
        "layers": layers,
        "conditional": {"prompts": [{"category": "code", "rows": [0, TOKENS]}]},
    }
    (folder / "trace.json.gz").write_bytes(gzip.compress(json.dumps(export).encode()))


def eplb(folder: Path) -> None:
    np.save(folder / "load.npy", COUNTS.astype(np.float32))


def emo(folder: Path) -> None:
    share = (COUNTS / COUNTS.sum(1, keepdims=True)).tolist()
    lines(folder / "activations.jsonl", *[{"avg_router_probabilities": share}] * 3)


def emo_logits(folder: Path) -> None:
    """Logits whose softmax gives the chosen experts the scores, the others what is left."""
    left = (1 - SCORES.sum(-1, keepdims=True)).clip(1e-3) / (MODULES - CHOICES)
    share = np.broadcast_to(np.minimum(left, SCORES.min() / 2), (TOKENS, LAYERS, MODULES)).copy()
    np.put_along_axis(share, CHOSEN, SCORES, -1)
    np.save(folder / "embeddings_logits.npy", np.log(share).reshape(TOKENS, -1).astype(np.float32))
    tokens = [
        {"source": "code", "doc_index": 0, "token_position": token, "token_id": 7}
        for token in range(TOKENS)
    ]
    text = "".join(json.dumps(row) + "\n" for row in tokens)
    (folder / "metadata_tokens.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def warp(folder: Path) -> None:
    table = np.zeros((TOKENS, LAYERS, MODULES))
    np.put_along_axis(table, CHOSEN, 5.0 - np.arange(CHOICES), -1)
    text = [
        " ".join(map(str, (token, layer, *table[token, layer])))
        for token in range(TOKENS)
        for layer in range(LAYERS)
    ]
    lines_of_text = "\n".join(text) + "\n"
    (folder / "scores.txt").write_text(lines_of_text)


def moewatch(folder: Path) -> None:
    usage = {"token_counts": {str(layer): row.tolist() for layer, row in enumerate(COUNTS)}}
    record = {"metadata": {"moewatch_version": "0.1.0"}, "utilization": usage}
    (folder / "report.json").write_text(json.dumps(record))


def plumb(folder: Path) -> None:
    counts = {f"{x}:{m}": int(n) for x, row in enumerate(COUNTS) for m, n in enumerate(row)}
    record = {"pid": 1, "pass_count": 6, "n_layers": LAYERS, "expert_counts": counts}
    (folder / "snapshot.json").write_text(json.dumps(record))


def plain_rows() -> list[dict[str, Any]]:
    return [
        {
            "layer": layer,
            "chosen": CHOSEN[token, layer].tolist(),
            "weight": [float(str(x)) for x in SCORES[token, layer]],
            "position": token,
            "document": 0,
            "label": "code",
            "phase": "decode",
        }
        for token in range(TOKENS)
        for layer in range(LAYERS)
    ]


def jsonl(folder: Path) -> None:
    lines(folder / "rows.jsonl", *plain_rows())


def csv(folder: Path) -> None:
    text = ["layer,chosen,weight,position,document,label,phase"]
    for row in plain_rows():
        values = (" ".join(map(str, x)) if isinstance(x, list) else str(x) for x in row.values())
        text.append(",".join(values))
    (folder / "rows.csv").write_text("\n".join(text) + "\n")


def npz(folder: Path) -> None:
    rows = plain_rows()
    columns: dict[str, Any] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["phase"] = np.full(len(rows), 2)
    np.savez(folder / "rows.npz", **columns)


def plain_parquet(folder: Path) -> None:
    rows = [{**row, "domain": row.pop("label")} for row in plain_rows()]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def vllm_log(folder: Path) -> None:
    meta = {"type": "meta", "model_id": "tiny", "top_k": CHOICES, "num_experts": MODULES}
    route = {"layer": "layer", "topk_ids": "chosen", "topk_weights": "weight"}
    route["token_idx"] = "position"
    rows = [{name: row[ours] for name, ours in route.items()} for row in plain_rows()]
    records = [{"type": "route", "req_id": "r1", **row} for row in rows]
    lines(folder / "moe_routes.jsonl", meta, *records)


def route_trace(folder: Path) -> None:
    text = [f"#prompt p0 {TOKENS}"]
    for layer in range(LAYERS):
        for token in range(TOKENS):
            pairs = zip(CHOSEN[token, layer], SCORES[token, layer], strict=True)
            text.append(f"{layer} {token} {layer} " + " ".join(f"{m}:{w!s}" for m, w in pairs))
    (folder / "serve.trace").write_text("\n".join(text) + "\n")


def tensorrt_meta(folder: Path) -> None:
    meta = {"num_experts": MODULES, "num_experts_per_token": CHOICES}
    (folder / "meta_info.json").write_text(json.dumps(meta))


def tensorrt_counts(folder: Path) -> None:
    tensorrt_meta(folder)
    for rank, part in enumerate((COUNTS - COUNTS // 2, COUNTS // 2)):
        tensors = {f"50_{layer}": torch.from_numpy(row) for layer, row in enumerate(part)}
        save_file(tensors, folder / f"rank{rank}.safetensors")


def tensorrt_raw(folder: Path) -> None:
    tensorrt_meta(folder)
    chosen = torch.from_numpy(CHOSEN)
    tensors = {
        f"{step}_{layer}": chosen[rows, layer].contiguous()
        for step, rows in enumerate((slice(0, 4), slice(4, None)))
        for layer in range(LAYERS)
    }
    save_file(tensors, folder / "rank0_raw.safetensors")


def reap(folder: Path) -> None:
    state = {
        layer: {
            "total_tokens": torch.tensor(TOKENS),
            "expert_frequency": torch.from_numpy(row),
            "ean_sum": torch.zeros(MODULES),
        }
        for layer, row in enumerate(COUNTS)
    }
    torch.save(state, folder / "observer_state.pt")


def router_logits(folder: Path) -> None:
    logits = np.full((TOKENS, LAYERS, MODULES), -9.0)
    np.put_along_axis(logits, CHOSEN, 3.0 - np.arange(CHOICES), -1)
    torch.save(
        tuple(torch.from_numpy(logits[:, layer]).bfloat16() for layer in range(LAYERS)),
        folder / "router_logits.pt",
    )


def npy_ids(folder: Path) -> None:
    np.save(folder / "ids.npy", CHOSEN.transpose(1, 0, 2))


def counts_csv(folder: Path) -> None:
    rows = [
        f"{count};{module};{layer};code;x"
        for layer, row in enumerate(COUNTS)
        for module, count in enumerate(row)
    ]
    text = ["# made by a census", "hits;expert_idx;layer_idx;domain;note", *rows, "# total,1"]
    (folder / "census.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text).encode())


def cells() -> dict[str, list[int]]:
    """Return the columns of a long table of counts."""
    layer, module = np.indices(COUNTS.shape).reshape(2, -1).tolist()
    return {"layer": layer, "expert": module, "count": COUNTS.ravel().tolist()}


def counts_jsonl(folder: Path) -> None:
    rows = [dict(zip(cells(), row, strict=True)) for row in zip(*cells().values(), strict=True)]
    first = {**rows[0], "domain": "code", "note": "the first"}
    lines(folder / "x.jsonl", first, *(row | {"domain": "code"} for row in rows[1:]))


def counts_parquet(folder: Path) -> None:
    wide = {f"expert_{module}": COUNTS[:, module] for module in range(MODULES)}
    parquet.write_table(pa.table({"layer": np.arange(LAYERS), **wide}), folder / "x.parquet")


def counts_npz(folder: Path) -> None:
    arrays: dict[str, Any] = {name: np.array(row) for name, row in cells().items()}
    np.savez(folder / "x.npz", **arrays)


def npz_arrays(folder: Path) -> None:
    np.savez(folder / "x.npz", *COUNTS)


def counts_json(folder: Path) -> None:
    table = {
        "code": {
            f"layers.{layer}": {str(m): int(n) for m, n in enumerate(row)}
            for layer, row in enumerate(COUNTS)
        }
    }
    (folder / "by_domain.json").write_text(json.dumps(table))


def vllm_eplb(folder: Path) -> None:
    """Two steps; expert 0 has a replica at the end, which took a part of its load."""
    meta = {"record_type": "eplb_load_meta", "model": "tiny", "num_layers": LAYERS}
    steps = []
    for part in (COUNTS - COUNTS // 2, COUNTS // 2):
        replica = part[:, :1] // 3
        load = np.concatenate([part, replica], 1)
        load[:, :1] -= replica
        p2l = [[*range(MODULES), 0]] * LAYERS
        step = {"expert_load": load.tolist(), "p2l_map": p2l}
        steps.append({"record_type": "eplb_load_stats", **step})
    lines(folder / "eplb.jsonl", meta, *steps)


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], None]
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: bool = False
    known_choices: int = 0
    labels: tuple[str, ...] = ()
    phase: str = "unknown"
    said: str = ""


WITH_K = {"choices": CHOICES}
ROWS = [
    Case(megatron_trace, "megatron-trace", phase="train", said="documents"),
    Case(vllm, "vllm", phase="mixed", said="disaggregation"),
    Case(vllm_old, "vllm", phase="mixed"),
    Case(sglang_request, "sglang-request", options=WITH_K, phase="mixed"),
    Case(sglang_pass, "sglang-pass", phase="mixed", said="rebalancing"),
    Case(olmoe, "olmoe", phase="prefill"),
    Case(flame, "flame", weights=True, said="Weights were taken for renormalised"),
    Case(flame_pt, "flame-pt", weights=True),
    Case(moe_l2, "moe-l2", said="1 lines of other log messages"),
    Case(glm52, "glm52", labels=("code",), said="selection scores"),
    Case(emo_logits, "emo-logits", options={**WITH_K, "layers": LAYERS}, labels=("code",)),
    Case(warp, "warp-scores", options=WITH_K, said="as if there were no groups"),
    Case(jsonl, "jsonl", weights=True, labels=("code",), phase="decode"),
    Case(csv, "csv", weights=True, labels=("code",), phase="decode"),
    Case(npz, "npz", weights=True, labels=("code",), phase="decode"),
    Case(plain_parquet, "parquet", weights=True, labels=("code",), phase="decode"),
    Case(vllm_log, "vllm-log", weights=True, said="passed over: type"),
    Case(route_trace, "route-trace", weights=True),
    Case(tensorrt_raw, "tensorrt-raw"),
    Case(router_logits, "torch", options=WITH_K, said="the K largest were taken"),
    Case(npy_ids, "npy", options={"axes": ("layer", "token", "choice")}),
]
TALLIES = [
    Case(megatron_counts, "megatron-counts", options={"modules": MODULES}, said="modulo 2"),
    Case(sglang_stat, "sglang-stat"),
    Case(sglang_pass_counts, "sglang-pass-counts"),
    Case(sglang_csv, "sglang-csv"),
    Case(olmoe_counts, "olmoe-counts", labels=("code",), said="layers 0, 7 and 15"),
    Case(imatrix, "imatrix"),
    Case(llamacpp_csv, "llamacpp-csv", said="tokens apart"),
    Case(colibri, "colibri-stats", labels=("code",), said="speculative"),
    Case(eplb, "eplb", said="moving averages"),
    Case(plumb, "plumb", said="two choices"),
    Case(counts_csv, "counts-csv", labels=("code",), said="passed over: note"),
    Case(counts_json, "counts-json", labels=("code",)),
    Case(counts_jsonl, "counts-jsonl", labels=("code",)),
    Case(counts_parquet, "counts-parquet", said="each of these columns was taken for counts"),
    Case(counts_npz, "counts-npz"),
    Case(npz_arrays, "npz-arrays", said="each array was taken for a layer"),
    Case(vllm_eplb, "vllm-eplb", said="p2l_map"),
    Case(tensorrt_counts, "tensorrt-counts", known_choices=CHOICES, said="other files"),
    Case(reap, "reap", known_choices=CHOICES, said="calibration"),
]


OTHERS = {"emo", "moewatch", "imatrix-legacy"}


def by_name(case: Case) -> str:
    return case.make.__name__


def run(case: Case, folder: Path, **options: Any) -> Imported:
    source = folder / "source"
    source.mkdir()
    case.make(source)
    out = folder / "out.trace"
    return import_source([source], out, options=Options(**{**case.options, **options}))


def by_token_and_layer(chunk: TraceChunk) -> Any:
    order = np.lexsort((np.arange(len(chunk)), chunk.layer))
    return chunk.chosen[order].reshape(LAYERS, TOKENS, CHOICES).transpose(1, 0, 2)


def test_every_format_has_a_case() -> None:
    assert {case.name for case in (*ROWS, *TALLIES)} | OTHERS == set(FORMATS)


@pytest.mark.parametrize("case", ROWS, ids=by_name)
def test_decisions_are_imported_one_by_one(tmp_path: Path, case: Case) -> None:
    found = run(case, tmp_path)
    trace = open_trace(found.path)
    rows = concatenate(list(chunks(trace)))
    assert found.format == case.name
    assert trace.complete
    assert trace.header.modules == (MODULES,) * LAYERS
    assert trace.header.labels == case.labels
    assert trace.header.phase == case.phase
    np.testing.assert_array_equal(by_token_and_layer(rows), CHOSEN)
    assert case.said in " ".join(trace.header.notes)
    if case.weights:
        order = np.lexsort((np.arange(len(rows)), rows.layer))
        scores = SCORES.transpose(1, 0, 2).reshape(-1, CHOICES)
        assert rows.weight is not None
        np.testing.assert_array_equal(rows.weight[order], scores)


@pytest.mark.parametrize("case", TALLIES, ids=by_name)
def test_counts_are_imported_and_the_unknown_is_not_zero(tmp_path: Path, case: Case) -> None:
    found = run(case, tmp_path)
    header, groups = load_counts(found.path)
    counts = groups[0].counts
    assert found.format == case.name
    assert header.labels == case.labels
    assert counts.selections.sum(1)[:, 0].tolist() == COUNTS.tolist()
    assert case.said in " ".join(header.notes)
    pairs = ~torch.eye(MODULES, dtype=torch.bool)
    assert counts.coactivation[:, pairs].isnan().all()
    assert header.choices == (case.known_choices,) * LAYERS
    if not case.known_choices:
        assert counts.samples.sum(1).isnan().all()
        assert counts.mass.sum(1).isnan().all()
        assert "--choices K" in " ".join(header.notes)


@pytest.mark.parametrize("case", TALLIES, ids=by_name)
def test_saying_k_makes_tokens_known(tmp_path: Path, case: Case) -> None:
    found = run(case, tmp_path, choices=CHOICES)
    counts = load_counts(found.path)[1][0].counts
    assert counts.samples.sum(1)[:, 0].tolist() == [TOKENS] * LAYERS
    torch.testing.assert_close(
        counts.conditional(view="assignment")[:, 0],
        torch.from_numpy(COUNTS / COUNTS.sum(1, keepdims=True)),
    )


def test_moewatch_counts_first_choices_only(tmp_path: Path) -> None:
    found = run(Case(moewatch, "moewatch"), tmp_path)
    header, groups = load_counts(found.path)
    assert header.choices == (1,) * LAYERS
    assert groups[0].counts.selections[:, 0, 0].tolist() == COUNTS.tolist()


def test_averages_of_emo_are_weights_of_documents(tmp_path: Path) -> None:
    found = run(Case(emo, "emo"), tmp_path)
    counts = load_counts(found.path)[1][0].counts
    assert counts.samples.sum().item() == 3 * LAYERS
    assert counts.selections.sum(1).isnan().all()
    torch.testing.assert_close(
        counts.conditional(view="weight")[:, 0],
        torch.from_numpy(COUNTS / COUNTS.sum(1, keepdims=True)),
    )


@pytest.mark.parametrize("case", [*ROWS, *TALLIES], ids=by_name)
def test_every_format_is_detected_by_what_is_in_it(tmp_path: Path, case: Case) -> None:
    case.make(tmp_path)
    assert detect(source_files([tmp_path]))[0].name == case.name


@pytest.mark.parametrize("kind", ["csv", "jsonl", "npz"])
def test_what_is_converted_imports_again_as_the_same_rows(tmp_path: Path, kind: str) -> None:
    first = run(ROWS[-3], tmp_path)
    before = open_trace(first.path)
    convert(before, tmp_path / f"rows.{kind}", kind=kind)
    again = import_source([tmp_path / f"rows.{kind}"], tmp_path / "again.trace")
    after = open_trace(again.path)
    left, right = (concatenate(list(chunks(trace))) for trace in (before, after))
    assert after.header.layers == before.header.layers
    sort = [np.lexsort((rows.layer, rows.position)) for rows in (left, right)]
    for name, column in left.arrays().items():
        np.testing.assert_array_equal(column[sort[0]], right.arrays()[name][sort[1]], err_msg=name)


def test_vllm_tells_prefill_from_decode(tmp_path: Path) -> None:
    rows = concatenate(list(chunks(open_trace(run(ROWS[1], tmp_path).path))))
    assert rows.phase.reshape(TOKENS, LAYERS)[:, 0].tolist() == [1, 1, 1, 1, 2, 2]
    assert rows.position.reshape(TOKENS, LAYERS)[:, 0].tolist() == list(range(TOKENS))


def test_a_slot_of_a_dense_layer_is_left_out_and_named(tmp_path: Path) -> None:
    chosen = np.concatenate([np.zeros_like(CHOSEN[:, :1]), CHOSEN], axis=1)
    reply = {"choices": [{"routed_experts": packed(chosen.astype(np.uint16))}]}
    lines(tmp_path / "replies.jsonl", reply)
    found = import_source([tmp_path / "replies.jsonl"], tmp_path / "x.trace")
    assert found.header.layers == ("layers.1", "layers.2", "layers.3")
    assert any("dense" in note and "layers.0" in note for note in found.header.notes)


def test_rows_that_repeat_an_expert_are_refused_or_left_out_when_told(tmp_path: Path) -> None:
    chosen = CHOSEN.copy()
    chosen[:2] = 0  # as vLLM leaves prompts that another worker prefilled
    reply = {"choices": [{"routed_experts": packed(chosen.astype(np.uint8))}]}
    lines(tmp_path / "replies.jsonl", reply)
    with pytest.raises(TraceError, match=r"2 of 6 rows of layers.0 name a module twice"):
        import_source([tmp_path / "replies.jsonl"], tmp_path / "x.trace")
    assert not (tmp_path / "x.trace").exists()
    found = import_source(
        [tmp_path / "replies.jsonl"], tmp_path / "x.trace", options=Options(allow_partial=True)
    )
    assert found.rows == 4 * LAYERS


def test_padding_of_sglang_is_left_out_and_counted(tmp_path: Path) -> None:
    chosen = CHOSEN.copy()
    chosen[3] = np.arange(CHOICES)
    text = base64.b64encode(chosen.astype("<i4").tobytes()).decode()
    meta = {"prompt_tokens": 4, "completion_tokens": 3, "routed_experts": text}
    lines(tmp_path / "replies.jsonl", {"meta_info": meta})
    found = import_source(
        [tmp_path / "replies.jsonl"], tmp_path / "x.trace", options=Options(choices=CHOICES)
    )
    assert found.rows == (TOKENS - 1) * LAYERS
    assert any("1 tokens chose experts 0 to 1" in note for note in found.header.notes)


def test_sglang_asks_for_what_its_replies_do_not_say(tmp_path: Path) -> None:
    sglang_request(tmp_path)
    with pytest.raises(TraceError, match=r"--choices K"):
        import_source([tmp_path], tmp_path / "x.trace")


def test_ranks_of_megatron_must_be_all_there(tmp_path: Path) -> None:
    megatron_counts(tmp_path)
    with pytest.raises(TraceError, match="--modules N"):
        import_source([tmp_path], tmp_path / "x.trace")
    (tmp_path / "rank1.jsonl").unlink()
    with pytest.raises(TraceError, match="2 ranks make a whole: found only ranks 0"):
        import_source([tmp_path], tmp_path / "x.trace", options=Options(modules=MODULES))


def test_labels_come_from_folders_files_or_a_mapping(tmp_path: Path) -> Any:
    for name in ("code", "prose"):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        vllm(folder)
    source = [tmp_path / "in"]

    def labels(**options: Any) -> tuple[str, ...]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.trace"
        found = import_source(source, out, options=Options(**options))
        rows = concatenate(list(chunks(open_trace(found.path))))
        assert rows.document.tolist() == [0] * 18 + [1] * 18
        return found.header.labels

    assert labels() == ()
    assert labels(label="all") == ("all",)
    assert labels(label_from="folder") == ("code", "prose")
    assert labels(label_from="file") == ("replies",)
    assert labels(labels={"code": "C", "prose": "P"}) == ("C", "P")
    with pytest.raises(TraceError, match=r"no label for replies.jsonl"):
        labels(labels={"code": "C"})


def test_too_few_modules_or_choices_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path)
    wrong: tuple[dict[str, Any], ...] = ({"modules": MODULES - 1}, {"choices": CHOICES - 1})
    for options in wrong:
        with pytest.raises(TraceError, match=f"--{next(iter(options))}"):
            import_source([tmp_path], tmp_path / "x.trace", options=Options(**options))


def cases_folder() -> Path:
    root = Path(__file__).parents[2]
    return Path(os.environ.get("MODEVAL_CASES", root.parent / "shared" / "cases"))


def test_the_published_counts_of_olmoe_are_read_exactly(tmp_path: Path) -> None:
    folder = cases_folder() / "published"
    if not folder.is_dir():
        pytest.skip("the published counts are not here: set MODEVAL_CASES to their folder")
    found = import_source(
        [folder / "olmoe_expert_counts"], tmp_path / "x", options=Options(choices=8)
    )
    header, groups = load_counts(found.path)
    published = json.loads((folder / "olmoe_counts.json").read_text())
    table = np.array(published["chosen_per_token_8"])
    order = [published["labels"].index(label) for label in header.labels]
    assert groups[0].counts.selections[:, 0].tolist() == table[:, order].tolist()
    assert groups[0].counts.samples.unique().tolist() == [208_896]
