import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from not_core import canonical
from not_core.errors import FormatError
from not_core.privacy.canaries import Canaries, make
from not_core.privacy.membership import LEAST, curve, membership, proportion
from not_core.privacy.one_run import Guesses, bound, epsilon_bound, guess, p_value
from not_core.privacy.report import AuditReport, Claim, Observed, conclude

WORDS = [f"word{chr(97 + i)}" for i in range(26)]
ORGAN = "0" * 64


def respond(
    rng: random.Random, count: int, epsilon: float, told: float = 0.0
) -> tuple[list[float], list[bool]]:
    """Scores of canaries by randomised response, which is (epsilon, told)-DP and no better.

    With the chance ``told``, a canary's coin is told aloud.
    """
    coins = [rng.random() < 0.5 for _ in range(count)]
    right = 1 / (1 + math.exp(-epsilon))
    scores = []
    for coin in coins:
        sign = 1 if coin else -1
        if rng.random() < told:
            scores.append(2.0 * sign)
        else:
            scores.append((sign if rng.random() < right else -sign) * (1 - rng.random() / 100))
    return scores, coins


@pytest.mark.parametrize(
    ("epsilon", "told"), [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (0.5, 0.02), (1.0, 0.1)]
)
def test_the_bound_holds_as_often_as_it_says(epsilon: float, told: float) -> None:
    rng = random.Random(7)
    runs = 200
    broken = 0
    for _ in range(runs):
        scores, coins = respond(rng, 120, epsilon, told)
        broken += bound(scores, coins, told).epsilon > epsilon
    assert broken <= 0.05 * runs


def test_without_delta_the_bound_breaks_on_what_has_one() -> None:
    rng = random.Random(7)
    broken = 0
    for _ in range(50):
        scores, coins = respond(rng, 400, 0.5, told=0.1)
        broken += bound(scores, coins, 0.0).epsilon > 0.5
    assert broken > 25


def test_choosing_the_number_of_guesses_by_the_scores_costs_what_it_must() -> None:
    """A ninefold choice at the full level is wrong too often; ours divides the level."""
    rng = random.Random(3)
    parts = [i / 10 for i in range(1, 10)]
    greedy = honest = 0
    for _ in range(100):
        scores, coins = respond(rng, 100, 0.0)
        found = [epsilon_bound(guess(scores, coins, int(p * 100)), 0.0, 0.05) for p in parts]
        greedy += max(found) > 0
        honest += bound(scores, coins, 0.0, parts=parts).epsilon > 0
    assert greedy > 0.05 * 100 >= honest


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0, 4.0])
def test_many_canaries_come_close(epsilon: float) -> None:
    scores, coins = respond(random.Random(1), 20_000, epsilon)
    found = bound(scores, coins, 1e-6)
    assert 0.85 * epsilon < found.epsilon <= epsilon
    assert found.most > epsilon


@given(made=st.integers(1, 300), level=st.floats(0.001, 0.3))
@settings(max_examples=25)
def test_all_guesses_right_shows_what_the_formula_says(made: int, level: float) -> None:
    guesses = Guesses(canaries=300, made=made, right=made)
    chance = level ** (1 / made)
    expected = max(0.0, math.log(chance / (1 - chance)))
    assert epsilon_bound(guesses, 0.0, level) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("canaries", "made", "right"), [(10, 10, 8), (60, 30, 25), (90, 90, 50)])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.02])
def test_the_p_value_is_the_theorems(
    canaries: int, made: int, right: int, epsilon: float, delta: float
) -> None:
    q = math.exp(epsilon) / (math.exp(epsilon) + 1)

    def at_least(count: int) -> float:
        return sum(
            math.comb(made, k) * q**k * (1 - q) ** (made - k)
            for k in range(max(0, count), made + 1)
        )

    slack = max((at_least(right - i) - at_least(right)) / i for i in range(1, canaries + 1))
    expected = min(1.0, at_least(right) + 2 * canaries * delta * slack)
    found = p_value(Guesses(canaries=canaries, made=made, right=right), epsilon, delta)
    assert found == pytest.approx(expected, abs=1e-10)


def test_guesses_are_at_the_extremes() -> None:
    scores, coins = [0.0, 5.0, 1.0, 4.0, 2.0, 3.0], [False, True, True, False, False, True]
    assert guess(scores, coins, 2) == Guesses(canaries=6, made=2, right=2)
    assert guess(scores, coins, 5) == Guesses(canaries=6, made=4, right=2)
    with pytest.raises(ValueError, match="finite"):
        guess([math.nan, 1.0], [True, False], 2)


