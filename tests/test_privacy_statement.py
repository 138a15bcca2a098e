"""What a manifest states of privacy: its form, its words, its recomputation, and who demands it."""

import json
import math
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import sentences, write_jsonl
from pydantic import ValidationError
from trust_world import manifest

from client import home as site_home
from client import recipient
from client.policy import Policy, check_privacy
from not_core import canonical
from not_core.errors import FormatError, HomeError, PolicyError, PrivacyError
from not_core.manifest import PROVES, DifferentialPrivacy, Manifest, NoPrivacy, Span, TrainingFacts
from not_core.privacy.accounting import ACCOUNTANT, Mechanism, epsilon
from not_core.privacy.statement import check
from not_core.protocol import TransplantRequest
from not_core.surgery import organ as organs
from not_core.surgery.card import card
from not_core.surgery.checkpoint import open_checkpoint
from not_core.surgery.lineage import RecoveryFacts
from not_core.trust import authority, federation, keys, sealing, signing
from not_core.trust.profile import read_request

TRAINING = TrainingFacts(
    scaffold="in-situ",
    rank=None,
    tokens=1000,
    steps=100,
    seed=0,
    learning_rate=1e-3,
    block_tokens=128,
    step_tokens=1024,
    head_sample=None,
    precision="float32",
    device="cpu",
    threads=1,
    libraries={},
)
TRUE = epsilon([Mechanism(0.05, 1.0, 100)], 1e-6)


def stated(**changes: Any) -> DifferentialPrivacy:
    values: dict[str, Any] = {
        "unit": "record",
        "sampling_probability": 0.05,
        "noise_multiplier": 1.0,
        "clip": 0.5,
        "steps": 100,
        "units_per_step": 16,
        "most_blocks_per_unit": 4,
        "delta": 1e-6,
        "epsilon": TRUE,
        "accountant": ACCOUNTANT,
    }
    return DifferentialPrivacy(**{**values, **changes})


def private(**changes: Any) -> Manifest:
    return manifest(training=TRAINING, privacy=stated(**changes))


def test_a_manifest_without_a_statement_keeps_the_digest_that_it_had() -> None:
    found = canonical.encode(manifest())
    assert b'"privacy":{"mechanism":"none"}' in found
    assert canonical.sha256(found) == (
        "62aa033398de5e16b5b88e0674ec9354a8b960600221728c6051c1fd7e590826"
    )


def test_a_statement_survives_writing_and_reading() -> None:
    whole = private()
    data = canonical.encode(whole)
    assert canonical.decode(Manifest, data, "manifest") == whole
    assert whole.digest != manifest(training=TRAINING).digest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, wrong) for name in ("noise_multiplier", "clip", "epsilon", "delta",
                                     "sampling_probability")
          for wrong in (0, -1, math.nan, math.inf)),
        ("sampling_probability", 1.01),
        ("delta", 1),
        ("delta", 1e-13),
        ("epsilon", 501),
        ("steps", 0),
        ("steps", 100_001),
        ("steps", 1.5),
        ("units_per_step", 0),
        ("most_blocks_per_unit", 0),
        ("unit", "block"),
        ("neighbours", "replace-one"),
        ("sampler", "shuffle"),
        ("mechanism", "dp-ftrl"),
        ("accountant", "two\nlines"),
    ],
)  # fmt: skip
def test_a_statement_out_of_bounds_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        stated(**{field: value})
    if value == value and value not in (math.inf,):  # what canonical JSON can write
        table = canonical.plain(canonical.encode(private()), "manifest")
        table["privacy"][field] = value
        with pytest.raises(FormatError):
            canonical.decode(Manifest, canonical.encode(table), "manifest")


def test_privacy_is_stated_of_training_and_of_all_its_steps() -> None:
    with pytest.raises(ValueError, match="charged for all its steps"):
        manifest(privacy=stated())
    with pytest.raises(ValueError, match="charged for all its steps"):
        private(steps=99)
    assert private(steps=101).privacy.steps == 101  # type: ignore[union-attr]
    facts = RecoveryFacts(
        what="norms", graft="ab" * 32, layers=(1,), learned="cd" * 32, training=TRAINING,
        validation=0, privacy=stated(),
    )  # fmt: skip
    assert canonical.decode(RecoveryFacts, canonical.encode(facts), "recovery") == facts
    with pytest.raises(ValueError, match="charged for all its steps"):
        replace(facts, privacy=stated(steps=1))


@pytest.mark.parametrize(
    ("value", "delta", "words"),
    [
        (8.0, 1e-6, "epsilon 8 at delta 1e-06 a record"),
        (7.991, 1.001e-6, "epsilon 8 at delta 1.01e-06 a record"),
        (0.12301, 1e-5, "epsilon 0.124 at delta 1e-05 a record"),
    ],
)
def test_words_never_round_down(value: float, delta: float, words: str) -> None:
    assert stated(epsilon=value, delta=delta).words == words
    assert stated(unit="subject", epsilon=value).words.endswith("a subject")
    assert NoPrivacy().words == "none"


