"""What keeps a site from taking part: one check after the other, each with what to do next."""

import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from client import admission, inventory, witness
from client.home import IDENTITY, POLICY, SITE, Home, read_home, settings_of
from client.records import general_texts, sides
from client.service import NODE, address_of
from client.signing_wire import socket_of
from not_core.checkup import Check, Found, disk, examined
from not_core.errors import HomeError, LogError, RecordsError, ServiceError
from not_core.learning import device
from not_core.privacy.ledger import LEDGER, LOG
from not_core.service import supervisor
from not_core.surgery.checkpoint import open_checkpoint
from not_core.trust import keys
from not_core.trust.certificates import DAY, TOLERANCE
from not_core.trust.federation import load_trust, verify_profile
from not_core.trust.keys import PROFILE
from not_core.trust.profile import read_profile

REACH_SECONDS = 10.0


def examine(home: Path, passphrase: Callable[[], bytes | None]) -> Iterator[Found]:
    """Check a home; what rests on something that is not well fails for the same reason.

    Args:
        home: The site's.
        passphrase: Gives that of the keys, when it is their turn.
    """
    checks: list[Check] = [
        ("home", lambda: _home(home)),
        ("settings", lambda: _settings(home)),
        ("keys", lambda: _keys(home, passphrase())),
        ("certificate", lambda: _certificate(home)),
        ("revocation list", lambda: _list(home)),
        ("log", lambda: _log(home)),
        ("coordinator's log", lambda: _coordinators_log(home)),
        ("ledger", lambda: _ledger(read_home(home))),
        ("clock", lambda: _clock(read_home(home))),
        ("disk", lambda: disk(home, "what 'organ-site forget' removes of old exchanges")),
        ("deliveries", lambda: _deliveries(home)),
        ("device", lambda: str(device.pick(settings_of(home)[0].device))),
        ("model", lambda: _model(home)),
        ("records", lambda: _records(read_home(home))),
        ("coordinator", lambda: _coordinator(home)),
        ("admission", lambda: _admission(home)),
        ("processes", lambda: _processes(home)),
    ]
    return examined(checks, home)


