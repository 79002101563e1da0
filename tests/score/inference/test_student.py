"""Quantiles of Student's t in plain Python are those of scipy."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import stdtrit

from modeval.score.inference.student import plain_quantile

SHARES = [1e-8, 1e-4, 0.01, 0.025, 0.3, 0.5001, 0.7, 0.95, 0.975, 0.98, 0.999, 1 - 1e-6]


@pytest.mark.parametrize(
    "freedom", [0.5, 1.0, 1.001, 2.249, 3.0, 9.5, 31.0, 63.9, 64.0, 500.5, 1999.0, 2001.0]
)
def test_plain_quantiles_are_those_of_scipy(freedom):
    ours = [plain_quantile(freedom, share) for share in SHARES]
    np.testing.assert_allclose(ours, stdtrit(freedom, SHARES), rtol=1e-11)


@pytest.mark.parametrize("freedom", [1e4, 1e6])
def test_many_degrees_of_freedom_lead_to_the_normal_distribution(freedom):
    ours = [plain_quantile(freedom, share) for share in SHARES]
    np.testing.assert_allclose(ours, stdtrit(freedom, SHARES), rtol=1e-10)  # scipy errs by 1e-11


def test_the_median_is_zero_and_the_tails_are_symmetric():
    assert plain_quantile(4.0, 0.5) == pytest.approx(0, abs=1e-15)
    assert plain_quantile(4.0, 0.1) == pytest.approx(-plain_quantile(4.0, 0.9), rel=1e-14)


def test_nothing_of_scipy_is_loaded_for_them():
    program = (
        "import sys; from importlib import import_module\n"
        "import_module('modeval.score.inference.student').plain_quantile(3.3, 0.98)\n"
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