def test_the_card_says_what_a_statement_proves_and_what_not() -> None:
    text = card(private())
    assert stated().words in text
    assert PROVES in text
    assert "nothing bounds" not in text
    assert "nothing bounds" in card(manifest(training=TRAINING))
    assert PROVES not in card(manifest(training=TRAINING))


def test_a_true_statement_is_recomputed_and_an_overstated_one_is_no_lie() -> None:
    found = check(stated())
    assert found.pld == pytest.approx(TRUE, rel=1e-9)
    assert found.prv == pytest.approx(TRUE, rel=0.01)
    check(stated(epsilon=TRUE * 3))


@pytest.mark.parametrize(
    "lie",
    [
        {"epsilon": TRUE * 0.97},
        {"sampling_probability": 0.06},
        {"noise_multiplier": 0.9},
        {"steps": 120},
        {"delta": 1e-7},
    ],
)
def test_an_understated_claim_is_named_beside_what_follows(lie: dict[str, Any]) -> None:
    claim = stated(**lie)
    with pytest.raises(PrivacyError, match="claims epsilon") as caught:
        check(claim)
    assert f"{claim.epsilon:g}" in str(caught.value)
    again = epsilon(
        [Mechanism(claim.sampling_probability, claim.noise_multiplier, claim.steps)], claim.delta
    )
    assert f"{again:.4g} (PLD)" in str(caught.value)


def test_a_claim_that_has_no_bound_is_refused() -> None:
    with pytest.raises(PrivacyError, match="inf"):
        check(stated(noise_multiplier=1e-6))


DEMAND = Policy(most_epsilon_taken=8.0, most_delta_taken=1e-5)


@pytest.mark.parametrize(
    "privacy",
    [
        NoPrivacy(),
        stated(epsilon=8.01),
        stated(epsilon=8.0, delta=2e-5),
        stated(unit="subject", epsilon=4.01, delta=1e-9),
        stated(unit="subject", epsilon=4.0, delta=1e-6),  # times 1 + e^4
    ],
)
def test_a_demand_refuses_what_does_not_meet_it(privacy: Any) -> None:
    with pytest.raises(PolicyError, match="the policy takes epsilon 8 at delta 1e-05 a record"):
        check_privacy(DEMAND, privacy)
    check_privacy(Policy(), privacy)


def test_a_demand_takes_what_meets_it() -> None:
    check_privacy(DEMAND, stated(epsilon=8.0, delta=1e-5))
    check_privacy(DEMAND, stated(unit="subject", epsilon=4.0, delta=1e-7))


def test_a_demand_for_subjects_is_not_met_by_records() -> None:
    subjects = replace(DEMAND, unit_taken="subject")
    check_privacy(subjects, stated(unit="subject", epsilon=8.0))
    with pytest.raises(PolicyError, match="a subject"):
        check_privacy(subjects, stated(epsilon=0.1, delta=1e-9))


SETTINGS = {"site": "clinic", "model": "m", "records": "r", "general": "g", "domain": "care"}


def test_a_policy_is_written_without_what_it_does_not_demand(tmp_path: Path) -> None:
    settings = site_home.settings(dict(SETTINGS))
    for name, policy in (("open", Policy()), ("strict", replace(DEMAND, epsilon=3.0))):
        site_home.create(tmp_path / name, settings, policy)
        assert site_home.settings_of(tmp_path / name) == (settings, policy)
    table = tomllib.loads((tmp_path / "open" / "policy.toml").read_text())
    assert not {"epsilon", "most_epsilon_taken"} & set(table)
    assert set(table) < set(asdict(Policy()))


@pytest.mark.parametrize("name", ["epsilon", "delta", "most_epsilon_taken", "most_delta_taken"])
@pytest.mark.parametrize("value", ["0", "-1.0", "nan", "inf", "1000", '"8"'])
def test_a_policy_out_of_bounds_is_refused(tmp_path: Path, name: str, value: str) -> None:
    site_home.create(tmp_path / "home", site_home.settings(dict(SETTINGS)), Policy())
    policy = tmp_path / "home" / "policy.toml"
    kept = [line for line in policy.read_text().splitlines() if not line.startswith(f"{name} ")]
    policy.write_text("\n".join([*kept, f"{name} = {value}"]))
    with pytest.raises(HomeError, match=name):
        site_home.settings_of(tmp_path / "home")


