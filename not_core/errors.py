"""Every error this project raises on bad input, on one page.

A message says what was found, what was expected and what to do next; never a secret and never
text from a record. ``code`` is all that may cross a site's border. Codes that no class has:
``internal`` (an unexpected error at a site), and the coordinator's own ``timeout``,
``unreachable``, ``twice`` (two nodes answer as one site) and ``other-base`` (a model unlike the
others').
"""


class NotError(Exception):
    """Base of all errors of Organ Exchange."""

    code = "failed"


class FormatError(NotError):
    """A file or message does not have the form that its format version prescribes."""

    code = "format"


class TruncatedError(FormatError):
    """A file ends before what its own header announces."""

    code = "truncated"


class TooLargeError(FormatError):
    """Something claims or has more bytes than its format allows; nothing beyond was read."""

    code = "too-large"


class ArchiveError(FormatError):
    """A sealed organ's archive is not the one plain tar of an organ's files."""

    code = "archive"


class OutputExistsError(NotError):
    """The place to write to is already taken."""

    code = "output-exists"


class CheckpointError(NotError):
    """A model folder, hub id or GGUF file cannot be read as a checkpoint."""

    code = "checkpoint"


class UnknownFamilyError(CheckpointError):
    """The model's family is not one that surgery supports."""

    code = "unknown-family"


class PlanError(NotError):
    """A layer plan names layers that do not exist or leaves a model without layers."""

    code = "plan"


class IncompatibleOrganError(NotError):
    """An organ does not fit the recipient model."""

    code = "incompatible-organ"


class OrganError(NotError):
    """An organ folder is incomplete or contradicts its own manifest."""

    code = "organ"


class QuarantineError(OrganError):
    """An organ's tensors fail a check that they must pass before they touch a model.

    ``check`` names it: ``size`` (more bytes, or others, than may be), ``declared`` (another name,
    type, shape or content than the manifest says), ``finite`` (NaN or infinity), ``drift`` (too far
    from the base's tensor).
    """

    code = "quarantine"

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check = check


class RecordsError(NotError):
    """Private records cannot be read or are too few."""

    code = "records"


class TrainingError(NotError):
    """Training or measuring cannot start here, or training has diverged."""

    code = "training"


class PrivacyError(NotError):
    """What is stated or asked of differential privacy is impossible, out of bounds or untrue."""

    code = "privacy"


class KeyFileError(NotError):
    """A key file is missing, unreadable, too open to others, or of the wrong kind."""

    code = "key-file"


class CertificateError(NotError):
    """A certificate does not chain to the federation root or does not bind what it must."""

    code = "certificate"


class RevokedError(CertificateError):
    """The federation has revoked a certificate."""

    code = "revoked"


class StaleListError(CertificateError):
    """The federation's revocation list is missing, too old, or older than the one that is known."""

    code = "stale-list"


class SignatureError(NotError):
    """A signature does not verify."""

    code = "signature"


class SigningError(NotError):
    """A site's signing agent does not sign or open something, or cannot be asked.

    ``code`` is that of the rule that refuses, where there is one.
    """

    code = "signing"

    def __init__(self, message: str, code: str = "signing") -> None:
        super().__init__(message)
        self.code = code


class OfferError(NotError):
    """An offer names wrong parties, or other things than the organ inside or what was announced."""

    code = "offer"


class ExpiredError(OfferError):
    """A signed offer, once valid, is no longer."""

    code = "expired"


class NotYetValidError(OfferError):
    """A signed offer is of the future, or a clock is wrong."""

    code = "not-yet-valid"


class AudienceError(OfferError):
    """A signed offer is for another federation or another exchange."""

    code = "audience"


class RollbackError(OfferError):
    """An offer has a lower version than one seen before, or another organ of the same version."""

    code = "rollback"


class WrapsError(OfferError):
    """The wrapped keys are not those that the donor signed: exchanged, spoiled, more or fewer."""

    code = "wraps"


class BodyError(OfferError):
    """The encrypted body is not the one that its offer describes."""

    code = "body"


class NotAddressedError(NotError):
    """A sealed organ is not addressed to this identity."""

    code = "not-addressed"


class UnsealError(NotError):
    """A sealed body does not decrypt: wrong key, changed bytes, or truncated."""

    code = "unseal"


class PolicyError(NotError):
    """The site's policy refuses."""

    code = "policy"


class ApprovalError(PolicyError):
    """An organ, or too many, wait for their operator's approval, or it was rejected."""

    code = "approval"


class HomeError(NotError):
    """A home folder, its log or its memory of organs (seen.db) is missing, damaged or changed."""

    code = "home"


class ServiceError(NotError):
    """A long-running process cannot be started, reached or stopped."""

    code = "service"


class CatalogueError(NotError):
    """The coordinator's database cannot be used, or is of another version than this program."""

    code = "catalogue"


class BankError(NotError):
    """The coordinator's store of sealed bodies cannot be used, or what it holds is damaged."""

    code = "bank"


class SiteQuotaError(NotError):
    """A site would have more bytes at the coordinator than its operator keeps for one."""

    code = "site-quota"


class ExchangeQuotaError(NotError):
    """An exchange would have more organs than the coordinator's operator allows."""

    code = "exchange-quota"


class OperatorError(NotError):
    """Somebody who signs in, or is to, is not known or has no password that will do."""

    code = "operator"


class LedgerError(NotError):
    """A privacy budget does not allow a run, or its ledger is not the one that its log knows."""

    code = "ledger"


class LogError(NotError):
    """The coordinator's log is not what it was, or does not hold what it must."""

    code = "log"


class RefusedError(NotError):
    """A site answered a request with a refusal; ``code`` is the site's."""

    def __init__(self, code: str) -> None:
        super().__init__(f"refused: {code}")
        self.code = code


class ExchangeError(NotError):
    """An exchange cannot go on: a missing site, an unexpected reply, a failed step."""

    code = "exchange"


class SetupError(NotError):
    """This machine, or what is installed on it, is not fit for the work."""

    code = "setup"


class SourceError(NotError):
    """A model or text source cannot be fetched or has the wrong digest."""

    code = "source"
