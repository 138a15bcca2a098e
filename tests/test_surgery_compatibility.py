"""Whether an organ fits: every difference named with both values, and the word that accepts it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, save_tokenizer
from families import all_families, family_model
from surgeries import cut_of, logits, organ_of, put
from transformers import AutoModelForCausalLM

from not_core.commands.surgery import Difference
from not_core.errors import IncompatibleOrganError
from not_core.manifest import Span
from not_core.surgery import tokenizer as tokenizers
from not_core.surgery.anatomy import anatomy
from not_core.surgery.checkpoint import Checkpoint, open_checkpoint
from not_core.surgery.compatibility import ALLOWABLE, check
from not_core.surgery.layer_config import default_fields
from not_core.surgery.organ import Label, describe, extract
from not_core.surgery.tensors import Held

NEVER = None
Hosts = Callable[..., Checkpoint]


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    """Models with a tokenizer; the same changes give the same weights."""

    def made(family: str = "llama", *, seed: int = 0, **changes: Any) -> Checkpoint:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        folder = family_model(place, family, seed, **changes)
        save_tokenizer(folder)
        return open_checkpoint(folder)

    return made


def rope(theta: float) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"}


@pytest.mark.parametrize(
    ("family", "change", "organ", "recipient", "word"),
    [
        # Heads: GPT-2's tensors have the same shapes however many heads share them.
        ("gpt2", {"n_head": 2}, "n_head is 4", "2", NEVER),
        ("llama", {"num_attention_heads": 2}, "num_attention_heads is 4", "2", NEVER),
        ("llama", {"num_key_value_heads": 4}, "num_key_value_heads is 2", "4", NEVER),
        ("llama", {"head_dim": 16}, "head_dim is 8", "16", NEVER),
        ("llama", {"hidden_size": 64, "head_dim": 8}, "hidden_size is 32", "64", NEVER),
        ("llama", {"intermediate_size": 48}, "intermediate_size is 64", "48", NEVER),
        # Activation, norm, biases, what a layer does with its scores.
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'silu'", "'gelu'", NEVER),
        ("gpt2", {"activation_function": "relu"}, "is 'gelu_new'", "'relu'", NEVER),
        ("llama", {"rms_norm_eps": 1e-5}, "rms_norm_eps is 1e-06", "1e-05", NEVER),
        ("gpt2", {"layer_norm_epsilon": 1e-3}, "layer_norm_epsilon is 1e-05", "0.001", NEVER),
        ("llama", {"attention_bias": True}, "o_proj.bias is missing", "float32 32", NEVER),
        ("gemma2", {"attn_logit_softcapping": 9.0}, "softcapping is 50.0", "9.0", NEVER),
        ("gemma2", {"sliding_window": 8}, "sliding_window is 4", "8", NEVER),
        # Positions.
        ("llama", {"rope_parameters": rope(5e5)}, f"{rope(1e4)}", f"{rope(5e5)}", "rope"),
        ("llama", {"max_position_embeddings": 128}, "_embeddings is 64", "128", "rope"),
        ("gpt2", {"n_positions": 128}, "n_positions is 64", "128", "rope"),
        # Embeddings and head: the weights are others, so that the base must be allowed as well.
        ("llama", {"vocab_size": 72}, "vocab_size is 64", "72", "tokenizer"),
        ("llama", {"tie_word_embeddings": True}, "embeddings is False", "True", "head"),
        ("opt", {"word_embed_proj_dim": 16}, "word_embed_proj_dim is 32", "16", "head"),
        ("gemma2", {"final_logit_softcapping": 9.0}, "softcapping is 30.0", "9.0", "head"),
    ],
)
def test_a_difference_is_named_with_both_values(
    hosts: Hosts,
    tmp_path: Path,
    family: str,
    change: dict[str, Any],
    organ: str,
    recipient: str,
    word: str | None,
) -> None:
    grown, host = cut_of(hosts(family), 1, 3), hosts(family, **change)
    with pytest.raises(IncompatibleOrganError) as refused:
        check(grown.manifest, host)
    assert any(
        f"{organ} in the organ, {recipient} in the recipient" in one
        for one in str(refused.value).split("; ")
    ), str(refused.value)
    if word is NEVER:
        assert "choose an organ grown in the recipient's model" in str(refused.value)
        with pytest.raises(IncompatibleOrganError, match="choose an organ grown in"):
            check(grown.manifest, host, ALLOWABLE)
        with pytest.raises(IncompatibleOrganError):
            put(host, tmp_path / "out", (grown, "replace", 1), allow=ALLOWABLE)
        assert not (tmp_path / "out").exists()
        return
    assert word in str(refused.value).split("or allow ")[1]
    with pytest.raises(IncompatibleOrganError):
        check(grown.manifest, host, ALLOWABLE - {word})
    check(grown.manifest, host, frozenset({word, "base"}))
    # What the word promises: it still runs.
    out = put(host, tmp_path / "out", (grown, "replace", 1), allow=frozenset({word, "base"}))
    assert torch.isfinite(logits(AutoModelForCausalLM.from_pretrained(out))).all()


@pytest.mark.parametrize("change", [{"use_cache": False}, {"attention_dropout": 0.1}, {}])
def test_what_says_nothing_of_fitting_is_no_difference(
    hosts: Hosts, change: dict[str, Any]
) -> None:
    check(cut_of(hosts(), 1, 3).manifest, hosts(**change))


def test_another_vocabulary_of_the_same_size_is_named(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = cut_of(hosts(), 1, 3).manifest
    words = dict(zip(VOCABULARY, [0, *reversed(range(1, len(VOCABULARY)))], strict=True))
    monkeypatch.setattr("conftest.VOCABULARY", words)
    other = hosts()
    ours, theirs = str(grown.base.tokenizer)[:12], str(other.tokenizer_digest)[:12]
    said = f"tokenizer is {ours} in the organ, {theirs} in the recipient; .* allow tokenizer and"
    with pytest.raises(IncompatibleOrganError, match=said):
        check(grown, other)
    with pytest.raises(IncompatibleOrganError, match="tokenizer is"):
        check(grown, other, ALLOWABLE - {"tokenizer"})
    check(grown, other, frozenset({"tokenizer"}))
    for file in other.origin.glob("token*"):
        file.unlink()
    with pytest.raises(IncompatibleOrganError, match=f"{ours} in the organ, none in the recipient"):
        check(grown, open_checkpoint(other.origin))


def tokens(host: Checkpoint, change: Callable[[dict[str, Any]], Any]) -> str:
    """Digest of a host's tokenizer after its file was edited."""
    path = host.origin / "tokenizer.json"
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))
    return str(open_checkpoint(host.origin).tokenizer_digest)


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(normalizer={"type": "Lowercase"}),
        lambda said: said.update(pre_tokenizer={"type": "WhitespaceSplit"}),
        lambda said: said.update(
            post_processor={"type": "BertProcessing", "sep": ["the", 1], "cls": ["was", 3]}
        ),
        lambda said: said["added_tokens"][0].update(lstrip=True),
        lambda said: said["added_tokens"].append(
            {**said["added_tokens"][0], "id": 2, "content": "patient", "special": False}
        ),
        lambda said: said["model"].update(
            type="BPE",
            vocab={"<unk>": 0, "a": 1, "b": 2, "ab": 3, "ba": 4},
            merges=[["a", "b"], ["b", "a"]],
        ),
    ],
    ids=["normalizer", "pre-tokenizer", "post-processor", "flag", "added", "merges"],
)
def test_another_way_from_text_to_ids_is_another_tokenizer(
    hosts: Hosts, change: Callable[[dict[str, Any]], Any]
) -> None:
    host = hosts()
    grown = cut_of(host, 1, 3).manifest
    assert tokens(host, lambda said: said.update(truncation=None)) == grown.base.tokenizer
    first = tokens(host, change)
    assert first != grown.base.tokenizer
    changed = open_checkpoint(host.origin)
    with pytest.raises(IncompatibleOrganError, match=f"{first[:12]} in the recipient"):
        check(grown, changed)
    check(grown, changed, frozenset({"tokenizer"}))
    if "merges" in json.loads((host.origin / "tokenizer.json").read_text())["model"]:
        assert tokens(host, lambda said: said["model"]["merges"].reverse()) != first


