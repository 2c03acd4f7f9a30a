"""``apexstream token``: a signing key of this machine, its public half as a key set, and a token."""

from collections.abc import Sequence

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_data
from apexstream.core.errors import InvalidRequest
from apexstream.gateway.access.build import policy_of
from apexstream.gateway.access.issue import ALGORITHM, mint, publish, signing_key
from apexstream.gateway.access.principal import EVERYTHING, read_scopes
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import load_settings


def make_token(*, subject: str, tenant: str, scopes: Sequence[str], hours: float, new_key: bool) -> ExitCode:
    """Print a token alone to standard output, and how a gateway comes to accept it to standard error."""
    settings = load_settings()
    policy = policy_of(settings)
    wanted = scopes or [str(scope) for scope in EVERYTHING]
    unknown = [scope for scope in wanted if not read_scopes([scope])]
    if unknown:
        verbs = ", ".join(scope.verb for scope in EVERYTHING)
        raise InvalidRequest(
            f"{unknown[0]!r} is no scope", where="--scope", hint=f"Use VERB or VERB:PREFIX*, of {verbs}"
        )
    folder = settings.home_path / "auth"
    key = signing_key(folder / "signing-key.pem", new=new_key)
    publish(key, folder / "jwks.json")
    write_data(
        mint(
            key,
            issuer=policy.issuer,
            audience=policy.audience,
            subject=subject,
            scopes=wanted,
            scope_claim=policy.scope_claim,
            tenant_claim=policy.tenant_claim,
            tenant=tenant,
            now_s=SystemClock().now_us() / 1e6,
            life_s=hours * 3_600,
        )
    )
    say(f"a gateway accepts it with APEX_AUTH_KEYS={folder / 'jwks.json'} ({ALGORITHM})")
    return ExitCode.OK
