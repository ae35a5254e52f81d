"""The machine's limits are measured on small products: how fast it is, is no test's question."""

import pytest

from vla_prune_ros.evaluate.bench import cost


@pytest.fixture(autouse=True)
def _small_roofline(monkeypatch):
    for name, size in (('ROWS', 64), ('INNER', 256), ('OUTER', 256), ('COPY_BYTES', 2**20)):
        monkeypatch.setattr(cost, name, size)
