"""Movies made of still images that jump with the gaze: the image pixel that is looked at lies at the screen's centre.

In the 1-based numbers of the authors' function `returnFixMovie` the pixel (row, column) of the screen shows the pixel
(y - height / 2 + row, x - width / 2 + column) of the image; where there is none the screen shows `outside_value`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Num, UInt8
from numpy.lib.stride_tricks import sliding_window_view

BATCH_PIXELS = 2**23  # screen pixels rendered at a time: 32 MiB of float32
CHUNK_VALUES = 2**22  # movie values rendered at a time


@dataclass(frozen=True)
class Screen:
    """The screen in its own pixels, and the size that its frames are reduced to.

    `published_behaviour` repeats what openretina 1.1.1 does where an image's first row or column is on screen: the row
    above shows the image's last row, the column to the left its last column. `round_to_grey_levels` stores uint8.
    """

    height: int
    width: int
    video_height: int
    video_width: int
    outside_value: float = 0.0
    round_to_grey_levels: bool = False
    published_behaviour: bool = False


class FixationMovie:
    """A movie (frame, 1, height, width) that is rendered where it is indexed, like an array, by frames.

    `images (image, height, width)`; `fixations (frame, 3)` are 1-based image number, x and y of the gaze.
    """

    ndim = 4

    def __init__(
        self, images: Num[np.ndarray, "image height width"], fixations: Int[np.ndarray, "frame 3"], screen: Screen
    ) -> None:
        self.images, self.fixations, self.screen = images, fixations, screen
        self.shape = (len(fixations), 1, screen.video_height, screen.video_width)
        self.size = int(np.prod(self.shape))
        self.dtype = np.dtype(np.uint8 if screen.round_to_grey_levels else np.float32)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: Any) -> Float32[np.ndarray, "frame 1 height width"] | UInt8[np.ndarray, "..."]:
        wanted = self.fixations[frames]
        # a gaze that rests shows the same picture again; sorted, so that neighbours share their image
        distinct, position = np.unique(wanted.reshape(-1, 3), axis=0, return_inverse=True)
        rendered = np.empty((len(distinct), *self.shape[1:]), self.dtype)
        step = max(1, BATCH_PIXELS // (self.screen.height * self.screen.width))
        for first in range(0, len(distinct), step):
            batch = slice(first, first + step)
            rendered[batch, 0] = self._reduced(self._screens(distinct[batch]))
        return rendered[position.reshape(wanted.shape[:-1])]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        rendered = self.rendered()
        return rendered if dtype is None else rendered.astype(dtype, copy=False)

    def rendered(self) -> np.ndarray:
        """Return the whole movie as an array; beside it only a few frames are held."""
        movie = np.empty(self.shape, self.dtype)
        step = max(1, CHUNK_VALUES // int(np.prod(self.shape[1:])))
        for first in range(0, len(self), step):
            movie[first : first + step] = self[first : first + step]
        return movie

    def _screens(self, fixations: Int[np.ndarray, "frame 3"]) -> Float32[np.ndarray, "frame height width"]:
        """Return what the screen shows, in its own pixels."""
        height, width = self.screen.height, self.screen.width
        used, image = np.unique(fixations[:, 0], return_inverse=True)
        stack = self.images[used - 1].astype(np.float32)
        # a gaze so far outside that nothing of the image is left needs no wider margin
        top = np.clip(fixations[:, 2] - height // 2, -height, stack.shape[1])
        left = np.clip(fixations[:, 1] - width // 2, -width, stack.shape[2])
        margins = (
            (max(0, -top.min()), max(0, top.max() + height - stack.shape[1])),
            (max(0, -left.min()), max(0, left.max() + width - stack.shape[2])),
        )
        padded = np.pad(stack, ((0, 0), *margins), constant_values=np.float32(self.screen.outside_value))
        above, before = margins[0][0], margins[1][0]
        if self.screen.published_behaviour:
            _wrap(padded, stack.shape[1:], above, before)
        windows = sliding_window_view(padded, (height, width), axis=(1, 2))
        return windows[image, top + above, left + before]

    def _reduced(self, screens: Float32[np.ndarray, "frame height width"]) -> Num[np.ndarray, "frame height width"]:
        """Return antialiased bilinear reductions, as torchvision's Resize makes them of float images."""
        import torch  # here: other readers, and the workflow that imports them, must not wait for it

        small = torch.nn.functional.interpolate(
            torch.from_numpy(screens)[:, None],
            size=(self.screen.video_height, self.screen.video_width),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[:, 0].numpy()
        return np.rint(small).clip(0, 255) if self.screen.round_to_grey_levels else small


def _wrap(padded: Float32[np.ndarray, "image row column"], shape: tuple[int, ...], above: int, before: int) -> None:
    """Put the last row and column of every image just before its first, in place."""
    height, width = shape
    if above:
        padded[:, above - 1] = padded[:, above + height - 1]
    if before:
        rows = slice(max(0, above - 1), above + height)
        padded[:, rows, before - 1] = padded[:, rows, before + width - 1]
