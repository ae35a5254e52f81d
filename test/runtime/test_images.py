"""Decoding against per-pixel loops in plain Python, Pillow, and cv_bridge where it is installed;
overlays against a loop over patches.

The loops are written from the definitions: byte offsets of each encoding, bilinear demosaicing
with rounded means (OpenCV's), BT.601 limited range in floating point (so YUV compares within 1).
"""

import io
import itertools
import re
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vla_prune_ros.errors import InputRefused
from vla_prune_ros.runtime.images import (
    ENCODINGS,
    MAX_PIXELS,
    decode_compressed,
    decode_image,
    draw_overlay,
)

CHANNELS = {'rgb': 'rgb', 'bgr': 'bgr', 'rgba': 'rgba', 'bgra': 'bgra', 'mono': 'g'}
PLAIN = [f'{name}{bits}' for name in CHANNELS for bits in (8, 16)]
BAYER = [
    f'bayer_{pattern}{bits}' for pattern in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)
]
YUV = {'uyvy': 'uyvy', 'yuv422': 'uyvy', 'yuyv': 'yuyv', 'yuv422_yuy2': 'yuyv'}
PLANAR = ['nv12', 'nv21', 'nv24']


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8).tobytes()


def reason(call, *arguments) -> str:
    with pytest.raises(InputRefused) as caught:
        call(*arguments)
    return caught.value.reason


def to_8_bit(value: int) -> int:
    """255 / 65535 is 1 / 257, an odd number: there are no ties to round."""
    return round(value / 257)


def sample(data: bytes, at: int, bits: int, big: bool) -> int:
    return data[at] if bits == 8 else int.from_bytes(data[at : at + 2], 'big' if big else 'little')


def rgb_of_yuv(y: int, u: int, v: int) -> list[int]:
    luma = 1.164383562 * max(0, y - 16)
    rgb = (
        luma + 1.596026786 * (v - 128),
        luma - 0.812967647 * (v - 128) - 0.391762290 * (u - 128),
        luma + 2.017232143 * (u - 128),
    )
    return [min(255, max(0, round(c))) for c in rgb]


class TestPacked:
    @pytest.mark.parametrize('padding', [0, 1, 6])
    @pytest.mark.parametrize('big', [False, True])
    @pytest.mark.parametrize('encoding', PLAIN)
    def test_every_pixel(self, encoding, big, padding):
        name, bits = encoding.rstrip('0123456789'), 16 if encoding.endswith('16') else 8
        order, size, height, width = CHANNELS[name], bits // 8, 3, 5
        step = width * len(order) * size + padding
        data = noise(height * step)
        got = decode_image(encoding, height, width, step, big, data)
        assert got.dtype == np.uint8 and got.shape == (3, 5, 3) and got.flags.c_contiguous
        for row, column, (i, colour) in itertools.product(
            range(height), range(width), enumerate('rgb')
        ):
            channel = 0 if name == 'mono' else order.index(colour)
            at = row * step + (column * len(order) + channel) * size
            value = sample(data, at, bits, big)
            assert got[row, column, i] == (value if bits == 8 else to_8_bit(value))

    def test_every_16_bit_value(self):
        values = np.arange(65536, dtype='<u2')
        got = decode_image('mono16', 256, 256, 512, False, values.tobytes())
        assert got[..., 0].ravel().tolist() == [to_8_bit(v) for v in range(65536)]

    def test_rgb8_is_a_read_only_view_and_the_rest_is_fresh(self):
        data = array('B', noise(24))
        view = decode_image('rgb8', 2, 4, 12, False, data)
        assert np.shares_memory(view, np.frombuffer(data, np.uint8))
        assert not view.flags.writeable
        others = {'rgb8': 3, 'bgr8': 4, 'mono8': 12, 'rgba8': 3, 'rgb16': 2, 'nv24': 4}
        for encoding, width in others.items():
            copy = decode_image(encoding, 2, width, 4 if encoding == 'nv24' else 12, False, data)
            assert not np.shares_memory(copy, np.frombuffer(data, np.uint8)), encoding