def test_how_texts_are_cut_off_and_filled_up_is_no_difference(hosts: Hosts) -> None:
    host = hosts()
    cut = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    before = host.tokenizer_digest
    assert tokens(host, lambda said: said.update(truncation=cut)) == before


def test_a_slow_tokenizer_has_a_digest_of_its_vocabulary_and_added_tokens() -> None:
    from transformers import PreTrainedTokenizer

    class Slow(PreTrainedTokenizer):
        @property
        def vocab_size(self) -> int:
            return 2

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1} | self.added_tokens_encoder

        def _convert_token_to_id(self, token: str) -> int:
            return 0

        def _convert_id_to_token(self, index: int) -> str:
            return "a"

    plain, more, special = Slow(), Slow(), Slow(eos_token="b")
    more.add_tokens(["c"])
    found = [tokenizers.digest(one) for one in (plain, more, special, Slow())]
    assert found[3] == found[0]
    assert len(set(found)) == 3


def test_what_a_program_noted_in_a_config_is_no_difference(hosts: Hosts) -> None:
    """And a field of the class that a file leaves out is what the class takes it for."""
    host = hosts()
    grown, path = cut_of(host, 1, 3).manifest, host.origin / "config.json"
    notes = {"transformers.js_config": {"dtype": "q4"}, "unsloth_version": "2026.1"}
    path.write_text(json.dumps(json.loads(path.read_text()) | notes))
    noted = open_checkpoint(host.origin)
    assert not notes.keys() & cut_of(noted, 1, 3).manifest.base.config.keys()
    check(grown, noted)
    less = {name: value for name, value in grown.base.config.items() if name != "mlp_bias"}
    check(replace(grown, base=replace(grown.base, config=less)), host)
    other = replace(grown, base=replace(grown.base, config=less | {"mlp_bias": True}))
    with pytest.raises(IncompatibleOrganError, match="mlp_bias is True in the organ, False in"):
        check(other, host)


