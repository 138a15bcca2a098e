"""The loss in pieces is the class's own, and its estimates are right on average."""

from pathlib import Path

import pytest
import torch
from families import TOKENS, all_families, family_model
from transformers import AutoModelForCausalLM

from not_core.learning.head import Head, _Loss, _Shortlist
from not_core.learning.text_blocks import UNSEEN

IDS = tuple(range(3, 19))


def labelled(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 19, (1, 12), generator=generator)
    labels = torch.cat([ids[:, 1:], torch.tensor([[UNSEEN]])], dim=1)
    return {"input_ids": ids}, labels


@pytest.mark.parametrize("family", all_families())
def test_pieces_and_gradients_are_those_of_the_whole(family: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(family_model(tmp_path, family)).eval()
    inputs, labels = labelled(model)
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach()

    def gradient(loss_of: str) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = embedded.clone().requires_grad_(True)
        if loss_of == "ours":
            nats = Head(model).nats(labels, inputs_embeds=leaf)
        else:
            logits = model(inputs_embeds=leaf, use_cache=False).logits
            nats = torch.nn.functional.cross_entropy(
                logits[0].float(), labels[0], reduction="none", ignore_index=UNSEEN
            )[None]
        nats.sum().backward()
        assert leaf.grad is not None
        return nats.detach(), leaf.grad

    ours, theirs = gradient("ours"), gradient("theirs")
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_an_estimate_is_right_on_average(biased: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 400, bias=biased)
    hidden = torch.randn(20, 16, requires_grad=True)
    labels = torch.randint(0, 60, (20,))
    labels[3] = UNSEEN
    short = _Shortlist(head, list(range(60)), 100)

    def losses(number: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias, wanted = head.weight, head.bias, labels
        if number is not None:
            weight, bias, wanted = short.draw(labels, number)
        nats = _Loss.apply(hidden, weight, bias, wanted)
        return nats.detach(), torch.autograd.grad(nats.sum(), hidden)[0]

    exact, drawn = losses(None), [losses(number) for number in range(300)]
    for part in (0, 1):
        mean = torch.stack([one[part] for one in drawn]).mean(dim=0)
        assert (mean - exact[part]).abs().max() < 0.03
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(losses(7)[0], losses(7)[0])
    assert exact[0][3] == drawn[0][0][3] == 0


def test_readings_are_exact_and_estimates_only_on_demand(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(family_model(tmp_path, "llama")).eval()
    inputs, labels = labelled(model)
    plain, short = Head(model), Head(model, IDS, sample=8)
    with torch.no_grad():
        exact = plain.nats(labels, **inputs)
        assert torch.equal(short.nats(labels, **inputs), exact)
        estimate = short.nats(labels, draw=0, **inputs)
        assert not torch.equal(estimate, exact)
        assert torch.equal(plain.nats(labels, draw=0, **inputs), exact)
        everything = Head(model, range(TOKENS), sample=0)  # no smaller than the vocabulary
        assert torch.equal(everything.nats(labels, draw=0, **inputs), exact)
