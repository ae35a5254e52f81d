"""sensor_msgs image data to RGB, and overlays of what a pruner kept.

Without cv_bridge, whose apt package breaks next to NumPy 2. The pixels are those of its
``toCvCopy(msg, 'rgb8')``: demosaic or colour conversion in the message's depth first, then 16 to 8
bit by 255 / 65535, rounded."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..errors import InputRefused

MAX_PIXELS = 20_000_000  # no policy needs more, and a broken header may ask for them


class _Packed(NamedTuple):
    channels: int
    bits: int
    code: int | None  # OpenCV conversion to RGB, None where it is RGB


# OpenCV names a Bayer pattern by its second row, second column; ROS by its first row.
_BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
_COLOR = {
    'rgb': (3, None),
    'bgr': (3, cv2.COLOR_BGR2RGB),
    'rgba': (4, cv2.COLOR_RGBA2RGB),
    'bgra': (4, cv2.COLOR_BGRA2RGB),
    'mono': (1, cv2.COLOR_GRAY2RGB),
    **{f'bayer_{pattern}': (1, code) for pattern, code in _BAYER.items()},
}
_PACKED = {
    f'{name}{bits}': _Packed(channels, bits, code)
    for name, (channels, code) in _COLOR.items()
    for bits in (8, 16)
}
_UYVY, _YUYV = _Packed(2, 8, cv2.COLOR_YUV2RGB_UYVY), _Packed(2, 8, cv2.COLOR_YUV2RGB_YUY2)
_PACKED.update({'uyvy': _UYVY, 'yuv422': _UYVY, 'yuyv': _YUYV, 'yuv422_yuy2': _YUYV})
_PLANAR_420 = {'nv21': cv2.COLOR_YUV2RGB_NV21, 'nv12': cv2.COLOR_YUV2RGB_NV12}

ENCODINGS = (*_PACKED, *_PLANAR_420, 'nv24')

_IMREAD = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_GENERIC = re.compile(r'(8U|8S|16U|16S|32S|32F|64F)(C\d+)?')
_DEPTH = ('16UC1', '32FC1')


def decode_image(
    encoding: str, height: int, width: int, step: int, is_bigendian: bool, data: Any
) -> np.ndarray:
    """uint8 (height, width, 3) RGB, contiguous.

    An ``rgb8`` image without row padding is a read-only view of ``data``: the message must not be
    written to afterwards. Everything else is a fresh array.

    :param step: bytes from one row to the next; of the luma plane for semi-planar formats.
    :raises InputRefused: ``encoding``, ``size``, ``step`` or ``truncated``."""
    if encoding not in ENCODINGS:
        raise _unknown(encoding)
    _require_size(height, width)
    if encoding not in _PACKED:
        return _decode_planar(encoding, height, width, step, data)
    channels, bits, code = _PACKED[encoding]
    if channels == 2:
        _require_even(encoding, width)
    pixel = channels * bits // 8
    _require_bytes(encoding, step, width * pixel, height * step, memoryview(data).nbytes)
    dtype = np.dtype(np.uint8 if bits == 8 else '>u2' if is_bigendian else '<u2')
    shape = (height, width) if channels == 1 else (height, width, channels)
    strides = (step, pixel) if channels == 1 else (step, pixel, dtype.itemsize)
    view = np.ndarray(shape, dtype, data, strides=strides)
    if bits == 16:  # to native order; copies rows that OpenCV could not address
        view = np.ascontiguousarray(view, np.uint16)
    if code is not None:
        view = cv2.cvtColor(view, code)
    if bits == 16:
        return cv2.convertScaleAbs(view, alpha=255.0 / 65535.0)
    if code is None:
        view = np.ascontiguousarray(view)
        view.flags.writeable = False
    return view


def _decode_planar(encoding: str, height: int, width: int, step: int, data: Any) -> np.ndarray:
    rows = 3 * height if encoding == 'nv24' else height * 3 // 2
    if encoding != 'nv24':
        _require_even(encoding, width, height)
    _require_bytes(encoding, step, width, rows * step, memoryview(data).nbytes)
    planes = np.frombuffer(data, np.uint8).reshape(rows, step)
    if encoding in _PLANAR_420:
        return cv2.cvtColor(np.ascontiguousarray(planes[:, :width]), _PLANAR_420[encoding])
    # OpenCV has no 4:4:4 format: each pixel becomes a UYVY pair of two equal pixels.
    luma = np.ascontiguousarray(planes[:height, :width])
    u, v = cv2.split(planes[height:].reshape(height, step, 2)[:, :width])
    pairs = cv2.merge((u, luma, v, luma)).reshape(height, 2 * width, 2)
    rgb = cv2.cvtColor(pairs, cv2.COLOR_YUV2RGB_UYVY)
    return np.ascontiguousarray(rgb[:, ::2])


def decode_compressed(data: Any, format: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB of JPEG or PNG data; an orientation tag is ignored, as in cv_bridge.
    :raises InputRefused: ``encoding`` (or depth), ``size``, ``truncated``, ``corrupt``."""
    if 'compressedDepth' in format or format.startswith(_DEPTH):
        raise InputRefused(
            'encoding', f'compressed image format {format!r} is depth', 'give a colour stream'
        )
    buffer = np.frombuffer(data, np.uint8)
    _require_size(*_compressed_size(memoryview(buffer), format))
    try:
        image = cv2.imdecode(buffer, _IMREAD)
    except cv2.error:
        image = None
    if image is None:
        raise _corrupt()
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255.0 / 65535.0)
    # image_transport may compress RGB as if it were BGR, and says so in the format.
    return image if 'compressed rgb' in format else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _compressed_size(data: memoryview, format: str) -> tuple[int, int]:
    if data[:3] == b'\xff\xd8\xff':
        return _jpeg_size(data)
    if data[:8] == b'\x89PNG\r\n\x1a\n':
        if b'IEND' not in bytes(data[-12:]):
            raise _cut('PNG')
        return _big(data[20:24]), _big(data[16:20])
    if re.search('jpe?g|png', format):
        raise _corrupt()
    what = f'compressed image format {format!r} is neither JPEG nor PNG'
    raise InputRefused('encoding', what, 'set the transport to jpeg or png')


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    at, size = 2, None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            size = _big(data[at + 5 : at + 7]), _big(data[at + 7 : at + 9])
        if marker == 0xDA and size:  # scan: from here on only the end of image may follow
            if b'\xff\xd9' not in bytes(data[at:]):
                raise _cut('JPEG')
            return size
        at += 2 + _big(data[at + 2 : at + 4])
    raise _corrupt()


