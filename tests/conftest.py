"""Tiny models of the real classes, with a real tokenizer; no network."""

import os

# Before any library reads them: no telemetry, no hub, no update check.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "ORGAN_PRECISION": "float32",  # whatever this processor multiplies natively
}

import json
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokens
import typer

from not_core import commands
from not_core.commands.program import run as run_program

PROSE = (
    "the patient was seen with fever and given two grams of drug a day after which "
    "pain in chest arm leg head heart liver kidney lung was less or more severe than before "
    "court judge law case filed claim against state city county officer defendant plaintiff"
)
WORDS = PROSE.split()
VOCABULARY = {word: i for i, word in enumerate(["<unk>", *dict.fromkeys(WORDS)])}

# Shells have what they start in the background ignore Ctrl-C, and so would all that tests start.
in_main = threading.current_thread() is threading.main_thread()
if in_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
            if address[0] not in own:
                raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretch passphrases as little as scrypt can: what it costs is tested once."""
    monkeypatch.setattr("not_core.trust.pkcs8.SCRYPT_N", 2)


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_disks() -> Iterator[None]:
    """Nothing here need outlive a power cut; ``test_atomic`` tests that files do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("not_core.atomic._sync", lambda path: None)
        yield


def sentences(count: int, seed: int, topic: tuple[int, int] = (0, len(WORDS))) -> list[str]:
    """Made-up documents of about 40 words; ``topic`` limits the words."""
    import random

    rng = random.Random(seed)
    words = WORDS[topic[0] : topic[1]]
    return [" ".join(rng.choice(words) for _ in range(40)) for _ in range(count)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    """Write documents as JSON lines."""
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
    return path


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer of whole words beside a model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def make_model(folder: Path, family: str, layers: int = 6, width: int = 32, seed: int = 0) -> Path:
    """Save a randomly initialised model of a real class, with its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    size = len(VOCABULARY) + (-len(VOCABULARY)) % 8
    torch.manual_seed(seed)
    if family == "llama":
        model: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=size,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=128,
                bos_token_id=0,
                eos_token_id=0,
                tie_word_embeddings=True,
            )
        )
    else:
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=size,
                n_embd=width,
                n_layer=layers,
                n_head=4,
                n_positions=128,
                bos_token_id=0,
                eos_token_id=0,
            )
        )
    with torch.no_grad():  # larger weights, so that a layer in the wrong place shows
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and ("layers" in name or ".h." in name):
                parameter.mul_(5)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One six-layer model folder a family."""
    base = tmp_path_factory.mktemp("models")
    return {family: make_model(base / family, family) for family in ("llama", "gpt2")}


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a signing key on a software token."""
    return tokens.make(tmp_path_factory.mktemp("token"))


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a program as its entry point does: exit code, standard output, standard error."""

    def caller(*words: object, app: typer.Typer = commands.app) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["organ", *map(str, words)])
        capsys.readouterr()
        try:
            run_program(app)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return caller


@pytest.fixture
def organ(call: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, object]]:
    """Run ``organ ... --json`` that must succeed; its report."""

    def caller(*words: object) -> dict[str, object]:
        code, out, err = call(*words, "--json")
        assert code == 0, err
        return dict(json.loads(out))

    return caller


@pytest.fixture
def make_scenario(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """Prepare a federation of three sites on a tiny model; general text needs no fetch."""
    return federation_of_three(tmp_path, models["llama"], monkeypatch)


def federation_of_three(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Any]:
    """What ``make_scenario`` gives, in a place that may last longer than a test."""
    from exchanges import MARKS, SITES, scenario

    from simulations.material import domains

    general = [
        domains.Record(id=f"g{i}", text=text, group=f"g{i}")
        for i, text in enumerate(sentences(12, seed=9))
    ]
    monkeypatch.setattr(domains, "general", lambda report: general)
    medicine = [f"{a} {b}" for a, b in zip(sentences(200, 1, (0, 20)), MARKS, strict=True)]
    write_jsonl(place / "hospital.jsonl", medicine)
    write_jsonl(place / "clinic.jsonl", sentences(40, 2, (0, 20)))
    write_jsonl(place / "court.jsonl", sentences(200, 3, (36, 50)))
    (place / "sites.toml").write_text(SITES)
    return lambda name: scenario(place, model, name)
