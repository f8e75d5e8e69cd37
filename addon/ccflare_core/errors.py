"""What can go wrong here, as one tree.

CCFlareError
├── ConfigError        an option, variable or file says something that cannot be done
├── VaultError         a secret cannot be sealed or opened, or the key is unusable
├── StoreError         the database cannot be opened, read or written
│   ├── Unusable           it cannot be used at all now, whatever is asked of it
│   │   └── Gone               its file is no longer there, and waiting will not bring it back
│   ├── AuditError         its audit log cannot take an entry, so nothing that needs one can be done
│   └── NotFound           nothing in it has that name
├── TokenError         an OAuth token could not be had
│   ├── TokenRejected      the provider says the login is over: only its owner can mend it
│   └── TokenUnavailable   anything else: try again later
└── NotInstalled       it takes a package that is an extra

The message of each is one sentence for a person: what is wrong and what to do. No message holds a secret.
"""


class CCFlareError(Exception):
    """The root of everything that ccflare raises on purpose."""


class ConfigError(CCFlareError):
    """One or more mistakes in the configuration, all of them at once in `problems`."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class VaultError(CCFlareError):
    """A key is missing or unusable, or sealed bytes do not open at the place they were read from."""


class StoreError(CCFlareError):
    """The database cannot be used as asked."""


class Unusable(StoreError):
    """The database itself cannot be read or written at the moment."""


class Gone(Unusable):
    """The database's file was deleted or replaced under an open connection."""


class AuditError(StoreError):
    """The audit log cannot be continued, or does not hold together."""


class NotFound(StoreError):
    """There is nothing of that name."""


class TokenError(CCFlareError):
    """An OAuth token could not be obtained."""


class TokenRejected(TokenError):
    """The provider refused the login itself; its owner has to log in again."""


class TokenUnavailable(TokenError):
    """The token endpoint did not answer usefully; the old token stays and another try comes later."""


class NotInstalled(CCFlareError):
    """A package that this needs is not installed; the proxy runs without it."""
