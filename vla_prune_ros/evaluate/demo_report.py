"""The demo's table, JSON result and video, from what was recorded."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..records import MethodRun
from .machine import machine
from .summary import demo_table, method_row
from .video import VideoWriter

UNTRAINED = 'UNTRAINED random weights: the arm moves, it does not solve the task'


def report_demo(
    runs: Sequence[MethodRun],
    about: Mapping[str, str],
    video: VideoWriter,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Print the table and the paths; write and return the result.

    :param about: what the policy said of itself; ``untrained`` decides the label.
    """
    untrained = about.get('untrained') == 'True'
    result = {
        'ok': all(run.chunks for run in runs),
        'untrained': untrained,
        'rows': [method_row(run) for run in runs],
        'machine': machine(),
        'policy': dict(about),
        'video': str(video.path),
    }
    path = out / 'demo.json'
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    where = f'{result["machine"]["cpu"]}, {result["machine"]["cores"]} cores'
    console.print(demo_table(runs, f'vla-prune demo on {where}'))
    if untrained:
        console.print(f'[bold yellow]{UNTRAINED}[/]')
    console.print(
        f'video  {video.path} ({video.frames} frames)\nresult {path}\nlogs   {out / "logs"}'
    )
    return result
