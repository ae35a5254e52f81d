"""The dtype benchmark on the micro checkpoint: counts by hand, times only against themselves."""

import json

import pytest

from vla_prune_ros import cli
from vla_prune_ros.evaluate.bench.dtype import run_dtype_bench
from vla_prune_ros.evaluate.options import DtypeBenchOptions
from vla_prune_ros.model.synthetic import make_checkpoint


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp('bench'), 'micro')


def test_rows_weights_and_ratio(checkpoint):
    options = DtypeBenchOptions(checkpoint=checkpoint, dtypes=('float32', 'bfloat16'), runs=3)
    result = run_dtype_bench(options)
    full, half = result.rows
    assert full.weights_mib == pytest.approx(2 * half.weights_mib, rel=1e-3)
    assert half.time_vs_bfloat16 == 1.0
    assert full.time_vs_bfloat16 == pytest.approx(full.latency_ms['p50'] / half.latency_ms['p50'])
    assert result.untrained is True


def test_command_line_and_no_ratio_without_bfloat16(checkpoint, tmp_path):
    arguments = ['bench', '--dtypes', 'float32', '--runs', '1', '--checkpoint', str(checkpoint)]
    assert cli.main([*arguments, '--json', str(tmp_path / 'out.json')]) == 0
    (row,) = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert (row['dtype'], row['time_vs_bfloat16']) == ('float32', None)


def test_an_unknown_dtype_is_one_line(checkpoint, capsys):
    assert cli.main(['bench', '--dtypes', 'int3', '--checkpoint', str(checkpoint)]) == 1
    assert "dtype 'int3' is unknown" in capsys.readouterr().err