def test_a_name_in_a_message_cannot_write_to_the_terminal(hosts: Hosts) -> None:
    grown = cut_of(hosts(), 1, 3).manifest
    odd = grown.base.config | {"\x1b[2K\rok: organ fits": 1}
    with pytest.raises(IncompatibleOrganError) as refused:
        check(replace(grown, base=replace(grown.base, config=odd)), hosts())
    assert r"'\x1b[2K\rok: organ fits' is 1 in the organ" in str(refused.value)
    assert str(refused.value).isprintable()


FIELDS = Path(__file__).parent / "vectors" / "fitting_fields.json"


def test_which_fields_decide_is_known_for_every_family() -> None:
    """A transformers that adds a field to a class would refuse all older organs, or miss one.

    Look what the new field does: `_INCIDENTAL` in `layer_config.py`, `_MATTER_LESS` in
    `compatibility.py`, or let it decide; then write it into the file.
    """
    found = {
        family: sorted(default_fields(anatomy({"model_type": family}))) for family in all_families()
    }
    known = json.loads(FIELDS.read_text())
    shared = set.intersection(*map(set, found.values()))
    told = {"all": sorted(shared)} | {
        family: [name for name in names if name not in shared] for family, names in found.items()
    }
    assert told == known


def test_another_base_is_named(hosts: Hosts) -> None:
    grown, other = cut_of(hosts(), 1, 3).manifest, hosts(seed=1)
    ours, theirs = grown.base.weights[:12], other.weights_digest[:12]
    said = f"base weights are {ours} in the organ, {theirs} in the recipient; .* allow base and"
    with pytest.raises(IncompatibleOrganError, match=said):
        check(grown, other)
    with pytest.raises(IncompatibleOrganError, match="base weights"):
        check(grown, other, ALLOWABLE - {"base"})
    check(grown, other, frozenset({"base"}))


def test_a_model_that_holds_organs_has_the_base_that_it_had(hosts: Hosts, tmp_path: Path) -> None:
    host = hosts()
    out = put(host, tmp_path / "out", (cut_of(host, 3, 5), "insert", 2))
    check(cut_of(host, 1, 3).manifest, open_checkpoint(out))


def test_another_type_is_named(hosts: Hosts) -> None:
    host = hosts()
    half = organ_of(host, 1, 3, change=lambda tensor: tensor.half())
    said = r"is float16 64x32 in the organ, float32 64x32 in the recipient; .* allow dtype and"
    with pytest.raises(IncompatibleOrganError, match=said):
        check(half.manifest, host)
    check(half.manifest, host, frozenset({"dtype"}))


def test_another_family_is_named_and_never_allowed(hosts: Hosts) -> None:
    grown, host = cut_of(hosts(), 1, 3).manifest, hosts("gpt2")
    for allow in (frozenset[str](), ALLOWABLE):
        with pytest.raises(
            IncompatibleOrganError, match="family is llama in the organ, gpt2 in the recipient"
        ):
            check(grown, host, allow)


def test_several_differences_are_named_at_once(hosts: Hosts) -> None:
    with pytest.raises(IncompatibleOrganError, match=r"hidden_act is .*; rms_norm_eps is .*"):
        check(cut_of(hosts(), 1, 3).manifest, hosts(hidden_act="gelu", rms_norm_eps=1e-5))


def test_an_organ_that_lacks_a_tensor_does_not_fit(hosts: Hosts) -> None:
    """What is missing would be made up at random by whoever loads the graft."""
    host, span = hosts(), Span(start=1, stop=3)
    cut = extract(host, span)
    weights = Held(
        {name: cut.read(name) for name in cut.names() if name != "1.mlp.down_proj.weight"}
    )
    manifest = describe(host, span, weights, Label(name="o"), training=None)
    with pytest.raises(IncompatibleOrganError, match=r"1\.mlp\.down_proj\.weight is missing"):
        check(manifest, host, ALLOWABLE)


def test_an_organ_without_entries_for_its_layers_does_not_fit(hosts: Hosts) -> None:
    host = hosts()
    manifest = cut_of(host, 1, 3).manifest
    odd = replace(manifest, base=replace(manifest.base, layer_config={"layer_types": ["x"]}))
    with pytest.raises(IncompatibleOrganError, match="config has entries"):
        check(odd, host, ALLOWABLE)


def test_the_command_offers_what_can_be_allowed_and_nothing_else() -> None:
    assert {one.value for one in Difference} == ALLOWABLE
    with pytest.raises(ValueError, match="heads"):
        check(None, None, frozenset({"heads"}))  # type: ignore[arg-type]
