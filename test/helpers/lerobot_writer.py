"""Small LeRobot datasets, written after the public description of the format.

Version 2.1: a parquet file and a video per episode, JSON lines about them. Version 3.0: several
episodes per file, parquet files about them, an offset in seconds into the video. Every picture
tells its episode and frame in black and white bars, which a video codec leaves legible.
"""

import io
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HEIGHT, WIDTH, BAR = 48, 96, 8
TASKS = ('put the cube into the box', 'open the drawer')
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Spec:
    """What is written.

    :param lengths: frames per episode. :param files: v3.0: episodes per data and video file.
    :param embedded: cameras whose pictures lie in the parquet files; the others are filmed.
    :param codec: of the videos, with its options.
    """

    version: str = 'v2.1'
    lengths: tuple[int, ...] = (7, 5, 6)
    files: tuple[tuple[int, ...], ...] = ((0, 1), (2,))
    fps: int = 20
    embedded: tuple[str, ...] = ()
    filmed: tuple[str, ...] = ('observation.images.front',)
    action: int = 7
    state: int = 8
    codec: tuple[str, dict[str, str]] = ('libx264', {'g': '6', 'crf': '18'})
    row_group: int = 4


def number(episode: int, frame: int, camera: int = 0) -> int:
    """Eleven bits: what a picture tells."""
    return camera << 9 | episode << 6 | frame


