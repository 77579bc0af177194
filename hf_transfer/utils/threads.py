"""How OpenMP's threads wait for one another: spinning or yielding."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

YIELDING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}
"""Sleep after three thousand turns, some microseconds. The demo's training then takes as long on quiet cores as with
threads that spin, and 2.3 times as long next to a busy process. A thousand turns cost quiet cores up to a tenth; ten
thousand make it four times as long on a busy machine."""
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
