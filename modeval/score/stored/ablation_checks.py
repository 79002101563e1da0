"""What an ablation must be: of one size throughout, or it is refused whole."""

from collections.abc import Collection, Iterator

from modeval.score.ablation import Ablation


def ablation_faults(found: Ablation) -> Iterator[str]:
    """Yield what does not go together."""
    layers, labels = len(found.layers), len(found.labels)
    lists: dict[str, tuple[Collection[object], int]] = {
        "modules": (found.modules, layers),
        "choices": (found.choices, layers),
        "contributions": (found.contributions, layers),
        "routed": (found.routed, layers),
        "documents": (found.documents, labels),
        "tokens": (found.tokens, labels),
        "by_label": (found.by_label, labels),
    }
    for name, (given, wanted) in lists.items():
        if len(given) != wanted or not wanted:
            yield f"{name} of {found.model} are {len(given)}, expected {wanted or 'one or more'}"
            return
    for layer, modules in enumerate(found.modules):
        tables = (*found.contributions[layer].values(), *found.routed[layer])
        if modules < 1 or any(len(row) != modules for row in tables):
            yield f"a list of layer {layer} is not of its {modules} modules"
    if any("routed" not in scores for scores in found.contributions):
        yield "nothing says how many tokens chose each module"
    yield from _set_faults(found, labels)
    for one in found.alone:
        there = 0 <= one.layer < layers and 0 <= one.module < found.modules[one.layer]
        if not there or len(one.by_label) != labels:
            yield f"there is no module {one.layer}:{one.module} with {labels} labels"


def _set_faults(found: Ablation, labels: int) -> Iterator[str]:
    known = {each.share for each in found.random}
    for each in found.random:
        whole = len(each.by_label) == labels and {len(row) for row in each.by_label} <= {
            len(each.changes)
        }
        if not each.changes or not whole:
            yield f"random sets of {each.share:g} are not of {labels} labels"
    for kept in found.kept:
        if kept.share not in known:
            yield f"there are no random sets of {kept.share:g}"
        if len(kept.by_label) != labels or len(kept.kept) != len(found.layers):
            yield f"what {kept.score} keeps at {kept.share:g} is not of all layers and labels"
    if bool(found.kept) != bool(found.safe):
        yield "keep-sets and safe shares go together"
