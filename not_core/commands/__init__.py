"""The ``organ`` command line: surgery, learning and trust by hand, on local files."""

from not_core.commands import budget, doctor, inspection, learning, recovery, surgery, trust
from not_core.commands.identity import federation_app, identity_app
from not_core.commands.program import new_app, run

app = new_app(
    "Cut donor organs out of models, train them on private records, sign and seal them, open them "
    "and transplant them.\n\n"
    "A first round, all on one machine:\n\n"
    "    organ train --model MODEL --data records.jsonl --out organ/\n\n"
    "    organ transplant organ/ --into MODEL --out grafted/\n\n"
    "    organ evaluate grafted/ --data held-out.jsonl\n"
)
surgery.add_to(app)
inspection.add_to(app)
learning.add_to(app)
recovery.add_to(app)
trust.add_to(app)
budget.add_to(app)
doctor.add_to(app)
app.add_typer(identity_app, name="identity")
app.add_typer(federation_app, name="federation")


def main() -> None:
    """Entry point of ``organ``."""
    run(app)
