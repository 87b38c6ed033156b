"""When automatic compaction comes, and how far it goes."""

from raykube.kv.core.compactor import REVISION_INTERVAL_S, Compactor

BOOTED_S = 50_000.0


def test_periodic_keeps_the_retention_and_a_tenth_more() -> None:
    compactor = Compactor(retained_s=3600.0)
    compacted, targets = 0, []
    for second in range(0, 7300, 10):
        revision = 1 + second  # one write a second
        target = compactor.due(BOOTED_S + second, revision, compacted)
        if target is not None:
            assert revision - 3600 - 360 <= target <= revision - 3600
            compacted = target
            targets.append(second)
        assert second < 3600 or revision - compacted <= 3600 + 360 + 10
    assert targets[:2] == [3600, 3960]


def test_a_long_retention_is_sampled_every_six_minutes() -> None:
    compactor = Compactor(retained_s=86_400.0)
    found = [second for second in range(0, 90_000, 10) if compactor.due(second, 10 + second, 0) is not None]
    assert found[:2] == [86_400, 86_400 + 360]


def test_an_idle_store_is_not_compacted_again() -> None:
    compactor = Compactor(retained_s=60.0)
    compacted = 0
    for second in range(600):
        target = compactor.due(second, 40, compacted)
        if target is not None:
            assert (target, compacted) == (40, 0)
            compacted = target
    assert compacted == 40


def test_revision_mode_looks_every_five_minutes() -> None:
    compactor = Compactor(retained_revisions=100)
    assert compactor.due(BOOTED_S, 90, 0) is None
    assert compactor.due(BOOTED_S + REVISION_INTERVAL_S - 1, 500, 0) is None
    assert compactor.due(BOOTED_S + REVISION_INTERVAL_S, 500, 0) == 400
    assert compactor.due(BOOTED_S + 2 * REVISION_INTERVAL_S, 500, 400) is None


def test_off_is_off() -> None:
    compactor = Compactor()
    assert all(compactor.due(second, second, 0) is None for second in range(0, 100_000, 100))
