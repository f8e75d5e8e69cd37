"""`scripts/keys.py rotate-all`: after a theft, everything that this program can renew by itself, in one go."""

from dataclasses import dataclass, field

from ccflare_cli.cells import shortened
from ccflare_cli.console import Console
from ccflare_cli.output import Column, Table, named
from ccflare_core.accounts.account import Kind
from ccflare_core.program import typed
from ccflare_core.store.data_keys import DataKeys
from ccflare_core.store.store import Store


@dataclass(frozen=True, slots=True)
class Renewed:
    """A client key with its new secret."""

    name: str
    secret: str = field(repr=False)


def renew_clients(store: Store) -> list[Renewed]:
    """A new secret for each client key that is not revoked; the old ones end at once."""
    names = [key.name for key in store.clients.all() if key.revoked_at is None]
    return [Renewed(name, store.clients.rotate(name, 0)) for name in names]


def retire_old(keys: DataKeys) -> list[str]:
    """Delete every data key but the newest. Raises StoreError if a value still needs one."""
    old = [key.id for key in keys.all()[1:]]
    for each in old:
        keys.retire(each)
    return old


def secret_table(renewed: list[Renewed]) -> Table[Renewed]:
    """The new secrets, which are shown this once."""
    return Table(
        key="clients",
        title="",
        rows=renewed,
        fields=named("name", "secret"),
        columns=(
            Column("Key", lambda each: each.name, way=shortened(8)),
            Column("New secret", lambda each: each.secret),
        ),
        empty="There is no client key.",
    )


def say_what_is_left(console: Console, store: Store) -> None:
    """What only their owner can renew: the accounts' own credentials."""
    for account in store.accounts.all():
        if account.kind is Kind.OAUTH:
            how = f"end its sessions at the provider, then `{typed('accounts login')} {account.name}`"
        else:
            how = f"delete its key at the provider, then `{typed('accounts remove')} {account.name}` and `add`"
        console.complain(f"{account.name}: {how}.")
    console.complain("The key of the key source stays: `change-source` makes a new one of that.")
