"""The owners of ids in memory: the first maker stays, the longest unused go first, each has its time."""

from ccflare_core.accounts.owners import DAY, HOUR, Holding, Owner, Owners, holdings
from ccflare_core.anthropic.ids import Id, Kind

FILE, OTHER = Id(Kind.FILE, "file_1"), Id(Kind.FILE, "file_2")
NOW = 1_800_000_000.0


def owner(account: str = "a", client: str = "", at: float = NOW) -> Owner:
    return Owner(account, client, at, at)


def test_first_owner_stays() -> None:
    owners = Owners()
    assert owners.learn(FILE, owner("a", "one"))
    assert not owners.learn(FILE, owner("b", "two"))
    assert owners.find(FILE) == owner("a", "one")
    assert owners.find(Id(Kind.BATCH, "file_1")) is None


def test_longest_unused_goes_first() -> None:
    owners = Owners(most=2)
    for each in (FILE, OTHER):
        owners.learn(each, owner())
    owners.use(FILE, NOW + 1)
    owners.learn(Id(Kind.FILE, "file_3"), owner())
    assert owners.find(OTHER) is None
    assert owners.find(FILE) is not None
    assert len(owners) == 2


def test_each_kind_has_its_time() -> None:
    times = {Kind.BATCH: 30 * DAY, Kind.CONTAINER: 30 * DAY}
    times |= dict.fromkeys((Kind.CREDIT, Kind.MESSAGE, Kind.REQUEST), HOUR)
    for kind in Kind:
        owners, id = Owners(), Id(kind, "x")
        owners.learn(id, owner())
        seconds = times.get(kind, 10_000 * DAY)
        assert owners.find(id, NOW + seconds) is not None
        assert (owners.find(id, NOW + seconds + 1) is None) == (kind in times)


def test_use_prolongs_the_time_of_a_container_alone() -> None:
    for kind in (Kind.CONTAINER, Kind.BATCH):
        owners, id = Owners(), Id(kind, "x")
        owners.learn(id, owner())
        owners.use(id, NOW + 20 * DAY)
        assert (owners.find(id, NOW + 40 * DAY) is not None) == (kind is Kind.CONTAINER)


def test_use_is_noted_now_and_then() -> None:
    owners = Owners()
    owners.learn(FILE, owner())
    assert [owners.use(FILE, NOW + seconds) for seconds in (10, 700, 710, 1400)] == [False, True, False, True]
    assert not owners.use(OTHER, NOW)


def test_deleted_ids_and_those_of_removed_accounts_are_forgotten() -> None:
    owners = Owners()
    owners.learn(FILE, owner("a"))
    owners.learn(OTHER, owner("b"))
    owners.keep({"b"})
    assert owners.find(FILE) is None
    owners.forget(OTHER)
    owners.forget(OTHER)
    assert len(owners) == 0


def test_holdings_are_by_account_and_client() -> None:
    found = holdings([owner("a", "one"), owner("a", "one", NOW + 5), owner("b")])
    assert found == [Holding("a", "one", NOW + 5), Holding("b", "", NOW)]
