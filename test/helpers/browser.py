"""What headless Chromium makes of a page, in windows of several widths."""

import html
import json
import re
import shutil
import subprocess

import pytest

PROBE = """<!DOCTYPE html><meta charset="utf-8"><body>
<script>
onload = () => {
  const seen = [...document.querySelectorAll('iframe')].map(({contentDocument: page}) => ({
    width: page.documentElement.clientWidth,
    content: Math.max(page.documentElement.scrollWidth, page.body.scrollWidth),
    scripts: page.scripts.length,
    images: [...page.images].map(image => ({
      alt: image.alt,
      natural: [image.naturalWidth, image.naturalHeight],
      drawn: image.getBoundingClientRect().width,
    })),
    headings: [...page.querySelectorAll('h1, h2, h3')].map(heading => heading.textContent),
    fonts: [...page.querySelectorAll('p, li, th, td')].map(
      element => parseFloat(getComputedStyle(element).fontSize)),
    text: page.body.textContent,
  }));
  const out = document.createElement('pre');
  out.id = 'probe';
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
};
</script>
"""


def opened(page, folder, widths):
    """Opens a page in Chromium; for each width what was seen of it.

    :param page: HTML that needs no other file.
    :param folder: for the browser's own files.
    """
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        pytest.skip('chromium is not installed')
    frames = (
        f'<iframe width="{width}" height="900" frameborder="0" srcdoc="{html.escape(page)}">'
        '</iframe>'
        for width in widths
    )
    file = folder / 'probe.html'
    file.write_text(PROBE + ''.join(frames), encoding='utf-8')
    options = (
        'headless no-sandbox disable-gpu disable-background-networking no-first-run disable-sync '
        'disable-dev-shm-usage hide-scrollbars dump-dom enable-logging=stderr'
    )
    command = [chromium, *(f'--{option}' for option in options.split())]
    command += [f'--user-data-dir={folder / "browser"}', '--virtual-time-budget=20000']
    run = subprocess.run(
        [*command, file.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    assert 'CONSOLE' not in run.stderr, run.stderr  # a script error, or something not loaded
    found = re.search('<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr
    return json.loads(html.unescape(found[1]))
