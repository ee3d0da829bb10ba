"""Whatever comes, a fit ends well where it can, and says so where it cannot."""

import pytest
from conftest import also_slow

from .cases import KINDS, case_of
from .laws import judge

BUCKETS, SHARDS = 741, 247  # 20,007 cases, three buckets of programs in a shard


# Of the default run, buckets of cheap programs which differ in what they are.
SAMPLE = (4, 9, 13)


def broken(buckets: range | list[int]) -> dict[tuple[int, str], list[tuple[str, str]]]:
    """The failures of all cases of some buckets, by seed and kind."""
    cases = (case_of(len(KINDS) * b + i) for b in buckets for i in range(len(KINDS)))
    verdicts = (judge(case) for case in cases)
    return {(v.case.seed, v.case.kind): v.failures for v in verdicts if v.failures}


@pytest.mark.parametrize("bucket", [*SAMPLE[:2], *also_slow(*SAMPLE[2:])])
def test_a_sample_of_cases_keeps_the_laws(bucket: int):
    assert not broken([bucket])


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
def test_all_cases_keep_the_laws(shard: int):
    assert not broken(range(shard, BUCKETS, SHARDS))
