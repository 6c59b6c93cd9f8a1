"""Objectives on several devices and in several processes."""

from pathlib import Path

import numpy as np
import pytest

from tests.devices import run_twice
from tests.tasks.objectives_on_devices import CASES


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("devices")
    run_twice("tests/tasks/objectives_on_devices.py", folder, devices=4)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_devices_and_processes_change_nothing(case: str, results: Path) -> None:
    """Loss and gradients of one device, of two, and of eight as each of two processes sees them."""
    one, *others = (np.load(results / f"{case}_{name}.npz") for name in ("1", "2", "8_0", "8_1"))
    for other in others:
        assert set(one) == set(other)
        for name, x in one.items():
            np.testing.assert_allclose(other[name], x, rtol=0, atol=1e-6, err_msg=name)
