"""What organs are worth, cost and tell, measured beside others.

compare, contestants, choices, quality, frontier: organs beside LoRA. ``compare`` also splits the
    texts and runs one measurement a process, for ``clinic``, ``attack`` and ``bench_dp``, too.
contest, averaging, one_shot, federated, federated_results: beside federated averaging.
paper, paper_results, compose: where an organ works, in whom, and several in one host.
clinic, clinic_results: what an organ is worth to who has few records.
attack, bench_dp, bench_dp_results, private_contestants: what it tells, and what privacy costs.
kept: organs and readings that a second call finds.
"""