class Federation:
    """A donor with keys and a clinic with a home, on a tiny model."""

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.host = place, open_checkpoint(str(model))
        authority.create_root(place / "root", "regional")
        root = federation.load_trust(place / "root")
        self.donor = self.admit(keys.create(place / "donor", "donor"), place / "donor")
        settings = {
            "site": "clinic",
            "model": str(model),
            "records": str(write_jsonl(place / "r.jsonl", sentences(60, 1))),
            "general": str(write_jsonl(place / "g.jsonl", sentences(12, 2))),
            "domain": "care",
        }
        self.home = place / "clinic"
        site_home.create(self.home, site_home.settings(settings), Policy())
        request = json.loads((self.home / "identity" / "request.json").read_text())
        assert request["site"] == "clinic"
        self.admit(read_request(self.home / "identity" / "request.json"), self.home / "identity")
        self.root = root

    def admit(self, request: Any, folder: Path) -> keys.Identity:
        profile = authority.admit(self.place / "root", request)
        return keys.install(folder, profile, federation.load_trust(self.place / "root"))

    def organ(self, name: str, privacy: NoPrivacy | DifferentialPrivacy) -> Path:
        span = Span(start=2, stop=4)
        tensors = organs.extract(self.host, span)
        label = organs.Label(name=name, donor="donor")
        facts = organs.describe(self.host, span, tensors, label, training=TRAINING, privacy=privacy)
        organs.write_organ(self.place / name, tensors, facts)
        signing.sign_folder(self.place / name, self.donor)
        return self.place / name

    def try_at_clinic(self, name: str, privacy: NoPrivacy | DifferentialPrivacy) -> None:
        folder = self.organ(name, privacy)
        site = site_home.load(self.home)
        digest = organs.read_manifest(folder).digest
        out = site.place("organs", "in", "trial", f"{digest}.organ")
        sealing.seal(
            folder,
            self.donor,
            sealing.Audience(addressees=[site.identity.profile], exchange="trial"),
            out,
        )
        request = TransplantRequest(exchange="trial", organ=digest, mode="replace")
        recipient.transplant(site, request, b"")


@pytest.fixture
def members(tmp_path: Path, models: dict[str, Path]) -> Federation:
    return Federation(tmp_path, models["llama"])


def test_a_site_refuses_an_understated_organ_before_its_model_is_read(
    members: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    measure = recipient._measure

    def spy(site: Any, request: Any, trusted: Any, bench: Any) -> Any:
        measured.append(request.organ)
        return measure(site, request, trusted, bench)

    monkeypatch.setattr(recipient, "_measure", spy)
    with pytest.raises(PrivacyError) as caught:
        members.try_at_clinic("liar", stated(epsilon=1.0))
    assert caught.value.code == "privacy"
    (members.home / "policy.toml").write_text("most_epsilon_taken = 8\n")
    with pytest.raises(PolicyError):
        members.try_at_clinic("silent", NoPrivacy())
    assert measured == []
    assert not list(members.home.glob("organs/opened/*"))
    assert not any(entry.event == "trying" for entry in site_home.load(members.home).log.entries())
    members.try_at_clinic("honest", stated())
    assert len(measured) == 1


def test_verify_prints_what_it_recomputed_and_what_that_does_not_prove(
    members: Federation,
    organ: Callable[..., dict[str, Any]],
    call: Callable[..., tuple[int, str, str]],
) -> None:
    root = members.place / "root" / "root.pem"
    honest = organ("verify", members.organ("honest", stated()), "--trust", root)
    assert honest["privacy"] == stated().words
    assert honest["epsilon"]["pld"] == pytest.approx(TRUE, rel=1e-6)
    assert honest["epsilon"]["prv"] == pytest.approx(TRUE, rel=0.01)
    assert honest["note"] == PROVES
    silent = organ("verify", members.organ("silent", NoPrivacy()), "--trust", root)
    assert silent["privacy"] == "none"
    assert "epsilon" not in silent
    code, _, said = call("verify", members.organ("liar", stated(epsilon=1.0)), "--trust", root)
    assert code == 1
    assert "claims epsilon 1 at delta" in said


@pytest.mark.parametrize("value", [1e5 + 1, 1e12, 1e300])
def test_noise_beyond_what_can_be_recomputed_is_not_stated(value: float) -> None:
    with pytest.raises(ValidationError):
        stated(noise_multiplier=value)


def test_a_small_claim_is_held_as_tightly() -> None:
    quiet = stated(noise_multiplier=60.0, steps=50)
    true = check(replace(quiet, epsilon=1.0)).pld
    assert 1e-3 < true < 0.5
    with pytest.raises(PrivacyError, match="its own numbers give"):
        check(replace(quiet, epsilon=true * 0.9))
    assert check(replace(quiet, epsilon=true))


def test_a_delta_that_gives_a_unit_away_is_refused() -> None:
    with pytest.raises(PrivacyError, match="one of its about 320 units whole"):
        check(stated(delta=1 / 320, epsilon=50.0))
