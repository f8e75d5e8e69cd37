"""The domain of ccflare. Imports nothing of mitmproxy; each module is one noun.

A request's life, in the order of reading:

    routes      what a path means to us                 options     the one table of options
    heads       which header fields go on
    entrance    what is asked before the key            access, browser
    allowances  how much a client may ask for           totp
    facts       what a request asks for                 settings    where their values come from
    provenance  where it comes from                     agents      whose it is, by its prompt
    accounts    accounts, and the credential put in     spelling    misspelt names
    guard       who may call                            client_keys, throttle
    selection   which account                           errors      what can go wrong
    pool        leases, cooldowns, affinity             seats, cooldowns
    exchange    the decisions between the attempts      steps       their words
    failover    what follows an answer                  answers     answers of our own
    limits      what an answer means: the law           quota       its headers about limits
    narration   the story in one line                   words       failures in words of ours
    echo        the credential in what comes back
    capture     what passed by
    usage       the tokens in it                        sse         its events
    decoding    gzip, br, zstd on the side              zstd        by the library that is here
    pricing     what they cost                          price_files prices in files
    recorder    facts into records                      records     what is written down
    writer      the one thread that writes              backlog, watch
    store       the database's owner                    ledger, models, migrations, statements
    database    what it needs of a database             engines, sqlite, postgres, location
    audit       who did what, as a chain of rows        entries, audit_file, audit_check, configurations
    auditor     the proxy's side of it                  bursts
    modes       how much is written down                privacy     bodies without their secrets
    room        how much memory that may take           process     this process and its memory
    permissions who else can reach our files
    redact      what a secret looks like                deltas      the text that events tell in pieces
    blocks      bodies into blocks, each kept once      bodies      back, and freed
    splitting   where a body is cut                     transcript  the format of what is kept
    retention   what is too old or too much goes        history     finding and deleting it
    backup      the whole of it in one sealed file      exports     as other programs read it
    vault       sealing and opening
    data_keys   the ring of keys that seal              sealed      all that they have sealed
    blocklist   addresses that may not come             factors     the second factor's rows
    key_sources the key that wraps them                 passphrase, os_keyring, hsm, indirection

    reports     questions to the record                 traffic, standing
    tally       adding up, from two sources             measures    what each figure is
    rollup      what is over, added up once             cache       what a prompt cache did
    forecast    when a limit will be reached            limit_history
    searching   a text in what was recorded             conversation, search_index
    oauth       logins and tokens, without I/O          fetch       the HTTP client for them
    target      where a credential goes
    pins        the keys an upstream may have           pinning     whether it has one of them
    tokens      who refreshes tokens and when           renewals, validity
    refresh     one refresh, from lease to commit       logins      its side of the database
    usage_poll  how full idle accounts' windows are
    sessions    logins that wait for their code         importing   other programs' accounts
    clients     the stored client keys
    doctor      what is well, and what to do            hazards, leaks
    cli         the commands behind scripts/
"""

from typing import NamedTuple

__version__ = "0.1.0"
"""As in pyproject.toml."""


class Range(NamedTuple):
    """The versions from `oldest` on, and `before` that one."""

    oldest: tuple[int, ...]
    before: tuple[int, ...]


MITMPROXY = Range((12, 2), (12, 4))
"""What this is made for and tested with. As in pyproject.toml."""
