"""hf_transfer.utils.threads: waiting threads yield, unless the user has said how they wait."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from hf_transfer.utils.threads import YIELDING, wait_policy, yield_at_barriers


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "OMP_WAIT_POLICY=PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "OMP_WAIT_POLICY=ACTIVE"),
        ({"GOMP_SPINCOUNT": "100"}, "GOMP_SPINCOUNT=100"),
        ({"KMP_BLOCKTIME": "0"}, "KMP_BLOCKTIME=0"),
    ],
)
def test_threads_yield_unless_the_user_chose(given: dict[str, str], policy: str) -> None:
    """Where nothing is set, threads yield; a setting of GNU's, Intel's or LLVM's runtime stays the only one."""
    environ = dict(given)
    yield_at_barriers(environ)
    assert wait_policy(environ) == policy
    assert environ == (given or YIELDING)


def test_torch_threads_do_not_spin() -> None:
    """libgomp reads what the process itself sets before torch is imported: threads spin for a moment only."""
    code = "import os; from hf_transfer.utils.threads import yield_at_barriers; yield_at_barriers(os.environ); "
    code += "import torch"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    environment["OMP_DISPLAY_ENV"] = "VERBOSE"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    spins = re.search(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    if spins is None:
        pytest.skip("torch of this machine is not built with libgomp")
    assert spins[1] == YIELDING["GOMP_SPINCOUNT"]
