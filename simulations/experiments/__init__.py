"""What organs are worth, cost and tell, measured beside others.

An experiment measures; its ``_results`` say what was found, as table, page and chart.

quality, quality_results, frontier: organs beside LoRA. ``compare`` is one measurement of it,
    ``contestants`` are the ways to fit a model, ``choices`` the questions that are asked.
federated, federated_results: beside federated averaging (contest, averaging, one_shot).
paper, paper_results, compose, compose_results: where an organ works, in whom, several in one host.
clinic, clinic_results: what an organ is worth to who has few records.
attack, bench_dp, bench_dp_results, private_contestants: what it tells, and what privacy costs.
cells, kept: measurements, and organs and readings, that a second call finds.
documents, intervals: the one split of the texts, and what is sure.
"""
