"""Renders pages of text that are turned by 0, 90, 180 or 270 degrees, as an image folder with one folder a class.

    render-pages.py FOLDER [--pages N] [--seed TEXT]

A page's class is the clockwise turn that it was given. The pages depend on the seed and on Pillow's version alone: the
font is the one that Pillow carries, so no font of the machine is used. FOLDER is complete afterwards, or not there.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile

from PIL import Image, ImageChops, ImageDraw, ImageFont

TURNS = [0, 90, 180, 270]
WORDS = """the of and to in is that for with as on by this are from at which an be results method figure section annual report revenue
growth data image model training table contents chapter summary customer invoice payment total amount number quality process system
design between during under each other first second most value change market project team plan review analysis example page
department energy water building public history between language letter government science simple complete important different
together However Therefore Although January April September London Paris North quarter percent approximately measurement
requirements distribution early later small large high low open final general local national""".split()
MARGIN = (0.06, 0.12)  # of the page's width
BODY = (0.019, 0.029)  # size of the text, of the page's width


class Page:
    """A page that is filled from top to bottom."""

    def __init__(self, rng):
        self.rng = rng
        self.width = rng.randrange(640, 801)
        self.height = round(self.width * rng.choice([1.4142, 1.4142, 1.2941]))  # A4, A4, Letter
        light = rng.choice([255, 255, rng.randrange(215, 250)])
        tint = rng.choice([0, 0, rng.randrange(4, 14)])
        self.paper = (light, light, max(light - tint, 0))
        self.ink = (rng.randrange(0, 70),) * 3
        self.accent = rng.choice([self.ink, self.ink, tuple(rng.randrange(0, 150) for _ in range(3))])
        self.image = Image.new("RGB", (self.width, self.height), self.paper)
        self.draw = ImageDraw.Draw(self.image)
        self.size = self.width * rng.uniform(*BODY)
        self.leading = rng.uniform(1.25, 1.6)
        self.left = self.width * rng.uniform(*MARGIN)
        self.right = self.width * (1 - rng.uniform(*MARGIN))
        self.top = self.height * rng.uniform(0.04, 0.09)
        self.bottom = self.height * (1 - rng.uniform(0.06, 0.1))
        self.y = self.top

    def text(self, x, text, size=None, bold=False, fill=None):
        size = size or self.size
        weight = max(1, round(size / 22)) if bold else 0
        font = ImageFont.load_default(size)
        self.draw.text((x, self.y), text, fill=fill or self.ink, font=font, stroke_width=weight, stroke_fill=fill or self.ink)

    def words(self, least, most):
        return [self.rng.choice(WORDS) for _ in range(self.rng.randrange(least, most + 1))]

    def sentence(self):
        words = self.words(4, 16)
        if self.rng.random() < 0.2:
            words.insert(self.rng.randrange(len(words)), str(self.rng.randrange(2, 2100)))
        if self.rng.random() < 0.3:
            words[self.rng.randrange(len(words))] += ","
        text = " ".join(words)
        return text[0].upper() + text[1:] + self.rng.choice("....?:")

    def heading(self, left, right):
        size = self.size * self.rng.uniform(1.25, 1.8)
        number = f"{self.rng.randrange(1, 9)}.{self.rng.randrange(1, 9)} " if self.rng.random() < 0.5 else ""
        words = self.words(1, 4)
        while len(words) > 1 and ImageFont.load_default(size).getlength(number + " ".join(words)) > 0.95 * (right - left):
            words.pop()
        self.y += self.size * 0.6
        self.text(left, number + " ".join(words).capitalize(), size, bold=True, fill=self.accent)
        self.y += size * 1.6

    def paragraph(self, left, right, sentences=None):
        font = ImageFont.load_default(self.size)
        words = [w for _ in range(sentences or self.rng.randrange(2, 7)) for w in self.sentence().split()]
        line = ""
        for word in words:
            longer = f"{line} {word}".strip()
            if font.getlength(longer) > right - left and line:
                self.text(left, line)
                self.y += self.size * self.leading
                line = word
                if self.y > self.bottom - self.size:
                    return
            else:
                line = longer
        self.text(left, line)
        self.y += self.size * (self.leading + 0.7)

    def bullets(self, left, right):
        numbered = self.rng.random() < 0.4
        indent = self.size * 1.8
        for item in range(1, self.rng.randrange(3, 7)):
            if self.y > self.bottom - 2 * self.size:
                return
            if numbered:
                self.text(left + self.size * 0.3, f"{item}.")
            else:
                middle, radius = self.y + self.size * 0.6, self.size * 0.17
                x = left + self.size * 0.8
                self.draw.ellipse((x - radius, middle - radius, x + radius, middle + radius), fill=self.ink)
            self.paragraph(left + indent, right, sentences=1)
            self.y -= self.size * 0.4

    def table(self, left, right):
        columns, rows = self.rng.randrange(3, 6), self.rng.randrange(3, 9)
        columns = max(2, min(columns, int((right - left) / (5.5 * self.size))))
        step, height = (right - left) / columns, self.size * 1.7
        rows = min(rows, int((self.bottom - self.y) / height) - 1)
        if rows < 2:
            return
        top = self.y
        if self.rng.random() < 0.6:
            shade = tuple(max(value - 30, 0) for value in self.paper)
            self.draw.rectangle((left, top, right, top + height), fill=shade)
        for row in range(rows):
            self.y = top + row * height + self.size * 0.25
            for column in range(columns):
                name = self.rng.choice(WORDS).capitalize()[: max(3, int(step / self.size * 1.5))]
                number = f"{self.rng.uniform(0, 2000):.{self.rng.randrange(0, 3)}f}"
                self.text(left + column * step + self.size * 0.4, name if row == 0 or column == 0 else number, bold=row == 0)
        full = self.rng.random() < 0.5
        for row in range(rows + 1) if full else (0, 1, rows):
            self.draw.line((left, top + row * height, right, top + row * height), fill=self.ink)
        for column in range(columns + 1) if full else ():
            self.draw.line((left + column * step, top, left + column * step, top + rows * height), fill=self.ink)
        self.y = top + rows * height + self.size * 1.2

    def chart(self, left, right):
        height = self.size * self.rng.uniform(7, 11)
        if self.y + height + 3 * self.size > self.bottom:
            return
        bars = self.rng.randrange(3, 9)
        step = (right - left) / bars
        base = self.y + height
        for bar in range(bars):
            x = left + (bar + 0.2) * step
            self.draw.rectangle((x, base - height * self.rng.uniform(0.15, 0.95), x + 0.6 * step, base), fill=self.accent)
        self.draw.line((left, base, right, base), fill=self.ink)
        self.y = base + self.size * 0.5
        self.text(left, f"Figure {self.rng.randrange(1, 20)}: {' '.join(self.words(2, 4))}.", self.size * 0.9)
        self.y += self.size * 2.2

    def column(self, left, right):
        parts = [self.heading] * 2 + [self.paragraph] * 6 + [self.bullets, self.table, self.chart]
        while self.y < self.bottom - 2 * self.size:
            self.rng.choice(parts)(left, right)

    def fill(self):
        """Draws a title on some pages, one column or two, and a page number."""
        if self.rng.random() < 0.4:
            self.text(self.left, " ".join(self.words(2, 4)).title(), self.size * self.rng.uniform(1.8, 2.4), bold=True, fill=self.accent)
            self.y += self.size * 3.4
        if self.rng.random() < 0.3:
            self.draw.line((self.left, self.y, self.right, self.y), fill=self.ink, width=self.rng.choice([1, 2]))
            self.y += self.size * 0.8
        start, count = self.y, self.rng.choice([1, 1, 2])
        gap = self.size * 1.5
        width = (self.right - self.left - gap * (count - 1)) / count
        for column in range(count):
            self.y = start
            left = self.left + column * (width + gap)
            self.column(left, left + width)
        if self.rng.random() < 0.7:
            self.y = self.height * 0.95
            self.text(self.rng.choice([self.left, self.width / 2, self.right - 2 * self.size]), str(self.rng.randrange(1, 400)))
        return self.image


def scanned(image, rng):
    """The page as a scanner shows it: a little skewed, and with noise."""
    if rng.random() < 0.5:
        paper = image.getpixel((0, 0))
        image = image.rotate(rng.uniform(-1.5, 1.5), Image.Resampling.BICUBIC, fillcolor=paper)
    if rng.random() < 0.5:
        strength = rng.uniform(2, 9)
        noise = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
        noise = noise.point([round(128 + (value - 127.5) / 127.5 * strength) for value in range(256)])
        image = ImageChops.add(image, Image.merge("RGB", [noise] * 3), offset=-128)
    return image


def render(folder, pages, seed):
    for number in range(pages):
        rng = random.Random(f"{seed}/{number}")
        turn = TURNS[number % len(TURNS)]
        image = scanned(Page(rng).fill(), rng).rotate(-turn, expand=True)
        place = folder / str(turn)
        place.mkdir(exist_ok=True)
        image.save(place / f"{number:05}.jpg", quality=90)


def main():
    parser = argparse.ArgumentParser(description="Render pages of text, turned by 0, 90, 180 or 270 degrees.")
    parser.add_argument("folder", type=pathlib.Path, help="the image folder to make, with a folder for each class")
    parser.add_argument("--pages", type=int, default=400, help="the number of pages, a quarter of each class [default: 400]")
    parser.add_argument("--seed", default="0", help="any text; another seed gives other pages [default: 0]")
    arguments = parser.parse_args()
    if arguments.pages < len(TURNS):
        parser.error(f"--pages {arguments.pages} leaves a class empty; the least is {len(TURNS)}")
    if arguments.folder.exists():
        sys.exit(f"render-pages.py: {arguments.folder} exists\nhint: remove it to render it again")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    # Beside the folder, so that the last step is one rename.
    work = pathlib.Path(tempfile.mkdtemp(prefix=".render.", dir=arguments.folder.parent))
    try:
        pages = work / "pages"
        pages.mkdir()
        render(pages, arguments.pages, arguments.seed)
        os.rename(pages, arguments.folder)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