class TestBayer:
    @pytest.mark.parametrize('big', [False, True])
    @pytest.mark.parametrize('padding', [0, 2])
    @pytest.mark.parametrize('encoding', BAYER)
    def test_every_pixel(self, encoding, padding, big):
        """Inside: the mean of the nearest samples of a colour. The border repeats them."""
        pattern, bits = encoding[6:10], int(encoding[10:])
        height, width = 6, 8
        step = width * bits // 8 + padding
        data = noise(height * step)
        raw = [
            [sample(data, r * step + c * bits // 8, bits, big) for c in range(width)]
            for r in range(height)
        ]
        got = decode_image(encoding, height, width, step, big, data)
        for r, c, (i, colour) in itertools.product(range(height), range(width), enumerate('rgb')):
            y, x = min(max(r, 1), height - 2), min(max(c, 1), width - 2)
            value = self.mean(raw, pattern, y, x, colour)
            assert got[r, c, i] == (value if bits == 8 else to_8_bit(value)), (r, c, colour)

    @staticmethod
    def mean(raw: list[list[int]], pattern: str, y: int, x: int, colour: str) -> int:
        def site(row: int, column: int) -> str:
            return pattern[2 * (row % 2) + column % 2]

        if site(y, x) == colour:
            return raw[y][x]
        around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        if colour == 'g':  # the diagonal neighbours are no nearer than a green one
            around = [(a, b) for a, b in around if abs(a - y) + abs(b - x) == 1]
        samples = [raw[a][b] for a, b in around if site(a, b) == colour]
        return (sum(samples) + len(samples) // 2) // len(samples)


@pytest.mark.parametrize('padding', [0, 3, 4])
@pytest.mark.parametrize('encoding', [*YUV, *PLANAR])
def test_every_yuv_pixel(encoding, padding):
    """nv12 (u first) and nv21 (v first) share chroma among 2 x 2 pixels; nv24 does not."""
    height, width, order = 4, 6, YUV.get(encoding)
    step = (2 * width if order else width) + padding
    data = noise(height * step * 3)
    size = height * step * {'nv12': 3, 'nv21': 3, 'nv24': 6}.get(encoding, 2) // 2
    got = decode_image(encoding, height, width, step, False, data[:size])
    assert got.shape == (4, 6, 3) and got.flags.c_contiguous
    for r, c in itertools.product(range(height), range(width)):
        if order:
            at, second = r * step + 4 * (c // 2), c % 2
            luma = [i for i, channel in enumerate(order) if channel == 'y'][second]
            yuv = [data[at + i] for i in (luma, order.index('u'), order.index('v'))]
        else:
            at = height * step
            at += r * 2 * step + 2 * c if encoding == 'nv24' else r // 2 * step + c // 2 * 2
            chroma = data[at : at + 2][::-1] if encoding == 'nv21' else data[at : at + 2]
            yuv = data[r * step + c], *chroma
        np.testing.assert_allclose(got[r, c].astype(int), rgb_of_yuv(*yuv), atol=1)


class TestRefusals:
    @pytest.mark.parametrize(
        'encoding', ['16UC1', '32FC1', '8UC3', '64FC2', '', 'RGB8', 'h264', 'bgr8; jpeg']
    )
    def test_encodings_are_refused_by_name(self, encoding):
        with pytest.raises(InputRefused, match=re.escape(repr(encoding))) as caught:
            decode_image(encoding, 2, 2, 32, False, bytes(64))
        assert caught.value.reason == 'encoding'

    @pytest.mark.parametrize(
        'expected, headers',
        [
            ('size', [('rgb8', *s, 64) for s in ((0, 0), (0, 9), (9, 0), (4000, 5001), (-2, -2))]),
            ('size', [('uyvy', 4, 3, 8), ('yuyv', 4, 3, 8), ('nv21', 3, 4, 8), ('nv12', 4, 3, 8)]),
            ('step', [('rgb8', 4, 4, 11), ('bgra16', 4, 4, 31), ('mono16', 4, 4, 7)]),
            ('step', [('uyvy', 4, 4, 7), ('nv21', 4, 4, 3), ('bayer_rggb8', 4, 4, 3)]),
            ('step', [('rgb8', 4, 4, 0), ('nv21', 4, 4, 0)]),
        ],
    )
    def test_headers(self, expected, headers):
        """Sizes, odd sides of shared chroma, steps that are shorter than a row."""
        for encoding, height, width, step in headers:
            data = bytes(abs(height) * step)
            assert reason(decode_image, encoding, height, width, step, False, data) == expected

    @pytest.mark.parametrize('encoding', ENCODINGS)
    def test_wrong_amounts_of_data(self, encoding):
        planes = {'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}.get(encoding, 1)
        whole = round(4 * 64 * planes)
        decode_image(encoding, 4, 4, 64, False, bytes(whole))
        for count in (0, 1, whole - 1):
            assert reason(decode_image, encoding, 4, 4, 64, False, bytes(count)) == 'truncated'
        assert reason(decode_image, encoding, 4, 4, 64, False, bytes(whole + 1)) == 'size'

    @settings(deadline=None)
    @given(
        st.sampled_from(ENCODINGS),
        st.integers(-2, 9),
        st.integers(-2, 9),
        st.integers(0, 80),
        st.booleans(),
        st.integers(0, 800),
    )
    def test_any_header_gives_pixels_or_a_refusal(self, encoding, height, width, step, big, count):
        try:
            got = decode_image(encoding, height, width, step, big, bytes(count))
        except InputRefused:
            return
        assert got.shape == (height, width, 3) and got.dtype == np.uint8


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """Smooth and coloured, so that JPEG is close to it and a swap of channels is not."""
    rows, columns = np.mgrid[:height, :width]
    channels = rows * 255 // height, columns * 255 // width, 0 * rows + 40
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(kind: str, image: np.ndarray | None = None, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture() if image is None else image).save(out, kind, **options)
    return out.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6  # an orientation, which must not turn the frame


class TestCompressed:
    @pytest.mark.parametrize('format', ['png', 'rgb8; png compressed bgr8', ''])
    def test_png_is_exact(self, format):
        got = decode_compressed(array('B', encoded('PNG')), format)
        np.testing.assert_array_equal(got, picture())
        assert got.flags.c_contiguous

    @pytest.mark.parametrize(
        'format, options',
        [
            ('jpeg', {}),
            ('jpg', {'progressive': True}),
            ('bgr8; jpeg compressed bgr8', {'subsampling': 0}),
            ('', {}),
            ('jpeg', {'exif': TURNED}),
        ],
    )
    def test_jpeg_is_near(self, format, options):
        got = decode_compressed(encoded('JPEG', quality=98, **options), format)
        np.testing.assert_allclose(got.astype(int), picture(), atol=12)

    def test_grey_becomes_three_equal_channels(self):
        grey = picture()[..., 1]
        got = decode_compressed(encoded('PNG', grey), 'mono8; png compressed mono8')
        np.testing.assert_array_equal(got, np.repeat(grey[..., None], 3, axis=2))

    def test_16_bit_png_is_scaled_like_raw_images(self):
        cv2 = pytest.importorskip('cv2')
        deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
        data = cv2.imencode('.png', deep[..., ::-1])[1].tobytes()
        got = decode_compressed(data, 'rgb16; png compressed bgr16')
        assert got.tolist() == [[[to_8_bit(int(v)) for v in p] for p in row] for row in deep]

    def test_channels_that_were_compressed_as_if_bgr(self):
        """image_transport names the order it handed to the encoder."""
        data = encoded('PNG', np.ascontiguousarray(picture()[..., ::-1]))
        got = decode_compressed(data, 'rgb8; png compressed rgb8')
        np.testing.assert_array_equal(got, picture())

    @pytest.mark.parametrize(
        'kind, format, expected',
        [
            ('PNG', '16UC1; compressedDepth png', 'encoding'),
            ('PNG', '32FC1; compressedDepth', 'encoding'),
            ('PNG', '16UC1; png compressed ', 'encoding'),
            ('GIF', 'gif', 'encoding'),
            ('GIF', '', 'encoding'),
            ('GIF', 'jpeg', 'corrupt'),
        ],
    )
    def test_depth_and_other_kinds(self, kind, format, expected):
        assert reason(decode_compressed, encoded(kind, picture()[..., 0]), format) == expected

    @pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
    def test_no_beginning_of_a_file_is_an_image(self, kind):
        """OpenCV alone would fill the rest of a cut JPEG with grey."""
        data = encoded(kind)
        for end in range(0, len(data) - 1, 7):
            assert reason(decode_compressed, data[:end], kind.lower()) in ('truncated', 'corrupt')

    def test_a_thumbnail_is_not_the_end_of_the_image(self):
        """An embedded preview brings an end-of-image marker of its own."""
        data = encoded('JPEG')
        preview = encoded('JPEG', picture(8, 8))
        segment = b'\xff\xe1' + (len(preview) + 2).to_bytes(2, 'big') + preview
        whole = data[:2] + segment + data[2:]
        assert decode_compressed(whole, 'jpeg').shape == (24, 40, 3)
        assert reason(decode_compressed, whole[:-40], 'jpeg') == 'truncated'

    def test_padding_behind_the_end_is_allowed(self):
        assert decode_compressed(encoded('JPEG') + bytes(100), 'jpeg').shape == (24, 40, 3)

    def test_a_header_that_asks_for_too_much(self):
        png = bytearray(encoded('PNG'))
        png[16:24] = (5000).to_bytes(4, 'big') + (MAX_PIXELS // 5000 + 1).to_bytes(4, 'big')
        assert reason(decode_compressed, png, 'png') == 'size'
        jpeg = bytearray(encoded('JPEG'))
        at = jpeg.find(b'\xff\xc0')
        jpeg[at + 5 : at + 9] = b'\xff\xff\xff\xff'
        assert reason(decode_compressed, jpeg, 'jpeg') == 'size'

    @settings(deadline=None)
    @given(
        st.binary(max_size=200),
        st.sampled_from([b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']),
        st.sampled_from(['jpeg', 'png', 'x', '']),
    )
    def test_garbage_is_refused(self, body, magic, format):
        reasons = ('corrupt', 'truncated', 'size', 'encoding')
        assert reason(decode_compressed, magic + body, format) in reasons


@pytest.mark.ros
@pytest.mark.parametrize('big', [0, 1])
@pytest.mark.parametrize(
    ('encoding', 'refused'),
    [
        *((e, False) for e in (*PLAIN, *BAYER, 'yuv422', 'yuv422_yuy2')),
        *((e, True) for e in ('8UC1', '8UC3', '8UC4', '16UC1', '32FC1', 'nonsense')),
    ],
)
def test_cv_bridge_gives_the_same_pixels_or_refuses_as_well(encoding, refused, big):
    cv_bridge = pytest.importorskip('cv_bridge')
    from sensor_msgs.msg import Image as ImageMessage

    step = 96  # cv_bridge's Python half needs a whole number of pixels of every size
    message = ImageMessage(height=6, width=10, encoding=encoding, is_bigendian=big, step=step)
    message.data = array('B', noise(6 * step))
    raw = encoding, 6, 10, step, bool(big), message.data
    bridge = cv_bridge.CvBridge()
    if refused:
        with pytest.raises((cv_bridge.CvBridgeError, KeyError, ValueError)):
            bridge.imgmsg_to_cv2(message, 'rgb8')
        assert reason(decode_image, *raw) == 'encoding'
    else:
        np.testing.assert_array_equal(decode_image(*raw), bridge.imgmsg_to_cv2(message, 'rgb8'))


@pytest.mark.parametrize(('size', 'side'), [(224, 16), (8, 2), (12, 4)])
def test_pruned_patches_are_dimmed_to_a_quarter(size, side):
    random = np.random.default_rng(size)
    image = random.integers(0, 256, (size, size, 3), np.uint8)
    kept = random.random(side * side) < 0.4
    expected, patch = image.copy(), size // side
    for row, column in itertools.product(range(side), range(side)):
        if not kept[row * side + column]:
            rows, columns = (slice(i * patch, (i + 1) * patch) for i in (row, column))
            expected[rows, columns] = (image[rows, columns] * 0.25).astype(np.uint8)
    before = image.copy()
    np.testing.assert_array_equal(draw_overlay(image, kept), expected)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize('count', [1, 2])
def test_lines_of_text_are_bright_on_a_dark_strip_at_the_top(count):
    image = np.full((224, 224, 3), 240, np.uint8)
    drawn = draw_overlay(image, np.ones(256, bool), ['dense 256/256'] * count)
    strip = drawn[: 6 + 14 * count]
    assert (drawn[6 + 14 * count :] == 240).all()
    assert np.median(strip) < 120 and strip.max() > 220
    for line in range(count):  # each line has letters of its own
        assert (drawn[14 * line + 6 : 14 * line + 14] > 200).any()