def _big(field: memoryview) -> int:
    return int.from_bytes(field, 'big')


def _corrupt() -> InputRefused:
    what = 'compressed image cannot be decoded'
    return InputRefused('corrupt', what, 'check the driver and the transport')


def _cut(kind: str) -> InputRefused:
    what = f'{kind} data ends before the image does'
    return InputRefused('truncated', what, 'check the transport')


def _unknown(encoding: str) -> InputRefused:
    what, remedy = f'unknown image encoding {encoding!r}', f'use one of {", ".join(ENCODINGS)}'
    if encoding in _DEPTH:
        what, remedy = f'image encoding {encoding!r} is depth', 'give a colour stream'
    elif _GENERIC.fullmatch(encoding):
        what = f'image encoding {encoding!r} names no colour'
        remedy = "set the driver's encoding, for example to rgb8 or bgr8"
    return InputRefused('encoding', what, remedy)


def _require_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise InputRefused('size', f'image is {width} x {height}', f'use 1 to {MAX_PIXELS} pixels')


def _require_even(encoding: str, *sides: int) -> None:
    if any(side % 2 for side in sides):
        raise InputRefused('size', f'{encoding} image has an odd side', 'use even image sizes')


def _require_bytes(encoding: str, step: int, row: int, wanted: int, got: int) -> None:
    if step < row:
        what = f'{encoding} image has step {step}, its row {row} bytes'
        raise InputRefused('step', what, "check the driver's step")
    if got != wanted:
        what = f'{encoding} image has {got} bytes, its header says {wanted}'
        remedy = "check the driver's height and step, and the transport"
        raise InputRefused('truncated' if got < wanted else 'size', what, remedy)


def draw_overlay(image: np.ndarray, kept: np.ndarray, lines: Sequence[str] = ()) -> np.ndarray:
    """A copy with pruned patches dimmed to a quarter, and lines of text from the top.
    :param image: uint8 (S, S, 3) RGB, what the towers saw.
    :param kept: bool (n * n,), row-major over the n x n patches."""
    side = int(round(len(kept) ** 0.5))
    mask = np.kron(kept.reshape(side, side), np.ones((len(image) // side,) * 2, bool))
    out = np.where(mask[..., None], image, (image * 0.25).astype(np.uint8))
    if lines:
        out[: 6 + 14 * len(lines)] //= 3  # a dark strip, on which text is readable
    for i, line in enumerate(lines):
        place, font = (4, 14 + 14 * i), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(out, line, place, font, fontScale=0.4, color=(255,) * 3, lineType=cv2.LINE_AA)
    return out