def _home(home: Path) -> str:
    if not home.is_dir():
        raise HomeError(f"no folder {home}; make a home with organ-site init")
    missing = [name for name in (SITE, POLICY, LOG, IDENTITY) if not (home / name).exists()]
    if missing:
        raise HomeError(f"no {missing[0]} in {home}; put back its newest copy, or make a home")
    open_to_others = [
        path
        for path in (home, home / IDENTITY, home / IDENTITY / keys.KEYS, home / LOG)
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if open_to_others:
        path = open_to_others[0]
        mode = stat.S_IMODE(path.stat().st_mode)
        raise HomeError(f"{path} has mode {mode:04o}; run 'chmod go-rwx' on it")
    return f"{home}, its owner's alone"


def _settings(home: Path) -> str:
    settings, policy = settings_of(home)
    return f"site {settings.site}, organs leave: {policy.release_organs}"


def _keys(home: Path, passphrase: bytes | None) -> str:
    who = keys.load(home / IDENTITY, passphrase=passphrase)
    return f"open; sealing key {who.profile.sealing_fingerprint}, {len(who.sealing_keys)} in all"


def _certificate(home: Path) -> str:
    profile = read_profile(home / IDENTITY / PROFILE)
    policy = settings_of(home)[1]
    verify_profile(profile, load_trust(home / IDENTITY, grace=policy.revocation_grace))
    return f"valid until {keys.valid_until(profile):%Y-%m-%d}"


def _list(home: Path) -> str:
    revoked = load_trust(home / IDENTITY).revoked
    revoked.check_fresh(int(time.time()), settings_of(home)[1].revocation_grace)
    age = (time.time() - revoked.issued) / DAY
    return f"number {revoked.number}, {age:.0f} days old, the next is due {revoked.due_words}"


def _log(home: Path) -> str:
    rows, head = read_home(home).log.verify()
    return f"{rows} rows, head {head}"


def _coordinators_log(home: Path) -> str:
    shown = witness.verify(read_home(home))
    if shown is None:
        return "not shown yet; exchanges end with it"
    if shown.wrong:
        raise LogError(shown.wrong)
    return f"{shown.head.size} entries, {len(shown.witnesses)} other sites signed the same"


def _ledger(home: Home) -> str:
    if not (home.folder / LEDGER).is_file():
        return "none yet" if home.policy.bound else "none: organs are trained without privacy"
    rows, head = home.ledger.head()
    return f"{rows} rows, head {head}"


def _clock(home: Home) -> str:
    """Whether it is not behind what has happened here; how far ahead it is nobody here knows."""
    past = [entry.time for entry in home.log.entries()]
    trusted = home.folder / IDENTITY
    if (trusted / keys.PROFILE).is_file():
        past.append(load_trust(trusted).revoked.issued)
    behind = max(past, default=0) - time.time()
    if behind > TOLERANCE:
        raise HomeError(
            f"this machine's clock is {behind:.0f} seconds behind what has happened here; set it"
        )
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _deliveries(home: Path) -> str:
    """Whether there is room for what others deliver; where there is none, all are refused."""
    kept = inventory.stored(home, settings_of(home)[1])
    if kept.full:
        raise HomeError(
            f"{kept.words} of deliveries are kept: more are refused soon; remove old exchanges' by "
            "'organ-site forget', or raise most_stored_bytes"
        )
    return kept.words


def _model(home: Path) -> str:
    host = open_checkpoint(settings_of(home)[0].model)
    host.source  # noqa: B018 - tensors are compared with what the class loads
    if not host.has_tokenizer:
        host.tokenizer  # noqa: B018 - says what is missing
    return f"{host.anatomy.family} of {host.layers} layers"


def _records(home: Home) -> str:
    train, held_out = sides(home)
    least = home.policy.least_documents
    if home.settings.donates and not train:
        raise RecordsError(
            "no record is left to train on; bring more records or set donates = false in site.toml"
        )
    if held_out < least:
        raise RecordsError(
            f"{held_out} documents are held out, receipts need {least}; bring more records, or "
            "raise held_out in site.toml"
        )
    general = len(general_texts(home))
    unit = home.unit or "document"
    return f"{train} {unit}s to train on, {held_out} documents held out, {general} general texts"


def _coordinator(home: Path) -> str:
    """Whether it can be reached under the certificate that was kept; nothing is asked of it."""
    node = home / NODE
    if not (node / "coordinator").is_file():
        return "none; exchanges by hand only, or run 'organ-site connect'"
    address = address_of(home)
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(node / "coordinator.pem"))
    except OSError:
        raise ServiceError(
            f"{node / 'coordinator.pem'} is no certificate; ask the coordinator's operator for its "
            "tls.pem and connect again"
        ) from None
    try:
        with (
            socket.create_connection((host, int(port)), timeout=REACH_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            return f"{address} answers by {encrypted.version()}"
    except ssl.SSLError as error:
        raise ServiceError(
            f"what answers at {address} has another certificate than was given "
            f"({error.reason}); ask the coordinator's operator for its tls.pem and connect again"
        ) from None
    except OSError as error:
        raise ServiceError(
            f"{address} cannot be reached ({error.strerror or type(error).__name__}); check "
            "network, firewall and address, or ask whether it runs"
        ) from None


def _admission(home: Path) -> str:
    """Whether the coordinator lets this site's node in; the node that runs is not disturbed."""
    said = _coordinator(home)
    if not (home / NODE / "coordinator").is_file():
        return said
    admission.check(home)
    return "the coordinator knows this node"


def _processes(home: Path) -> str:
    """Whether what serves the site runs, if anything does."""
    if supervisor.served_by(home) is None:
        return "not served; 'organ-site start' does it"
    running = supervisor.status(home)
    down = [name for name, row in running.items() if row["pid"] is None]
    if down or not supervisor.listens(socket_of(home.resolve())):
        name = down[0] if down else "signing-agent"
        raise ServiceError(f"{name} does not run; see logs/{name}.log in {home}")
    return f"{', '.join(running)} run"
