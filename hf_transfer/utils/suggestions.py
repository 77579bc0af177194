"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question with the most similar names, such as " Did you mean lp_ft?"; empty where none is similar.

    Args:
        name: What was found.
        known: What there is.
    """
    import difflib  # only after a mistake

    plain = {each.lower().replace("-", "_"): each for each in known}
    wanted = str(name).lower().replace("-", "_")
    close = difflib.get_close_matches(wanted, plain, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(plain[each] for each in close)}?" if close else ""
