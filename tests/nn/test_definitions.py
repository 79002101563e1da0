"""Every system has a check from its own definition; some stand here, the others are named."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modeval.data import task_parameters
from modeval.nn import create
from modeval.spec import DataSpec, ModelSpec
from modeval.spec.computing.computations import Diff, LowRank
from modeval.spec.systems import BY_NAME

TESTS = Path(__file__).parents[1]
DATA = DataSpec(rules=3)
E, W = 6, 12

CHECKS: Mapping[str, str] = {
    "monolithic": "nn/test_networks.py::test_a_network_follows_the_equations",
    "modular": "nn/test_networks.py::test_a_network_follows_the_equations",
    "modular-shared": "nn/test_networks.py::test_a_network_follows_the_equations",
    "modular-op": "nn/test_networks.py::test_a_network_follows_the_equations",
    "gt-modular": "evaluate/test_cohort.py::"
    "test_oracle_routing_is_exactly_perfect_and_loses_nothing_when_hardened",
    "hash": "nn/test_systems.py::test_hash_routing_is_a_fixed_map_that_no_training_changes",
    "global-weights": "nn/test_systems.py::test_global_weights_tell_nothing_of_the_rule",
    "top-k": "nn/test_systems.py::test_the_two_best_of_top_two_share_a_sample_by_softmax",
    "hierarchical": "nn/test_axes.py::test_a_hierarchical_level_chooses_a_group_and_a_module_of_it",
    "global-routing": "nn/test_axes.py::test_a_global_level_routes_all_layers_by_the_first",
    "sequence-routing": "nn/test_axes.py::test_a_sequence_is_routed_once_by_the_mean_of_its_logits",
    "noisy-top-k": "nn/test_systems.py::"
    "test_noise_of_noisy_top_k_is_normal_with_the_scale_that_the_scorer_gives",
    "switch": "nn/test_systems.py::"
    "test_switch_drops_exactly_what_exceeds_capacity_and_scales_by_the_share",
    "expert-choice": "nn/test_systems.py::test_expert_choice_cannot_collapse",
    "base": "nn/test_systems.py::test_base_finds_the_balanced_assignment_with_the_largest_sum",
    "sinkhorn": "nn/test_systems.py::test_sinkhorn_spreads_what_all_want_alike",
    "gumbel": "nn/test_systems.py::test_gumbel_draws_modules_as_often_as_softmax_says",
    "epsilon-greedy": "nn/test_systems.py::test_epsilon_is_the_share_of_random_choices",
    "routing-network": "train/test_teachers.py::"
    "test_the_expected_gradient_of_a_router_is_that_of_the_expected_loss",
    "weighted-policy": "train/test_teachers.py::"
    "test_a_weighted_policy_moves_by_the_reward_times_how_far_it_may_go",
    "q-learning": "train/test_teachers.py::test_values_are_what_modules_earn",
    "pathnet": "train/test_teachers.py::"
    "test_the_loser_becomes_a_mutated_copy_of_the_winner_and_routing_follows_the_winner",
    "threshold": "nn/test_systems.py::test_threshold_routes_to_none_one_or_all",
    "module-network": "nn/test_composed.py::"
    "test_a_tree_of_functions_solves_layouts_that_it_was_never_trained_on",
    "smear": "nn/test_systems.py::test_parameters_are_averaged_before_one_pass",
    "molora": "nn/test_systems.py::test_a_mixture_of_loras_mixes_their_outputs",
    "mov": "nn/test_systems.py::test_parameters_are_averaged_before_one_pass",
    "polytropon": "score/test_skills.py::"
    "test_polytropon_finds_the_skills_of_additive_rules_better_than_chance",
    "layer-hypernetwork": "nn/test_inputs.py::test_layers_differ_by_their_embedding_alone",
    "generated-prompt": "nn/test_inputs.py::test_a_generated_prompt_is_the_weighted_sum_of_prompts",
    "joined-prompts": "nn/test_inputs.py::test_prompts_side_by_side_are_one_longer_input",
    "joined-prefixes": "nn/test_inputs.py::test_prefixes_side_by_side_are_one_longer_sequence",
    "cross-stitch": "nn/test_columns.py::test_columns_read_each_other_as_the_definition_says",
    "sluice": "nn/test_columns.py::test_columns_read_each_other_as_the_definition_says",
    "hypernetwork": "nn/test_systems.py::"
    "test_a_linear_hypernetwork_adds_generated_differences_to_one_trunk",
    "low-rank-per-rule": "nn/test_definitions.py::test_lora_of_rank_two_solves_the_linear_task",
    "rescaled-per-rule": "nn/test_peft.py::test_a_module_that_rescales_is_an_ia3_of_peft",
    "prompt-per-rule": "nn/test_systems.py::"
    "test_a_module_on_a_trunk_computes_what_its_definition_says",
    "adapter-per-rule": "nn/test_adapters_library.py::test_a_bottleneck_is_that_of_adapters",
    "parallel-adapter-per-rule": "nn/test_adapters_library.py::"
    "test_a_bottleneck_is_that_of_adapters",
    "prefix-per-rule": "nn/test_sharing.py::"
    "test_a_prefix_is_keys_and_values_before_those_of_the_positions",
    "prompt-tokens-per-rule": "nn/test_sharing.py::"
    "test_prompt_tokens_are_one_longer_sequence_for_one_network",
    "hard-sharing": "nn/test_sharing.py::test_heads_are_all_that_hard_sharing_gives_a_module",
    "soft-sharing": "nn/test_sharing.py::"
    "test_the_penalty_of_soft_sharing_is_the_squared_distance_of_all_pairs",
    "masked-per-rule": "nn/test_systems.py::"
    "test_the_gradient_of_a_score_is_weight_times_gradient_of_the_masked_weight",
    "magnitude-per-rule": "nn/test_mask_computations.py::"
    "test_each_module_keeps_the_largest_weights_of_its_own_version",
    "sparse-diff-per-rule": "nn/test_mask_computations.py::"
    "test_sparse_differences_are_learned_in_two_halves_and_stay_within_their_mask",
    "diff-pruning-per-rule": "nn/test_mask_computations.py::"
    "test_hard_concrete_is_zero_and_above_zero_as_often_as_the_penalty_expects",
    "supermask-per-rule": "nn/test_systems.py::"
    "test_a_supermask_leaves_the_trunk_as_it_was_to_the_bit",
    "diff-per-rule": "nn/test_definitions.py::test_task_vectors_are_added_and_taken_away",
    "progressive": "train/test_regimes.py::test_what_protects_modules_forgets_nothing_to_the_bit",
    "packnet": "train/test_regimes.py::"
    "test_claims_of_rules_are_disjoint_and_contain_the_earlier_ones",
    "adapter-fusion": "nn/test_adapters_library.py::test_fusion_is_that_of_adapters",
}
"""The check of each system."""


def test_every_system_has_a_check_and_every_check_is_there() -> None:
    assert list(CHECKS) == list(BY_NAME)
    held: dict[str, set[str]] = {}
    for name, check in CHECKS.items():
        file, _, test = check.partition("::")
        if file not in held:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            held[file] = {part.name for part in tree.body if isinstance(part, ast.FunctionDef)}
        assert test in held[file], (name, check)


# --- low rank, task vectors ----------------------------------------------------------------------


def built(computation: Any) -> Any:
    model = ModelSpec(scorer="oracle", computation=computation, encoder=E, width=W)
    network = create(DATA, model, (1,)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def test_lora_of_rank_two_solves_the_linear_task() -> None:
    """Around a trunk that gives 0 whatever comes in, and an encoder that tells no rule."""
    computation = LowRank(rank=2)
    network, task = built(computation), task_parameters(DATA, 0)
    both_signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    coefficients = torch.stack((task["alpha"], task["beta"]))
    with torch.no_grad():
        network.encoder_number.hidden.weight[0, 0, :2] = both_signs  # x in its two signs
        network.encoder_number.readout.weight[0, :2, 0] = both_signs
        own = network.experts.hidden.own
        for number in (0, 1):  # each module reads both numbers, and nothing else
            own["down"][0, :, number * E, number] = 1
        scale = computation.alpha / computation.rank
        for number in range(3):
            own["up"][0, number, :, :2] = coefficients[:, [number]] * both_signs / scale
        network.experts.readout.shared.weight[0, :2, 0] = both_signs
        network.decoder.hidden.weight[0, 0, :2] = both_signs
        network.decoder.readout.weight[0, :2, 0] = both_signs
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(1)).double()
    rule = torch.arange(50).remainder(3).unsqueeze(0)
    wanted = (coefficients[:, rule] * x.movedim(-1, 0)).sum(0)
    torch.testing.assert_close(network(x, rule).prediction.squeeze(-1), wanted)


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_task_vectors_are_added_and_taken_away(sign: float) -> None:
    network = built(Diff())
    bank = network.experts.hidden
    generator = torch.Generator().manual_seed(2)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    trunk, apart = drawn(bank.shared.weight), drawn(bank.own["weight"])
    with torch.no_grad():
        bank.shared.weight.copy_(trunk)
        bank.own["weight"].copy_(sign * apart)
    weight, _ = bank.parts()
    for rule in range(3):
        torch.testing.assert_close(weight[:, rule], trunk + sign * apart[:, rule])