def picture(value: int) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): a bar per bit; the last column is red above, blue below."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(11):
        out[:, bit * BAR : (bit + 1) * BAR] = 255 * (value >> bit & 1)
    out[: HEIGHT // 2, 11 * BAR :, 0] = 255
    out[HEIGHT // 2 :, 11 * BAR :, 2] = 255
    return out


def read_number(view: np.ndarray) -> int:
    """The number that a picture tells, after a codec."""
    bars = (view[:, bit * BAR + 2 : (bit + 1) * BAR - 2].mean() for bit in range(11))
    return sum(int(mean > 127) << bit for bit, mean in enumerate(bars))


def actions(spec: Spec, episode: int) -> np.ndarray:
    rng = np.random.default_rng(episode)
    return rng.uniform(0, 1, (spec.lengths[episode], spec.action)).astype(np.float32)


def states(spec: Spec, episode: int) -> np.ndarray:
    rng = np.random.default_rng(100 + episode)
    return rng.normal(size=(spec.lengths[episode], spec.state)).astype(np.float32)


def task(episode: int) -> int:
    return 1 - episode % 2


def write(root: Path, spec: Spec) -> Path:
    (root / 'meta').mkdir(parents=True)
    (root / 'meta' / 'info.json').write_text(json.dumps(_info(spec)), encoding='utf-8')
    if spec.version == 'v3.0':
        _write_v3(root, spec)
    else:
        _write_v2(root, spec)
    return root


def _info(spec: Spec) -> dict[str, Any]:
    def feature(dtype: str, *shape: int) -> dict[str, Any]:
        return {'dtype': dtype, 'shape': list(shape), 'names': None}

    chunk, name = 'chunk-{episode_chunk:03d}', 'episode_{episode_index:06d}'
    video = f'{chunk}/{{video_key}}'
    if spec.version == 'v3.0':
        chunk, name = 'chunk-{chunk_index:03d}', 'file-{file_index:03d}'
        video = f'{{video_key}}/{chunk}'
    numbers = ('frame_index', 'episode_index', 'index', 'task_index')
    return {
        'codebase_version': spec.version,
        'robot_type': 'panda',
        'total_episodes': len(spec.lengths),
        'total_frames': sum(spec.lengths),
        'chunks_size': 1000,
        'fps': spec.fps,
        'data_path': f'data/{chunk}/{name}.parquet',
        'video_path': f'videos/{video}/{name}.mp4',
        'features': {
            'observation.state': feature('float32', spec.state),
            'action': feature('float32', spec.action),
            **{camera: feature('image', HEIGHT, WIDTH, 3) for camera in spec.embedded},
            **{camera: feature('video', HEIGHT, WIDTH, 3) for camera in spec.filmed},
            'timestamp': feature('float32', 1),
            **{number: feature('int64', 1) for number in numbers},
        },
    }


def _write_v2(root: Path, spec: Spec) -> None:
    tasks = [{'task_index': i, 'task': words} for i, words in enumerate(TASKS)]
    episodes = [
        {'episode_index': i, 'tasks': [TASKS[task(i)]], 'length': length}
        for i, length in enumerate(spec.lengths)
    ]
    for name, entries in (('tasks', tasks), ('episodes', episodes)):
        text = ''.join(json.dumps(entry) + '\n' for entry in entries)
        (root / 'meta' / f'{name}.jsonl').write_text(text, encoding='utf-8')
    for episode in range(len(spec.lengths)):
        name = f'episode_{episode:06d}'
        _write_rows(root / 'data' / 'chunk-000' / f'{name}.parquet', spec, (episode,))
        for camera, key in enumerate(spec.filmed):
            video = root / 'videos' / 'chunk-000' / key / f'{name}.mp4'
            _write_video(video, spec, (episode,), camera)


def _write_v3(root: Path, spec: Spec) -> None:
    # As pandas writes a table whose index is the words.
    tasks = pa.table({'task_index': range(len(TASKS)), '__index_level_0__': TASKS})
    pq.write_table(tasks, root / 'meta' / 'tasks.parquet')
    entries: Rows = []
    for file, episodes in enumerate(spec.files):
        place = f'chunk-000/file-{file:03d}'
        _write_rows(root / 'data' / f'{place}.parquet', spec, episodes)
        for camera, key in enumerate(spec.filmed):
            _write_video(root / 'videos' / key / f'{place}.mp4', spec, episodes, camera)
        begin = 0
        for episode in episodes:
            length = spec.lengths[episode]
            entry = {'episode_index': episode, 'length': length, 'tasks': [TASKS[task(episode)]]}
            # Wrong on purpose, as in published datasets: readers go by the files' own columns.
            entry |= {'data/chunk_index': 0, 'data/file_index': 99}
            for key in spec.filmed:
                span = {'from': begin / spec.fps, 'to': (begin + length) / spec.fps}
                entry |= {f'videos/{key}/{end}_timestamp': time for end, time in span.items()}
                entry |= {f'videos/{key}/chunk_index': 0, f'videos/{key}/file_index': file}
            entries.append(entry | {'stats/action/mean': [0.0] * spec.action})
            begin += length
    (root / 'meta' / 'episodes' / 'chunk-000').mkdir(parents=True)
    where = root / 'meta' / 'episodes' / 'chunk-000' / 'file-000.parquet'
    pq.write_table(pa.Table.from_pylist(entries), where)


def _write_rows(file: Path, spec: Spec, episodes: tuple[int, ...]) -> None:
    rows: Rows = []
    for episode in episodes:
        numbers = actions(spec, episode), states(spec, episode)
        for frame, (action, state) in enumerate(zip(*numbers, strict=True)):
            row = {'action': action.tolist(), 'observation.state': state.tolist()}
            row |= {'timestamp': frame / spec.fps, 'frame_index': frame, 'index': 0}
            row |= {'episode_index': episode, 'task_index': task(episode)}
            for camera, key in enumerate(spec.embedded):
                png = io.BytesIO()
                Image.fromarray(picture(number(episode, frame, camera))).save(png, 'PNG')
                row[key] = {'bytes': png.getvalue(), 'path': None}
            rows.append(row)
    table = pa.Table.from_pylist(rows)
    for name, width in (('action', spec.action), ('observation.state', spec.state)):
        values = table.column(name).cast(pa.list_(pa.float32(), width))
        table = table.set_column(table.column_names.index(name), name, values)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=spec.row_group)


def _write_video(file: Path, spec: Spec, episodes: tuple[int, ...], camera: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    codec, options = spec.codec
    with av.open(str(file), 'w') as container:
        stream = container.add_stream(codec, rate=spec.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
        stream.time_base = Fraction(1, spec.fps)
        for episode in episodes:
            for frame in range(spec.lengths[episode]):
                view = picture(number(episode, frame, camera))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format='rgb24')))
        container.mux(stream.encode())
