"""How OpenMP's threads wait for one another: spinning or yielding."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

YIELDING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
"""Sleep after five thousand turns, some microseconds. In six pairs of demos on two quiet cores the training took 1.03
times as long as with threads that spin (median; 0.93 to 1.19), and next to a busy process 2.6 times as long as alone.
A thousand turns cost quiet cores up to a tenth; ten thousand make it four times as long on a busy machine."""
_WAIT_POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def wait_policy(environ: Mapping[str, str]) -> str | None:
    """The setting that says how threads wait, as `NAME=VALUE`; None if the runtime's default holds."""
    return next((f"{name}={environ[name]}" for name in _WAIT_POLICIES if name in environ), None)


def yield_at_barriers(environ: MutableMapping[str, str]) -> None:
    """Let OpenMP's threads yield while they wait, unless the user has chosen another policy.

    libgomp's threads spin at barriers. Next to another busy process each barrier then costs a time slice, and a
    training step takes ten times as long. libgomp reads the policy once, when torch is imported: call this before.
    """
    if wait_policy(environ) is None:
        environ.update(YIELDING)