def test_membership_counts_pairs() -> None:
    found = membership([2.0, 3.0, 1.0], [1.0, 0.0])
    assert found.area is not None
    assert found.area.value == pytest.approx(5.5 / 6, abs=1e-4)
    assert found.area.low < found.area.value < found.area.high
    assert curve([1.0], [0.0]) == [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    assert membership([], [1.0]).area is None


def test_too_few_others_cannot_tell_one_percent() -> None:
    members = [float(i) for i in range(200)]
    few, enough = [-1.0] * (LEAST - 1), [-1.0] * LEAST
    assert membership(members, few).true_positives is None
    told = membership(members, enough).true_positives
    assert told is not None
    assert (told.value, told.high) == (1.0, 1.0)
    assert 0.97 < told.low < 1


def test_one_percent_of_the_others_pass_and_no_more() -> None:
    others = [float(i) for i in range(200)]  # two may pass: 199 and 198
    found = membership([197.0, 197.5, 200.0, 0.0], others).true_positives
    assert found is not None
    assert found.value == 0.5


def test_intervals_hold() -> None:
    rng = random.Random(5)
    inside = area = 0
    for _ in range(200):
        counted = proportion(sum(rng.random() < 0.1 for _ in range(60)), 60)
        inside += counted.low <= 0.1 <= counted.high
        found = membership(
            [rng.gauss(1, 1) for _ in range(40)], [rng.gauss(0, 1) for _ in range(60)]
        ).area
        assert found is not None
        area += found.low <= 0.7602 <= found.high
    assert min(inside, area) >= 0.95 * 200


def test_canaries_are_made_of_their_seed_and_coins_are_fair() -> None:
    one, again, other = (make(WORDS, 2000, seed * 32) for seed in (b"a", b"a", b"b"))
    assert one == again
    assert not {*one.texts} & {*other.texts}
    assert 900 < sum(one.planted) < 1100
    agree = sum(a == b for a, b in zip(one.planted, other.planted, strict=True))
    assert 900 < agree < 1100
    assert len(one.to_plant) == sum(one.planted)
    assert one.texts[0] not in repr(one)


def concluded(scores: Sequence[float], canaries: Canaries, claim: float | None) -> AuditReport:
    nothing = (False,) * len(scores)
    return conclude(
        Observed(tuple(scores), canaries.planted, nothing),
        canaries,
        organ=ORGAN,
        claim=None if claim is None else Claim(epsilon=claim, delta=1e-5),
    )


@pytest.mark.parametrize(
    ("count", "claim", "verdict"),
    [
        (400, 1.0, "contradicts the claim"),
        (400, 4.0, "contradicts the claim"),
        (400, 8.0, "too weak to tell"),
        (10, 1.0, "too weak to tell"),
        (400, None, "no claim"),
    ],
)
def test_what_tells_all_contradicts_every_claim_that_so_many_can_test(
    count: int, claim: float | None, verdict: str
) -> None:
    canaries = make(WORDS, count, b"s" * 32)
    found = concluded([float(coin) for coin in canaries.planted], canaries, claim)
    assert found.verdict == verdict
    assert found.epsilon == found.most
    assert found.recited.planted.value == 1.0
    assert found.recited.others.value == found.recited.planted_before.value == 0.0


def test_what_tells_nothing_does_not_contradict_but_few_say_nothing() -> None:
    rng = random.Random(2)
    for count, claim, verdict in [
        (400, 1.0, "does not contradict"),
        (400, 8.0, "too weak to tell"),
        (20, 2.0, "too weak to tell"),
    ]:
        canaries = make(WORDS, count, b"s" * 32)
        found = concluded([rng.random() for _ in canaries.texts], canaries, claim)
        assert found.epsilon == 0.0
        assert found.verdict == verdict


def test_a_report_is_read_back_has_one_digest_and_holds_no_text() -> None:
    canaries = make(WORDS, 60, b"s" * 32)
    found = concluded([float(coin) for coin in canaries.planted], canaries, 1.0)
    data = canonical.encode(found)
    assert canonical.decode(AuditReport, data, "audit report") == found
    assert found.digest == canonical.sha256(data)
    assert found.digest == concluded([float(c) for c in canaries.planted], canaries, 1.0).digest
    assert not any(word.encode() in data for word in WORDS)
    assert any("cannot tell 1% false positives" in reason for reason in found.reasons)
    with pytest.raises(FormatError, match="not valid"):
        canonical.decode(AuditReport, data.replace(b'"confidence":0.95', b'"confidence":2'), "it")
