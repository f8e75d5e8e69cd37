"""The second factor in the database: one for the proxy, its seed sealed, its recovery codes as keyed hashes."""

from typing import Any

from ccflare_core.audit.entries import Outcome
from ccflare_core.clients.totp import LOST, Factor, Secret, Used, Wrong, check, new_recovery_codes
from ccflare_core.db.engine import as_store_errors
from ccflare_core.db.models import RecoveryCodeRow, SecondFactorRow
from ccflare_core.errors import StoreError, VaultError
from ccflare_core.program import typed
from ccflare_core.secrets.vault import Vault, place
from ccflare_core.store.context import StoreContext
from ccflare_core.text import to_ms

OWNER = "owner"
"""The id of the only row: all administrators share one factor."""

_PLACE = place("second_factor", "seed", OWNER)
_NONE = f"there is no second factor: run `{typed('keys mfa enable')}` first"
_CHANGED = (
    f"the second factor was changed outside of ccflare, so no code is right: `{typed('keys mfa disable')}` ends it"
)


class Factors:
    """A part of the store: it works through the store's connection, in the store's transactions."""

    def __init__(self, context: StoreContext) -> None:
        self._database = context.database
        self._vault = context.vault
        self._transaction = context.transaction
        self._wall = context.wall
        self._record = context.record
        self._context = context

    def get(self) -> Factor | None:
        """The factor, also one that waits for its first code; None if there is none. Raises VaultError.

        If somebody else has changed or removed it, a code is asked for and none is right.
        """
        with as_store_errors(), self._context.snapshot():
            if self._vault is not None and not self._context.signed.look(SecondFactorRow).is_sound:
                return LOST
            row = self._row()
            if row is None:
                return None
            vault, codes = self._key(), frozenset(self._context.signed.look(RecoveryCodeRow).sound)
        return Factor(
            Secret.from_bytes(vault.open(row.seed, _PLACE)),
            is_confirmed=row.confirmed_at is not None,
            last_step=row.last_step,
            failures=row.failures,
            retry_at=row.retry_at / 1000,
            recovery=codes,
        )

    def enable(self) -> Secret:
        """Make a seed, of no effect until `confirm`. Raises StoreError if a factor is in use."""
        secret = Secret.new()
        with self._transaction():
            if (factor := self.get()) is not None and factor.is_confirmed:
                raise StoreError(f"the second factor is enabled already: `{typed('keys mfa disable')}` ends it")
            self._delete()
            values = {"id": OWNER, "seed": self._key().seal(bytes(secret), _PLACE), "created_at": self._now()}
            row = {**values, "last_step": 0, "failures": 0, "retry_at": 0}
            SecondFactorRow.insert(row).execute(self._database)
            self._context.signed.sign(SecondFactorRow, OWNER, row)
            self._record("mfa.enable")
        return secret

    def waiting(self) -> Factor:
        """The factor that waits for its first code. Raises StoreError if none does."""
        factor = self._needed()
        if factor.is_confirmed:
            raise StoreError("the second factor is enabled already")
        return factor

    def confirm(self, code: str) -> list[str] | None:
        """Show that the app has the seed: from now on codes are asked for. The recovery codes; None if it is wrong."""
        with self._transaction():
            factor = self.waiting()
            result = check(factor, code, self._wall())
            if not self._keep(result) or not isinstance(result, Used):
                self._record("mfa.confirm", outcome="denied")
                return None
            self._update(confirmed_at=self._now())
            codes = self._renew(result.factor.secret)
            self._record("mfa.confirm")
            return codes

    def renew_recovery(self) -> list[str]:
        """New recovery codes in place of all old ones. Raises StoreError if no factor is in use."""
        with self._transaction():
            factor = self._needed()
            if not factor.is_confirmed:
                raise StoreError(f"the second factor is not confirmed yet: run `{typed('keys mfa confirm')}`")
            codes = self._renew(factor.secret)
            self._record("mfa.recovery")
            return codes

    def disable(self) -> None:
        """Ask for no codes any more, and forget the seed. Raises StoreError if there is no factor."""
        with self._transaction():
            if self.get() is None:
                raise StoreError(_NONE)
            self._delete()
            self._record("mfa.disable")

    def keep(self, tried: Used | Wrong) -> bool:
        """Store what a try has changed. Whether its code is used by this alone: not if another process was first.

        Nothing is changed if the factor is another one by now.
        """
        with self._transaction():
            is_first = self._keep(tried)
            if is_first:
                outcome: Outcome = "ok" if isinstance(tried, Used) else "denied"
                self._record("mfa.recovery.use" if _recovery(tried) else "mfa.code", outcome=outcome)
            return is_first

    def _keep(self, tried: Used | Wrong) -> bool:
        current, digest = self.get(), _recovery(tried)
        if current is None or current is LOST or current.secret != tried.factor.secret:
            return False
        if digest is not None:
            used = RecoveryCodeRow.delete().where(RecoveryCodeRow.digest == digest)
            is_first = digest in current.recovery and used.execute(self._database) == 1
        else:
            is_first = isinstance(tried, Wrong) or self._use(tried.factor)
        if is_first:
            self._write(tried.factor)
            self._context.signed.forget(RecoveryCodeRow, [digest] if digest else [])
        return is_first

    def _use(self, factor: Factor) -> bool:
        """Whether no other process has used a code of this step or of a later one."""
        return self._update(SecondFactorRow.last_step < factor.last_step, last_step=factor.last_step)

    def _write(self, factor: Factor) -> None:
        self._update(failures=factor.failures, retry_at=to_ms(factor.retry_at))

    def _update(self, *conditions: Any, **values: Any) -> bool:
        """Whether the row is one that it was done to."""
        stored = self._context.signed.look(SecondFactorRow).sound[OWNER]
        update = SecondFactorRow.update(values).where(SecondFactorRow.id == OWNER, *conditions)
        is_done = bool(update.execute(self._database))
        if is_done:
            self._context.signed.sign(SecondFactorRow, OWNER, values, stored)
        return is_done

    def _renew(self, secret: Secret) -> list[str]:
        codes = new_recovery_codes()
        RecoveryCodeRow.delete().execute(self._database)
        self._context.signed.forget(RecoveryCodeRow)
        for code in codes:
            row = {"digest": secret.digest(code)}
            RecoveryCodeRow.insert(row).execute(self._database)
            self._context.signed.sign(RecoveryCodeRow, row["digest"], row)
        return codes

    def _delete(self) -> None:
        for model in (SecondFactorRow, RecoveryCodeRow):
            model.delete().execute(self._database)
            self._context.signed.forget(model)

    def _needed(self) -> Factor:
        if (factor := self.get()) is None:
            raise StoreError(_NONE)
        if factor is LOST:
            raise StoreError(_CHANGED)
        return factor

    def _row(self) -> SecondFactorRow | None:
        row: SecondFactorRow | None = SecondFactorRow.select().bind(self._database).first()
        return row

    def _key(self) -> Vault:
        if self._vault is None:
            raise VaultError("the second factor cannot be used without a key: open the database with a key source")
        return self._vault

    def _now(self) -> int:
        return to_ms(self._wall())


def _recovery(tried: Used | Wrong) -> str | None:
    """The digest of the recovery code that was right, if it was one."""
    return tried.recovery if isinstance(tried, Used) else None
