"""The choice of weights on held-out images never falls below the start, and prefers low log loss among near equals."""

from __future__ import annotations

import numpy as np
import pytest

from hf_transfer.phases.kept_weights import Member, choose_member, fault

LABELS = np.arange(200) % 4


def _logits(strength: float, seed: int, noise: float = 1.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return strength * np.eye(4)[LABELS] + noise * generator.normal(size=(len(LABELS), 4))


MEMBERS = (Member(0.0), Member(0.5), Member(1.0), Member(1.0, 0.5))


def test_the_best_member_is_kept() -> None:
    """A member that is better in metric and loss is chosen, with its gain and the error of it."""
    logits = [_logits(1.0, 0), _logits(1.2, 1), _logits(4.0, 2), _logits(1.3, 3)]
    kept = choose_member(MEMBERS, logits, LABELS, "accuracy")
    assert kept.chosen.member == Member(1.0)
    assert kept.gain == pytest.approx(kept.chosen.value - kept.start.value) and kept.gain > 3 * kept.gain_error > 0
    assert "the end is kept" in kept.sentence() and f"{kept.start.value:.3f}" in kept.sentence()


def test_the_start_is_kept_where_nothing_is_better() -> None:
    """Worse weights, whatever their number, leave the start, and the sentence says so."""
    kept = choose_member(MEMBERS, [_logits(3.0, 0), *(_logits(0.5, seed) for seed in (1, 2, 3))], LABELS, "accuracy")
    assert kept.chosen.member.share == 0 and kept.gain == 0
    assert "nothing of the training is better than its start" in kept.sentence()


def test_confident_errors_do_not_win() -> None:
    """A member with a few more hits by luck but a higher log loss than the start is not chosen."""
    start = _logits(1.5, 0)
    wild = start.copy()
    wrong = np.flatnonzero(start.argmax(1) != LABELS)
    wild[wrong[:2]] += 50 * np.eye(4)[LABELS[wrong[:2]]]
    wild[wrong[2:6]] += 50 * np.eye(4)[(LABELS[wrong[2:6]] + 1) % 4]
    assert choose_member(MEMBERS[:2], [start, wild], LABELS, "accuracy").chosen.member.share == 0


def test_a_badly_scaled_member_is_judged_at_its_temperature() -> None:
    """Logits that are ten times too large cost nothing: the temperature that is folded in later takes it out."""
    good = _logits(3.0, 1)
    kept = choose_member(MEMBERS[:2], [_logits(1.0, 0), 10 * good], LABELS, "accuracy")
    plain = choose_member(MEMBERS[:2], [_logits(1.0, 0), good], LABELS, "accuracy")
    assert kept.chosen.member == plain.chosen.member == Member(0.5)
    assert kept.chosen.temperature == pytest.approx(10 * plain.chosen.temperature, rel=1e-2)
    assert kept.chosen.log_loss == pytest.approx(plain.chosen.log_loss, rel=1e-3)


def test_of_many_noisy_equals_the_choice_is_no_worse_than_the_start() -> None:
    """Chosen on 200 images among members that are all alike, the result is as good as the start on fresh ones."""
    differences = []
    for seed in range(60):
        noise = [np.random.default_rng((seed, member)).normal(size=(400, 4)) for member in range(6)]
        base = np.random.default_rng((seed, 99)).normal(size=(400, 4)) + 1.5 * np.eye(4)[np.arange(400) % 4]
        logits = [base + 0.3 * each for each in noise]
        kept = choose_member([Member(m / 5) for m in range(6)], [v[:200] for v in logits], LABELS, "accuracy")
        chosen = round(kept.chosen.member.share * 5)
        right = [(v[200:].argmax(1) == LABELS).mean() for v in logits]
        differences.append(right[chosen] - right[0])
    assert np.mean(differences) > -2 * np.std(differences) / np.sqrt(len(differences))


def test_a_collapse_is_found_and_a_bad_start_is_none() -> None:
    """One class for all images is a fault; so is a clear fall; noise, and a class that most images have, are not."""
    start = _logits(2.0, 0)
    one = np.tile([9.0, 0, 0, 0], (len(LABELS), 1)) + _logits(0, 1, 0.01)
    assert "names one class for 100%" in str(fault(one, start, LABELS, "accuracy"))
    assert "points below its start" in str(fault(_logits(0.3, 2), start, LABELS, "accuracy"))
    assert "not finite" in str(fault(np.full_like(start, np.nan), start, LABELS, "accuracy"))
    assert fault(start + _logits(0, 3, 0.2), start, LABELS, "accuracy") is None
    assert fault(one, one, LABELS, "accuracy") is None
