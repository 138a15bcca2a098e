"""What differential privacy costs: changes of perplexity with it and without."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COMPARED = ("donor", "recipient", "domain_perplexity_before", "domain_perplexity_after", "change")
"""What a report keeps of each evaluation in the run without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One organ at one recipient, with and without differential privacy.

    Attributes:
        donor: Who gave it.
        recipient: Who measured it.
        without: Relative change of perplexity, trained without.
        private: The same, trained with.
        same: Whether both were measured on the same documents: a site that trains with it splits
            its records otherwise.
    """

    donor: str
    recipient: str
    without: float
    private: float
    same: bool

    @property
    def higher(self) -> float:
        """How much higher perplexity is with the private organ, as a fraction."""
        if self.without <= -1:  # rounded
            return math.inf
        return (1 + self.private) / (1 + self.without) - 1


def privacy_costs(report: Mapping[str, Any]) -> list[Cost]:
    """What differential privacy cost, wherever an organ was measured with it and without."""
    splits = {site["name"]: site["donates"] for site in report["sites"]}
    others = {(row["donor"], row["recipient"]): row for row in report.get("without_privacy") or []}
    return [
        Cost(
            donor=row["donor"],
            recipient=row["recipient"],
            without=other["change"],
            private=row["change"],
            same=not splits[row["recipient"]],
        )
        for row in report["evaluations"]
        if (other := others.get((row["donor"], row["recipient"])))
    ]
